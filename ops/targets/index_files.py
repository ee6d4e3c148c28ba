"""Formats of the index's own files, for reading or writing a volume from outside."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote

from ops.index.packages.filenames import Form, can_be_listed, is_project, is_safe, parse

if TYPE_CHECKING:
    from ops.index.packages.inspector import Inspector
    from ops.index.packages.staged import Staged

YANKED, REVOKED, STATUS = ".index/yanked/", ".index/revoked/", ".index/status/"
"""Folders on the packages volume: yanks by file, revocations by digest, and statuses by project."""

REMOVED, AUDIT = ".index/removed/", ".index/audit/"
"""Folders on the same volume: tombstones, and the audit log."""

ACTIVITY, STAGING = ".index/activity/", ".index/staging/"
"""Folders on the same volume: counts of downloads and uses, and unfinished files."""

FACTS = ".index/facts/"
"""Folder with the info about each file."""

ADMIN_AUDIT = ".audit/"
"""Folder on the credentials volume: the audit log of the admin application."""

PASSWORDS, GROUPS, TOKENS, TRUST, INVITATIONS = ".htpasswd", ".htgroup", ".tokens", ".trust", ".invitations"
"""Files on the volume of credentials."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """File listed by the index.

    Parameters:
        project: normalized name (PEP 503).
        version: of the release.
        key: equal for all spellings of one file name.
        form: kind of file; ``other`` if only pypiserver considers it a distribution.
    """

    project: str
    version: str
    key: str
    form: Form


@dataclass(frozen=True)
class AccountEntry:
    """User as stored in the index's files.

    Parameters:
        role: ``reader``, ``publisher`` or ``admin``.
        projects: that a publisher is limited to, sorted; None for all.
        digest: of the password; never shown.
    """

    role: str
    projects: tuple[str, ...] | None
    digest: str = field(repr=False)

    @property
    def rights(self) -> str:
        """Role and projects as text."""
        return self.role if self.projects is None else f"{self.role} of {', '.join(self.projects)}"


def distribution(path: str) -> Distribution | None:
    """The distribution at *path*, as listed by the index; None if it is not one, or hidden."""
    *folders, filename = path.split("/")
    name = parse(filename)
    if name is None or any(part.startswith(".") for part in folders) or not can_be_listed(name.project):
        return None
    return Distribution(name.project, name.version, name.key, name.form)


def annotated(path: str) -> str:
    """The file or project of an annotation at *path*."""
    return unquote(path.rpartition("/")[2])


def tombstones(name: str, content: str) -> Iterator[tuple[str, str]]:
    """Key and SHA-256 of each removed file in one file of :data:`REMOVED`; the key is empty for a damaged line.

    Parameters:
        name: of the file.
        content: of it.
    """
    if len(name) > 2:  # the first version wrote one file each
        yield unquote(name), content.strip()
        return
    for line in content.splitlines():
        sha256, space, key = line.partition(" ")
        yield (key, sha256) if space and len(sha256) == 64 else ("", "")


def with_tombstones(content: bytes, more: bytes) -> bytes:
    """One file of :data:`REMOVED` with the lines of another one that it lacks."""
    lines = content.splitlines(keepends=True)
    return content + b"".join(line for line in more.splitlines(keepends=True) if line not in lines)


def accounts(passwords: bytes, groups: bytes) -> dict[str, AccountEntry]:
    """The users in ``.htpasswd`` and ``.htgroup``, by name."""
    from ops.index.auth.password_file import PasswordFile
    from ops.index.auth.roles import Roles

    roles = Roles(groups)
    found = {}
    for username, digest in PasswordFile(passwords).entries().items():
        identity = roles.identity(username)
        projects = None if identity.projects is None else tuple(sorted(identity.projects))
        found[username] = AccountEntry(str(identity.role), projects, digest)
    return found


def reservations(groups: bytes) -> dict[str, tuple[str, ...]]:
    """The reserved prefixes of names in ``.htgroup`` (PEP 752), with their owners."""
    from ops.index.auth.roles import GroupFile

    return {prefix: tuple(sorted(owners)) for prefix, owners in GroupFile(groups).grants()}


def reserved_names(prefix: str) -> str:
    """Description of the names that a reservation covers."""
    return f"{prefix} and {prefix}-…"


def credential_defects(passwords: bytes, groups: bytes) -> Iterator[tuple[str, str]]:
    """Ineffective lines of ``.htpasswd`` and ``.htgroup``, and users with weak hashes, each with the reason.

    Parameters:
        passwords: content of ``.htpasswd``.
        groups: content of ``.htgroup``.
    """
    from ops.index.auth.credential_check import group_problems, password_problems
    from ops.index.auth.password_file import PasswordFile
    from ops.index.auth.passwords import cost, defect

    entries = PasswordFile(passwords).entries()
    for name, problems in ((PASSWORDS, password_problems(passwords)), (GROUPS, group_problems(groups, entries))):
        for problem in problems:
            yield f"{name}, line {problem.line}", problem.reason
    for username, digest in entries.items():
        rounds = cost(digest)
        if defect(digest) is None and (rounds is None or rounds < WEAK_ROUNDS):
            kind = "no bcrypt hash" if rounds is None else f"a bcrypt hash of cost {rounds}"
            yield f"user {username}", f"has {kind}, which is quickly guessed: set a new password"


WEAK_ROUNDS = 10
"""Cost of a bcrypt hash below which guessing is cheap."""


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """Token as stored in the index, without its hash.

    Parameters:
        id: not secret.
        owner: the user it stands for.
        label: one line, for people.
        expires: time.
        last_used: time; None if no use is known.
    """

    id: str
    owner: str
    label: str
    expires: datetime
    last_used: datetime | None


def token_entries(content: bytes) -> tuple[list[TokenEntry], list[int]]:
    """The tokens in ``.tokens``, and the numbers of unreadable lines."""
    from ops.index.auth.token_file import TokenFile

    file = TokenFile(content)
    moments = (
        (token, None if token.last_used is None else datetime.fromtimestamp(token.last_used, UTC))
        for token in file.tokens()
    )
    found = [
        TokenEntry(token.id, token.owner, token.label, datetime.fromtimestamp(token.expires, UTC), used)
        for token, used in moments
    ]
    return found, list(file.unreadable())


def status_of(content: bytes) -> str:
    """The status of a project in a file of :data:`STATUS`; empty if it cannot be read."""
    from ops.index.packages.models import STATUSES

    try:
        status = json.loads(content)["status"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return str(status) if status in STATUSES else ""


def revoked_files(content: bytes) -> list[str]:
    """The files that had the bytes in a file of :data:`REVOKED`; empty if it cannot be read."""
    try:
        return [str(path) for path in json.loads(content)["files"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def recorded_hash(content: bytes) -> str:
    """The SHA-256 in a file of :data:`FACTS`; empty if it cannot be read."""
    try:
        return str(json.loads(content.partition(b"\n")[0])["sha256"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def file_info(*, sha256: str, size: int, uploaded: float) -> bytes:
    """The info of a copied file until the index recomputes it: keeps the upload time of the same bytes."""
    fields = {
        "format": 1,
        "size": size,
        "mtime_ns": -1,
        "sha256": sha256,
        "version": "",
        "upload_time": uploaded,
        "requires_python": None,
        "metadata_sha256": None,
        "metadata_size": 0,
    }
    return json.dumps(fields).encode() + b"\n"


def upload_refusals(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Each file with the reason why the index would refuse it as an upload; empty if it would accept it.

    Contents are inspected in child processes with limits, as on the server.
    """
    from ops.index.packages.inspector import Inspector

    inspector = Inspector()
    try:
        for path in paths:
            yield path, _refusal(path, inspector)
    finally:
        inspector.close()


