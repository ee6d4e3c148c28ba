"""Secrets are never displayed, and contain only text."""

from __future__ import annotations

import pickle

import pytest

from ops.errors import ParameterError
from ops.secret import Secret


def test_a_secret_that_is_not_utf_8_is_refused_without_being_shown() -> None:
    with pytest.raises(ParameterError, match="UTF-8") as refused:
        Secret("caf\udce9-long-password-1")
    assert "long-password" not in str(refused.value)


def test_a_secret_is_shown_as_asterisks_and_cannot_be_pickled() -> None:
    secret = Secret("correct-horse-1")
    assert "horse" not in f"{secret} {secret!r} {secret:>40}"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(secret)
