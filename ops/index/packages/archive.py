"""Zip and tar archives from untrusted sources.

Nothing is extracted: a few small files are read, everything else is only measured.
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
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

from ops.index.errors import InvalidArchive
from ops.index.packages.core_metadata import MAX_METADATA_BYTES, quoted
from ops.index.packages.filenames import Name
from ops.index.packages.zip_layout import check_layout

MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 * 1024**2
"""Longest central directory of a zip archive, which is read as a whole."""
MAX_HEADER_BYTES = 1024**2
"""Longest extended header of a tar archive, which is read as a whole."""
MAX_COMPONENT_BYTES = 255
MAX_PATH_BYTES = 2048
"""File systems allow no longer names, and few allow longer paths once an installation prefix is added."""

BOMB_BYTES = 64 * 1024**2
BOMB_RATIO = 100
"""An archive is refused if it unpacks to more than ``BOMB_BYTES`` and to more than this many times its own size."""

TESTED_BYTES = 256 * 1024**2
"""Zip archives that unpack to at most this size have their checksums tested, which takes a second at most."""

_BOMB = f"it would unpack to more than {BOMB_RATIO} times its size, as an archive bomb does; build it with less in it"
_TOO_MANY_MEMBERS = f"it has more than {MAX_MEMBERS} members; build it with fewer"
_TOO_LONG_A_LIST = f"its list of members takes more than {MAX_DIRECTORY_BYTES // 1024**2} MiB; build it with fewer"
_TOO_MUCH_METADATA = f"its core metadata is longer than {MAX_METADATA_BYTES // 1024**2} MiB; shorten its description"

_PIECE = 256 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSAFE_IN_TAR = re.compile(r"[\x00-\x1f\x7f:]| (?:/|\Z)")
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that both pip and uv unpack."""

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
"""Exceptions that the standard library raises for archives that do not open."""


class OutOfBoundsError(Exception):
    """An archive that takes more work to inspect than allowed. It may be valid."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds on the work of one inspection.

    Parameters:
        members: number of members of the archive.
        unpacked_bytes: total size of all members.
        read_bytes: size of one member that is read, not just measured.
        examined_bytes: length of the core metadata fields that are parsed.
    """

    members: int
    unpacked_bytes: int
    read_bytes: int
    examined_bytes: int

    def check(self, bound: int, value: int) -> None:
        """Check *value* against one of the bounds.

        Raises:
            OutOfBoundsError: it is larger.
        """
        if value > bound:
            raise OutOfBoundsError


def is_zip(name: Name) -> bool:
    """True if a file of this name is a zip archive."""
    return name.filename.endswith((".whl", ".zip", ".egg"))


def is_tar(name: Name) -> bool:
    """True if a file of this name is a tar archive."""
    return not is_zip(name) and (name.form == "sdist" or name.filename.endswith((".gz", ".bz2", ".xz", ".tgz")))


@dataclass(frozen=True, slots=True)
class Archive:
    """The parts of an archive that were read.

    Parameters:
        files: content of the requested regular files, by path.
        paths: all members; those of folders end in a slash.
    """

    files: dict[str, bytes]
    paths: list[str]


