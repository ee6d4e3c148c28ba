"""Snapshot: everything in an index at one moment.

Small files with decisions (annotations, tombstones, users, roles, tokens' hashes) are included as text; all others
are named by the hash of their bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Self

from ops.errors import SnapshotError

FORMAT = 1
TEXT_BYTES = 1024**2
"""Larger files are stored as blobs, whatever their kind."""

SHA256 = re.compile(r"[0-9a-f]{64}")
"""Name of a blob: a hash in hexadecimal."""

NAME_FORMAT = "%Y-%m-%dT%H-%M-%SZ"
"""Name of a snapshot: its time in UTC, sortable, and valid in every bucket."""

PACKAGES, CREDENTIALS = "packages", "credentials"
"""The parts of an index: its two volumes, whatever their names."""

_FAR = 2**62
"""Seconds since the epoch that no file system takes."""

_REBUILT = tuple(f".index/{name}/" for name in ("staging", "facts", "pages", "claims", "reserve", "entries"))
"""Folders for unfinished files, locks, reserved space, and data that the index recomputes from its files."""

_LOGS = {PACKAGES: (".index/audit/", ".index/activity/"), CREDENTIALS: (".audit/",)}


@dataclass(frozen=True, slots=True)
class Item:
    """One file.

    Parameters:
        sha256: of its bytes, in hexadecimal.
        size: bytes.
        modified: seconds since the epoch.
        text: its content if included in the snapshot itself; None if it is a blob.
        uploaded: seconds since the epoch, as shown by the index; None if unknown.
    """

    sha256: str
    size: int
    modified: int
    text: str | None = None
    uploaded: float | None = None

    @classmethod
    def of_text(cls, content: bytes, modified: int) -> Self:
        """An item whose bytes, in any encoding, are in the snapshot."""
        text = content.decode("utf-8", "surrogateescape")
        return cls(hashlib.sha256(content).hexdigest(), len(content), modified, text)

    @property
    def content(self) -> bytes:
        """The bytes of a text."""
        return (self.text or "").encode("utf-8", "surrogateescape")


Items = Mapping[str, Item]
"""The files of one part, by path."""


@dataclass(frozen=True)
class Snapshot:
    """All files of an index that cannot be recomputed.

    Parameters:
        name: its time, such as ``2026-01-31T02-17-00Z``.
        place: the target that it was taken from.
        packages: files of the volume of packages.
        credentials: files of the volume of credentials.
    """

    name: str
    place: str
    packages: Items
    credentials: Items

    @property
    def parts(self) -> dict[str, Items]:
        """Both volumes, by :data:`PACKAGES` and :data:`CREDENTIALS`."""
        return {PACKAGES: self.packages, CREDENTIALS: self.credentials}

    @property
    def taken(self) -> datetime:
        """The time of the snapshot."""
        return moment(self.name)

    @property
    def distributions(self) -> list[str]:
        """Paths of the packages, without the index's own files."""
        return [path for path in self.packages if not path.startswith(".")]

    @property
    def usernames(self) -> list[str]:
        """Names in ``.htpasswd``, as written there."""
        file = self.credentials.get(".htpasswd")
        lines = file.content.decode(errors="replace").splitlines() if file else []
        return [line.partition(":")[0].strip() for line in lines if ":" in line and not line.startswith("#")]

    def blobs(self) -> Iterator[tuple[str, Item]]:
        """Path and item of each file whose bytes are a blob."""
        for items in self.parts.values():
            yield from ((path, item) for path, item in items.items() if item.text is None)

    def same_content(self, other: Snapshot) -> bool:
        """True if both hold the same bytes under the same names. Logs may have grown."""
        return self.place == other.place and all(
            _digests(part, items) == _digests(part, other.parts[part]) for part, items in self.parts.items()
        )

    def to_bytes(self) -> bytes:
        """The snapshot as JSON, including a hash of its content."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "place": self.place,
            **{part: {path: _to_json(item) for path, item in items.items()} for part, items in self.parts.items()},
        }
        return json.dumps({**content, "sha256": _digest(content)}, sort_keys=True, indent=0).encode("ascii")

    @classmethod
    def from_bytes(cls, name: str, content: bytes) -> Self:
        """Read a snapshot, and check that it is complete and names no path outside its volume.

        Parameters:
            name: the one that it is stored under.
            content: from :meth:`to_bytes`.

        Raises:
            SnapshotError: it is damaged, or written by a later version.
        """
        try:
            found: dict[str, Any] = json.loads(content)
            digest, known = found.pop("sha256"), found["format"]
            if known != FORMAT:
                why = f"its format is {known}, but this version reads {FORMAT}"
                raise SnapshotError(
                    f"the snapshot {name} cannot be read", why=why, todo="use the version that wrote it"
                )
            if digest != _digest(found) or found["name"] != name:
                raise ValueError("its content is not what was written")
            parts = {part: {path: _item(path, entry) for path, entry in found[part].items()} for part in _LOGS}
            return cls(name, str(found["place"]), parts[PACKAGES], parts[CREDENTIALS])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SnapshotError(
                f"the snapshot {name} is damaged",
                why=f"it was cut short or altered: {str(error)[:200] or type(error).__name__}",
                todo="use another one, and delete this one's file in snapshots/",
            ) from None


def name_of(when: datetime) -> str:
    """The name of a snapshot taken at this time."""
    return when.astimezone(UTC).strftime(NAME_FORMAT)


def moment(name: str) -> datetime:
    """The time in a snapshot's name.

    Raises:
        SnapshotError: it is not such a name.
    """
    try:
        return datetime.strptime(name, NAME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise SnapshotError(
            f"{name!r} is not a snapshot's name",
            why="a name is a time in UTC, such as 2026-01-31T02-17-00Z",
            todo="use one listed by the notebook 06_back_up",
        ) from None


def is_kept(path: str) -> bool:
    """True if a file belongs in a snapshot: all except locks, reserves and recomputed data."""
    name = PurePosixPath(path).name
    return not (
        path.startswith(_REBUILT)
        or name.endswith((".lock", "-lock", ".new"))
        or any(part.endswith(".reserve") for part in PurePosixPath(path).parts)
    )


def is_log(part: str, path: str) -> bool:
    """True for files of the audit log and the download counts, which are append-only."""
    return path.startswith(_LOGS[part])


def is_text(part: str, path: str, size: int) -> bool:
    """True if a file is included in the snapshot itself."""
    decides = part == CREDENTIALS or path.startswith(".index/")
    return decides and not is_log(part, path) and size <= TEXT_BYTES


def _digests(part: str, items: Items) -> dict[str, str]:
    return {path: item.sha256 for path, item in items.items() if not is_log(part, path)}


def _to_json(item: Item) -> dict[str, Any]:
    fields = {name: getattr(item, name) for name in Item.__slots__}
    return {name: value for name, value in fields.items() if value is not None}


def _item(path: str, entry: Mapping[str, Any]) -> Item:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or "\0" in path or "\\" in path:
        raise ValueError(f"{path!r} is not a path on a volume")
    item = Item(**entry)
    times = (item.modified, 0 if item.uploaded is None else item.uploaded)
    if not (SHA256.fullmatch(item.sha256) and isinstance(item.size, int) and isinstance(item.modified, int)):
        raise TypeError(f"the entry of {path!r} is incomplete")
    if item.size < 0 or not all(abs(time) < _FAR for time in times):
        raise ValueError(f"the entry of {path!r} has an impossible size or time")
    if item.text is not None and Item.of_text(item.content, 0).sha256 != item.sha256:
        raise ValueError(f"the text of {path!r} does not have its hash")
    return item


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
