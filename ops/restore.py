"""Restoration of an index from a snapshot, another target, or a directory of packages."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from ops.admin_api import AdminApi
from ops.back_up import default_destination, place_shown
from ops.errors import ConfirmationError, RunbookError
from ops.plan import Change, Finding, Outcome, Plan, Sign, proven, require_approved
from ops.polling import until
from ops.preflight import preflight as target_preflight
from ops.snapshots import Snapshot
from ops.snapshots.origin import LATEST, DirectoryOrigin, Origin, find_origin
from ops.snapshots.restoration import Comparison, Restoration, TextChange
from ops.snapshots.snapshot import CREDENTIALS, PACKAGES
from ops.table import Table, counted
from ops.targets import Target
from ops.targets.index_files import (
    AUDIT,
    GROUPS,
    PASSWORDS,
    REMOVED,
    REVOKED,
    STATUS,
    TOKENS,
    TRUST,
    YANKED,
    AccountEntry,
    accounts,
    annotated,
    audit_line,
    distribution,
    reservations,
    revoked_files,
    status_of,
    token_entries,
    upload_refusals,
)

NAMED = 30
"""Maximum number of files or annotations that a plan lists one by one; of more it gives only the number."""


@dataclass(frozen=True)
class RestoreJob:
    """One target, and the state to restore on it.

    Parameters:
        target: to restore.
        source: folder or URL.
        name: of the snapshot, its beginning, or ``latest``.
        confirm: name of the target; empty to change nothing.
    """

    target: Target
    source: str
    name: str
    confirm: str

    @cached_property
    def origin(self) -> Origin:
        """Files to restore. Reads a snapshot's list, or hashes a directory."""
        return find_origin(self.source, self.name)

    @property
    def caption(self) -> str:
        """Short description of the operation."""
        return f"Restore the target {self.target.place}"

    def restoration(self) -> Restoration:
        """The restoration itself."""
        return Restoration(self.target, self.origin)


def describe(target: Target, *, source: str = "", snapshot: str = LATEST, confirm: str = "") -> RestoreJob:
    """Describe a restoration. Contacts nothing.

    Parameters:
        target: to restore.
        source: a folder or bucket with snapshots, or a directory of distributions; empty for the workspace's folder.
        snapshot: ``latest``, or a name or its beginning, such as a day.
        confirm: name of the target; empty to change nothing.
    """
    return RestoreJob(target, source or str(default_destination(target)), snapshot, confirm)


def preflight(job: RestoreJob) -> Table:
    """Check what the target needs, that *confirm* is empty or names it, and that the source can be read. Reads only.

    Raises:
        PreflightError: something is missing; all of it is listed.
        ConfirmationError: *confirm* names something else.
        SnapshotError: there is no such snapshot, or it is damaged.
        BucketError: the source cannot be read.
    """
    table = target_preflight(job.target)
    _require_named(job)
    snapshot = job.origin.snapshot
    size = sum(item.size for _, item in snapshot.blobs())
    found = f"{counted(len(snapshot.distributions), 'file')}, {counted(size, 'byte')}, of {snapshot.place}"
    rows = [*table.rows, ("source", place_shown(job.source), "yes"), (_label(job), found, "yes")]
    return Table.of(table.caption, table.header, rows, metadata=table.metadata)


def acceptance(job: RestoreJob) -> Table:
    """Files that the index would refuse as uploads. They are restored and served anyway.

    Snapshots contain only what an index accepted or served before.
    """
    origin, header = job.origin, ("file", "as an upload")
    if not isinstance(origin, DirectoryOrigin):
        row = ("all files", "not checked: they come from an index")
        return Table.of("Acceptance checks", header, [row])
    paths = {origin.path_of(path): path for path in origin.snapshot.packages if not path.endswith(".asc")}
    rows = [(paths[path], f"would be refused: {why}") for path, why in upload_refusals(paths) if why]
    rows += [(path, "skipped: not a distribution") for path in origin.skipped]
    return Table.of("Acceptance checks", header, [*rows, ("all others" if rows else "all files", "would be accepted")])


def plan(job: RestoreJob) -> Plan:
    """Compare the target with the source. Reads both; hashes files that are in both.

    Raises:
        ConfirmationError: *confirm* names something else.
        RunbookError: the target or the source cannot be read.
    """
    _require_named(job)
    return _plan(job, job.restoration().compare())


