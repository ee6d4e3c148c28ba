"""The users of an index: their entries in ``.htpasswd``, which stock ``htpasswd`` and pypiserver read and write too."""

from __future__ import annotations

import os
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from packaging.utils import InvalidName, canonicalize_name

from ops.index.auth.audit import Audit
from ops.index.auth.credential_files import GROUPS, PASSWORDS, CredentialFiles, Draft
from ops.index.auth.passwords import ROUNDS, InvalidCredentials, decoded, hashed, validated_hash, validated_name
from ops.index.auth.roles import GroupFile, Identity, Role, Roles, memberships
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry


class Keep(Enum):
    """What is left as it is."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP

Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""Of both files: equal ones have equal contents, as long as neither is being written in place."""


class Account(NamedTuple):
    """One user as the files say.

    Parameters:
        digest: the password's hash, in whatever format the file has it.
        identity: who the user is, once the password was verified.
    """

    digest: str
    identity: Identity

    def __repr__(self) -> str:
        return f"Account({self.identity!r})"


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of a user.

    Parameters:
        identity: the user as stored.
        created: False when there was an entry before.
    """

    identity: Identity
    created: bool


class PasswordFile:
    """The text of an ``.htpasswd``. Comments, empty lines and whatever cannot be read stay as they are.

    Read as nginx and Apache do: what follows a second colon, such as a comment, is no part of the hash. A byte order
    mark, which some editors write, is dropped.

    Parameters:
        content: the file's bytes; any bytes will do.
    """

    def __init__(self, content: bytes) -> None:
        self._lines = content.removeprefix(BOM_UTF8).split(b"\n")
        if self._lines[-1] == b"":
            self._lines.pop()

    def __bytes__(self) -> bytes:
        return b"".join(line + b"\n" for line in self._lines)

    def entries(self) -> dict[str, str]:
        """The hash of each user. The first of several entries counts, as it does for Apache and passlib."""
        found: dict[str, str] = {}
        for line in self._lines:
            username, digest = _parsed(line)
            if username is not None:
                found.setdefault(username, digest)
        return found

    def set(self, username: str, digest: str) -> bool:
        """Give the user an entry where the first one stood, else at the end. True when there was none."""
        entry = f"{username}:{digest}".encode()
        places = [place for place, line in enumerate(self._lines) if _parsed(line)[0] == username]
        if not places:
            self._lines.append(entry)
            return True
        _, _, further = self._lines[places[0]].strip().partition(b":")[2].partition(b":")
        self._lines[places[0]] = entry + (b":" + further if further else b"")
        for place in reversed(places[1:]):
            del self._lines[place]
        return False

    def remove(self, username: str) -> bool:
        """Take away all of the user's entries. False when there was none."""
        kept = [line for line in self._lines if _parsed(line)[0] != username]
        removed = len(kept) < len(self._lines)
        self._lines = kept
        return removed


