"""File information that is computed once and kept beside the packages in ``.index/facts``.

A sidecar is one line of JSON, then the core metadata byte for byte, for installers or for people only. It holds as long
as the file has the size and time that it tells, and is made anew from the file alone when it is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ops.index.storage.files import INDEX_FOLDER, Workbench, remove

LATEST = 253_402_300_799.0
"""The last second of the year 9999, in seconds since the epoch: file systems keep later ones, calendars do not."""

_FIRST_READ = 4096
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a page says of a file.

    Parameters:
        size: bytes.
        mtime_ns: when the file was last written, in nanoseconds since the epoch.
        sha256: hexadecimal.
        version: of the release.
        upload_time: seconds since the epoch, from 0 to LATEST.
        requires_python: of the core metadata.
        metadata_sha256: of the core metadata; None when none is served.
        metadata_size: the length in bytes of the core metadata that is kept, served or not.
    """

    size: int
    mtime_ns: int
    sha256: str
    version: str
    upload_time: float
    requires_python: str | None = None
    metadata_sha256: str | None = None
    metadata_size: int = 0

    def at(self, mtime_ns: int) -> FileInfo:
        """The same of a copy that was written at another time."""
        return self if mtime_ns == self.mtime_ns else replace(self, mtime_ns=mtime_ns)

    def hold_for(self, status: os.stat_result) -> bool:
        """Whether the file is still the one that they were computed of."""
        if status.st_size != self.size:
            return False
        # A storage that keeps whole seconds only has cut off the rest.
        return status.st_mtime_ns in (self.mtime_ns, self.mtime_ns - self.mtime_ns % 10**9)


class FileInfoStore:
    """The sidecars of one directory of packages.

    Parameters:
        directory: of packages.
        scratch: where sidecars go when *directory* cannot be written; None for the system's temporary directory.
    """

    def __init__(self, directory: Path, workbench: Workbench, *, scratch: Path | None = None) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/facts"
        self._workbench = workbench
        self._scratch = scratch
        self._elsewhere: str | None = None

    def read(self, path: str) -> FileInfo | None:
        """The facts of a file, whether or not they still hold; None when there are none that can be read."""
        found = self._read(path)
        return None if found is None else found[0]

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata that is kept with the facts; None when there is none, or it is damaged.

        Parameters:
            path: of the file.
            unserved: also what installers may not go by, such as that of an sdist which says something else once built.
        """
        found = self._read(path, whole=True)
        if found is None or (found[0].metadata_sha256 is None and not (unserved and found[0].metadata_size)):
            return None
        return found[1]

    def write(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        """Keep the facts of a file. They need not be durable: they can be computed again.

        Raises:
            OSError: neither the directory nor the temporary one can be written.
        """
        # Not dataclasses.asdict, which copies deeply: this is on the way of every upload.
        fields = {name: getattr(file_info, name) for name in FileInfo.__slots__}
        content = b"".join((json.dumps({"format": _FORMAT, **fields}).encode(), b"\n", metadata or b""))
        try:
            self._workbench.replace(f"{self._folder}/{path}", content)
        except OSError:
            target = Path(self._fallback(), path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def forget(self, path: str) -> None:
        """Remove the sidecar of a file that is gone."""
        remove(f"{self._folder}/{path}")

    def kept(self) -> Iterator[str]:
        """The paths of all files that have a sidecar in the directory."""
        folders = [""]
        while folders:
            prefix = folders.pop()
            try:
                with os.scandir(f"{self._folder}/{prefix}") as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{prefix}{entry.name}/")
                        else:
                            yield prefix + entry.name
            except OSError:
                continue

    def _read(self, path: str, *, whole: bool = False) -> tuple[FileInfo, bytes] | None:
        for folder in (self._folder, self._elsewhere):
            if folder is None:
                continue
            try:
                with open(f"{folder}/{path}", "rb", buffering=0) as file:
                    start = file.read(_FIRST_READ)
                    if whole or b"\n" not in start:
                        start += file.readall()
            except OSError:
                continue
            file_info = _parse(start)
            if file_info is None:
                continue
            metadata = start.partition(b"\n")[2]
            if whole and not _is_whole(metadata, file_info):
                continue
            return file_info, metadata
        return None

    def _fallback(self) -> str:
        if self._elsewhere is None:
            self._elsewhere = tempfile.mkdtemp(prefix="pypi-index-facts-", dir=self._scratch)
            weakref.finalize(self, shutil.rmtree, self._elsewhere, ignore_errors=True)
        return self._elsewhere


def _is_whole(metadata: bytes, file_info: FileInfo) -> bool:
    if file_info.metadata_sha256 is None:
        return len(metadata) == file_info.metadata_size
    return hashlib.sha256(metadata).hexdigest() == file_info.metadata_sha256


def _parse(content: bytes) -> FileInfo | None:
    try:
        fields = json.loads(content.partition(b"\n")[0])
        if fields.pop("format") != _FORMAT:
            return None
        file_info = FileInfo(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    whole = (
        isinstance(file_info.size, int)
        and isinstance(file_info.mtime_ns, int)
        and isinstance(file_info.metadata_size, int)
    )
    dated = isinstance(file_info.upload_time, int | float) and 0 <= file_info.upload_time <= LATEST
    return file_info if whole and dated and isinstance(file_info.sha256, str) else None
