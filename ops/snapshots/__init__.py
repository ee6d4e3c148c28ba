"""Snapshots of an index: every file by its hash, in a folder or a bucket.

    blobs/<sha256>            the bytes of one file, written once
    snapshots/<time>.json     everything in an index at one moment

Runs on an operator's machine and in the containers of a deployment, so it imports only what both have.
"""

from __future__ import annotations

from ops.snapshots.backup import Backup, VolumeReader
from ops.snapshots.bucket import Bucket
from ops.snapshots.retention import Retention
from ops.snapshots.snapshot import Item, Snapshot

__all__ = ["Backup", "Bucket", "Item", "Retention", "Snapshot", "VolumeReader"]
