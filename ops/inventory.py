"""Inventory of an index: everything on its two volumes, read from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ops import audit_log
from ops.audit_log import Event
from ops.errors import NotDeployedError
from ops.snapshots.backup import digest_of
from ops.targets import Target, VolumeFile, local_copy
from ops.targets.index_files import (
    ACTIVITY,
    ADMIN_AUDIT,
    AUDIT,
    FACTS,
    GROUPS,
    PASSWORDS,
    REMOVED,
    REVOKED,
    STATUS,
    TOKENS,
    TRUST,
    YANKED,
    AccountEntry,
    Distribution,
    Downloads,
    TokenEntry,
    accounts,
    distribution,
    download_counts,
    recorded_hash,
    token_entries,
)

THREADS = 8

_READ = (YANKED, REVOKED, STATUS, REMOVED, PASSWORDS, GROUPS, TOKENS, TRUST)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Inventory:
    """An index as stored on its volumes.

    Parameters:
        files: of the volume of packages, by path.
        credentials: of the volume of credentials, by path.
        texts: annotations, tombstones, users, roles and tokens: contents by path.
        hashes: SHA-256 of each package, computed now; empty if not requested.
        recorded: SHA-256 of packages, as computed by the index.
        events: of the audit log, the oldest first.
        damaged_logs: number of unreadable lines, by file of the audit log.
        uses: downloads and requests; None if the index does not count them.
    """

    files: dict[str, VolumeFile]
    credentials: dict[str, VolumeFile]
    texts: dict[str, bytes]
    hashes: dict[str, str]
    recorded: dict[str, str]
    events: list[Event]
    damaged_logs: dict[str, int]
    uses: list[Downloads] | None

    @classmethod
    def of(cls, target: Target, *, integrity: bool = True) -> Inventory:
        """Read the volumes of *target*.

        Parameters:
            target: with the index.
            integrity: True to read and hash every package.

        Raises:
            NotDeployedError: a volume is missing.
            TargetError: one cannot be read.
        """
        volumes = target.settings.volumes
        if not all(target.volume_exists(volume) for volume in volumes):
            raise NotDeployedError(target.place)
        packages, credentials = ({file.path: file for file in target.list_files(volume)} for volume in volumes)
        # A link may lead anywhere, so it is not followed.
        own, others = ([path for path, file in files.items() if not file.link] for files in (packages, credentials))
        from_packages, from_credentials = (partial(_read, target, volume) for volume in volumes)
        logs = _parallel(from_packages, [path for path in own if path.startswith(AUDIT)], _content)
        logs |= _parallel(from_credentials, [path for path in others if path.startswith(ADMIN_AUDIT)], _content)
        parsed = {path: list(audit_log.parse_log(content)) for path, content in logs.items()}
        counts = _parallel(from_packages, [path for path in own if path.startswith(ACTIVITY)], _content)
        facts = _parallel(from_packages, [path for path in own if path.startswith(FACTS)], _content)
        listed = [path for path in own if distribution(path)]
        return cls(
            files=packages,
            credentials=credentials,
            texts=_parallel(from_packages, [path for path in own if path.startswith(_READ)], _content)
            | _parallel(from_credentials, [path for path in others if path in _READ], _content),
            hashes=_parallel(from_packages, listed, lambda copy: digest_of(copy)[0]) if integrity else {},
            recorded={path.removeprefix(FACTS): recorded_hash(content) for path, content in facts.items()},
            events=sorted(
                (event for events in parsed.values() for event in events if event), key=lambda event: str(event["time"])
            ),
            damaged_logs={path: events.count(None) for path, events in parsed.items() if None in events},
            uses=[use for content in counts.values() for use in download_counts(content)] if counts else None,
        )

    @property
    def distributions(self) -> dict[str, Distribution]:
        """The files that the index lists, by path."""
        return {path: found for path in self.files if (found := distribution(path))}

    @property
    def accounts(self) -> dict[str, AccountEntry]:
        """The users by name."""
        return accounts(self.texts.get(PASSWORDS, b""), self.texts.get(GROUPS, b""))

    @property
    def tokens(self) -> list[TokenEntry]:
        """The readable tokens."""
        return token_entries(self.texts.get(TOKENS, b""))[0]


def _content(copy: Path) -> bytes:
    return copy.read_bytes()


def _read(target: Target, volume: str, then: Callable[[Path], _Result], path: str) -> _Result:
    with local_copy(target, volume, path) as copy:
        return then(copy)


def _parallel(
    read: Callable[[Callable[[Path], _Result], str], _Result], paths: Iterable[str], then: Callable[[Path], _Result]
) -> dict[str, _Result]:
    with ThreadPoolExecutor(THREADS) as threads:
        names = list(paths)
        return dict(zip(names, threads.map(partial(read, then), names)))
