"""Sidecars: what was computed of each package, stored next to the packages in ``.index/facts``.

A sidecar is one line of JSON, then the core metadata byte for byte. It is valid while the file has the size and
time recorded in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
import tempfile
import threading
import weakref
from pathlib import Path
from typing import NamedTuple

from ops.index.packages.core_metadata import MAX_METADATA_BYTES, Contents
from ops.index.packages.filenames import Name
from ops.index.storage.directory import INDEX_FOLDER, StagingFolder, remove

LATEST = 253_402_300_799.0
"""The end of the year 9999, in seconds since the epoch: file systems can hold later times, ``datetime`` cannot."""

FORMAT = 1
"""Version of the sidecars."""

_LONGEST = MAX_METADATA_BYTES + 64 * 1024
_FIRST_READ = 4096
_PIECE = 1024**2

_raw_decode = json.JSONDecoder().raw_decode  # twice as fast as json.loads, which detects the encoding and skips spaces


class FileInfo(NamedTuple):
    """The properties of a file that project pages show.

    Parameters:
        size: bytes.
        mtime_ns: last modification, in nanoseconds since the epoch.
        sha256: hexadecimal.
        version: of the release.
        upload_time: seconds since the epoch, from 0 to LATEST.
        requires_python: from the core metadata.
        metadata_sha256: digest of the core metadata; None if it is not served to installers.
        metadata_size: length in bytes of the stored core metadata, served or not.
        uploader: the user who uploaded it; empty if unknown. Unlike the rest, it cannot be computed again.
        run: the URL of the CI run that uploaded it; empty if none did.
        provenance: digest of its provenance (PEP 740); empty if it has none.
    """

    size: int
    mtime_ns: int
    sha256: str
    version: str
    upload_time: float
    requires_python: str | None = None
    metadata_sha256: str | None = None
    metadata_size: int = 0
    uploader: str = ""
    run: str = ""
    provenance: str = ""

    @classmethod
    def of(
        cls,
        name: Name,
        contents: Contents,
        status: os.stat_result,
        *,
        sha256: str,
        upload_time: float,
        uploader: str = "",
        run: str = "",
        provenance: str = "",
    ) -> FileInfo:
        """Combine a file's known properties with the contents read from it."""
        served = contents.metadata if contents.static else None
        return cls(
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=sha256,
            version=name.version,
            upload_time=min(max(upload_time, 0.0), LATEST),
            requires_python=contents.requires_python,
            metadata_sha256=None if served is None else hashlib.sha256(served).hexdigest(),
            metadata_size=len(contents.metadata or b""),
            uploader=uploader,
            run=run,
            provenance=provenance,
        )

    def at(self, mtime_ns: int) -> FileInfo:
        """The info of a copy with another modification time."""
        return self if mtime_ns == self.mtime_ns else self._replace(mtime_ns=mtime_ns)

    def is_valid_for(self, status: os.stat_result) -> bool:
        """True if the file has not been written since."""
        if status.st_size != self.size:
            return False
        # Storage with times in whole seconds truncates the rest.
        return status.st_mtime_ns in (self.mtime_ns, self.mtime_ns - self.mtime_ns % 10**9)