def _plan(job: RestoreJob, found: Comparison) -> Plan:
    target = job.target
    changes = []
    for volume in job.target.settings.volumes:
        exists = target.volume_exists(volume)
        changes.append(Change(f"volume {volume}", "in place" if exists else "missing", "" if exists else "create", "+"))
    missing = sum(map(len, found.missing.values()))
    then = f"add {counted(missing, 'file')}, {counted(found.missing_bytes, 'byte')}" if missing else ""
    changes.append(
        Change("files", f"{counted(found.equal, 'file')}, {counted(found.equal_bytes, 'byte')} are in place", then, "+")
    )
    for path, why in list(found.conflicts.items())[:NAMED]:
        changes.append(Change(path, "in the index", "restore it", refused=why))
    if len(found.conflicts) > NAMED:
        more = f"{len(found.conflicts) - NAMED} more"
        changes.append(Change("other files", f"{more} in the index", "restore them", refused="as those above"))
    if found.extra:
        changes.append(Change("files that only the index has", f"{counted(len(found.extra), 'file')}; they stay"))
    changes += _text_changes(found.texts)
    if job.origin.is_complete:
        if not found.equal:
            unknown = "unknown to an empty index: repeat those with 12_incident"
            changes.append(Change("revocations after the last of these snapshots", unknown))
        changes += _users(
            accounts(found.credentials.get(PASSWORDS, b""), found.credentials.get(GROUPS, b"")),
            _accounts(job.origin.snapshot),
        )
    held = "" if job.confirm else f'Nothing is changed until the parameter confirm is "{target.place}".'
    return Plan(job.caption, tuple(changes), target.place, held=held if any(change.then for change in changes) else "")


def apply(job: RestoreJob) -> Outcome:
    """Apply the plan if *confirm* is the target's name; do nothing if it is empty.

    Raises:
        ConfirmationError: *confirm* names something else.
        ApprovalError: another plan was approved for this run; nothing was changed.
        SnapshotError: a file would get different bytes, so nothing was changed; or the source lacks bytes.
        TargetError: the target refused. Restored files stay; run it again to continue.
    """
    _require_named(job)
    if not job.confirm:
        note = "Nothing was changed, since the parameter confirm is empty."
        return Outcome(job.caption, (), note, job.target.place)
    with job.target.lock():
        restoration = job.restoration()
        found = restoration.compare()
        plan = _plan(job, found)
        require_approved(lambda: plan)
        if found.is_empty:
            return Outcome(job.caption, (), "Everything was in place already.", job.target.place)
        if not found.conflicts:
            _note(job, found)
        restoration.carry_out(found)
    done = tuple((change.thing, change.then) for change in plan.pending)
    return Outcome(job.caption, done, place=job.target.place)


def verify(job: RestoreJob) -> Table:
    """Read everything again, hash it, and compare it with the source; also check the users of a running index.

    Raises:
        VerificationError: something differs; all differences are listed.
    """
    if not job.confirm:
        row = ("everything", f'left as it was; confirm="{job.target.place}" restores it')
        return Table.of("Read from the target", ("what", "seen"), [row])
    found = job.restoration().compare()
    missing = [path for items in found.missing.values() for path in items]
    annotations = [text.path for text in found.texts if text.part == PACKAGES]
    users = [text.path for text in found.texts if text.part == CREDENTIALS]
    findings = [
        _finding("files, by their hashes", [*missing, *found.conflicts]),
        _finding("annotations and names of removed files", annotations),
        *([_finding("users, passwords and roles", users)] if job.origin.is_complete else []),
        *_as_the_index_tells(job),
    ]
    return proven("Read from the target", findings, todo="run this notebook again")


def _finding(what: str, different: list[str]) -> Finding:
    seen = f"{len(different)} differ: {', '.join(different[:5])}" if different else "equal"
    return Finding(what, "equal", seen, not different)


def _as_the_index_tells(job: RestoreJob) -> Iterator[Finding]:
    """The users of a running index, if this machine has the admin token."""
    if not job.origin.is_complete or not job.target.state().responds:
        return
    expected = _accounts(job.origin.snapshot)
    try:
        _, api = AdminApi.of(job.target)
    except RunbookError:
        return
    wanted = {name: (account.role, account.projects) for name, account in expected.items()}
    with api:
        seen = until(lambda: {user.username: (user.role, user.projects) for user in api.users()}, wanted.__eq__)
    wrong = [name for name in wanted.keys() | seen.keys() if wanted.get(name) != seen.get(name)]
    yield _finding("users as the running index shows them", sorted(wrong))


def _require_named(job: RestoreJob) -> None:
    if job.confirm and not job.target.is_named(job.confirm):
        raise ConfirmationError(
            "nothing was changed",
            why=f"the parameter `confirm` says {job.confirm!r}, but the target is {job.target.place!r}",
            todo=f'use confirm="{job.target.place}" to restore it',
        )


def _label(job: RestoreJob) -> str:
    return f"snapshot {job.origin.snapshot.name}" if job.origin.is_complete else "directory"


