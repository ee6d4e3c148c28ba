"""Staged uploads: the bytes of a file until it is checked and published."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol

from ops.index.config import Options
from ops.index.errors import DigestMismatch, TooLarge
from ops.index.packages.quotas import Reservation
from ops.index.storage.directory import remove, storage_error, write_all
from ops.index.storage.storage import Storage

if TYPE_CHECKING:
    from ops.index.packages.core_metadata import Contents

_PIECE = 1024**2
_SMALL = 256 * 1024
"""A file of no more bytes stays in memory as well, to be inspected without reading it again."""

_BLAKE2_512_DIGITS = 128


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


ALGORITHMS: dict[str, Callable[[], _Digest]] = {
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha256": hashlib.sha256,
    "blake2_256": lambda: hashlib.blake2b(digest_size=32),
    "blake2_512": lambda: hashlib.blake2b(digest_size=64),
}
"""Digests that an upload's form may have, such as ``md5_digest``. setuptools sends the last as the third."""


class Staged:
    """The bytes of one upload, in a file that nobody else sees.

    ``contents`` is the result of a long inspection, if there was one.

    Parameters:
        path: of the file.
        descriptor: the file, open for writing and reading.
        limit: the most bytes.
        room: reserved before bytes are written.
    """

    def __init__(self, path: str, descriptor: int, limit: int, room: Reservation) -> None:
        self.path = path
        self.size = 0
        self.contents: Contents | None = None
        self._descriptor = descriptor
        self._limit = limit
        self.room = room
        self._sha256 = hashlib.sha256()
        self._small: bytearray | None = bytearray()
        self._digests: dict[str, str] = {}

    def write(self, piece: bytes | bytearray | memoryview) -> int:
        """Append bytes; return their number.

        Raises:
            TooLarge: the file is larger than the index accepts.
            QuotaExceeded: there is no room for it.
            StorageError: the disk is full, or failed.
        """
        self.size += len(piece)
        if self.size > self._limit:
            raise TooLarge("the file", limit=self._limit)
        self.room.require(len(piece), self.size)
        self._sha256.update(piece)
        if self._small is not None:
            if self.size <= _SMALL:
                self._small += piece
            else:
                self._small = None
        try:
            write_all(self._descriptor, piece)
        except OSError as error:
            raise storage_error("the upload could not be kept", error) from error
        return len(piece)

    @property
    def sha256(self) -> str:
        """The digest of the bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the bytes for reading."""
        if self._small is not None:
            yield io.BytesIO(self._small)
            return
        with open(self.path, "rb") as file:
            yield file

    def check(self, filename: str, form: Mapping[str, str]) -> None:
        """Compare the bytes with every digest in the form.

        Raises:
            DigestMismatch: they differ, or the form has something else than a digest.
        """
        named = {field: form.get(f"{field}_digest", "").strip().lower() for field in ("md5", "sha256", "blake2_256")}
        if len(named["blake2_256"]) == _BLAKE2_512_DIGITS:
            named["blake2_512"] = named.pop("blake2_256")
        named = {algorithm: expected for algorithm, expected in named.items() if expected}
        self._compute(named.keys() - self._digests.keys() - {"sha256"})
        for algorithm, expected in named.items():
            actual = self.sha256 if algorithm == "sha256" else self._digests[algorithm]
            if not hmac.compare_digest(expected.encode("utf-8", "replace"), actual.encode()):
                raise DigestMismatch(filename, algorithm=algorithm, expected=expected, actual=actual)

    def _compute(self, algorithms: AbstractSet[str]) -> None:
        """Compute digests and cache them: a large file is checked again after its inspection."""
        digests = {algorithm: ALGORITHMS[algorithm]() for algorithm in algorithms}
        if not digests:
            return
        with self.open() as file:
            while piece := file.read(_PIECE):
                for digest in digests.values():
                    digest.update(piece)
        self._digests.update((algorithm, digest.hexdigest()) for algorithm, digest in digests.items())

    def sync(self) -> None:
        """Make the bytes durable.

        Raises:
            StorageError: they may not be.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error("the upload could not be kept", error) from error

    def discard(self) -> None:
        """Close and remove the file. May be called more than once."""
        self.room.release()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                remove(self.path)


class Stage:
    """Creates the files of staged uploads.

    Parameters:
        storage: the volume of packages.
        options: ``max_upload_bytes`` and ``scratch_directory``.
    """

    def __init__(self, storage: Storage, options: Options) -> None:
        self._options = options
        self._storage = storage

    def new(self, room: Reservation) -> Staged:
        """An empty file, to be discarded at the end, even after it was published.

        Parameters:
            room: released with the file, or if it cannot be created.

        Raises:
            StorageError: it cannot be created.
        """
        try:
            path, descriptor = self._storage.stage(self._options.scratch_directory)
        except OSError as error:
            room.release()
            raise storage_error("the upload could not be kept", error) from error
        return Staged(path, descriptor, self._options.max_upload_bytes, room)

    def fill(self, staged: Staged, source: IO[bytes]) -> None:
        """Copy all bytes of *source*.

        Raises:
            TooLarge: the file is larger than the index accepts.
            StorageError: the disk is full, or failed.
        """
        while piece := source.read(_PIECE):
            staged.write(piece)
