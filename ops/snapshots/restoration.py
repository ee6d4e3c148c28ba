"""Restoration: brings the volumes of a target to the state of an origin, and refuses to replace different bytes.

Everything can be repeated: a killed run leaves only whole files, and the next one adds the missing ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ops.errors import SnapshotError
from ops.snapshots.backup import THREADS, digest_of
from ops.snapshots.origin import Origin
from ops.snapshots.scratch import scratch_folder
from ops.snapshots.snapshot import CREDENTIALS, PACKAGES, Item, is_kept, is_log, is_text
from ops.targets import Target, content_of, local_copy
from ops.targets.index_files import (
    FACTS,
    GROUPS,
    PASSWORDS,
    REMOVED,
    STATUS,
    YANKED,
    annotated,
    distribution,
    file_info,
    tombstones,
    with_tombstones,
)

BATCH_FILES = 250
BATCH_BYTES = 512 * 1024**2
"""Limits of a batch, which is copied to this machine's disk first."""


@dataclass(frozen=True, slots=True)
class TextChange:
    """Change of one small file.

    Parameters:
        part: of the index.
        path: on its volume.
        before: content; None if there is none.
        after: content; None to delete it.
    """

    part: str
    path: str
    before: bytes | None
    after: bytes | None


@dataclass
class Comparison:
    """Differences between a target and an origin.

    Parameters:
        equal: number of files that exist with the same bytes.
        equal_bytes: their size.
        missing: files to add, by part.
        conflicts: reason for each file that cannot be restored.
        extra: packages that only the target has, which stay.
        texts: small files to write or delete, in that order.
        credentials: the current small files of the credentials volume.
    """

    equal: int = 0
    equal_bytes: int = 0
    missing: dict[str, dict[str, Item]] = field(default_factory=lambda: {PACKAGES: {}, CREDENTIALS: {}})
    conflicts: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    texts: list[TextChange] = field(default_factory=list)
    credentials: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not (any(self.missing.values()) or self.conflicts or self.texts)

    @property
    def missing_bytes(self) -> int:
        """Bytes to add."""
        return sum(item.size for items in self.missing.values() for item in items.values())


