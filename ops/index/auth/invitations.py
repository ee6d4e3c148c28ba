"""Invitations: one-time codes with which users set their own passwords, in ``.invitations`` on the credentials volume.

    {"sha256": "…", "username": "alice", "expires": "2026-11-26T12:00:00Z"}

One line each. A code works once, for 24 hours, until the same user is invited again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, NamedTuple

from ops.index.auth.audit import Audit
from ops.index.auth.credential_files import INVITATIONS, PASSWORDS, CredentialFiles
from ops.index.auth.password_file import PasswordFile
from ops.index.auth.passwords import hashed
from ops.index.auth.token_file import rfc3339
from ops.index.config import Options
from ops.index.errors import NotFound, PackageIndexError
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry

LIFETIME: Final = 86400
"""Seconds."""


class Invitation(NamedTuple):
    """An invitation as stored.

    Parameters:
        sha256: of the code, in hexadecimal digits. 256 random bits need no slower hash.
        username: of the user.
        expires: seconds since the epoch.
    """

    sha256: str
    username: str
    expires: float


class Invitations:
    """Creates and accepts invitations. Both are durable on return.

    Parameters:
        credentials: the volume.
        options: the cost of new hashes.
        audit: on the same volume.
        name_locks: shared by all writers of a Volume.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        credentials: Storage,
        options: Options,
        *,
        audit: Audit | None = None,
        name_locks: NameLocks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._credential_files = CredentialFiles(credentials, name_locks, audit=audit)
        self._clock = clock

    def create(self, username: str, *, actor: str = "", address: str = "") -> tuple[str, Invitation]:
        """Invite a user to set a password, and return the code, which is stored nowhere.

        Parameters:
            username: of a user of the index.
            actor: who invites, for the audit log.
            address: of the client.

        Raises:
            NotFound: there is no such user.
            StorageError: nothing has changed.
        """
        code = secrets.token_urlsafe(32)
        invitation = Invitation(_digest(code), username, float(int(self._clock()) + LIFETIME))
        with self._credential_files.change(username, actor=actor, address=address) as draft:
            if username not in PasswordFile(draft[PASSWORDS]).entries():
                raise NotFound(f"there is no user {username!r}: register the user first")
            draft[INVITATIONS] = without(draft[INVITATIONS], username) + _line(invitation)
            draft.entry = Entry("invitation.created", {"actor": actor, "expires": rfc3339(invitation.expires)})
        return code, invitation

    def accept(self, code: str, password: str, *, address: str = "") -> str:
        """Set the password of the user with this code, use up the code, and return the user's name.

        Parameters:
            code: from :meth:`create`.
            password: 12 to 72 bytes in UTF-8.
            address: of the client.

        Raises:
            InvalidInvitationError: the code is wrong, was used, or has expired.
            InvalidCredentials: the password cannot be used; the code still works.
            StorageError: nothing has changed.
        """
        digest = _digest(code)
        # Before hashing, so that a stranger's guess costs little.
        if self._find(self._credential_files.read(INVITATIONS) or b"", digest) is None:
            raise InvalidInvitationError
        entry = hashed(password, self._options.bcrypt_rounds)
        with self._credential_files.change("", actor="invitation", address=address) as draft:
            passwords = PasswordFile(draft[PASSWORDS])
            found = self._find(draft[INVITATIONS], digest)
            if found is None or found.username not in passwords.entries():
                raise InvalidInvitationError
            # The code first: if killed in between, it does not work a second time.
            draft[INVITATIONS] = without(draft[INVITATIONS], found.username)
            passwords.set(found.username, entry)
            draft[PASSWORDS] = bytes(passwords)
            draft.user = found.username
            draft.entry = Entry("user.changed", {"actor": "invitation", "password_changed": True})
        return found.username

    def _find(self, content: bytes, sha256: str) -> Invitation | None:
        """The invitation with this code, unless it has expired."""
        now = self._clock()
        return next((one for one in _parsed(content) if one.sha256 == sha256 and one.expires > now), None)


class InvalidInvitationError(PackageIndexError):
    """The code of an invitation is wrong, was used, or has expired."""

    status = 403

    def __init__(self) -> None:
        super().__init__("this code is wrong, used, or older than a day; ask the index's operator for another link")


def without(content: bytes, username: str) -> bytes:
    """The lines of ``.invitations`` without those of a user or unreadable ones."""
    return b"".join(_line(one) for one in _parsed(content) if one.username != username)


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


def _line(one: Invitation) -> bytes:
    return json.dumps({**one._asdict(), "expires": rfc3339(one.expires)}).encode() + b"\n"


def _parsed(content: bytes) -> Iterator[Invitation]:
    for line in content.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            fields = json.loads(line)
            moment = datetime.fromisoformat(fields["expires"]).timestamp()
            yield Invitation(str(fields["sha256"]), str(fields["username"]), moment)
