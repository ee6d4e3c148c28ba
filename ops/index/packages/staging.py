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
from ops.index.storage.files import remove, storage_error, write_all
from ops.index.storage.storage import Storage

if TYPE_CHECKING:
    from ops.index.packages.core_metadata import Contents

_PIECE = 1024**2
_SMALL = 256 * 1024
"""A file of no more bytes is kept in memory as well, to be looked at without being read again."""

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
"""The digests that an upload's form may name, as ``md5_digest`` and so on; the last in ``blake2_256_digest`` as well:
setuptools sends it there.
"""


class Staged:
    """The bytes of one upload, in a file of their own that nobody else sees.

    Parameters:
        path: the file.
        descriptor: it, open for writing and reading.
        limit: bytes that it may have.
        room: is asked before bytes are written.

    ``contents`` is what a long inspection has seen in them, if there was one.
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
        """Add bytes; how many there were.

        Raises:
            TooLarge: it is more than the index takes.
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
        """Of what was written until now, hexadecimal."""
        return self._sha256.hexdigest()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes from the first one, to be read."""
        if self._small is not None:
            yield io.BytesIO(self._small)
            return
        with open(self.path, "rb") as file:
            yield file

    def check(self, filename: str, form: Mapping[str, str]) -> None:
        """Compare the bytes with every digest that the form names.

        Raises:
            DigestMismatch: they differ, or what the form names is no digest.
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
        """Compute digests and remember them: a large file is checked again after it was inspected."""
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
            StorageError: they are not.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error("the upload could not be kept", error) from error

    def discard(self) -> None:
        """Close and remove the file, wherever the upload got to. A second time it does nothing."""
        self.room.release()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                remove(self.path)


class Stage:
    """Makes files for uploads to wait in: where they will stay if that is this machine, else on its own disk.

    Parameters:
        storage: where they will stay.
        options: ``max_upload_bytes`` and ``scratch_directory``.
    """

    def __init__(self, storage: Storage, options: Options) -> None:
        self._options = options
        self._storage = storage

    def new(self, room: Reservation) -> Staged:
        """An empty file. It must be discarded at the end, also after it was published.

        Parameters:
            room: for it; released with it, and when none can be made.

        Raises:
            StorageError: none can be made.
        """
        try:
            path, descriptor = self._storage.stage(self._options.scratch_directory)
        except OSError as error:
            room.release()
            raise storage_error("the upload could not be kept", error) from error
        return Staged(path, descriptor, self._options.max_upload_bytes, room)

    def fill(self, staged: Staged, source: IO[bytes]) -> None:
        """Copy all that *source* has.

        Raises:
            TooLarge: it is more than the index takes.
            StorageError: the disk is full, or failed.
        """
        while piece := source.read(_PIECE):
            staged.write(piece)
