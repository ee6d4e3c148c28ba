"""Opening a zip or tar archive without believing it.

Nothing is ever extracted: a few small files are read, and everything else is measured.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

from ops.index.errors import InvalidArchive
from ops.index.packages.core_metadata import quoted
from ops.index.packages.filenames import Name

MAX_METADATA_BYTES = 8 * 1024**2
MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 * 1024**2
"""Of a zip archive's central directory, which is read as a whole."""
MAX_HEADER_BYTES = 1024**2
"""Of one extended header of a tar archive, likewise."""
MAX_COMPONENT_BYTES = 255
MAX_PATH_BYTES = 2048
"""File systems take no longer names, and few longer paths below the place where something is installed."""

BOMB_BYTES = 64 * 1024**2
BOMB_RATIO = 100
"""An archive that would unpack to more than both, this many bytes and this many times its own size, is refused."""

TESTED_BYTES = 256 * 1024**2
"""A zip archive that unpacks to no more is unpacked (to nowhere) to test its checksums: about a second at most."""

_BOMB = f"it would unpack to more than {BOMB_RATIO} times its size, as an archive bomb does; build it with less in it"
_TOO_MANY_MEMBERS = f"it has more than {MAX_MEMBERS} members; build it with fewer"
_TOO_LONG_A_LIST = f"its list of members takes more than {MAX_DIRECTORY_BYTES // 1024**2} MiB; build it with fewer"
_TOO_MUCH_METADATA = f"its core metadata is longer than {MAX_METADATA_BYTES // 1024**2} MiB; shorten its description"

