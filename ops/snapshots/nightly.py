"""Nightly back-up of the volumes that a container has mounted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ops.errors import SettingError, SnapshotError
from ops.settings import DESTINATION_KEY, Settings
from ops.snapshots.backup import Backup
from ops.snapshots.bucket import Bucket
from ops.snapshots.retention import Retention
from ops.targets.folders import VolumeFolders

KEEP = {"daily": "BACKUP_DAILY", "weekly": "BACKUP_WEEKLY", "monthly": "BACKUP_MONTHLY"}
"""Variables with the numbers of snapshots to keep."""


def back_up_volumes(settings: Settings, mounted: Mapping[str, str], variables: Mapping[str, str]) -> str:
    """Take a snapshot, read back what is new, delete expired snapshots, and return a one-line summary.

    A mounted Volume shows its state when the container started, so the snapshot is of that moment.

    Parameters:
        settings: names of the volumes.
        mounted: their folders, by name.
        variables: the destination, its bucket's settings, the numbers to keep, and Modal's name of the environment.

    Raises:
        RunbookError: the snapshot was not taken; older ones are untouched.
    """
    destination = variables.get(DESTINATION_KEY, "")
    if "://" not in destination:
        raise SettingError(
            "there is no nightly back-up",
            why=f"{DESTINATION_KEY} of the secret {settings.backup_secret} is not the URL of a bucket",
            todo="set it to one, such as s3://bucket/prefix: folders in a container do not outlive it",
        )
    try:
        retention = Retention(**{name: int(variables[key]) for name, key in KEEP.items() if variables.get(key)})
    except ValueError:
        given = ", ".join(f"{key}={variables[key]}" for key in KEEP.values() if variables.get(key))
        raise SettingError("a number of snapshots is invalid", why=given, todo="use whole numbers") from None
    volumes = VolumeFolders(Path("/"), {name: Path(folder) for name, folder in mounted.items()})
    place = f"modal.{variables.get('MODAL_ENVIRONMENT') or 'main'}"
    backup = Backup(volumes, Bucket.open(destination), place, settings)
    before = backup.last()
    snapshot, new = backup.take()
    backup.check(snapshot, before)
    try:
        expired, waste = backup.prune(retention)
        pruned = f"{len(expired)} old ones deleted, with {waste} files"
    except SnapshotError as error:
        pruned = f"nothing deleted: {error.what}"
    held = f"{len(snapshot.distributions)} packages and {len(snapshot.usernames)} users"
    return f"snapshot {snapshot.name} {'taken' if new else 'is of today already'}: {held}; {pruned}"