class Users:
    """Reads, creates, changes and removes the users on a credentials volume.

    Parameters:
        credentials: the volume; it may be empty.
        options: the cost of new hashes.
        audit: where changes are noted, on the same volume, so that they are committed with it.
        name_locks: shared by all writers of a Volume (see
            :class:`~ops.index.auth.credential_files.CredentialFiles`).
    """

    def __init__(
        self, credentials: Storage, options: Options, *, audit: Audit | None = None, name_locks: NameLocks | None = None
    ) -> None:
        self._storage = credentials
        self._options = options
        self._credential_files = CredentialFiles(credentials, name_locks, audit=audit)

    def hold_back(self) -> None:
        """Hold room back on the disk, so that users can be changed when it is full. Never raises."""
        self._credential_files.hold_back()

    def register(
        self,
        username: str,
        *,
        password: str | None = None,
        password_hash: str | None = None,
        role: Role | None = None,
        projects: Iterable[str] | Keep | None = KEEP,
        actor: str = "",
        address: str = "",
    ) -> Registration:
        """Create a user, or change what is given of an existing one. Durable when it returns.

        Parameters:
            username: as a person typed it.
            password: 12 to 72 bytes in UTF-8.
            password_hash: a bcrypt hash instead of it.
            role: None for publisher when new, unchanged otherwise.
            projects: to which a publisher is limited; None for all.
            actor: who does it, for the audit log.
            address: from where.

        Raises:
            InvalidCredentials: something of this cannot be stored.
            StorageError: nothing has changed.
        """
        username = validated_name(username)
        digest = self._digest(password, password_hash)
        limits = projects if isinstance(projects, Keep) else _validated_projects(projects)
        with self._credential_files.change(username, actor=actor, address=address) as draft:
            passwords = PasswordFile(draft[PASSWORDS])
            created = username not in passwords.entries()
            if created and digest is None:
                raise InvalidCredentials(f"there is no user {username!r} yet: give a password or a password hash")
            # A name that is new has no role, also when a removal by stock htpasswd left it in a group.
            before = Identity(username) if created else Roles(draft[GROUPS]).identity(username)
            identity = _changed(before, role, limits)
            draft.entry = Entry(
                "user.created" if created else "user.changed",
                {
                    "actor": actor,
                    "role": str(identity.role),
                    "projects": None if identity.projects is None else sorted(identity.projects),
                    "password_changed": digest is not None,
                },
            )
            if digest is not None:
                # Three steps, of which those that change nothing are left out. No password, new or old, may open more
                # than it did before or will afterwards, for the moment between two of them.
                _assign(draft, identity if created else identity.limited_to(before))
                passwords.set(username, digest)
                draft[PASSWORDS] = bytes(passwords)
            _assign(draft, identity)
        return Registration(identity, created)

    def remove(self, username: str, *, actor: str = "", address: str = "") -> bool:
        """Take the user's entry and roles away. Durable when it returns; False when there was no such user.

        Raises:
            StorageError: nothing has changed.
        """
        username = unicodedata.normalize("NFC", username)
        with self._credential_files.change(username, actor=actor, address=address) as draft:
            passwords = PasswordFile(draft[PASSWORDS])
            if not passwords.remove(username):
                return False
            draft.entry = Entry("user.removed", {"actor": actor})
            # The entry first: without its group, a reader who still had one would be a publisher for a moment.
            draft[PASSWORDS] = bytes(passwords)
            groups = GroupFile(draft[GROUPS])
            groups.assign(username, ())
            draft[GROUPS] = bytes(groups)
        return True

    def accounts(self) -> dict[str, Account]:
        """All users by name, as the files say now. Reads them; does not reload a shared volume.

        Raises:
            OSError: ``.htpasswd`` is there and cannot be read.
        """
        with self._storage.reading():
            for _ in range(10):
                before = self.signature()
                passwords = self._credential_files.read(PASSWORDS)
                try:
                    groups: bytes | None = self._credential_files.read(GROUPS) or b""
                except OSError:
                    groups = None
                if self.signature() == before:  # otherwise one file is from before a change and one from after
                    break
        roles = Roles(groups)
        return {
            username: Account(digest, roles.identity(username))
            for username, digest in PasswordFile(passwords or b"").entries().items()
        }

    def identities(self) -> list[Identity]:
        """All users, sorted by name, as everybody's last change left them.

        Raises:
            StorageError: a shared volume could not be reloaded.
        """
        self._storage.reload()
        try:
            accounts = self.accounts()
        except OSError as error:
            raise StorageError(f"the users cannot be read: {error.strerror or error}") from error
        return [accounts[username].identity for username in sorted(accounts)]

    def signature(self) -> Signature:
        """What tells a changed file from an unchanged one: two calls of ``stat``."""
        return tuple(_signature(self._storage.directory / name) for name in (PASSWORDS, GROUPS))

    def _digest(self, password: str | None, password_hash: str | None) -> str | None:
        if password is not None and password_hash is not None:
            raise InvalidCredentials("both a password and a password hash were given: give one of them")
        if password is not None:
            return hashed(password, self._options.bcrypt_rounds)
        if password_hash is not None:
            return validated_hash(password_hash, least_rounds=min(ROUNDS.start, self._options.bcrypt_rounds))
        return None


def _assign(draft: Draft, identity: Identity) -> None:
    groups = GroupFile(draft[GROUPS])
    groups.assign(identity.username, memberships(identity))
    draft[GROUPS] = bytes(groups)


def _changed(identity: Identity, role: Role | None, projects: frozenset[str] | Keep | None) -> Identity:
    role = role or identity.role
    if isinstance(projects, Keep):
        projects = identity.projects if role is Role.PUBLISHER else None
    elif projects is not None and role is not Role.PUBLISHER:
        raise InvalidCredentials(f"projects were given for a {role}: only a publisher is limited to projects")
    return Identity(identity.username, role, projects)


def _validated_projects(projects: Iterable[str] | None) -> frozenset[str] | None:
    if projects is None:
        return None
    try:
        normalized = frozenset(canonicalize_name(project, validate=True) for project in projects)
    except InvalidName:
        raise InvalidCredentials("one of the projects is no project name: use letters, digits and . _ -") from None
    if not normalized:
        raise InvalidCredentials(
            "the list of projects is empty: give none for no limit, or the role reader for no uploads"
        )
    return normalized


def entry_of(line: bytes) -> tuple[bytes | None, str]:
    """The user name of a line, as it stands there, and the hash. No name for a comment, or a line without a colon."""
    name, colon, rest = line.strip().partition(b":")
    if not colon or name.startswith(b"#"):
        return None, ""
    return name, rest.partition(b":")[0].decode("latin-1")


def _parsed(line: bytes) -> tuple[str | None, str]:
    """The user of a line and the hash; no user for a line that is none."""
    name, digest = entry_of(line)
    return (decoded(name), digest) if name else (None, "")


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and called very often
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
