"""A password on its way to the index: where it comes from, whether it will do, and the hash that goes out."""

from __future__ import annotations

import getpass
import os

import bcrypt

from ops.errors import ParameterError, RunbookError
from ops.secret import Secret

PASSWORD_VARIABLE = "INDEX_PASSWORD"  # noqa: S105 - the name of a variable, not its value
"""Where a given password is looked for, unless another variable is named."""

_BYTES = range(12, 73)


def given_password(username: str, *, variable: str = "", prompt: bool = False) -> Secret | None:
    """The password that a person gave for *username*; None when there is none.

    Parameters:
        username: whose.
        variable: the environment variable that may hold it; :data:`PASSWORD_VARIABLE` when empty.
        prompt: ask for it where the variable holds none.

    Raises:
        ParameterError: nobody is there to be asked.
    """
    value = os.environ.get(variable or PASSWORD_VARIABLE)
    if not value and prompt:
        value = _prompted(username)
    return Secret(value) if value else None


def require_usable(password: Secret) -> None:
    """Refuse a password that the index would refuse.

    Raises:
        RunbookError: it has fewer than 12 or more than 72 bytes; the sentence does not repeat it.
    """
    length = len(password.reveal().encode())
    if length not in _BYTES:
        raise RunbookError(
            "the password cannot be used",
            why=f"it has {length} bytes; bcrypt ignores what follows the 72nd, and fewer than 12 can be guessed",
            todo="choose one of 12 to 72 bytes",
        )


def hashed(password: Secret, rounds: int) -> str:
    """The bcrypt hash of a password, with 2 to the power of *rounds* steps."""
    return bcrypt.hashpw(password.reveal().encode(), bcrypt.gensalt(rounds)).decode("ascii")


def _prompted(username: str) -> str:
    try:
        return getpass.getpass(f"Password for {username} (empty: keep or generate one): ")
    except (RuntimeError, EOFError) as error:
        # ipykernel's StdinNotImplementedError is a RuntimeError.
        raise ParameterError(
            "nobody can be asked for a password here",
            why=f"password_prompt=true in a run without a person ({type(error).__name__})",
            todo=f"give it in the environment variable {PASSWORD_VARIABLE}, or leave it to be generated",
        ) from None
