"""Audit log and counts of downloads of an index, read from its volumes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ops.targets import Target, content_of
from ops.targets.index_files import ACTIVITY, ADMIN_AUDIT, AUDIT, Downloads, download_counts

Event = Mapping[str, Any]
"""One line of the log; its keys are those that ``deployments/server.md`` describes."""


def events(target: Target) -> list[Event]:
    """All events, the oldest first. Reads only; copies each file of the log once.

    Raises:
        TargetError: a volume cannot be read.
    """
    names = target.settings
    places = ((names.packages_volume, AUDIT), (names.credentials_volume, ADMIN_AUDIT))
    found = [event for volume, folder in places for event in parse(_contents(target, volume, folder)) if event]
    return sorted(found, key=lambda event: str(event["time"]))


def downloads(target: Target) -> list[Downloads]:
    """All counts of downloads, the oldest first. Those of the last minute, on Modal of the last hour, may be missing.

    Raises:
        TargetError: the volume cannot be read.
    """
    rows = download_counts(_contents(target, target.settings.packages_volume, ACTIVITY))
    return sorted((row for row in rows if row.downloads), key=lambda row: row.hour)


def _contents(target: Target, volume: str, folder: str) -> bytes:
    """The lines of all files in a folder of a volume."""
    if not target.volume_exists(volume):
        return b""
    paths = (file.path for file in target.list_files(volume))
    logs = [path for path in paths if path.startswith(folder) and path.endswith(".jsonl")]
    return b"\n".join(content_of(target, volume, path) for path in logs)


def parse(content: bytes) -> Iterator[Event | None]:
    """Parse lines of the log; None for one that was cut short when a server was killed."""
    return map(_event, content.splitlines())


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"time", "event", "user"} <= event.keys() else None