_PIECE = 256 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What both pip and uv unpack."""

BROKEN: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    KeyError,
    IndexError,
    OverflowError,
)
"""What the standard library raises for archives that do not open."""


class OutOfBoundsError(Exception):
    """An archive is more work than was allowed. It may be a good one."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most work that may be done at once.

    Parameters:
        members: of the archive.
        unpacked_bytes: of all of them.
        read_bytes: of one file that is read, not measured.
        examined_bytes: of core metadata that is parsed.
    """

    members: int
    unpacked_bytes: int
    read_bytes: int
    examined_bytes: int

    def admit(self, bound: int, value: int) -> None:
        """Compare *value* with one of the bounds.

        Raises:
            OutOfBoundsError: it is more.
        """
        if value > bound:
            raise OutOfBoundsError


def is_zip(name: Name) -> bool:
    """Whether a file of this name is a zip archive."""
    return name.filename.endswith((".whl", ".zip", ".egg"))


def is_tar(name: Name) -> bool:
    """Whether a file of this name is a tar archive."""
    return not is_zip(name) and (name.form == "sdist" or name.filename.endswith((".gz", ".bz2", ".xz", ".tgz")))


class Zip:
    """A zip archive that is open.

    Parameters:
        archive: it.
        name: what its file name says.
        size: of the file, in bytes.
        bounds: of the work; None for those of any archive.
    """

    def __init__(self, archive: zipfile.ZipFile, name: Name, size: int, bounds: Bounds | None) -> None:
        self._archive = archive
        self._name = name
        self._size = size
        self._bounds = bounds
        self._members = archive.infolist()
        self.paths = [member.filename for member in self._members]

    def read(self, path: str, *, limit: int | None = None) -> bytes:
        """A member's content.

        Parameters:
            path: of the member.
            limit: bytes that it may have; None for those of core metadata.

        Raises:
            InvalidArchive: it has more, or is damaged.
        """
        member = self._archive.getinfo(path)
        most = MAX_METADATA_BYTES if limit is None else limit
        if member.file_size > most:
            why = f"its {quoted(path)} is longer than {most // 1024} KiB; shorten it"
            raise InvalidArchive(self._name.filename, _TOO_MUCH_METADATA if limit is None else why)
        if self._bounds is not None:
            self._bounds.admit(self._bounds.read_bytes, member.file_size)
        with self._archive.open(member) as stream:
            return stream.read(most)

    def check(self) -> None:
        """Look at the list of members.

        Raises:
            InvalidArchive: it would do harm, or installers do not unpack it.
            OutOfBoundsError: it is too long to be looked at here.
        """
        members, filename = self._members, self._name.filename
        if len(members) > MAX_MEMBERS:
            raise InvalidArchive(filename, _TOO_MANY_MEMBERS)
        if len(set(self.paths)) < len(members):
            raise InvalidArchive(filename, "two of its members have the same name; build it again")
        unpacked = 0
        for member in members:
            _check_path(self._name, member.orig_filename)
            if member.flag_bits & 0x1:
                raise InvalidArchive(filename, "it is encrypted, so installers cannot open it; build it without")
            if member.compress_type not in _COMPRESSIONS and self._name.form != "egg":
                raise InvalidArchive(
                    filename,
                    f"its member {quoted(member.filename)} is compressed in a way that uv does not know; "
                    "build it with no compression but deflate",
                )
            if member.header_offset + member.compress_size > self._size:
                raise InvalidArchive(filename, "it is cut short; build it again, or send it again")
            unpacked += member.file_size
        if unpacked > max(BOMB_BYTES, BOMB_RATIO * self._size):
            raise InvalidArchive(filename, _BOMB)
        check_tree(self._name, self.paths)
        if self._bounds is not None:
            self._bounds.admit(self._bounds.unpacked_bytes, unpacked)

    def test(self, *, but: Collection[str] = ()) -> None:
        """Read the members to their ends, where their checksums are compared; none when they are too long together.

        Parameters:
            but: members that are read otherwise.

        Raises:
            InvalidArchive: one of them is damaged.
        """
        if sum(member.file_size for member in self._members) > TESTED_BYTES:
            return
        for member in self._members:
            if member.filename in but:
                continue
            try:
                with self._archive.open(member) as stream:
                    while stream.read(_PIECE):
                        pass
            except zipfile.BadZipFile:
                raise InvalidArchive(
                    self._name.filename, f"its member {quoted(member.filename)} is damaged; build it again"
                ) from None


@contextmanager
def open_zip(file: BinaryIO, name: Name, *, strict: bool, bounds: Bounds | None = None) -> Iterator[Zip]:
    """A zip archive, which may have been looked at by nobody.

    Parameters:
        file: open for reading, and seekable.
        name: what its file name says.
        strict: refuse what stands before or after it, where uv finds no archive.
        bounds: of the work; None for those of any archive.

    Raises:
        InvalidArchive: its list of members is too long.
        OutOfBoundsError: it is longer than the bounds.
        Exception: any of ``BROKEN``: it does not open.
    """
    size = file.seek(0, io.SEEK_END)
    directory = _directory_bytes(file, size, strict=strict)
    if directory > MAX_DIRECTORY_BYTES:
        raise InvalidArchive(name.filename, _TOO_LONG_A_LIST)
    if bounds is not None:
        bounds.admit(bounds.members, directory // 46)  # each of them takes at least as many bytes
    with zipfile.ZipFile(file) as archive:
        yield Zip(archive, name, size, bounds)


def _directory_bytes(file: BinaryIO, size: int, *, strict: bool) -> int:
    """The size of a zip archive's central directory, before anything tries to read it."""
    tail_size = min(size, 22 + 0xFFFF)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise zipfile.BadZipFile("it is not a zip file, or is cut short")
    directory = int.from_bytes(tail[end + 12 : end + 16], "little")
    if directory == 0xFFFFFFFF and end >= 20:
        record = int.from_bytes(tail[end - 12 : end - 4], "little")  # the locator before it has the offset at 8
        file.seek(min(record, size))
        directory = int.from_bytes(file.read(56)[40:48], "little")
    if strict and directory <= MAX_DIRECTORY_BYTES:
        if end + 22 + int.from_bytes(tail[end + 20 : end + 22], "little") != len(tail):
            raise zipfile.BadZipFile("its end is not the end of the file")
        file.seek(0)
        if file.read(4) not in {b"PK\x03\x04", b"PK\x05\x06"}:
            raise zipfile.BadZipFile("its first member is not at the start of the file")
    return directory


def _check_path(name: Name, path: str) -> None:
    if "\0" in path or "\\" in path or path.startswith("/") or ".." in path.split("/") or path[1:2] == ":":
        raise InvalidArchive(name.filename, f"its member {quoted(path)} could be unpacked elsewhere; rename it")
    encoded = path.encode("utf-8", "surrogateescape")
    if len(encoded) > MAX_COMPONENT_BYTES and (
        len(encoded) > MAX_PATH_BYTES or any(len(part) > MAX_COMPONENT_BYTES for part in encoded.split(b"/"))
    ):
        raise InvalidArchive(name.filename, f"its member {quoted(path)} has too long a name; rename it")
    if name.form == "wheel" and _CONTROL.search(path) is not None:
        raise InvalidArchive(name.filename, f"its member {quoted(path)} has a control character in its name; rename it")


def check_tree(name: Name, paths: Iterable[str]) -> None:
    """Refuse a file that would have to be a folder as well: no installer can unpack both.

    Parameters:
        name: of the archive.
        paths: of its members; those of folders end in a slash.
    """
    previous = None
    for path in sorted(path.replace("/", "\0") for path in paths):  # so that what is below a path comes next to it
        if previous is not None and path.startswith(previous):
            both = previous[:-1].replace("\0", "/")
            why = f"its member {quoted(both)} is both a file and a folder; leave out one of them"
            raise InvalidArchive(name.filename, why)
        previous = None if path.endswith("\0") else f"{path}\0"