def _text_changes(texts: list[TextChange]) -> list[Change]:
    yanks = [text for text in texts if text.path.startswith(YANKED) and text.part == PACKAGES]
    statuses = [text for text in texts if text.path.startswith(STATUS) and text.part == PACKAGES]
    changes = [_annotation("yank of", text) for text in yanks[:NAMED]]
    changes += [_annotation("status of", text) for text in statuses[:NAMED]]
    more = len(yanks[NAMED:]) + len(statuses[NAMED:])
    changes += [
        Change(f"revocation of {_revoked(text)}", _state(text), "set it", "+")
        for text in texts
        if text.path.startswith(REVOKED)
    ]
    graves = sum(text.path.startswith(REMOVED) for text in texts)
    others = [
        text
        for text in texts
        if text not in yanks and text not in statuses and not text.path.startswith((REVOKED, REMOVED))
    ]
    if more:
        changes.append(Change("other annotations", f"{more} differ", "restore them"))
    if graves:
        changes.append(Change("names of removed files", "some are missing", "add them", "+"))
    for text in others:
        then = "delete it" if text.after is None else "restore it"
        changes.append(Change(f"file {text.path}", _state(text), then))
    return changes


def _revoked(text: TextChange) -> str:
    return ", ".join(revoked_files(text.after or b""))[:80] or f"SHA-256 {annotated(text.path)[:12]}…"


def _annotation(what: str, text: TextChange) -> Change:
    sign: Sign = "-" if text.after is None else "+" if text.before is None else "~"
    content = text.after or b""
    shown = status_of(content) if text.path.startswith(STATUS) else content.decode(errors="replace")[:80]
    then = "lift it" if text.after is None else f"set it: {shown or 'no reason'}"
    return Change(f"{what} {annotated(text.path)}", _state(text), then, sign)


def _state(text: TextChange) -> str:
    return "missing" if text.before is None else "in place" if text.after is None else "another one"


def _users(before: Mapping[str, AccountEntry], after: Mapping[str, AccountEntry]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None and new is not None:
            yield Change(f"user {name}", "missing", f"restore as {new.rights}", "+")
        elif old is not None and new is None:
            yield Change(f"user {name}", old.rights, "remove", "-")
        elif old is not None and new is not None and old != new:
            parts = ["password"] * (old.digest != new.digest) + [new.rights] * (old.rights != new.rights)
            yield Change(f"user {name}", old.rights, f"restore {' and '.join(parts)}")


def _accounts(snapshot: Snapshot) -> dict[str, AccountEntry]:
    return accounts(_text(snapshot, PASSWORDS), _text(snapshot, GROUPS))


def _text(snapshot: Snapshot, name: str) -> bytes:
    """The content of a file of the credentials volume; empty if the snapshot has none."""
    return snapshot.credentials[name].content if name in snapshot.credentials else b""


def _note(job: RestoreJob, found: Comparison) -> None:
    """Write the restoration to the audit log of the packages before it happens."""
    now = datetime.now(UTC)
    when, snapshot, lines = now.isoformat(timespec="milliseconds").replace("+00:00", "Z"), job.origin.snapshot, []
    if job.origin.is_complete:
        details = {
            "snapshot": snapshot.name,
            "taken_of": snapshot.place,
            "files": sum(map(len, found.missing.values())),
            "users": [f"{name} {account.rights}" for name, account in sorted(_accounts(snapshot).items())],
            "reserved": reservations(_text(snapshot, GROUPS)),
            "tokens": [token.id for token in token_entries(_text(snapshot, TOKENS))[0]],
            "trust": snapshot.credentials[TRUST].sha256 if TRUST in snapshot.credentials else "",
            "yanked": [annotated(path) for path in snapshot.packages if path.startswith(YANKED)],
            "statuses": [
                f"{annotated(path)} {status_of(item.content)}"
                for path, item in snapshot.packages.items()
                if path.startswith(STATUS)
            ],
        }
        lines.append(audit_line(when, "restore", getpass.getuser(), details))
    else:
        for path, item in found.missing[PACKAGES].items():
            if listed := distribution(path):
                about = {"project": listed.project, "version": listed.version, "sha256": item.sha256, "size": item.size}
                lines.append(audit_line(when, "upload", "importer", {"filename": path, **about}))
    if not lines:
        return
    with tempfile.NamedTemporaryFile(prefix="pypi-restore-") as file:
        file.write(b"".join(lines))
        file.flush()
        job.target.create_volume(job.target.settings.packages_volume)
        path = f"{AUDIT}{now:%Y-%m-%d}.restore-{now:%H%M%S}.jsonl"
        job.target.upload(job.target.settings.packages_volume, path, Path(file.name))


__all__ = ["acceptance", "apply", "describe", "plan", "preflight", "verify"]
