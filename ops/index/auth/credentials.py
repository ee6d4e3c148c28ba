"""HTTP Basic credentials (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import unicodedata
from dataclasses import dataclass
from typing import Final

from ops.index.auth.passwords import NAME_BYTES

_HEADER_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """User name and password, as a client sent them.

    Parameters:
        username: in Unicode NFC, as names are stored.
        password: unchanged.
    """

    username: str
    password: str

    def __repr__(self) -> str:
        return "BasicCredentials(********)"  # people type their password as the user name

    @classmethod
    def parse(cls, authorization: bytes) -> BasicCredentials | None:
        """Read the value of an Authorization header; None if it holds no Basic credentials. Never raises."""
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
        except UnicodeDecodeError:  # requests, and with it pip and twine, sends Latin-1 if it can
            text = fields.decode("latin-1")
        username, colon, password = text.partition(":")
        return cls(unicodedata.normalize("NFC", username), password) if colon else None

    @property
    def plausible(self) -> bool:
        """True if a user could have these credentials."""
        return 0 < len(self.username.encode()) <= NAME_BYTES and self.password != ""
