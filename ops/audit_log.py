"""Audit log and counts of downloads of an index, read from its volumes, and the state expected from the log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.targets import Target, content_of
from ops.targets.index_files import ACTIVITY, ADMIN_AUDIT, AUDIT, Downloads, download_counts

Event = Mapping[str, Any]
"""One line of the log: ``time``, ``event``, ``user``, and the fields of its ``Entry`` in ``ops/index``."""

Rights = tuple[str, tuple[str, ...] | None]
"""Role and projects of a user."""

_FAILED = (".undone", ".unconfirmed")


def events(target: Target) -> list[Event]:
    """All events, oldest first. Reads only; copies each file of the log once.

    Raises:
        TargetError: a volume cannot be read.
    """
    names = target.settings
    places = ((names.packages_volume, AUDIT), (names.credentials_volume, ADMIN_AUDIT))
    found = [event for volume, folder in places for event in parse_log(_contents(target, volume, folder)) if event]
    return sorted(found, key=lambda event: str(event["time"]))


def downloads(target: Target) -> list[Downloads]:
    """All download counts, oldest first. Those of the last minute, on Modal of the last hour, may be missing.

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


def parse_log(content: bytes) -> Iterator[Event | None]:
    """Parse lines of the log; None for a line cut short by a kill."""
    return map(_event, content.splitlines())


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"time", "event", "user"} <= event.keys() else None


def is_refusal(event: Event) -> bool:
    """True for a refused login, of a person, a CI job or an operator."""
    return str(event["event"]).endswith(("refused", "throttled"))


def event_time(event: Event) -> str:
    """When an event happened, to the second, for display."""
    time = str(event["time"])
    return f"{time[:10]} {time[11:19]} UTC"


def times(event: Event) -> int:
    """Number of times that an event happened: similar refusals within a minute share a line."""
    more = event.get("more", event.get("others"))
    return more if isinstance(more, int) else 1


@dataclass
class History:
    """Expected state, as far as the audit log reaches back. Unconfirmed changes make their subject unknown.

    Parameters:
        uploaded: SHA-256 of each file uploaded and not removed, by file name.
        removed: SHA-256 of each removed file.
        yanked: for each file that was yanked or unyanked, True if it is yanked.
        revoked: for each digest that was revoked or unrevoked, True if it is revoked.
        statuses: of each project whose status was set.
        users: rights of each user; None for a removed one.
        reserved: owners of each prefix of names that was reserved or freed; None for a freed one. None instead of all
            if they are unknown, as after a restoration by an earlier version.
        tokens: for each token that was created or revoked, by its id, True if it exists.
        trust: SHA-256 of the file of trusted CI jobs; empty if there is none.
        uncertain: users of whom the last change failed; empty for the trusted CI jobs.
        unconfirmed: descriptions of changes that may not have been kept.
        complete: False if files of the log have expired, or it is empty.
    """

    uploaded: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    yanked: dict[str, bool] = field(default_factory=dict)
    revoked: dict[str, bool] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)
    users: dict[str, Rights | None] = field(default_factory=dict)
    reserved: dict[str, tuple[str, ...] | None] | None = field(default_factory=dict)
    tokens: dict[str, bool] = field(default_factory=dict)
    trust: str = ""
    uncertain: set[str] = field(default_factory=set)
    unconfirmed: list[str] = field(default_factory=list)
    complete: bool = False

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        """The state after these events.

        Parameters:
            events: oldest first.
        """
        events = list(events)
        history = cls(complete=bool(events))
        for event in events:
            history.add(event)
        return history

    def add(self, event: Event) -> None:
        """Apply one event. Unknown ones change nothing."""
        kind, name = str(event["event"]), str(event.get("filename", ""))
        subject, _, outcome = kind.partition(".")
        if kind.endswith(_FAILED):
            self._failed(subject, outcome, event)
        elif kind == "upload":
            self.removed.pop(name, None)
            self.uploaded[name] = str(event.get("sha256", ""))
        elif kind == "remove":
            self.uploaded.pop(name, None)
            self.removed[name] = str(event.get("sha256", ""))
        elif kind in ("yank", "unyank"):
            self.yanked.update(dict.fromkeys(_names(event, "files"), kind == "yank"))
        elif kind in ("revoke", "unrevoke"):
            self.revoked.update(dict.fromkeys(_names(event, "sha256"), kind == "revoke"))
        elif kind == "status":
            self.statuses[str(event.get("project"))] = str(event.get("status"))
        elif subject in ("user", "token", "trust"):
            self._of_credentials(kind, event)
        elif kind == "prefix.reserved" and self.reserved is not None:
            self.reserved[str(event.get("prefix"))] = tuple(sorted(_names(event, "owners"))) or None
        elif kind == "restore":
            self._restored(event)
        elif kind == "audit.expired":
            self.complete = False

    def _of_credentials(self, kind: str, event: Event) -> None:
        user = str(event["user"])
        if kind in ("token.created", "token.revoked"):
            self.tokens[str(event.get("id"))] = kind == "token.created"
            return
        self.uncertain.discard(user)
        if kind == "user.change_failed":
            self.uncertain.add(user)
        elif kind == "trust.changed":
            self.trust = str(event.get("sha256", ""))
        elif kind == "user.removed":
            self.users[user] = None
            for prefix, owners in (self.reserved or {}).items():
                if self.reserved and owners and user in owners:
                    self.reserved[prefix] = tuple(owner for owner in owners if owner != user)
            self.tokens.update(dict.fromkeys(_names(event, "revoked"), False))
        elif "role" in event:  # a new password alone changes no rights
            projects = event.get("projects")
            limits = tuple(sorted(map(str, projects))) if isinstance(projects, list) else None
            self.users[user] = str(event.get("role")), limits

    def _failed(self, subject: str, outcome: str, event: Event) -> None:
        name = str(event.get("filename", ""))
        if subject == "upload":
            self.uploaded.pop(name, None)
        elif subject == "remove":
            sha256 = self.removed.pop(name, "")
            if outcome == "undone":
                self.uploaded[name] = sha256
        elif subject in ("yank", "unyank"):
            for file in _names(event, "files"):
                self.yanked.pop(file, None)
        elif subject in ("revoke", "unrevoke"):
            for sha256 in _names(event, "sha256"):
                self.revoked.pop(sha256, None)
        elif subject == "status":
            self.statuses.pop(str(event.get("project")), None)
        if outcome == "unconfirmed":
            self.unconfirmed.append(f"{subject} of {name or event.get('project')} at {event['time']}")

    def _restored(self, event: Event) -> None:
        """A restoration sets users, their tokens, trusted CI jobs and annotations; its line names them."""
        self.uncertain.clear()
        reserved = event.get("reserved")
        self.reserved = (
            {prefix: tuple(_names(reserved, prefix)) for prefix in reserved} if isinstance(reserved, dict) else None
        )
        self.tokens = dict.fromkeys(_names(event, "tokens"), True)
        self.trust = str(event.get("trust", ""))
        self.users = {}
        for line in _names(event, "users"):
            name, _, rights = line.rpartition(" of ") if " of " in line else ("", "", line)
            projects = tuple(sorted(rights.split(", "))) if name else None
            username, _, role = (name or line).rpartition(" ")
            self.users[username] = role, projects
        self.yanked = dict.fromkeys(_names(event, "yanked"), True)
        self.statuses = {}
        for line in _names(event, "statuses"):
            project, _, status = line.rpartition(" ")
            self.statuses[project] = status


def _names(event: Event, key: str) -> list[str]:
    values = event.get(key)
    return [str(value) for value in values] if isinstance(values, list) else []
