"""Tokens in ``.tokens`` on the credentials volume: one JSON object a line, without the tokens themselves.

    {"id": "8c1f0a52b3d4", "sha256": "…", "owner": "alice", "role": "publisher", "projects": ["spam"],
     "label": "release job", "created": "2026-11-25T12:00:00Z", "expires": "2027-02-23T12:00:00Z", "last_used": null}

All of it on one line. ``projects`` is null for all of the owner's. Unreadable lines are preserved and ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from packaging.utils import canonicalize_name

from ops.index.auth.roles import Identity, Role

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ID: Final = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Token:
    """One token as stored.

    Parameters:
        id: 12 hexadecimal digits, which are part of the token and not secret.
        sha256: of the whole token, in hexadecimal digits. 256 random bits need no slower hash.
        owner: the user whom it stands for.
        role: the highest it may have; the owner's role limits it further.
        projects: the only ones that a publisher's token may upload to, normalized; None for all of the owner's.
        label: what people call it.
        created: seconds since the epoch.
        expires: likewise.
        last_used: likewise, to the hour; None if no use is known.
    """

    id: str
    sha256: str
    owner: str
    role: Role
    projects: frozenset[str] | None
    label: str
    created: float
    expires: float
    last_used: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the digest."""
        return {
            "id": self.id,
            "owner": self.owner,
            "role": self.role,
            "projects": None if self.projects is None else sorted(self.projects),
            "label": self.label,
            "created": rfc3339(self.created),
            "expires": rfc3339(self.expires),
            "last_used": None if self.last_used is None else rfc3339(self.last_used),
        }

    def identity(self, owner: Identity) -> Identity:
        """The user whom it stands for now: its owner, with the rights that both have."""
        return replace(
            Identity(self.owner, self.role, self.projects).limited_to(owner), token=self.id, expires=self.expires
        )


class TokenFile:
    """The text of a ``.tokens`` file.

    Parameters:
        content: the file's bytes; any bytes will do.
    """

    def __init__(self, content: bytes) -> None:
        self._lines = [line for line in content.split(b"\n") if line.strip()]

    def __bytes__(self) -> bytes:
        return b"".join(line + b"\n" for line in self._lines)

    def tokens(self) -> list[Token]:
        """All readable tokens, in the order of the file."""
        return [token for line in self._lines if (token := _parsed(line)) is not None]

    def unreadable(self) -> Iterator[int]:
        """The numbers of the unreadable lines, from 1."""
        return (number for number, line in enumerate(self._lines, 1) if _parsed(line) is None)

    def add(self, token: Token) -> None:
        """Add a line."""
        self._lines.append(_line(token))

    def keep(self, kept: list[Token]) -> None:
        """Replace the tokens that have the same ids, and remove all others."""
        by_id = {token.id: token for token in kept}
        lines = []
        for line in self._lines:
            token = _parsed(line)
            if token is None:
                lines.append(line)
            elif token.id in by_id:
                lines.append(_line(by_id[token.id]))
        self._lines = lines


def new_token(*, minted: bool = False) -> tuple[str, str]:
    """A new token and its id."""
    token_id = ("m" if minted else "") + secrets.token_hex(6)
    return f"pyidx_{token_id}_{secrets.token_hex(32)}", token_id


def token_digest(token: str) -> str:
    """The SHA-256 of a token, which is stored instead of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def rfc3339(moment: float) -> str:
    """Seconds since the epoch in UTC (RFC 3339), to the second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _line(token: Token) -> bytes:
    return json.dumps({**token.to_json(), "sha256": token.sha256}).encode()


def _parsed(line: bytes) -> Token | None:
    try:
        found = json.loads(line)
        projects = found["projects"]
        token = Token(
            id=found["id"],
            sha256=found["sha256"],
            owner=found["owner"],
            role=Role(found["role"]),
            projects=None if projects is None else frozenset(canonicalize_name(project) for project in projects),
            label=str(found.get("label", "")),
            created=_moment(found["created"]),
            expires=_moment(found["expires"]),
            last_used=None if found.get("last_used") is None else _moment(found["last_used"]),
        )
        readable = _ID.fullmatch(token.id) and _SHA256.fullmatch(token.sha256) and isinstance(token.owner, str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return token if readable else None


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
