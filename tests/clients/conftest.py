"""Fixtures: a fake index that records what clients send."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import FakeIndex


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    """A fake index without users."""
    with FakeIndex() as fake:
        yield fake
