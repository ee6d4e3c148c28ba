"""Password of a user, from an environment variable or a prompt."""

from __future__ import annotations

import getpass
import os

from ops.errors import ParameterError
from ops.secret import Secret

PASSWORD_VARIABLE = "INDEX_PASSWORD"  # noqa: S105 - the name of a variable, not its value
"""The environment variable that holds a password, unless another one is named."""


def given_password(username: str, *, variable: str = "", prompt: bool = False) -> Secret | None:
    """Password that a person gave for a user; None if there is none.

    Parameters:
        username: the user.
        variable: the environment variable that may hold it; empty for :data:`PASSWORD_VARIABLE`.
        prompt: True to prompt for it if the variable is not set.

    Raises:
        ParameterError: there is nobody to prompt.
    """
    value = os.environ.get(variable or PASSWORD_VARIABLE)
    if not value and prompt:
        value = _prompted(username)
    return Secret(value) if value else None


def _prompted(username: str) -> str:
    try:
        return getpass.getpass(f"Password for {username} (empty: keep or generate one): ")
    except (RuntimeError, EOFError) as error:
        # ipykernel's StdinNotImplementedError is a RuntimeError.
        raise ParameterError(
            "nobody can be asked for a password here",
            why=f"password_prompt=true in a run without a person ({type(error).__name__})",
            todo=f"give it in the environment variable {PASSWORD_VARIABLE}, or have one generated",
        ) from None
