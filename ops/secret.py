"""Secret values that are never displayed, and their register for the process that masks records."""

from __future__ import annotations

import base64
import getpass
import hmac
import os
import secrets
from typing import NoReturn

from ops.errors import ParameterError

REGISTER_VARIABLE = "RUNBOOK_SECRETS_FILE"
"""Variable with the 0600 file in which every :class:`Secret` is recorded while a notebook runs.

The runner sets it, masks the values in it, and removes it when the run ends. One value per line, in base64, because a
secret may contain a newline.
"""


class Secret:
    """A string that is revealed only on request.

    ``repr``, ``str``, ``format`` and notebook displays show asterisks, and it cannot be pickled. Comparison takes
    constant time.

    Parameters:
        value: the secret, not empty.

    Raises:
        ValueError: the value is empty.
        ParameterError: it is not UTF-8; the operating system passes such bytes as lone surrogates (PEP 383).
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a secret cannot be empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ParameterError(
                "a given secret is not UTF-8 text",
                why="the terminal or script that set its environment variable uses another encoding",
                todo="set it again in UTF-8, or use only ASCII letters and digits",
            ) from None
        self._value = value
        _register(value)

    @classmethod
    def generate(cls, nbytes: int = 32) -> Secret:
        """A new random secret of *nbytes* bytes, in the URL-safe base64 alphabet (RFC 4648, section 5)."""
        return cls(secrets.token_urlsafe(nbytes))

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('********')"

    def __str__(self) -> str:
        return "********"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: the file would hold it in clear text")


def _register(value: str) -> None:
    """Record the value for the runner, if there is one, before it can reach any output."""
    path = os.environ.get(REGISTER_VARIABLE)
    if not path:
        return
    line = base64.b64encode(value.encode()) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


PASSWORD_VARIABLE = "INDEX_PASSWORD"  # noqa: S105 - the name of a variable, not its value
"""The environment variable that holds a password, unless another one is named."""


def given_password(username: str, *, variable: str = "", prompt: bool = False) -> Secret | None:
    """Password given by a person for a user; None if there is none.

    Parameters:
        username: the user.
        variable: the environment variable that holds it; empty for :data:`PASSWORD_VARIABLE`, which may be unset.
        prompt: True to prompt for it if the variable is not set.

    Raises:
        ParameterError: the named variable is not set, or there is nobody to prompt.
    """
    value = os.environ.get(variable or PASSWORD_VARIABLE)
    if not value and prompt:
        value = _prompted(username)
    elif not value and variable:
        raise ParameterError(
            f"there is no password in the environment variable {variable!r}",
            why="it is not set, or empty",
            todo="set it, or leave password_env out to keep the password or have one generated",
        )
    return Secret(value) if value else None


def _prompted(username: str) -> str:
    try:
        return getpass.getpass(f"Password for {username} (empty: keep or generate one): ")
    except (RuntimeError, EOFError) as error:
        # ipykernel's StdinNotImplementedError is a RuntimeError.
        raise ParameterError(
            "prompting for a password is impossible here",
            why=f"password_prompt=true in an unattended run ({type(error).__name__})",
            todo=f"set the environment variable {PASSWORD_VARIABLE}, or let one be generated",
        ) from None