def read_zip(
    file: BinaryIO,
    name: Name,
    choose: Callable[[list[str]], Mapping[str, int | None]],
    *,
    check: bool = True,
    bounds: Bounds | None = None,
) -> Archive:
    """Read a zip archive.

    Parameters:
        file: open for reading, and seekable.
        name: parsed from its file name.
        choose: given all paths, returns those to read with their maximum sizes; None for the limit of core
            metadata.
        check: examine the list of members and test every checksum, unless the archive unpacks to more than
            ``TESTED_BYTES``. Except in eggs, also refuse bytes before or after the archive, as uv does.
        bounds: on the work; None for the limits of any archive.

    Raises:
        InvalidArchive: it is harmful or damaged, or installers cannot unpack it.
        OutOfBoundsError: it exceeds the bounds.
        Exception: any of ``BROKEN`` if it does not open.
    """
    size = file.seek(0, io.SEEK_END)
    directory = _directory_bytes(file, size, strict=check and name.form != "egg")
    if directory > MAX_DIRECTORY_BYTES:
        raise InvalidArchive(name.filename, _TOO_LONG_A_LIST)
    if bounds is not None:
        bounds.check(bounds.members, directory // 46)  # each member takes at least that many bytes
    with zipfile.ZipFile(file) as archive:
        paths = archive.namelist()
        if check:
            _check_zip(archive, name, size, bounds)
            if name.form != "egg":
                check_layout(file, archive, directory)
        chosen = choose(paths)
        if check:
            _test_zip(archive, name, but=chosen)
        return Archive({path: _read_member(archive, name, path, chosen[path], bounds) for path in chosen}, paths)


def _read_member(archive: zipfile.ZipFile, name: Name, path: str, limit: int | None, bounds: Bounds | None) -> bytes:
    member = archive.getinfo(path)
    most = MAX_METADATA_BYTES if limit is None else limit
    if member.file_size > most:
        why = f"its {quoted(path)} is longer than {most // 1024} KiB; shorten it"
        raise InvalidArchive(name.filename, _TOO_MUCH_METADATA if limit is None else why)
    if bounds is not None:
        bounds.check(bounds.read_bytes, member.file_size)
    with archive.open(member) as stream:
        return stream.read(most)


def _check_zip(archive: zipfile.ZipFile, name: Name, size: int, bounds: Bounds | None) -> None:
    """Refuse a list of members that is harmful, or that installers do not unpack."""
    members, filename = archive.infolist(), name.filename
    if len(members) > MAX_MEMBERS:
        raise InvalidArchive(filename, _TOO_MANY_MEMBERS)
    if len(archive.NameToInfo) < len(members):
        raise InvalidArchive(filename, "two of its members have the same name; build it again")
    unpacked = 0
    for member in members:
        _check_path(name, member.orig_filename)
        if member.flag_bits & 0x1:
            raise InvalidArchive(filename, "it is encrypted, so installers cannot open it; build it without")
        if member.compress_type not in _COMPRESSIONS and name.form != "egg":
            raise InvalidArchive(
                filename,
                f"its member {quoted(member.filename)} is compressed in a way that uv does not know; "
                "build it with no compression but deflate",
            )
        if member.header_offset + member.compress_size > size:
            raise InvalidArchive(filename, "it is cut short; build it again, or send it again")
        unpacked += member.file_size
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * size):
        raise InvalidArchive(filename, _BOMB)
    check_tree(name, archive.namelist())
    if bounds is not None:
        bounds.check(bounds.unpacked_bytes, unpacked)


def _test_zip(archive: zipfile.ZipFile, name: Name, *, but: Container[str]) -> None:
    """Read the members to their ends, which compares their checksums, except those that are read anyway."""
    members = archive.infolist()
    if sum(member.file_size for member in members) > TESTED_BYTES:
        return
    for member in members:
        if member.filename in but:
            continue
        try:
            with archive.open(member) as stream:
                while stream.read(_PIECE):
                    pass
        except zipfile.BadZipFile:
            raise InvalidArchive(
                name.filename, f"its member {quoted(member.filename)} is damaged; build it again"
            ) from None


def _directory_bytes(file: BinaryIO, size: int, *, strict: bool) -> int:
    """The size of a zip archive's central directory, found without reading it."""
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
    if name.form == "wheel" and _has_control(path):
        raise InvalidArchive(name.filename, f"its member {quoted(path)} has a control character in its name; rename it")
    if name.form == "wheel" and path.rpartition("/")[2] == ".":
        raise InvalidArchive(name.filename, f"its member {quoted(path)} has the name of a folder; rename it")


