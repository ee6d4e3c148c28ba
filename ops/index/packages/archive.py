"""Opening a zip or tar archive without believing it.

Nothing is ever extracted: only the core metadata is read, and everything else is measured.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO

from ops.index.errors import InvalidArchive
from ops.index.packages.names import Name, canonical_version, normalize

MAX_METADATA_BYTES = 8 * 1024**2
MAX_MEMBERS = 200_000
MAX_DIRECTORY_BYTES = 32 * 1024**2
"""Of a zip archive's central directory, which is read as a whole."""
MAX_HEADER_BYTES = 1024**2
"""Of one extended header of a tar archive, likewise."""

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
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")
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


def read_metadata(file: BinaryIO, name: Name, *, thorough: bool) -> bytes | None:
    """The core metadata in an archive; None when it has none.

    Parameters:
        file: open for reading, and seekable.
        name: what its file name says.
        thorough: look at the whole archive, to its last byte.

    Raises:
        InvalidArchive: the archive would do harm.
        Exception: any of ``BROKEN``: it does not open.
    """
    file.seek(0)
    if name.filename.endswith((".whl", ".zip", ".egg")):
        return _from_zip(file, name, thorough=thorough)
    if name.form == "sdist" or name.filename.endswith((".gz", ".bz2", ".xz", ".tgz")):
        return _from_tar(file, name, thorough=thorough)
    return None


def _from_zip(file: BinaryIO, name: Name, *, thorough: bool) -> bytes | None:
    size = file.seek(0, io.SEEK_END)
    if _directory_bytes(file, size) > MAX_DIRECTORY_BYTES:
        raise InvalidArchive(name.filename, _TOO_LONG_A_LIST)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if thorough:
            _check_members(name, members, size)
        found = _pick(name, [member.filename for member in members])
        if found is None:
            return None
        wanted = archive.getinfo(found)
        if wanted.file_size > MAX_METADATA_BYTES:
            raise InvalidArchive(name.filename, _TOO_MUCH_METADATA)
        if thorough and sum(member.file_size for member in members) <= TESTED_BYTES:
            for member in members:
                if member is not wanted:
                    _test(name, archive, member)
        with archive.open(wanted) as stream:
            return stream.read(MAX_METADATA_BYTES)


def _test(name: Name, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Read a member to its end, where its checksum is compared."""
    try:
        with archive.open(member) as stream:
            while stream.read(_PIECE):
                pass
    except zipfile.BadZipFile:
        raise InvalidArchive(
            name.filename, f"its member {member.filename[:200]!r} is damaged; build it again"
        ) from None


def _directory_bytes(file: BinaryIO, size: int) -> int:
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
    return directory


def _check_members(name: Name, members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise InvalidArchive(name.filename, _TOO_MANY_MEMBERS)
    if len({member.filename for member in members}) < len(members):
        raise InvalidArchive(name.filename, "two of its members have the same name; build it again")
    unpacked = 0
    for member in members:
        _check_path(name, member.orig_filename)
        if member.flag_bits & 0x1:
            raise InvalidArchive(name.filename, "it is encrypted, so installers cannot open it; build it without")
        if member.header_offset + member.compress_size > size:
            raise InvalidArchive(name.filename, "it is cut short; build it again, or send it again")
        unpacked += member.file_size
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * size):
        raise InvalidArchive(name.filename, _BOMB)


def _check_path(name: Name, path: str) -> None:
    if "\0" in path or "\\" in path or path.startswith("/") or ".." in path.split("/") or path[1:2] == ":":
        raise InvalidArchive(name.filename, f"its member {path[:200]!r} could be unpacked elsewhere; rename it")


def _pick(name: Name, members: list[str]) -> str | None:
    """Which of the members has the core metadata."""
    if name.form == "egg":
        return next((member for member in members if member == "EGG-INFO/PKG-INFO"), None)
    if name.filename.endswith(".whl"):
        folders = [member.removesuffix("/METADATA") for member in members if member.endswith(".dist-info/METADATA")]
        folders = [
            folder for folder in folders if "/" not in folder and _is_of(name, folder.removesuffix(".dist-info"))
        ]
        if len(folders) != 1:
            return None
        others = {top for member in members if (top := member.partition("/")[0]).endswith(".dist-info")} - {*folders}
        if name.form == "wheel" and others:
            second = min(others)[:200]
            raise InvalidArchive(name.filename, f"it has a second folder of metadata, {second!r}; pip would refuse it")
        for needed in ("WHEEL", "RECORD"):
            if name.form == "wheel" and f"{folders[0]}/{needed}" not in members:
                raise InvalidArchive(name.filename, f"it has no {needed} file (PEP 427); build it again")
        return f"{folders[0]}/METADATA"
    return _pick_of_sdist(name, [member for member in members if _is_root_metadata(member)])


def _is_root_metadata(member: str) -> bool:
    return member.endswith("/PKG-INFO") and member.removeprefix("./").count("/") == 1


def _pick_of_sdist(name: Name, candidates: list[str]) -> str | None:
    """The PKG-INFO in the folder ``name-version``, or the only one there is."""
    named = [member for member in candidates if _is_of(name, member.removeprefix("./").removesuffix("/PKG-INFO"))]
    found = named or candidates
    return found[0] if len(found) == 1 else None


def _is_of(name: Name, stem: str) -> bool:
    """Whether *stem* is a spelling of the project and the version."""
    project, _, version = stem.rpartition("-")
    return normalize(project) == name.project and canonical_version(version) == canonical_version(name.version)


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

    def __init__(self, source: IO[bytes], name: Name, limit: int) -> None:
        self._source = source
        self._name = name
        self._left = limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.read(size if 0 <= size <= _PIECE else _PIECE)
        self._left -= len(piece)
        if self._left < 0:
            raise InvalidArchive(self._name.filename, _BOMB)
        return piece


@contextmanager
def _unpacked(file: BinaryIO, name: Name) -> Iterator[_Measured]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    openers: dict[str, Callable[..., Any]] = {"bz2": bz2.open, ".xz": lzma.open}
    opener = openers.get(name.filename[-3:], gzip.open)
    with opener(file, "rb") as source:
        yield _Measured(source, name, max(BOMB_BYTES, BOMB_RATIO * size))


def _from_tar(file: BinaryIO, name: Name, *, thorough: bool) -> bytes | None:
    found: dict[str, bytes] = {}
    with _unpacked(file, name) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_Member) as archive:
            for member in _members(archive, name):
                if thorough:
                    _check_tar_member(name, member)
                if member.isreg() and _is_root_metadata(member.name) and len(found) < 16:
                    if member.size > MAX_METADATA_BYTES:
                        raise InvalidArchive(name.filename, _TOO_MUCH_METADATA)
                    content = archive.extractfile(member)
                    found[member.name] = content.read() if content is not None else b""
                    if not thorough and _is_of(name, PurePosixPath(member.name).parts[0]):
                        return found[member.name]
        while thorough and unpacked.read(_PIECE):
            pass  # the checksum stands at the end
    picked = _pick_of_sdist(name, list(found))
    return None if picked is None else found[picked]


def _members(archive: tarfile.TarFile, name: Name) -> Iterator[tarfile.TarInfo]:
    kept: list[tarfile.TarInfo] = vars(archive)["members"]  # every one that was read, unless they are dropped
    for _ in range(MAX_MEMBERS):
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
                name.filename, f"its link {member.name[:200]!r} points outside the archive; leave it out"
            )
    elif not (member.isreg() or member.isdir()):
        raise InvalidArchive(
            name.filename, f"its member {member.name[:200]!r} is not a file, a folder or a link; leave it out"
        )