class Sidecars:
    """A folder of sidecars, with a temporary one as a substitute if it cannot be written.

    Parameters:
        directory: of packages; None to use only the temporary folder.
        staging: on the same file system.
        scratch: parent of the temporary folder; None for the system's temporary directory.
    """

    def __init__(self, directory: Path | None, staging: StagingFolder | None, *, scratch: Path | None = None) -> None:
        self._staging = staging
        self._scratch = scratch
        self._lock = threading.Lock()
        self._folders = [] if directory is None else [f"{directory}/{INDEX_FOLDER}/facts"]
        self._temporary: Path | None = None
        self._numbers = itertools.count()

    def read(self, path: str) -> FileInfo | None:
        """The info of a file, valid or not; None without a readable sidecar."""
        found = self.dated(path)
        return None if found is None else found[0]

    def dated(self, path: str) -> tuple[FileInfo, int] | None:
        """The same, and the time of the sidecar's last change (``ctime``), in nanoseconds since the epoch."""
        found = self._read(path)
        return None if found is None else (found[0], found[2])

    def metadata(self, path: str, *, unserved: bool = False) -> bytes | None:
        """The core metadata in a sidecar; None if there is none, or it is damaged.

        Parameters:
            path: of the file.
            unserved: also return metadata that installers cannot rely on.
        """
        found = self._read(path, whole=True)
        if found is None or (found[0].metadata_sha256 is None and not (unserved and found[0].metadata_size)):
            return None
        return found[1]

    def write(self, path: str, file_info: FileInfo, metadata: bytes | None) -> None:
        """Write the sidecar of a file. It need not be durable: it can be computed again.

        Raises:
            OSError: neither the directory nor the temporary folder can be written.
        """
        line = json.dumps({"format": FORMAT, **file_info._asdict()})
        content = b"".join((line.encode(), b"\n", metadata or b""))
        if self._staging is not None:
            with contextlib.suppress(OSError):
                self._staging.replace(f"{self._folders[0]}/{path}", content)
                return
        home = self._temporary_folder()
        target, scratch = home / "facts" / path, home / f"{next(self._numbers)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(target)

    def forget(self, path: str) -> None:
        """Remove the sidecar of a removed file."""
        for folder in self._folders:
            remove(f"{folder}/{path}")

    def __contains__(self, path: str) -> bool:
        """True if a file has a sidecar, valid or not."""
        return any(os.path.lexists(f"{folder}/{path}") for folder in self._folders)

    def _read(self, path: str, *, whole: bool = False) -> tuple[FileInfo, bytes, int] | None:
        for folder in self._folders:
            try:
                start, ctime_ns = _content(f"{folder}/{path}", whole=whole)
            except OSError:
                continue
            file_info = _parse(start)
            if file_info is None:
                continue
            metadata = start.partition(b"\n")[2]
            if whole and not _is_whole(metadata, file_info):
                continue
            return file_info, metadata, ctime_ns
        return None

    def _temporary_folder(self) -> Path:
        with self._lock:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix="pypi-index-facts-", dir=self._scratch))
                weakref.finalize(self, shutil.rmtree, self._temporary, ignore_errors=True)
                self._folders.append(f"{self._temporary}/facts")
            return self._temporary


def _content(path: str, *, whole: bool) -> tuple[bytes, int]:
    """A sidecar, or at least its first line, and the time of its last change. Project pages read one per file.

    Raises:
        OSError: it cannot be read, or no sidecar can be like it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if status.st_size > _LONGEST or not stat.S_ISREG(status.st_mode):  # in a folder that somebody handed over
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        content = os.read(descriptor, _FIRST_READ)
        if len(content) == _FIRST_READ and (whole or b"\n" not in content):
            while piece := os.read(descriptor, _PIECE):
                content += piece
        return content, status.st_ctime_ns
    finally:
        os.close(descriptor)


def _is_whole(metadata: bytes, file_info: FileInfo) -> bool:
    if file_info.metadata_sha256 is None:
        return len(metadata) == file_info.metadata_size
    return hashlib.sha256(metadata).hexdigest() == file_info.metadata_sha256


def _parse(content: bytes) -> FileInfo | None:
    try:
        line = content.partition(b"\n")[0].decode()
        fields, end = _raw_decode(line)
        if end != len(line) or fields.pop("format") != FORMAT:
            return None
        file_info = FileInfo(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    # Written out for speed: long pages run this for each of their files.
    whole = (
        isinstance(file_info.size, int)
        and isinstance(file_info.mtime_ns, int)
        and isinstance(file_info.metadata_size, int)
        and isinstance(file_info.sha256, str)
        and isinstance(file_info.uploader, str)
        and isinstance(file_info.run, str)
        and isinstance(file_info.provenance, str)
        and isinstance(file_info.upload_time, int | float)
        and 0 <= file_info.upload_time <= LATEST
    )
    return file_info if whole else None