def _has_control(path: str) -> bool:
    """True if a path has a control, format or private-use character, which uv does not unpack."""
    if path.isascii():
        return _CONTROL.search(path) is not None
    return any(unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs"} for character in path)


def check_tree(name: Name, paths: Iterable[str]) -> None:
    """Refuse a path that is both a file and a folder: no installer can unpack both.

    Parameters:
        name: of the archive.
        paths: all members; those of folders end in a slash.
    """
    previous = None
    for path in sorted(path.replace("/", "\0") for path in paths):  # sorts the content of a folder right after it
        if previous is not None and path.startswith(previous):
            both = previous[:-1].replace("\0", "/")
            why = f"its member {quoted(both)} is both a file and a folder; leave out one of them"
            raise InvalidArchive(name.filename, why)
        previous = None if path.endswith("\0") else f"{path}\0"


def _leads_outside(link: tarfile.TarInfo) -> bool:
    """True if a link points outside the folder that it is unpacked to (PEP 706); pip strips the root folder.

    Judged by its text alone: Python's own filter consults this machine's file system, and is missing before 3.11.4.
    """
    start = posixpath.dirname(link.name.rstrip("/")).partition("/")[2] if link.issym() else ""
    target = posixpath.normpath(posixpath.join(start, link.linkname))
    return target.startswith("/") or target.split("/")[0] == ".."


def _is_plain_link(link: tarfile.TarInfo) -> bool:
    """True if uv unpacks a symbolic link: its target has ``..`` only at the start, and is not the link itself."""
    parts = link.linkname.removeprefix("./").split("/")
    while parts and parts[0] == "..":
        parts = parts[1:]
    if ".." in parts or (parts and not parts[-1]) or "\\" in link.linkname:
        return False
    itself = posixpath.normpath(posixpath.join(posixpath.dirname(link.name), link.linkname))
    return itself != link.name and all(
        len(part.encode("utf-8", "surrogateescape")) <= MAX_COMPONENT_BYTES for part in parts
    )


class _Member(tarfile.TarInfo):
    """A tar member that refuses extended headers too long to be read as a whole, and damaged ones.

    The standard library mistakes a damaged header for the end of the archive, unless it is the first.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]  # stubs say Self
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # not in the type stubs
                raise
            raise tarfile.ReadError("a header is damaged, or the end of the archive is missing") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # Called by every release of tarfile; the constructor it uses before has changed within minor versions.
        if self.type in _EXTENDED and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("an extended header is too long")
        processed: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # not in the type stubs
        return processed


class _Measured(io.RawIOBase):
    """The output of a decompressor, up to a limit."""

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
            self._bounds.check(self._bounds.unpacked_bytes, self._size)
        return piece


@contextmanager
def _unpacked(file: BinaryIO, name: Name, bounds: Bounds | None) -> Iterator[_Measured]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    openers: dict[str, Callable[..., Any]] = {"bz2": bz2.open, ".xz": lzma.open}
    opener = openers.get(name.filename[-3:], gzip.open)
    with opener(file, "rb") as source:
        yield _Measured(source, name, max(BOMB_BYTES, BOMB_RATIO * size), bounds)


def read_tar(
    file: BinaryIO,
    name: Name,
    wanted: Callable[[str], bool],
    *,
    last: Callable[[str], bool] | None = None,
    bounds: Bounds | None = None,
) -> Archive:
    """Read a tar archive.

    Parameters:
        file: open for reading, and seekable.
        name: parsed from its file name.
        wanted: selects the paths to read; at most 16 are read.
        last: true for a wanted path that is the last one needed: reading stops there, and nothing is checked.
            None to check the whole archive, to its last byte.
        bounds: on the work; None for the limits of any archive.

    Raises:
        InvalidArchive: it is harmful, or installers cannot unpack it.
        OutOfBoundsError: it exceeds the bounds.
        Exception: any of ``BROKEN`` if it does not open.
    """
    tar = Archive({}, [])
    regular: set[str] = set()
    with _unpacked(file, name, bounds) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_Member) as archive:
            for member in _members(archive, name, bounds):
                if last is None:
                    _check_tar_member(name, member, regular)
                    if member.isreg():
                        regular.add(member.name)
                    tar.paths.append(f"{member.name}/" if member.isdir() else member.name)
                if member.isreg() and wanted(member.name) and len(tar.files) < 16:
                    if member.size > MAX_METADATA_BYTES:
                        raise InvalidArchive(name.filename, _TOO_MUCH_METADATA)
                    if bounds is not None:
                        bounds.check(bounds.read_bytes, member.size)
                    content = archive.extractfile(member)
                    tar.files[member.name] = content.read() if content is not None else b""
                    if last is not None and last(member.name):
                        return tar
        while last is None and unpacked.read(_PIECE):
            pass  # the checksum is at the end
    return tar


def _members(archive: tarfile.TarFile, name: Name, bounds: Bounds | None) -> Iterator[tarfile.TarInfo]:
    kept: list[tarfile.TarInfo] = vars(archive)["members"]  # tarfile keeps every member it has read
    for count in range(MAX_MEMBERS):
        if bounds is not None:
            bounds.check(bounds.members, count)
        member = archive.next()
        if member is None:
            return
        yield member
        kept.clear()
    raise InvalidArchive(name.filename, _TOO_MANY_MEMBERS)


def _check_tar_member(name: Name, member: tarfile.TarInfo, files: Container[str]) -> None:
    """Refuse a member that pip or uv does not unpack.

    Parameters:
        name: of the archive.
        member: of the archive.
        files: the paths of regular files before it.
    """
    shown = quoted(member.name)
    _check_path(name, member.name)
    if _UNSAFE_IN_TAR.search(member.name) is not None:
        why = "has a colon, a control character or a space at the end of its name, which uv refuses; rename it"
        raise InvalidArchive(name.filename, f"its member {shown} {why}")
    if member.name.rpartition("/")[2] == "." and not member.isdir():
        raise InvalidArchive(name.filename, f"its member {shown} has the name of a folder; rename it")
    if member.size < 0:
        raise InvalidArchive(name.filename, f"its member {shown} has a negative size; build it again")
    if member.islnk() or member.issym():
        if _leads_outside(member):
            raise InvalidArchive(name.filename, f"its link {shown} points outside the archive; leave it out")
        if member.linkname not in files if member.islnk() else not _is_plain_link(member):
            raise InvalidArchive(
                name.filename, f"its link {shown} to {quoted(member.linkname)} cannot be unpacked by uv; leave it out"
            )
    elif not (member.isreg() or member.isdir()):
        raise InvalidArchive(
            name.filename, f"its member {quoted(member.name)} is not a file, a folder or a link; leave it out"
        )
