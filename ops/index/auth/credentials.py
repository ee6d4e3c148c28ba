"""The credentials in a request: HTTP Basic (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from ops.index.auth.passwords import NAME_BYTES, decoded

_HEADER_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Login:
    """What a client says it is.

    Parameters:
        username: in Unicode NFC, as names are stored.
        password: as sent.
    """

    username: str
    password: str

    def __repr__(self) -> str:
        return "Login(********)"  # a password is typed as user name often enough

    @classmethod
    def parse(cls, authorization: bytes) -> Login | None:
        """The credentials in an Authorization header, or None when there are none in it. Never raises."""
        if len(authorization) > _HEADER_BYTES:
            return None
        scheme, _, token = authorization.strip().partition(b" ")
        if scheme.lower() != b"basic":
            return None
        token = token.strip().rstrip(b"=")
        try:
            fields = base64.b64decode(token + b"=" * (-len(token) % 4), validate=True)
        except (binascii.Error, ValueError):
            return None
        try:
            text = fields.decode()
        except UnicodeDecodeError:
            text = fields.decode("latin-1")
        username, colon, password = text.partition(":")
        return cls(decoded(username.encode()), password) if colon else None

    @property
    def header(self) -> bytes:
        """The value of an Authorization header in the one form that is remembered, in UTF-8."""
        fields = f"{self.username}:{self.password}".encode("utf-8", "surrogatepass")
        return b"Basic " + base64.b64encode(fields)

    @property
    def plausible(self) -> bool:
        """Whether anybody could have these: what nobody can have is refused without work."""
        return (
            0 < len(self.username.encode("utf-8", "surrogatepass")) <= NAME_BYTES
            and ":" not in self.username
            and self.password != ""
        )
