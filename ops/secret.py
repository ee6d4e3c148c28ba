"""A value that must not be seen, and how the process that keeps records learns of it."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from typing import NoReturn

from ops.errors import ParameterError

REGISTER_VARIABLE = "RUNBOOK_SECRETS_FILE"
"""Names the 0600 file in which every :class:`Secret` is noted while a notebook runs.

The runner sets it, masks what stands in it, and removes it when the run ends. One value a line, in base64, since a
secret may contain a newline.
"""


class Secret:
    """A string that shows itself only when asked by name.

    ``repr``, ``str``, ``format`` and every display in a notebook give asterisks; it cannot be pickled. Comparing two is
    done in constant time.

    Parameters:
        value: the secret itself, not empty.

    Raises:
        ValueError: the value is empty.
        ParameterError: it is not UTF-8. An operating system hands such bytes over as lone surrogates (PEP 383).
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a secret cannot be empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ParameterError(
                "a secret that was given is not text in UTF-8",
                why="the terminal or script that set its environment variable uses another encoding",
                todo="set it again in UTF-8, or choose one of ASCII letters and digits",
            ) from None
        self._value = value
        _register(value)

    @classmethod
    def generate(cls, nbytes: int = 32) -> Secret:
        """A new random secret of *nbytes* bytes, in the URL-safe base64 alphabet (RFC 4648, section 5)."""
        return cls(secrets.token_urlsafe(nbytes))

    def reveal(self) -> str:
        """The value, for the one call that needs it."""
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
        raise TypeError("a Secret cannot be pickled: it would be written in the clear")


def _register(value: str) -> None:
    """Tell the runner, if one is listening, before the value can reach any output."""
    path = os.environ.get(REGISTER_VARIABLE)
    if not path:
        return
    line = base64.b64encode(value.encode()) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
