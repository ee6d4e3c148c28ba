"""Bucket with snapshots: a local folder, or object storage by its URL (S3, Google, Azure)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Self
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from ops.errors import BucketError, ParameterError, SnapshotError
from ops.private_files import private_folder
from ops.snapshots.snapshot import SHA256

BLOBS = "blobs/"
SNAPSHOTS = "snapshots/"

SINGLE_BYTES = 64 * 1024**2
"""Larger blobs are sent in parts, for which no bucket offers a create-only write."""

RETRIES = 4
RETRY_SECONDS = 30

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_PIECE = 1024**2


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored bytes of one file.

    Parameters:
        size: bytes.
        stored: when they were written.
    """

    size: int
    stored: datetime


class Bucket:
    """Blobs and snapshots in one place. Credentials come from the environment variables of the store's own tools.

    Parameters:
        place: its folder or URL, for messages.
        store: the storage.
        folder: the local folder, if it is one.
    """

    def __init__(self, place: str, store: ObjectStore, folder: Path | None = None) -> None:
        self.place = place
        self._store = store
        self._folder = folder

    @classmethod
    def open(cls, place: str, *, create: bool = False) -> Self:
        """The bucket at *place*. Contacts nothing.

        Parameters:
            place: a folder, or a URL such as ``s3://bucket/prefix``, ``gs://…`` or ``az://…``, without credentials.
            create: True to create a folder that does not exist, readable only by this user.

        Raises:
            ParameterError: *place* is not such a URL, or contains credentials.
            BucketError: the folder does not exist or cannot be created, or credentials are missing.
        """
        if not _URL.match(place):
            return cls._of_folder(Path(place).expanduser(), create=create)
        parts = urlsplit(place)
        if parts.username or parts.password or parts.query:
            raise ParameterError(
                "the URL of the bucket contains credentials or a query",
                why="parameters are stored in records",
                todo="use only scheme, bucket and prefix, and set the credentials in the environment",
            )
        if parts.scheme not in ("s3", "gs", "az") or not parts.hostname:
            raise ParameterError(
                f"{place!r} is no bucket",
                why="a URL must begin with s3://, gs:// or az:// and name a bucket",
                todo="use such a URL, or a local folder",
            )
        with _explained("open", place):
            return cls(
                place,
                from_url(
                    place,
                    retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
                ),
            )

    @classmethod
    def _of_folder(cls, folder: Path, *, create: bool) -> Self:
        if not folder.is_dir() and not create:
            raise BucketError(
                f"there are no snapshots in {folder}",
                why="there is no such folder",
                todo="name the folder that the notebook 06_back_up wrote to",
            )
        with _explained("open", str(folder)):
            private_folder(folder)
            if not os.access(folder, os.R_OK | os.X_OK):
                raise PermissionError(13, os.strerror(13), str(folder))
        return cls(str(folder), LocalStore(folder), folder)

    @property
    def open_to_others(self) -> bool:
        """True if other users of this machine may read the folder; False for a bucket, where it is unknown."""
        return self._folder is not None and bool(self._folder.stat().st_mode & 0o077)

    def blobs(self) -> dict[str, Blob]:
        """All blobs, by SHA-256 in hexadecimal. One request per thousand."""
        with _explained("list", self.place):
            found = {}
            for chunk in obstore.list(self._store, BLOBS):
                for entry in chunk:
                    name = entry["path"].rpartition("/")[2]
                    if SHA256.fullmatch(name):
                        found[name] = Blob(entry["size"], entry["last_modified"])
            return found

    def put_blob(self, sha256: str, source: Path) -> None:
        """Store bytes unless they exist. Never replaces any.

        Parameters:
            sha256: of the file.
            source: the file.
        """
        single = source.stat().st_size <= SINGLE_BYTES
        with _explained("write to", self.place), contextlib.suppress(AlreadyExistsError):
            obstore.put(
                self._store,
                BLOBS + sha256,
                source,
                mode="create" if single else "overwrite",
                use_multipart=not single,
            )
        self._sync(BLOBS + sha256)

    def delete_blob(self, sha256: str) -> None:
        """Delete bytes that are unneeded or damaged."""
        self._delete(BLOBS + sha256)

    def fetch_blob(self, sha256: str, destination: IO[bytes]) -> int:
        """Copy stored bytes to *destination*, and return their number.

        Raises:
            SnapshotError: they are missing, or do not match their name.
        """
        digest, size = hashlib.sha256(), 0
        try:
            for piece in self._pieces(BLOBS + sha256):
                digest.update(piece)
                size += len(piece)
                destination.write(piece)
        except FileNotFoundError:
            raise SnapshotError(f"the blob {sha256} is missing in {self.place}", why=_LOST, todo=_OTHER) from None
        if digest.hexdigest() != sha256:
            why = f"its {size} bytes have the hash {digest.hexdigest()}: it was cut short or altered"
            raise SnapshotError(f"the blob {sha256} in {self.place} is damaged", why=why, todo=f"{_DELETE}{_OTHER}")
        return size

    def _pieces(self, path: str) -> Iterator[obstore.Bytes]:
        with _explained("read from", self.place):
            yield from obstore.get(self._store, path).stream(_PIECE)

    def snapshots(self) -> list[str]:
        """The names of all snapshots, oldest first."""
        with _explained("list", self.place):
            paths = [entry["path"] for chunk in obstore.list(self._store, SNAPSHOTS) for entry in chunk]
        names = (path.rpartition("/")[2] for path in paths)
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def read_snapshot(self, name: str) -> bytes:
        """The content of a snapshot.

        Raises:
            SnapshotError: there is none with that name.
        """
        try:
            with _explained("read from", self.place):
                return bytes(obstore.get(self._store, f"{SNAPSHOTS}{name}.json").bytes())
        except FileNotFoundError:
            raise SnapshotError(
                f"there is no snapshot {name!r} in {self.place}", todo="use one listed by the notebook 06_back_up"
            ) from None

    def put_snapshot(self, name: str, content: bytes) -> None:
        """Store a snapshot, once all blobs stored so far are durable.

        Raises:
            BucketError: there is one with that name.
        """
        self._sync(BLOBS)
        try:
            with _explained("write to", self.place):
                obstore.put(self._store, f"{SNAPSHOTS}{name}.json", content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            raise BucketError(
                f"there is a snapshot {name} already", why="another run took it", todo="run this again"
            ) from None
        self._sync(f"{SNAPSHOTS}{name}.json")
        self._sync(SNAPSHOTS)

    def delete_snapshot(self, name: str) -> None:
        """Delete a snapshot, but none of its blobs."""
        self._delete(f"{SNAPSHOTS}{name}.json")

    def delete_unfinished(self, before: datetime) -> None:
        """Delete what killed runs had only begun to write to a folder. A bucket never shows such writes."""
        with _explained("delete in", self.place):
            for path in self._folder.glob("*/*#*") if self._folder else ():
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before.timestamp():
                        path.unlink()

    def _delete(self, path: str) -> None:
        with _explained("delete in", self.place), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, path)

    def _sync(self, path: str) -> None:
        """Make a local file or folder durable; in a bucket they are durable once it responds."""
        if self._folder is None:
            return
        with _explained("write to", self.place), contextlib.suppress(FileNotFoundError):  # no folder without a blob
            descriptor = os.open(self._folder / path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


_LOST = "the snapshot names it, but it was deleted or never arrived"
_DELETE = "delete it there, since a stored blob is never replaced, and "
_OTHER = "restore another snapshot; as long as the index has the file, the next back-up stores it again"


@contextlib.contextmanager
def _explained(doing: str, place: str) -> Iterator[None]:
    """Convert errors of the storage to ones with advice, except those about one missing or existing object."""
    try:
        yield
    except (FileNotFoundError, AlreadyExistsError):
        raise
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise BucketError(
            f"could not {doing} {place}",
            why=f"permission was denied ({_line(error)})",
            todo="give this user, or the credentials in the environment, the right to list, read, write and delete",
        ) from None
    except (BaseError, OSError) as error:
        why = _line(error)
        todo = "run this again once that is fixed; nothing was lost"
        if any(sign in why.lower() for sign in ("no space left", "quota", "code: 507")):
            todo = "free some space there, and run this again; nothing was lost"
        elif "Missing" in why or "credentials" in why.lower():
            todo = "set the credentials of the bucket in the environment, such as AWS_ACCESS_KEY_ID"
        elif "Permission denied" in why or "AccessDenied" in why or "code: 403" in why:
            todo = "give this user, or the credentials in the environment, the right to list, read, write and delete"
        raise BucketError(f"could not {doing} {place}", why=why, todo=todo) from None


def _line(error: BaseException) -> str:
    """The first line of an error, without markup and the storage's own debugging output."""
    text = str(error).partition("Debug source:")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)).strip()[:300] or type(error).__name__