def _refusal(path: Path, inspector: Inspector) -> str:
    from ops.index.errors import PackageIndexError
    from ops.index.packages.inspection import check_agreement

    name = parse(path.name) if is_safe(path.name) else None
    if name is None or name.form == "other":
        return "its name is not that of a wheel (PEP 427) or an sdist (PEP 625)"
    if not is_project(name.project):
        return "its project's name is invalid (PEP 508)"
    try:
        contents = inspector.at_length(name, cast("Staged", _InPlace(os.fspath(path))))
        check_agreement(name, "its core metadata", contents.name, contents.version)
    except PackageIndexError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class _InPlace:
    """A file that is inspected in place; only its path is used."""

    path: str


def audit_line(when: str, event: str, user: str, details: Mapping[str, object]) -> bytes:
    """One entry of the audit log, for a change made on the volume itself.

    Parameters:
        when: in UTC (RFC 3339).
        event: such as ``restore``.
        user: who made the change.
        details: values for JSON, never a secret.
    """
    return json.dumps({"time": when, "event": event, "user": user, "address": "", **details}).encode("ascii") + b"\n"


class Downloads(NamedTuple):
    """Download count: one line of the files in ``.index/activity``.

    Parameters:
        hour: the beginning of an hour in UTC.
        file: path of the downloaded file; empty if the line is about a user only.
        user: the user; empty if unknown.
        address: of the client; empty if unknown.
        client: its family.
        downloads: in that hour; 0 if the line is about a user only.
    """

    hour: datetime
    file: str
    user: str
    address: str
    client: str
    downloads: int


def download_counts(content: bytes) -> Iterator[Downloads]:
    """Parse the lines of a file. Damaged lines, for instance from a full disk, are skipped."""
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            row: Mapping[str, Any] = json.loads(line)
            file, user, address, client = (str(row.get(name, "")) for name in ("file", "user", "address", "client"))
            hour = datetime.strptime(row["hour"], "%Y-%m-%dT%H").replace(tzinfo=UTC)
            yield Downloads(hour, file, user, address, client, int(row.get("count", 0)))
