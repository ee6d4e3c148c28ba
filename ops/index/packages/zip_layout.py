"""Layout of a zip archive (APPNOTE.TXT 6.3): one member after the other, the list of them, and its end.

pip finds members by the central directory, uv by their local headers as they arrive. Where the two disagree, or hide
something between members, uv fails or installs other files than pip. The public index refuses such archives too.
"""

from __future__ import annotations

import struct
import zipfile
from operator import attrgetter
from typing import BinaryIO

from ops.index.packages.core_metadata import quoted

_HEADER = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64_BYTES = 20
_DESCRIPTORS = (struct.Struct("<4s3I"), struct.Struct("<4sI2Q"), struct.Struct("<3I"), struct.Struct("<I2Q"))
"""Data descriptors, with or without their optional signature."""

_ENCRYPTED, _DESCRIPTOR_FOLLOWS, _UTF_8 = 0x1, 0x8, 0x800
_MASKED, _MASKED_COUNT = 0xFFFFFFFF, 0xFFFF
"""Values replaced by those in a ZIP64 field."""
_NEWEST_VERSION = 63


class _ContradictionError(Exception):
    """A member contradicts the central directory. Its text has braces as a placeholder for the member."""


def check_layout(file: BinaryIO, archive: zipfile.ZipFile, directory_bytes: int) -> None:
    """Compare the headers of all members with the central directory, and the end of the archive with it.

    Parameters:
        file: the archive, open for reading, and seekable.
        archive: its central directory, as parsed by the standard library.
        directory_bytes: its length, from the end of the archive.

    Raises:
        zipfile.BadZipFile: they disagree, or there are bytes between them.
    """
    members = sorted(archive.infolist(), key=attrgetter("header_offset"))
    starts = [*(member.header_offset for member in members), archive.start_dir]
    if starts[0] != 0:
        raise zipfile.BadZipFile("its first member is not at the start of the file")
    for member, end in zip(members, starts[1:], strict=True):
        try:
            _check_member(file, member, end)
        except _ContradictionError as error:
            raise zipfile.BadZipFile(str(error).format(f"its member {quoted(member.filename)}")) from None
    file.seek(archive.start_dir + directory_bytes)
    _check_end(file.read(_END_64.size + _LOCATOR_64_BYTES + _END.size), len(members), archive.start_dir)


def _check_member(file: BinaryIO, member: zipfile.ZipInfo, end: int) -> None:
    problem = _problem(file, member, end)
    if problem:
        raise zipfile.BadZipFile(f"its member {quoted(member.filename)} {problem}")


def _problem(file: BinaryIO, member: zipfile.ZipInfo, end: int) -> str:
    wanted = (member.CRC, member.compress_size, member.file_size)
    listed_flags = member.flag_bits
    listed_name = member.orig_filename.encode("utf-8" if listed_flags & _UTF_8 else "cp437")
    if member.filename != member.orig_filename:
        return "has two names"
    file.seek(member.header_offset)
    header = file.read(_HEADER.size + len(listed_name))
    if len(header) < _HEADER.size or not header.startswith(b"PK\x03\x04"):
        return "has no header"
    _, version, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _HEADER.unpack_from(header)
    if name_bytes != len(listed_name) or header[_HEADER.size :] != listed_name:
        return "has another name in its header"
    if not listed_flags & _UTF_8 and not listed_name.isascii():
        return "has a name that is not marked as UTF-8"
    described = flags & _DESCRIPTOR_FOLLOWS
    contradicts = version & 0xFF > _NEWEST_VERSION or method != member.compress_type
    contradicts = contradicts or bool((flags ^ listed_flags) & (_ENCRYPTED | _DESCRIPTOR_FOLLOWS))
    if (crc, packed, size) != wanted:
        size, packed = _sizes(size, packed, file.read(extra_bytes))
        pending = (0, _MASKED) if described else ()  # placeholders for a value that follows the member
        found = zip((crc, packed, size), wanted, strict=True)
        contradicts = contradicts or any(one not in {other, *pending} for one, other in found)
    if contradicts:
        return "has a header that contradicts the list of members"
    start = member.header_offset + len(header) + extra_bytes + member.compress_size
    if described:
        file.seek(start)
        fits = _is_descriptor(file.read(max(0, min(end - start, _END_64.size))), wanted)
    else:
        fits = start == end
    return "" if fits else "is followed by something that belongs to no member"


def _sizes(size: int, packed: int, extra: bytes) -> tuple[int, int]:
    """The sizes of a local header, from its ZIP64 field where they are masked."""
    if _MASKED not in {size, packed}:
        return size, packed
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1 and length >= 16 and len(extra) >= 20:
            long_size, long_packed = struct.unpack_from("<2Q", extra, 4)
            return (long_size if size == _MASKED else size), (long_packed if packed == _MASKED else packed)
        extra = extra[4 + length :]
    return size, packed


def _is_descriptor(content: bytes, wanted: tuple[int, int, int]) -> bool:
    for layout in _DESCRIPTORS:
        if len(content) == layout.size:
            values = layout.unpack(content)
            if values[-3:] == wanted and (len(values) == 3 or values[0] == b"PK\x07\x08"):
                return True
    return False


def _check_end(tail: bytes, members: int, start: int) -> None:
    """Compare the end of the archive, everything after the central directory, with it."""
    counted = offset = None
    if tail.startswith(b"PK\x06\x06") and len(tail) > _END_64.size + _LOCATOR_64_BYTES:
        *_, counted, _, offset = _END_64.unpack_from(tail)
        tail = tail[_END_64.size + _LOCATOR_64_BYTES :]
    if len(tail) < _END.size or not tail.startswith(b"PK\x05\x06"):
        raise zipfile.BadZipFile("there is something between its list of members and its end")
    _, _, _, here, total, _, short_offset, _ = _END.unpack_from(tail)
    counts = {count for count in (here, total) if counted is None or count != _MASKED_COUNT} | {counted or members}
    offsets = {
        short_offset if offset is None or short_offset != _MASKED else offset,
        start if offset is None else offset,
    }
    if counts != {members} or offsets != {start}:
        raise zipfile.BadZipFile("its end contradicts its list of members")
