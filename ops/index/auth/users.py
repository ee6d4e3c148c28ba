"""The users of an index: their entries in ``.htpasswd``, compatible with stock ``htpasswd`` and pypiserver."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from packaging.utils import InvalidName, canonicalize_name

from ops.index.auth.audit import Audit
from ops.index.auth.credential_files import GROUPS, INVITATIONS, PASSWORDS, TOKENS, TRUST, CredentialFiles, Draft
from ops.index.auth.password_file import PasswordFile
from ops.index.auth.passwords import ROUNDS, InvalidCredentials, hashed, validated_hash, validated_name
from ops.index.auth.roles import Grants, GroupFile, Identity, Role, Roles, memberships
from ops.index.auth.token_file import Token, TokenFile
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry


class Keep(Enum):
    """Marks a parameter as unchanged."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP

Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""State of all files. Equal signatures mean equal contents, unless a file is being written in place."""


class Account(NamedTuple):
    """One user as stored.

    Parameters:
        digest: the password's hash, in any format.
        identity: of the user, valid once the password is verified.
    """

    digest: str
    identity: Identity

    def __repr__(self) -> str:
        return f"Account({self.identity!r})"


class StoredLogins(NamedTuple):
    """All users, tokens and trusted jobs at one moment.

    Parameters:
        accounts: by user name.
        tokens: those that can be read, expired ones included.
        trust: the content of the file with the trusted jobs.
    """

    accounts: dict[str, Account]
    tokens: list[Token]
    trust: bytes


@dataclass(frozen=True, slots=True)
class Registration:
    """The result of a registration.

    Parameters:
        identity: the user as stored.
        created: False if there was an entry before.
    """

    identity: Identity
    created: bool


class Users:
    """Reads, creates, changes and removes the users on a credentials volume.

    Parameters:
        credentials: the volume; it may be empty.
        options: the cost of new hashes.
        audit: on the same volume, so that its lines are committed with the changes.
        name_locks: shared by all writers of a Volume (see
            :class:`~ops.index.auth.credential_files.CredentialFiles`).
    """

    def __init__(
        self, credentials: Storage, options: Options, *, audit: Audit | None = None, name_locks: NameLocks | None = None
    ) -> None:
        self._storage = credentials
        self._options = options
        self._credential_files = CredentialFiles(credentials, name_locks, audit=audit)
        self._paths = [f"{credentials.directory}/{name}" for name in (PASSWORDS, GROUPS, TOKENS, TRUST)]

    def hold_back(self) -> None:
        """Reserve disk space, so that users can be changed on a full disk. Never raises."""
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
        confirm: Callable[[], None] | None = None,
    ) -> Registration:
        """Create a user, or change the given properties of an existing one; durable on return.

        Parameters:
            username: as typed.
            password: 12 to 72 bytes in UTF-8.
            password_hash: a bcrypt hash instead.
            role: None for publisher if new, else for no change.
            projects: that a publisher is limited to; None for all.
            actor: who makes the change, for the audit log.
            address: of the client.
            confirm: raises an error if that user may no longer do so.

        Raises:
            InvalidCredentials: a parameter is invalid.
            StorageError: nothing has changed.
        """
        username = validated_name(username)
        digest = self._digest(password, password_hash)
        limits = projects if isinstance(projects, Keep) else _validated_projects(projects)
        with self._credential_files.change(username, actor=actor, address=address, confirm=confirm) as draft:
            passwords = PasswordFile(draft[PASSWORDS])
            created = username not in passwords.entries()
            if created and digest is None:
                raise InvalidCredentials(f"there is no user {username!r} yet: give a password or a password hash")
            # A new user has no role, even if stock htpasswd left the name in a group.
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
                # Up to three steps. Between them no password, old or new, may allow more than it did before or will
                # afterwards.
                _assign(draft, identity if created else identity.limited_to(before))
                passwords.set(username, digest)
                draft[PASSWORDS] = bytes(passwords)
            _assign(draft, identity)
        return Registration(identity, created)

    def remove(self, username: str, *, actor: str = "", address: str = "") -> bool:
        """Remove a user's entry, roles, tokens and invitation; durable on return. False if there was no such user.

        Raises:
            StorageError: nothing has changed.
        """
        from ops.index.auth.invitations import without  # needed for removals only

        username = unicodedata.normalize("NFC", username)
        with self._credential_files.change(username, actor=actor, address=address) as draft:
            passwords = PasswordFile(draft[PASSWORDS])
            if not passwords.remove(username):
                return False
            # The entry first: a reader with an entry but without a group would be a publisher for a moment.
            draft[PASSWORDS] = bytes(passwords)
            groups = GroupFile(draft[GROUPS])
            groups.assign(username, ())
            for prefix, owners in groups.grants():  # else a later user of that name would own it; it stays reserved
                if username in owners:
                    groups.reserve(prefix, owners - {username})
            draft[GROUPS] = bytes(groups)
            tokens = TokenFile(draft[TOKENS])  # else they would stand for a later user of that name
            own = [token.id for token in tokens.tokens() if token.owner == username]
            tokens.keep([token for token in tokens.tokens() if token.id not in own])
            draft[TOKENS] = bytes(tokens)
            draft[INVITATIONS] = without(draft[INVITATIONS], username)
            draft.entry = Entry("user.removed", {"actor": actor, **({"revoked": own} if own else {})})
        return True

    def reservations(self) -> Grants:
        """Reserved prefixes of names and their owners, after a reload.

        Raises:
            StorageError: they cannot be read.
        """
        self._storage.reload()
        try:
            return GroupFile(self._credential_files.read(GROUPS) or b"").grants()
        except OSError as error:
            raise StorageError(f"the groups cannot be read: {error.strerror or error}") from error

    def reserve(self, prefix: str, owners: Iterable[str], *, actor: str = "", address: str = "") -> Grants:
        """Reserve a prefix of project names (PEP 752) for some users, or free it; durable on return.

        Only they can create a project with this name, or one that continues it with a dash. Existing projects stay.

        Parameters:
            prefix: in any spelling.
            owners: names of users; none to free the prefix.
            actor: who makes the change, for the audit log.
            address: of the client.

        Returns:
            All reservations.

        Raises:
            InvalidCredentials: the prefix cannot begin a name, or one of the owners is unknown.
            StorageError: nothing has changed.
        """
        try:
            normalized = str(canonicalize_name(prefix, validate=True))
        except InvalidName:
            raise InvalidCredentials("no project's name can begin like this: use letters, digits and . _ -") from None
        names = frozenset(unicodedata.normalize("NFC", owner) for owner in owners)
        with self._credential_files.change("", actor=actor, address=address) as draft:
            if unknown := sorted(names - PasswordFile(draft[PASSWORDS]).entries().keys()):
                raise InvalidCredentials(f"there is no user {unknown[0]!r}: register the owners first")
            groups = GroupFile(draft[GROUPS])
            groups.reserve(normalized, names or None)
            draft[GROUPS] = bytes(groups)
            draft.entry = Entry("prefix.reserved", {"actor": actor, "prefix": normalized, "owners": sorted(names)})
            return groups.grants()

    def accounts(self) -> dict[str, Account]:
        """All users by name, from the files as they are now; does not reload a shared volume.

        Raises:
            OSError: ``.htpasswd`` exists but cannot be read.
        """
        return self.logins().accounts

    def logins(self) -> StoredLogins:
        """All users and tokens, as :meth:`accounts`. An unreadable token file counts as empty."""
        with self._storage.reading():
            for _ in range(10):
                before = self.signature()
                passwords = self._credential_files.read(PASSWORDS)
                groups, tokens, trust = (self._readable(name) for name in (GROUPS, TOKENS, TRUST))
                if self.signature() == before:  # else one file is older than another
                    break
        roles = Roles(groups)
        accounts = {
            username: Account(digest, roles.identity(username))
            for username, digest in PasswordFile(passwords or b"").entries().items()
        }
        return StoredLogins(accounts, TokenFile(tokens or b"").tokens(), trust or b"")

    def identities(self) -> list[Identity]:
        """All users, sorted by name, after a reload.

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
        """A value that changes with the files. Costs four calls of ``stat``."""
        return tuple(map(_signature, self._paths))

    def _readable(self, name: str) -> bytes | None:
        try:
            return self._credential_files.read(name) or b""
        except OSError:
            return None

    def _digest(self, password: str | None, password_hash: str | None) -> str | None:
        if password is not None and password_hash is not None:
            raise InvalidCredentials("both a password and a password hash were given: give only one")
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
        raise InvalidCredentials("one of the projects is not a project name: use letters, digits and . _ -") from None
    if not normalized:
        raise InvalidCredentials(
            "the list of projects is empty: omit it for no limit, or use the role reader for no uploads"
        )
    return normalized


def _signature(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, and called very often
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
