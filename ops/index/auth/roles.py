"""Roles and rights of users, stored beside ``.htpasswd`` in an Apache group file.

reader: bob
admin: carol
project/spam: dave            dave may upload only to spam
reserved/acme: erin frank     only they may create acme and acme-… (PEP 752)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from packaging.utils import canonicalize_name

from ops.index.auth.password_file import CredentialLines
from ops.index.auth.passwords import decoded
from ops.index.errors import NOBODY

PROJECT: Final = "project/"
"""Prefix of the groups of users that are limited to a project, before its normalized name (PEP 503)."""

RESERVED: Final = "reserved/"
"""Prefix of the groups of owners of a reserved prefix of names, before the prefix, normalized (PEP 752)."""

Grants: TypeAlias = tuple[tuple[str, frozenset[str]], ...]
"""Reserved prefixes and their owners, the longest prefix first."""


def _unconditionally() -> None:
    """Confirm an identity that does not come from a request."""


class Role(StrEnum):
    """Rights of a user, in ascending order: each role includes those before it."""

    READER = "reader"
    """Download, list and browse."""
    PUBLISHER = "publisher"
    """Upload, yank, and set a project's status except quarantine. The default for users in no group, as with stock
    pypiserver."""
    ADMIN = "admin"
    """Delete, and set and lift a quarantine."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user whose password or token was verified.

    Parameters:
        username: in Unicode NFC.
        role: the user's rights.
        projects: normalized names of the projects to which a publisher is limited; None for all.
        token: the id of the token that stands for the user; empty for a password.
        run: the URL of the CI run that a token was minted for; empty for all others.
        expires: when the token expires, in seconds since the epoch; 0 for a password.
        grants: all reserved prefixes.
        confirm: raises Unauthorized if the user or the token is gone, or has other rights, by now. Blocks.
    """

    username: str
    role: Role = Role.PUBLISHER
    projects: frozenset[str] | None = None
    token: str = ""
    run: str = ""
    expires: float = 0.0
    grants: Grants = ()
    confirm: Callable[[], None] = field(default=_unconditionally, compare=False, repr=False)

    @property
    def origin(self) -> Mapping[str, str]:
        """Details for the audit log besides the user: the token, and the run that it was minted for."""
        return {name: value for name, value in (("credential", self.token), ("run", self.run)) if value}

    @property
    def minted(self) -> bool:
        """True if it is a CI job with a minted token, not a user."""
        return self.token.startswith("m")

    def may_upload(self, project: str) -> bool:
        """True if the user may upload to this project, yank from it, and set its status except quarantine.

        Parameters:
            project: its name, normalized or not (PEP 503).
        """
        if self.role is Role.READER:
            return False
        return self.projects is None or canonicalize_name(project) in self.projects

    def owner_of(self, project: str) -> str:
        """The owners of the reserved prefix that a project's name falls under; empty if the user may use the name.

        Parameters:
            project: its normalized name (PEP 503).
        """
        for prefix, owners in self.grants:
            if project == prefix or project.startswith(f"{prefix}-"):
                return "" if self.username in owners else ", ".join(sorted(owners)) or NOBODY
        return ""

    @property
    def may_administer(self) -> bool:
        """True if the user may delete files, and set and lift the quarantine of projects."""
        return self.role is Role.ADMIN

    def limited_to(self, other: Identity) -> Identity:
        """This user, with only the rights that *other* also has."""
        role = min(self.role, other.role, key=list(Role).index)
        limits = [identity.projects for identity in (self, other) if identity.projects is not None]
        projects = frozenset.intersection(*limits) if limits and role is Role.PUBLISHER else None
        if projects is not None and not projects:
            return Identity(self.username, Role.READER)
        return Identity(self.username, role, projects, grants=self.grants or other.grants)


class GroupFile(CredentialLines):
    """The text of an Apache group file (``AuthGroupFile``): ``group: member member "a member"``.

    Comments, other groups and invalid lines are preserved. A group may have several lines.
    """

    def groups(self) -> dict[str, set[str]]:
        """Members of the known groups, by group."""
        found: dict[str, set[str]] = {}
        for line in self._lines:
            group, members = _parsed(line)
            if group is not None:
                found.setdefault(group, set()).update(members)
        return found

    def grants(self) -> Grants:
        """Reserved prefixes and their owners, the longest first."""
        found: dict[str, set[str]] = {}
        for line in self._lines:
            group, members = group_of(line)
            if group is not None and group.startswith(RESERVED) and len(group) > len(RESERVED):
                found.setdefault(canonicalize_name(group.removeprefix(RESERVED)), set()).update(members)
        by_length = sorted(found.items(), key=lambda grant: (-len(grant[0]), grant[0]))
        return tuple((prefix, frozenset(owners)) for prefix, owners in by_length)

    def reserve(self, prefix: str, owners: Collection[str] | None) -> None:
        """Set the owners of a prefix, or free it.

        Parameters:
            prefix: normalized.
            owners: names of users; without any, nobody can use it. None frees it.
        """
        group = RESERVED + prefix
        others = [line for line in self._lines if _reserved(line) != prefix]
        self._lines = others + ([] if owners is None else [_rendered(group, sorted(owners))])

    def assign(self, username: str, groups: Collection[str]) -> None:
        """Make the user a member of exactly these of the known groups."""
        missing = set(groups)
        lines = []
        for line in self._lines:
            group, members = _parsed(line)
            if group is None or (username in members) == (group in missing):
                lines.append(line)
            elif group in missing:
                lines.append(_rendered(group, [*members, username]))
            elif remaining := [member for member in members if member != username]:
                lines.append(_rendered(group, remaining))
            if group is not None:
                missing.discard(group)
        self._lines = lines + [_rendered(group, [username]) for group in sorted(missing)]


class Roles:
    """Roles assigned by a group file.

    Parameters:
        content: the file's bytes; None if it exists but cannot be read, which makes everyone a reader.
    """

    def __init__(self, content: bytes | None) -> None:
        self._default = Role.PUBLISHER if content is not None else Role.READER
        groups = GroupFile(content or b"").groups()
        self._roles: dict[str, Role] = {}
        for role in Role:  # in ascending order: the most powerful one wins
            for member in groups.get(role, ()):
                self._roles[member] = role
        self._projects: dict[str, set[str]] = {}
        for group, members in groups.items():
            if group.startswith(PROJECT):
                for member in members:
                    self._projects.setdefault(member, set()).add(group.removeprefix(PROJECT))
        self._grants = GroupFile(content or b"").grants()

    def identity(self, username: str) -> Identity:
        """The user of that name, with role and projects."""
        role = self._roles.get(username, self._default)
        projects = self._projects.get(username) if role is Role.PUBLISHER else None
        limits = None if projects is None else frozenset(projects)
        return Identity(username, role, limits, grants=self._grants)


def memberships(identity: Identity) -> set[str]:
    """The groups of a user with this role and these projects."""
    return {str(identity.role), *(PROJECT + project for project in identity.projects or ())}


def group_of(line: bytes) -> tuple[str | None, list[str]]:
    """Group and members of a line; None for a comment, or a line without a colon."""
    name, colon, rest = line.strip().partition(b":")
    group = decoded(name.strip())
    return (None, []) if not colon or group.startswith("#") else (group, [decoded(word) for word in _words(rest)])


def _reserved(line: bytes) -> str | None:
    """The prefix that a line reserves."""
    group, _ = group_of(line)
    reserves = group is not None and group.startswith(RESERVED)
    return str(canonicalize_name(group.removeprefix(RESERVED))) if group is not None and reserves else None


def _parsed(line: bytes) -> tuple[str | None, list[str]]:
    """The same; None for an unknown group."""
    group, members = group_of(line)
    if group is not None and group.startswith(PROJECT) and len(group) > len(PROJECT):
        return PROJECT + canonicalize_name(group.removeprefix(PROJECT)), members
    return (group, members) if group in set(Role) else (None, [])


_WORD = re.compile(rb"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(\S+))""")


def _words(rest: bytes) -> list[bytes]:
    """Split a configuration line as Apache's ap_getword_conf does."""
    words = []
    for double, single, bare in _WORD.findall(rest):
        quote = b'"' if double else b"'"
        words.append(bare or (double or single).replace(b"\\" + quote, quote).replace(b"\\\\", b"\\"))
    return [word for word in words if word]


def _rendered(group: str, members: Collection[str]) -> bytes:
    return " ".join([f"{group}:", *(_quoted(member) for member in dict.fromkeys(members))]).encode()


def _quoted(member: str) -> str:
    if " " not in member and member[0] not in "\"'":
        return member
    escaped = member.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
