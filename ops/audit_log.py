"""Audit log of an index, read from its volumes: changes of packages, changes of users, and refusals."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ops.settings import Settings
from ops.targets import Target

PACKAGES_FOLDER = ".index/audit/"
CREDENTIALS_FOLDER = ".audit/"

Event = Mapping[str, Any]
"""One line of the log; its keys are those that ``deployments/server.md`` describes."""


def events(target: Target, settings: Settings | None = None) -> list[Event]:
    """All events, the oldest first. Reads only; copies each file of the log once.

    Raises:
        TargetError: a volume cannot be read.
    """
    settings = settings or Settings()
    places = ((settings.packages_volume, PACKAGES_FOLDER), (settings.credentials_volume, CREDENTIALS_FOLDER))
    found: list[Event] = []
    for volume, folder in places:
        if target.volume_exists(volume):
            found += _events(target, volume, folder)
    return sorted(found, key=lambda event: str(event["time"]))


def _events(target: Target, volume: str, folder: str) -> Iterator[Event]:
    names = [path for path, _ in target.list_files(volume) if path.startswith(folder) and path.endswith(".jsonl")]
    with tempfile.TemporaryDirectory(prefix="runbook-") as temporary:
        copy = Path(temporary) / "log"
        for name in names:
            target.download(volume, name, copy)
            for line in copy.read_text("utf-8", "replace").splitlines():
                if event := _event(line):
                    yield event


def _event(line: str) -> Event | None:
    """The event of a line; None for one that was cut short when a server was killed."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"time", "event", "user"} <= event.keys() else None
