"""Zip archives whose headers, list of members and end contradict each other."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from ops.index.errors import InvalidArchive
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import parse
from ops.index.packages.inspection import inspect
from tests.index.archives import wheel

GOOD = wheel("demo", "1.0", payload=b"x = 1\n")
DIRECTORY = GOOD.index(b"PK\x01\x02")
END = GOOD.rindex(b"PK\x05\x06")


def inspected(content: bytes) -> Contents:
    name = parse("demo-1.0-py3-none-any.whl")
    assert name is not None
    return inspect(io.BytesIO(content), name)


def changed(at: int, value: bytes) -> bytes:
    return GOOD[:at] + value + GOOD[at + len(value) :]


class OneWay(io.BytesIO):
    """An output that is not seekable, so that sizes and checksums follow each member."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def copied(output: io.BytesIO, *, comment: bytes = b"", zip64: bool = False) -> bytes:
    with zipfile.ZipFile(io.BytesIO(GOOD)) as source, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        for member in source.infolist():
            with archive.open(member.filename, "w", force_zip64=zip64) as stream:
                stream.write(source.read(member))
        if not comment:
            archive.writestr("demo/é.py", b"")
    return output.getvalue()


@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("output", [io.BytesIO, OneWay])
def test_archives_of_build_tools_are_accepted(output: type[io.BytesIO], *, zip64: bool) -> None:
    assert inspected(copied(output(), zip64=zip64)).name == "demo"


def test_a_comment_at_the_end_is_accepted() -> None:
    assert inspected(copied(io.BytesIO(), comment=b"built by hand")).name == "demo"


LONG_END = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, END - DIRECTORY, DIRECTORY) + struct.pack(
    "<4sIQI", b"PK\x06\x07", 0, END, 1
)


def test_a_zip64_end_is_accepted_unless_it_contradicts_the_short_one() -> None:
    short = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert inspected(GOOD[:END] + LONG_END + short).name == "demo"
    short = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 3, 3, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with pytest.raises(InvalidArchive, match="its end contradicts its list of members"):
        inspected(GOOD[:END] + LONG_END + short)


@pytest.mark.parametrize(
    "content",
    [
        GOOD + GOOD,
        GOOD[:DIRECTORY] + GOOD,
        changed(END + 8, struct.pack("<2H", 3, 3)),
        changed(END + 8, struct.pack("<2H", 99, 99)),
        changed(END + 12, struct.pack("<I", 46)),
        changed(END + 16, struct.pack("<I", 10)),
    ],
    ids=["two archives", "members that are not listed", "fewer", "more", "a shorter list", "a list elsewhere"],
)
def test_an_end_that_contradicts_the_archive_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArchive):
        inspected(content)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (4, b"\x63"),
        (6, b"\x01"),
        (6, b"\x08"),
        (8, b"\x00"),
        (14, b"abcd"),
        (18, b"\x00"),
        (22, b"\x63"),
        (30, b"other"),
        (DIRECTORY + 8, b"\x08"),
    ],
    ids=["version", "encrypted", "streamed", "method", "checksum", "packed", "size", "name", "listed as streamed"],
)
def test_a_header_that_contradicts_the_list_of_members_is_refused(at: int, value: bytes) -> None:
    with pytest.raises(InvalidArchive):
        inspected(changed(at, value))


def test_a_lie_about_what_follows_a_streamed_member_is_refused() -> None:
    content = copied(OneWay())
    at = content.index(b"PK\x07\x08") + 8
    with pytest.raises(InvalidArchive, match="is followed by something that belongs to no member"):
        inspected(content[:at] + b"\x7f" + content[at + 1 :])


def test_a_member_with_a_second_name_is_refused() -> None:
    path = "demo/plain.py"
    extra = struct.pack("<BI", 1, zlib.crc32(path.encode())) + b"demo/other.py"
    buffer = io.BytesIO(GOOD)
    with zipfile.ZipFile(buffer, "a") as archive:
        member = zipfile.ZipInfo(path)
        member.extra = struct.pack("<2H", 0x7075, len(extra)) + extra
        archive.writestr(member, b"")
    with zipfile.ZipFile(buffer) as archive:
        renamed = "demo/other.py" in archive.namelist()  # not by every version of Python
    if renamed:
        with pytest.raises(InvalidArchive, match="has two names"):
            inspected(buffer.getvalue())


def test_a_name_that_is_not_marked_as_utf_8_is_refused() -> None:
    buffer = io.BytesIO(GOOD)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("demo/XX.py", b"")
    with pytest.raises(InvalidArchive, match="has a name that is not marked as UTF-8"):
        inspected(buffer.getvalue().replace(b"XX", "é".encode()))