def _leads_outside(link: tarfile.TarInfo) -> bool:
    """Whether a link would leave the folder that it is unpacked to (PEP 706).

    By its text alone: Python's own filter asks this machine's file system, and is missing before 3.11.4.
    """
    start = posixpath.dirname(link.name.rstrip("/")) if link.issym() else ""
    target = posixpath.normpath(posixpath.join(start, link.linkname))
    return target.startswith("/") or target.split("/")[0] == ".."


class _Member(tarfile.TarInfo):
    """A member of a tar archive whose extended headers are short enough to be read as a whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("an extended header is too long")
        return member


class _Measured(io.RawIOBase):
    """What comes out of a decompressor, up to a limit."""

    def __init__(self, source: IO[bytes], name: Name, limit: int, bounds: Bounds | None) -> None:
        self._source = source
        self._name = name
        self._limit = limit
        self._bounds = bounds
        self._size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.read(size if 0 <= size <= _PIECE else _PIECE)
        self._size += len(piece)
        if self._size > self._limit:
            raise InvalidArchive(self._name.filename, _BOMB)
        if self._bounds is not None:
            self._bounds.admit(self._bounds.unpacked_bytes, self._size)
        return piece


@contextmanager
def _unpacked(file: BinaryIO, name: Name, bounds: Bounds | None) -> Iterator[_Measured]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    openers: dict[str, Callable[..., Any]] = {"bz2": bz2.open, ".xz": lzma.open}
    opener = openers.get(name.filename[-3:], gzip.open)
    with opener(file, "rb") as source:
        yield _Measured(source, name, max(BOMB_BYTES, BOMB_RATIO * size), bounds)


@dataclass(frozen=True, slots=True)
class Tar:
    """A tar archive that was read to its end, or to the file that was looked for.

    Parameters:
        files: the content of the regular files that were wanted, by path.
        paths: of all members; those of folders end in a slash.
    """

    files: dict[str, bytes]
    paths: list[str]


def read_tar(
    file: BinaryIO,
    name: Name,
    wanted: Callable[[str], bool],
    *,
    last: Callable[[str], bool] | None = None,
    bounds: Bounds | None = None,
) -> Tar:
    """Read a tar archive.

    Parameters:
        file: open for reading, and seekable.
        name: what its file name says.
        wanted: whether the content of a path is; of no more than 16 of them it is given.
        last: whether nothing after this wanted path matters; then nothing is checked either. None to look at the whole
            archive, to its last byte.
        bounds: of the work; None for those of any archive.

    Raises:
        InvalidArchive: it would do harm, or installers do not unpack it.
        OutOfBoundsError: it is longer than the bounds.
        Exception: any of ``BROKEN``: it does not open.
    """
    tar = Tar({}, [])
    with _unpacked(file, name, bounds) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_Member) as archive:
            for member in _members(archive, name, bounds):
                if last is None:
                    _check_tar_member(name, member)
                    tar.paths.append(f"{member.name}/" if member.isdir() else member.name)
                if member.isreg() and wanted(member.name) and len(tar.files) < 16:
                    if member.size > MAX_METADATA_BYTES:
                        raise InvalidArchive(name.filename, _TOO_MUCH_METADATA)
                    if bounds is not None:
                        bounds.admit(bounds.read_bytes, member.size)
                    content = archive.extractfile(member)
                    tar.files[member.name] = content.read() if content is not None else b""
                    if last is not None and last(member.name):
                        return tar
        while last is None and unpacked.read(_PIECE):
            pass  # the checksum stands at the end
    return tar


def _members(archive: tarfile.TarFile, name: Name, bounds: Bounds | None) -> Iterator[tarfile.TarInfo]:
    kept: list[tarfile.TarInfo] = vars(archive)["members"]  # every one that was read, unless they are dropped
    for count in range(MAX_MEMBERS):
        if bounds is not None:
            bounds.admit(bounds.members, count)
        member = archive.next()
        if member is None:
            return
        yield member
        kept.clear()
    raise InvalidArchive(name.filename, _TOO_MANY_MEMBERS)


def _check_tar_member(name: Name, member: tarfile.TarInfo) -> None:
    _check_path(name, member.name)
    if member.islnk() or member.issym():
        if _leads_outside(member):
            raise InvalidArchive(
                name.filename, f"its link {quoted(member.name)} points outside the archive; leave it out"
            )
    elif not (member.isreg() or member.isdir()):
        raise InvalidArchive(
            name.filename, f"its member {quoted(member.name)} is not a file, a folder or a link; leave it out"
        )
