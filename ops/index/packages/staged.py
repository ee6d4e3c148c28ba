"""An upload while it arrives: a file without a name, its size and its digests."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import BinaryIO, Protocol

from ops.index.config import Options
from ops.index.errors import DigestMismatch, TooLarge
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name
from ops.index.packages.quotas import Reservation
from ops.index.storage.directory import remove, storage_error, write_all
from ops.index.storage.storage import Storage
from ops.index.storage.turns import between_turns

NOT_KEPT = "the upload could not be stored"

_PIECE = 1024**2
SMALL = 256 * 1024
"""Files of up to this many bytes are also kept in memory, to be inspected without reading them again."""

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
"""Digests that an upload's form may have, such as ``md5_digest``. setuptools sends the last under the third's name."""


class Staged:
    """The bytes of one upload, in a private file.

    ``contents`` is the result of a long inspection, if there was one.

    Parameters:
        storage: the volume of packages.
        filename: as named by the client; of a distribution or a signature.
        name: parsed from the distribution's; None if it is not one.
        room: the space reserved before bytes are written; released with the file, or if it cannot be created.
        options: ``max_upload_bytes`` and ``scratch_directory``.

    Raises:
        StorageError: the file cannot be created.
    """

    def __init__(self, storage: Storage, filename: str, name: Name | None, room: Reservation, options: Options) -> None:
        self.filename = filename
        self.name = name
        self.room = room
        self.size = 0
        self.contents: Contents | None = None
        self._limit = options.max_upload_bytes
        self._sha256 = hashlib.sha256()
        self._small: bytearray | None = bytearray()
        self._digests: dict[str, str] = {}
        try:
            self.path, self._descriptor = storage.stage(options.scratch_directory)
        except OSError as error:
            room.release()
            raise storage_error(NOT_KEPT, error) from error

    def write(self, piece: bytes | bytearray | memoryview) -> int:
        """Append bytes; return their number.

        Raises:
            TooLarge: the file is larger than the index accepts.
            QuotaExceeded: there is no space for it.
            StorageError: the disk is full or failed.
        """
        self.size += len(piece)
        if self.size > self._limit:
            raise TooLarge("the file", limit=self._limit)
        self.room.extend(len(piece), self.size)
        self._sha256.update(piece)
        if self._small is not None:
            if self.size <= SMALL:
                self._small += piece
            else:
                self._small = None
        try:
            write_all(self._descriptor, piece)
        except OSError as error:
            raise storage_error(NOT_KEPT, error) from error
        return len(piece)

    @property
    def sha256(self) -> str:
        """The digest of the bytes so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def open(self) -> BinaryIO:
        """Open the bytes for reading."""
        return open(self.path, "rb") if self._small is None else io.BytesIO(self._small)

    def check_digests(self, form: Mapping[str, str]) -> None:
        """Compare the bytes with every digest in the form.

        Raises:
            DigestMismatch: they differ, or a field is not a digest.
        """
        named = {field: form.get(f"{field}_digest", "").strip().lower() for field in ("md5", "sha256", "blake2_256")}
        if len(named["blake2_256"]) == _BLAKE2_512_DIGITS:
            named["blake2_512"] = named.pop("blake2_256")
        named = {algorithm: expected for algorithm, expected in named.items() if expected}
        self._compute(named.keys() - self._digests.keys() - {"sha256"})
        for algorithm, expected in named.items():
            actual = self.sha256 if algorithm == "sha256" else self._digests[algorithm]
            if not hmac.compare_digest(expected.encode("utf-8", "replace"), actual.encode()):
                raise DigestMismatch(self.filename, algorithm=algorithm, expected=expected, actual=actual)

    def _compute(self, algorithms: AbstractSet[str]) -> None:
        """Compute and cache digests: a large file is checked again after its inspection."""
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
            with between_turns():
                os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error(NOT_KEPT, error) from error

    def discard(self) -> None:
        """Close and remove the file. May be called more than once."""
        self.room.release()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                remove(self.path)