class Restoration:
    """Brings one target to the state of one origin.

    Parameters:
        target: to change.
        origin: to read.
    """

    def __init__(self, target: Target, origin: Origin) -> None:
        self._target = target
        self._origin = origin
        self._volumes = {PACKAGES: target.settings.packages_volume, CREDENTIALS: target.settings.credentials_volume}

    def compare(self) -> Comparison:
        """Read both sides. Files with the same name and size are hashed."""
        found = Comparison()
        for part, volume in self._volumes.items():
            exists = self._target.volume_exists(volume)
            present = (
                {file.path: file for file in self._target.list_files(volume) if is_kept(file.path)} if exists else {}
            )
            self._compare_blobs(found, part, {path: file.size for path, file in present.items()})
            texts = {path for path, file in present.items() if is_text(part, path, file.size)}
            contents = {path: self._content(part, path) for path in sorted(texts)}
            found.texts += self._compare_texts(part, contents)
            if part == CREDENTIALS:
                found.credentials = contents
        found.texts.sort(key=_order)
        return found

    def carry_out(self, comparison: Comparison) -> None:
        """Make the changes: annotations and tombstones first, then the files, roles before users, deletions last.

        Raises:
            SnapshotError: a file cannot be restored, so nothing was changed; or bytes of the origin are missing
                or damaged, and the files restored so far stay.
            TargetError: the target refused; the files restored so far stay.
        """
        if comparison.conflicts:
            raise SnapshotError(
                f"{len(comparison.conflicts)} of the files cannot be restored, and nothing was changed",
                why="; ".join(f"{path}: {why}" for path, why in list(comparison.conflicts.items())[:10]),
                todo="restore into an empty index, or move these files out of the way yourself",
            )
        for volume in self._volumes.values():
            self._target.create_volume(volume)
        with scratch_folder() as folder:
            scratch = folder / "files"
            writes = [text for text in comparison.texts if text.after is not None]
            self._write_texts(scratch, [text for text in writes if text.part == PACKAGES])
            for part, items in comparison.missing.items():
                for batch in _batches(items):
                    self._upload(scratch, part, batch)
            for text in (text for text in writes if text.part == CREDENTIALS):
                self._write_texts(scratch, [text])
        for text in comparison.texts:
            if text.after is None:
                self._target.delete_file(self._volumes[text.part], text.path)

    def _compare_blobs(self, found: Comparison, part: str, sizes: Mapping[str, int]) -> None:
        items = self._origin.snapshot.parts[part]
        digests = self._digests(part, {path: item for path, item in items.items() if sizes.get(path) == item.size})
        keys = {key: path for path in sizes if (key := _key(path))} if part == PACKAGES else {}
        buried = self._buried(sizes) if part == PACKAGES else {}
        for path, item in items.items():
            if item.text is not None:
                continue
            if path in sizes:
                if is_log(part, path) or digests.get(path) == item.sha256:
                    found.equal += 1
                    found.equal_bytes += item.size
                else:
                    found.conflicts[path] = "the index has different bytes under this name"
            elif part == PACKAGES and (key := _key(path)) in keys:
                found.conflicts[path] = f"the index has it in another spelling, {keys[key]}"
            elif part == PACKAGES and buried.get(_key(path), item.sha256) != item.sha256:
                found.conflicts[path] = "a file of this name with different bytes was removed from the index"
            else:
                found.missing[part][path] = item
        if part == PACKAGES:
            found.extra += [path for path in sizes if not path.startswith(".") and path not in items]

    def _compare_texts(self, part: str, now: Mapping[str, bytes]) -> Iterator[TextChange]:
        snapshot = self._origin.snapshot
        then = {path: item.content for path, item in snapshot.parts[part].items() if item.text is not None}
        for path, content in then.items():
            after = _merged(part, path, now.get(path), content)
            if after != now.get(path):
                yield TextChange(part, path, now.get(path), after)
        if not self._origin.is_complete:
            return
        known = {distribution(path) for path in snapshot.packages}
        projects = {found.project for found in known if found is not None}
        for path in now.keys() - then.keys():
            # Files that were not in the snapshot keep their annotations.
            yank = path.startswith(YANKED) and annotated(path) in snapshot.packages
            status = path.startswith(STATUS) and annotated(path) in projects
            if part == CREDENTIALS or yank or status:
                yield TextChange(part, path, now[path], None)

    def _buried(self, paths: Iterable[str]) -> dict[str, str]:
        graves: dict[str, str] = {}
        for path in paths:
            if path.startswith(REMOVED):
                content = self._content(PACKAGES, path).decode("utf-8", "surrogateescape")
                graves.update(tombstones(path.removeprefix(REMOVED), content))
        return graves

    def _upload(self, scratch: Path, part: str, batch: Mapping[str, Item]) -> None:
        sources: dict[str, Path] = {}
        scratch.mkdir(exist_ok=True)
        for number, (path, item) in enumerate(batch.items()):
            copy = scratch / f"{number}"
            with copy.open("wb") as stream:
                size = self._origin.fetch_blob(item.sha256, stream)
            if size != item.size:
                raise SnapshotError(
                    f"the snapshot {self._origin.snapshot.name} is damaged",
                    why=f"it gives {path} {item.size} bytes, but the file with its hash has {size}",
                    todo="restore another one; the files restored so far stay",
                )
            os.utime(copy, (item.modified, item.modified))
            if item.uploaded is not None:
                info = scratch / f"{number}.info"
                info.write_bytes(file_info(sha256=item.sha256, size=item.size, uploaded=item.uploaded))
                sources[FACTS + path] = info
            sources[path] = copy
        self._target.upload_files(self._volumes[part], sources)
        for copy in sources.values():
            copy.unlink()

    def _write_texts(self, scratch: Path, texts: Iterable[TextChange]) -> None:
        scratch.mkdir(exist_ok=True)
        by_volume: dict[str, dict[str, Path]] = {}
        for number, text in enumerate(texts):
            copy = scratch / f"{number}.text"
            copy.write_bytes(text.after or b"")
            by_volume.setdefault(self._volumes[text.part], {})[text.path] = copy
        for volume, sources in by_volume.items():
            self._target.upload_files(volume, sources)

    def _digests(self, part: str, items: Mapping[str, Item]) -> dict[str, str]:
        """SHA-256 of what the target has under the names of files. Logs are not compared."""

        def digest(path: str) -> str:
            with local_copy(self._target, self._volumes[part], path) as copy:
                return digest_of(copy)[0]

        paths = [path for path, item in items.items() if item.text is None and not is_log(part, path)]
        with ThreadPoolExecutor(THREADS) as threads:
            return dict(zip(paths, threads.map(digest, paths), strict=True))

    def _content(self, part: str, path: str) -> bytes:
        return content_of(self._target, self._volumes[part], path)


def _merged(part: str, path: str, now: bytes | None, then: bytes) -> bytes:
    """The content of a small file after a restoration."""
    if now is None or part == CREDENTIALS or path.startswith((YANKED, STATUS)):
        return then
    if path.startswith(REMOVED):  # a used name can never be reused
        return with_tombstones(now, then)
    return now


def _order(text: TextChange) -> tuple[str, bool, str]:
    """Roles come before passwords: a user without a role may upload."""
    return text.part, text.path == PASSWORDS, "" if text.path == GROUPS else text.path


def _key(path: str) -> str:
    signature = path.endswith(".asc")
    found = distribution(path.removesuffix(".asc"))
    return f"{found.key}{'.asc' * signature}" if found else ""


def _batches(items: Mapping[str, Item]) -> Iterator[dict[str, Item]]:
    batch: dict[str, Item] = {}
    size = 0
    for path, item in items.items():
        if batch and (len(batch) >= BATCH_FILES or size + item.size > BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[path] = item
        size += item.size
    if batch:
        yield batch
