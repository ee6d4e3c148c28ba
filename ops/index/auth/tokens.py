"""Tokens of users: created, listed and revoked on a credentials volume."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from packaging.utils import InvalidName, canonicalize_name

from ops.index.auth.audit import Audit
from ops.index.auth.credential_files import GROUPS, PASSWORDS, TOKENS, CredentialFiles, Draft
from ops.index.auth.password_file import PasswordFile
from ops.index.auth.passwords import InvalidCredentials
from ops.index.auth.roles import Identity, Role, Roles
from ops.index.auth.token_file import Token, TokenFile, new_token, rfc3339, token_digest
from ops.index.auth.token_uses import TokenUses
from ops.index.errors import NotFound, StorageError
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry

LIFETIME_SECONDS: Final = range(3600, 365 * 86400 + 1)
"""One hour to one year."""

DEFAULT_LIFETIME: Final = 90 * 86400

LABEL_LENGTH: Final = 100

MOST: Final = 50
"""Tokens of one owner at once. Two are enough to replace one without a gap."""

_EXPIRED_KEPT: Final = 30 * 86400
"""Seconds for which an expired token is still listed."""


class NewToken(NamedTuple):
    """A token that was just created.

    Parameters:
        plain: the token itself, which is stored nowhere.
        token: what is stored.
    """

    plain: str
    token: Token

    def __repr__(self) -> str:
        return f"NewToken({self.token!r})"


class Tokens:
    """Creates, lists and revokes tokens. Changes are durable on return, and reach all servers within 5 s.

    Parameters:
        credentials: the volume.
        audit: on the same volume, so that its lines are committed with the changes.
        name_locks: shared by all writers of a Volume.
        uses: when tokens were last used, as recorded by the servers.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        credentials: Storage,
        *,
        audit: Audit | None = None,
        name_locks: NameLocks | None = None,
        uses: TokenUses | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = credentials
        self._credential_files = CredentialFiles(credentials, name_locks, audit=audit)
        self._uses = uses
        self._clock = clock

    def create(
        self,
        owner: str,
        *,
        role: Role | None = None,
        projects: Iterable[str] | None = None,
        lifetime: int = DEFAULT_LIFETIME,
        label: str = "",
        actor: str = "",
        address: str = "",
        confirm: Callable[[], None] | None = None,
    ) -> NewToken:
        """Create a token in addition to the owner's others.

        Parameters:
            owner: the user whom it will stand for.
            role: at most the owner's; None for the owner's.
            projects: the only ones to upload to, which need not exist yet; None for all of the owner's.
            lifetime: seconds, of :data:`LIFETIME_SECONDS`.
            label: what people call it, at most 100 characters.
            actor: who creates it, for the audit log.
            address: of the client.
            confirm: raises an error if that user may no longer do so.

        Raises:
            InvalidCredentials: a parameter is invalid, or asks for more than the owner may.
            NotFound: there is no such owner.
            StorageError: nothing has changed.
        """
        if lifetime not in LIFETIME_SECONDS:
            raise InvalidCredentials("the lifetime is out of range: use one hour to one year (3600 to 31536000 s)")
        if len(label) > LABEL_LENGTH or not label.isprintable():
            raise InvalidCredentials(f"the label must be one line of at most {LABEL_LENGTH} characters")
        owner = unicodedata.normalize("NFC", owner)
        plain, token_id = new_token()
        now = float(int(self._clock()))
        with self._credential_files.change(owner, actor=actor, address=address, confirm=confirm) as draft:
            rights = _limited(_owner(draft, owner), role, projects)
            token = Token(
                id=token_id,
                sha256=token_digest(plain),
                owner=owner,
                role=rights.role,
                projects=rights.projects,
                label=label,
                created=now,
                expires=now + lifetime,
            )
            file = TokenFile(draft[TOKENS])
            kept = [self._noted(old) for old in file.tokens() if old.expires > now - _EXPIRED_KEPT]
            if sum(old.owner == owner and old.expires > now for old in kept) >= MOST:
                raise InvalidCredentials(f"{owner!r} has {MOST} tokens: revoke those that are no longer used")
            file.keep(kept)
            file.add(token)
            draft[TOKENS] = bytes(file)
            draft.entry = Entry("token.created", {"actor": actor, **_audit_fields(token)})
        return NewToken(plain, token)

    def revoke(self, token_id: str, *, owner: str | None = None, actor: str = "", address: str = "") -> bool:
        """Revoke a token. False if there is none with that id.

        Parameters:
            token_id: of the token.
            owner: the required owner; None for any.
            actor: who revokes it, for the audit log.
            address: of the client.

        Raises:
            StorageError: nothing has changed.
        """
        with self._credential_files.change("", actor=actor, address=address) as draft:
            file = TokenFile(draft[TOKENS])
            tokens = file.tokens()
            found = next((token for token in tokens if token.id == token_id and owner in {None, token.owner}), None)
            if found is None:
                return False
            file.keep([self._noted(token) for token in tokens if token.id != token_id])
            draft[TOKENS] = bytes(file)
            draft.user = found.owner
            draft.entry = Entry("token.revoked", {"actor": actor, **_audit_fields(found)})
        return True

    def all(self, owner: str | None = None) -> list[Token]:
        """All tokens, or those of one owner, the newest first, after a reload. Expired ones stay for 30 days.

        Raises:
            StorageError: a shared volume could not be reloaded, or the file cannot be read.
        """
        self._storage.reload()
        try:
            file = TokenFile(self._credential_files.read(TOKENS) or b"")
        except OSError as error:
            raise StorageError(f"the tokens cannot be read: {error.strerror or error}") from error
        found = [self._noted(token) for token in file.tokens() if owner in {None, token.owner}]
        return sorted(found, key=lambda token: -token.created)

    def _noted(self, token: Token) -> Token:
        """The token with its last use."""
        last = None if self._uses is None else self._uses.last(token.id)
        if last is None or (token.last_used is not None and token.last_used >= last):
            return token
        return replace(token, last_used=last)


def _owner(draft: Draft, owner: str) -> Identity:
    if owner not in PasswordFile(draft[PASSWORDS]).entries():
        raise NotFound(f"there is no user {owner!r}: register the user first")
    return Roles(draft[GROUPS]).identity(owner)


def _limited(owner: Identity, role: Role | None, projects: Iterable[str] | None) -> Identity:
    """The rights of a new token.

    Raises:
        InvalidCredentials: they are more than the owner's, or contradict each other.
    """
    role = role or (Role.PUBLISHER if projects is not None and owner.role is Role.ADMIN else owner.role)
    try:
        limits = None if projects is None else frozenset(canonicalize_name(name, validate=True) for name in projects)
    except InvalidName:
        raise InvalidCredentials("one of the projects is not a project name: use letters, digits and . _ -") from None
    if limits is not None and (not limits or role is not Role.PUBLISHER):
        raise InvalidCredentials("projects go with the role publisher only: leave them out, or name one or more")
    asked = Identity(owner.username, role, limits)
    given = asked.limited_to(owner)
    if given.role is not role or (limits is not None and given.projects != limits):
        most = str(owner.role) if owner.projects is None else f"{owner.role} of {', '.join(sorted(owner.projects))}"
        raise InvalidCredentials(f"{owner.username!r} is {most}, and a token can do no more: ask for less")
    return given


def _audit_fields(token: Token) -> dict[str, object]:
    return {
        "id": token.id,
        "role": str(token.role),
        "projects": None if token.projects is None else sorted(token.projects),
        "label": token.label,
        "expires": rfc3339(token.expires),
    }
