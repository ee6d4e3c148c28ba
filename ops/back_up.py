"""Back-up: takes a snapshot of an index, reads it back, and deletes expired snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ops.errors import SnapshotError
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, proven, require_approved
from ops.preflight import preflight as target_preflight
from ops.private_files import close_to_others
from ops.snapshots import Backup, Bucket, Retention
from ops.table import Table, counted
from ops.targets import Target
from ops.workspace import Workspace, shown

SHOWN = 20
"""Maximum number of users of a snapshot that are listed by name."""


@dataclass(frozen=True)
class BackupJob:
    """One index, and the destination of its snapshots.

    Parameters:
        target: with the index.
        destination: folder or URL.
        retention: snapshots to keep.
    """

    target: Target
    destination: str
    retention: Retention

    @property
    def caption(self) -> str:
        """Short description of the operation."""
        return f"Back up the target {self.target.place}"

    def bucket(self) -> Bucket:
        """The destination. A missing folder is created."""
        return Bucket.open(self.destination, create=True)

    def backup(self, bucket: Bucket) -> Backup:
        """The back-up into *bucket*."""
        return Backup(self.target, bucket, self.target.place, self.target.settings)


def describe(
    target: Target,
    *,
    destination: str = "",
    daily: int = 30,
    weekly: int = 8,
    monthly: int = 12,
) -> BackupJob:
    """Check the parameters. Contacts nothing.

    Parameters:
        target: with the index.
        destination: a folder, or the URL of a bucket; empty for :func:`default_destination`.
        daily: number of days whose last snapshot is kept.
        weekly: likewise for weeks.
        monthly: likewise for months.

    Raises:
        ParameterError: a parameter makes no sense.
    """
    destination = destination or str(default_destination(target))
    return BackupJob(target, destination, Retention(daily, weekly, monthly))


def default_destination(target: Target) -> Path:
    """Folder of the workspace for the snapshots of a target. Teardown leaves it alone."""
    return Workspace.default().home / "snapshots" / target.place


def preflight(job: BackupJob) -> Table:
    """Check what the target and the destination need. Reads only, but creates the destination's folder.

    Raises:
        PreflightError: something is missing; all of it is listed.
        BucketError: the destination cannot be used.
    """
    table = target_preflight(job.target)
    bucket = job.bucket()
    count = len(bucket.snapshots())
    found = f"{count} snapshot{'' if count == 1 else 's'} in {place_shown(job.destination)}"
    return Table.of(table.caption, table.header, [*table.rows, ("destination", found, "yes")], metadata=table.metadata)


def plan(job: BackupJob) -> Plan:
    """Compare the index with its last snapshot, and the snapshots with the retention rules. Reads only.

    Raises:
        RunbookError: the index or the destination cannot be read.
    """
    bucket = job.bucket()
    backup = job.backup(bucket)
    pending = backup.pending()
    now = f"the last one is of {pending.last.taken:%Y-%m-%d %H:%M:%S} UTC" if pending.last else "there is none yet"
    copied = f"{counted(pending.new, 'file')}, {counted(pending.new_size, 'byte')}"
    then = "" if backup.is_complete(pending) else f"take one, and copy what is new: {copied}"
    changes = [
        Change("index", f"{counted(pending.files, 'file')}, {counted(pending.size, 'byte')}"),
        Change("snapshot", now, then, "+"),
    ]
    if bucket.open_to_others:
        changes.append(Change("mode of the folder", "open to other users of this machine", "close it to them"))
    expired = backup.expired(job.retention)
    changes += [Change(f"snapshot {name}", "kept by no rule", "delete it", "-") for name in expired]
    try:
        waste = backup.waste(without=expired)
        size = sum(blob.size for blob in waste.values())
        waste_now = f"{counted(len(waste), 'file')}, {counted(size, 'byte')}"
        changes.append(Change("what no snapshot needs", waste_now, "delete it" if waste else "", "-"))
    except SnapshotError as error:
        changes.append(Change("what no snapshot needs", f"not known: {error.what}; {error.todo}"))
    return Plan(job.caption, tuple(changes), job.target.place)


def apply(job: BackupJob, *, dry_run: bool = False) -> Outcome:
    """Take a snapshot unless today's is complete, read back what is new, then delete what has expired.

    Raises:
        ApprovalError: another plan was approved for this run; nothing was changed.
        BusyError: another run holds the target for too long.
        RunbookError: the index or the destination failed; no snapshot was deleted.
    """
    if dry_run:
        return Outcome(job.caption, (), DRY_RUN, job.target.place)
    done: list[tuple[str, str]] = []
    note = ""
    with job.target.lock():
        require_approved(lambda: plan(job))
        bucket = job.bucket()
        backup = job.backup(bucket)
        if bucket.open_to_others:
            close_to_others(Path(bucket.place))
            done.append(("mode of the folder", "closed to other users of this machine"))
        before = backup.last()
        snapshot, new = backup.take()
        if new:
            backup.check(snapshot, before)
            size = sum(item.size for _, item in snapshot.blobs())
            files = f"{counted(len(snapshot.packages) + len(snapshot.credentials), 'file')}, {counted(size, 'byte')}"
            done.append((f"snapshot {snapshot.name}", f"taken of {files}; what was new was read back"))
        try:
            expired, waste = backup.prune(job.retention)
            done += [(f"snapshot {name}", "deleted") for name in expired]
            if waste:
                done.append(("what no snapshot needs", f"{counted(waste, 'file')} deleted"))
        except SnapshotError as error:
            note = f"No file was deleted: {error.what}; {error.todo}."
    if not new:
        note = f"Today's snapshot, {snapshot.name}, holds everything. {note}".strip()
    return Outcome(job.caption, tuple(done), note, job.target.place)


def verify(job: BackupJob, *, thorough: bool = False, dry_run: bool = False) -> Table:
    """Read the newest snapshot from the destination, and check that everything it names is there.

    Parameters:
        job: as of :func:`describe`.
        thorough: True to read every byte; otherwise sizes are compared, because new files were read back already.
        dry_run: True if nothing was changed, so that a missing snapshot is not a failure.

    Raises:
        SnapshotError: it is damaged, or a file is missing or damaged; the error names it.
        VerificationError: there is no snapshot of this index.
    """
    bucket = job.bucket()
    backup = job.backup(bucket)
    snapshot = backup.last()
    if snapshot is None:
        finding = Finding("the newest snapshot", "there is one", "there is none yet", dry_run)
        return proven("Read from the destination", [finding], todo="run this notebook again")
    blobs, read = backup.check(snapshot, None if thorough else snapshot, thorough=thorough)
    rows = [
        ("the newest snapshot", "is what was written"),
        ("its files", "all are there, with their sizes"),
        (
            "their bytes",
            f"{read:,} of {counted(blobs, 'file')} read and hashed" if thorough else "hashed when they were new",
        ),
        ("its users", ", ".join(snapshot.usernames[:SHOWN]) or "none"),
    ]
    return Table.of("Read from the destination", ("looked at", "seen"), rows)


def snapshots(job: BackupJob) -> Table:
    """All snapshots of this index, newest first. Reads only."""
    rows = []
    for name, snapshot in job.backup(job.bucket()).history():
        size = sum(item.size for _, item in snapshot.blobs()) if snapshot else 0
        held = (
            f"{counted(len(snapshot.distributions), 'file')}, {counted(size, 'byte')}"
            if snapshot
            else "damaged: cannot be restored"
        )
        rows.append((name, held, str(len(snapshot.usernames)) if snapshot else "", snapshot.place if snapshot else ""))
    return Table.of("Snapshots in the destination", ("snapshot", "packages", "users", "taken of"), rows)


def place_shown(destination: str) -> str:
    """A destination for display: a URL, or a path for a shell."""
    return destination if "://" in destination else shown(Path(destination).expanduser())


__all__ = ["apply", "describe", "plan", "preflight", "snapshots", "verify"]
