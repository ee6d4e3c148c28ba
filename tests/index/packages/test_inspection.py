"""Distributions are inspected without trusting them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.index.errors import FieldMismatch, InvalidArchive
from ops.index.packages import archive
from ops.index.packages.core_metadata import Contents, read_header
from ops.index.packages.filenames import Name, parse
from ops.index.packages.inspection import check_agreement, inspect, look_into
from tests.index.archives import core_metadata, sdist, sdist_zip, wheel, wheel_name

WHEEL = "foo_bar-1.0-py3-none-any.whl"
SDIST = "foo_bar-1.0.tar.gz"


def name_of(filename: str) -> Name:
    name = parse(filename)
    assert name is not None
    return name


def inspected(filename: str, content: bytes) -> Contents:
    return inspect(io.BytesIO(content), name_of(filename))


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return sdist("foo-bar", "1.0", members=list(members))


def member(path: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def test_the_metadata_of_a_wheel_is_read_byte_for_byte() -> None:
    lines = "Requires-Python: >=3.8,\n        <4\nDynamic: License\n"
    contents = inspected(WHEEL, wheel("foo-bar", "1.0", lines=lines, body="Über alles\n"))
    assert contents.name == "foo-bar"
    assert contents.version == "1.0"
    assert contents.requires_python == ">=3.8, <4"
    assert contents.metadata == core_metadata("foo-bar", "1.0", lines=lines, body="Über alles\n")
    assert contents.static


@pytest.mark.parametrize(
    ("version", "lines", "static"),
    [
        ("2.2", "", True),
        ("2.4", "", True),
        ("2.9", "", True),
        ("2.1", "", False),
        ("1.2", "", False),
        ("2.4", "Dynamic: Requires-Dist\n", False),
    ],
)
def test_the_metadata_of_an_sdist_is_served_only_if_static(version: str, lines: str, *, static: bool) -> None:
    content = sdist("foo-bar", "1.0", lines=f"Requires-Python: >=3.9\n{lines}", metadata_version=version)
    contents = inspected(SDIST, content)
    assert contents.requires_python == ">=3.9"
    assert contents.metadata == core_metadata(
        "foo-bar", "1.0", lines=f"Requires-Python: >=3.9\n{lines}", metadata_version=version
    )
    assert contents.static is static


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_other_compressions_of_an_sdist_are_accepted(compress: Callable[[bytes], bytes]) -> None:
    suffix = "bz2" if compress is bz2.compress else "xz"
    content = compress(gzip.decompress(sdist("foo-bar", "1.0")))
    assert inspected(f"foo-bar-1.0.tar.{suffix}", content).name == "foo-bar"


def test_an_sdist_may_be_a_zip_file_and_an_old_one_in_another_folder() -> None:
    assert inspected("foo-bar-1.0.zip", sdist_zip("foo-bar", "1.0")).version == "1.0"
    assert inspected(SDIST, sdist("foo-bar", "1.0", folder="anything")).name == "foo-bar"


def test_an_egg_needs_no_metadata() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("foo/__init__.py", "")
    assert inspected("foo_bar-1.0-py3.8.egg", buffer.getvalue()) == Contents()
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("EGG-INFO/PKG-INFO", core_metadata("other", "1.0"))
    assert inspected("foo_bar-1.0-py3.8.egg", buffer.getvalue()).name == "other"


@pytest.mark.parametrize("missing", ["METADATA", "WHEEL", "RECORD"])
def test_a_wheel_that_installers_would_refuse_is_refused(missing: str) -> None:
    with pytest.raises(InvalidArchive, match=missing if missing != "METADATA" else "no core metadata"):
        inspected(WHEEL, wheel("foo-bar", "1.0", leave_out=missing))


def test_a_wheel_with_two_folders_of_metadata_is_refused_as_pip_does() -> None:
    with pytest.raises(InvalidArchive, match=r"second folder of metadata, 'other-1\.0\.dist-info'"):
        inspected(WHEEL, wheel("foo-bar", "1.0", more={"other-1.0.dist-info/x": b""}))
    inspected(WHEEL, wheel("foo-bar", "1.0", more={"foo_bar/vendored/other-1.0.dist-info/METADATA": b""}))


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"Name: foo-bar\n",
        b"Version: 1.0\n",
        b"\n\nName: foo-bar\nVersion: 1.0\n",
        b"no field\nName: foo-bar\nVersion: 1.0",
    ],
)
def test_metadata_without_name_or_version_is_refused(metadata: bytes) -> None:
    with pytest.raises(InvalidArchive, match="lacks Name or Version"):
        inspected(WHEEL, wheel("foo-bar", "1.0", metadata=metadata))


def test_an_invalid_requires_python_is_refused() -> None:
    with pytest.raises(InvalidArchive) as refused:
        inspected(WHEEL, wheel("foo-bar", "1.0", lines="Requires-Python: three\n"))
    assert str(refused.value) == (
        f"'{WHEEL}' was refused: the line 'Requires-Python: three' in 'foo_bar-1.0.dist-info/METADATA' is not valid "
        "(Invalid specifier: 'three'); write a version specifier (PEP 440) such as '>=3.9'"
    )


@pytest.mark.parametrize("filename", [WHEEL, SDIST, "foo-bar-1.0.zip", "foo-bar-1.0-py3.8.egg", "foo-1.0.tar.xz"])
@pytest.mark.parametrize("content", [b"", b"text\n" * 100, b"PK\x03\x04", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18])
def test_a_file_that_is_not_an_archive_is_refused(filename: str, content: bytes) -> None:
    opened = r"it cannot be opened as an? (wheel|sdist|egg) \(.+\); build it again$"
    with pytest.raises(InvalidArchive, match=f"was refused: ({opened}|its list of members takes more than 32 MiB)"):
        inspected(filename, content)


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        (WHEEL, wheel("foo-bar", "1.0", payload=bytes(range(256)) * 8)),
        (SDIST, sdist("foo-bar", "1.0", payload=bytes(range(256)) * 80)),
        ("foo-bar-1.0.zip", sdist_zip("foo-bar", "1.0")),
    ],
)
def test_an_archive_truncated_anywhere_is_refused(filename: str, content: bytes) -> None:
    inspected(filename, content)
    for length in range(0, len(content), 7):
        with pytest.raises(InvalidArchive):
            inspected(filename, content[:length])
    with pytest.raises(InvalidArchive):
        inspected(filename, content[:-1])


def test_a_wheel_with_a_damaged_member_is_refused() -> None:
    content = bytearray(wheel("foo-bar", "1.0", payload=bytes(range(256)) * 20))
    content[content.find(b"__init__.py") + 40] ^= 0xFF
    with pytest.raises(InvalidArchive):
        inspected(WHEEL, bytes(content))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "C:x"])
def test_a_member_that_would_be_unpacked_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidArchive):
        inspected(WHEEL, wheel("foo-bar", "1.0", more={path: b""}))
    with pytest.raises(InvalidArchive, match="elsewhere"):
        inspected(SDIST, tar(member(path)))


@pytest.mark.parametrize("path", ["foo_bar/.", ".", "a\x01b", "a\u202eb", "a\u200bb", "a\ue000b"])
def test_a_member_that_uv_does_not_unpack_is_refused(path: str) -> None:
    with pytest.raises(InvalidArchive, match="rename it"):
        inspected(WHEEL, wheel("foo-bar", "1.0", more={path: b""}))


@pytest.mark.parametrize("path", ["a b", "é", "\u3000", "\U0001f600", "a/./b", "a/.b"])
def test_an_unusual_member_name_is_accepted(path: str) -> None:
    assert inspected(WHEEL, wheel("foo-bar", "1.0", more={path: b""})).name == "foo-bar"


def test_a_member_name_with_a_nul_is_refused() -> None:
    content = wheel("foo-bar", "1.0", more={"nul-l": b""}).replace(b"nul-l", b"nul\0l")
    with pytest.raises(InvalidArchive, match="elsewhere"):
        inspected(WHEEL, content)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../x"),
        (tarfile.SYMTYPE, "a/../../../x"),
        (tarfile.SYMTYPE, "../.."),
        (tarfile.SYMTYPE, "../foo_bar-1.0/x"),
        (tarfile.LNKTYPE, "../x"),
        (tarfile.LNKTYPE, "/foo_bar-1.0/x"),
        (tarfile.CHRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_outside_the_archive_and_devices_are_refused(kind: bytes, target: str) -> None:
    with pytest.raises(InvalidArchive, match=r"outside the archive|not a file, a folder or a link"):
        inspected(SDIST, tar(member("foo_bar-1.0/x", type=kind, linkname=target)))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "data.bin"),
        (tarfile.SYMTYPE, "..data/x"),
        (tarfile.LNKTYPE, "foo_bar-1.0/data.bin"),
    ],
)
def test_a_link_inside_an_sdist_is_accepted(kind: bytes, target: str) -> None:
    inspected(SDIST, tar(member("foo_bar-1.0/x", type=kind, linkname=target)))


def test_a_link_in_place_of_the_metadata_is_not_followed() -> None:
    content = gzip.decompress(
        sdist(
            "x",
            "1",
            folder="y",
            members=[member("foo_bar-1.0/PKG-INFO", type=tarfile.SYMTYPE, linkname="y/PKG-INFO")],
        )
    )
    assert look_into(io.BytesIO(gzip.compress(content)), name_of(SDIST)).name == "x", "the only regular one"
    with pytest.raises(InvalidArchive, match="two folders at its root"):
        inspected(SDIST, gzip.compress(content))


@pytest.mark.parametrize("filename", [WHEEL, SDIST])
def test_an_archive_bomb_is_refused_without_unpacking_all_of_it(filename: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(20 * 1024**2)
    monkeypatch.setattr(archive, "BOMB_BYTES", 1024**2)
    content = wheel("foo-bar", "1.0", payload=zeros) if filename == WHEEL else sdist("foo-bar", "1.0", payload=zeros)
    del zeros
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive, match="more than 100 times its size"):
            inspected(filename, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024**2


def test_a_wheel_with_two_members_of_the_same_name_is_refused() -> None:
    buffer = io.BytesIO(wheel("foo-bar", "1.0"))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as opened:
        opened.writestr("foo_bar/__init__.py", "other")
    with pytest.raises(InvalidArchive, match="two of its members"):
        inspected(WHEEL, buffer.getvalue())


def test_a_zip_file_that_claims_an_endless_directory_is_refused_before_it_is_read() -> None:
    content = bytearray(wheel("foo-bar", "1.0"))
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 16] = (2**31).to_bytes(4, "little")
    with pytest.raises(InvalidArchive, match="its list of members takes more than 32 MiB"):
        inspected(WHEEL, bytes(content))


def test_a_tar_file_with_an_endless_header_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    info.size = 2**30
    with pytest.raises(InvalidArchive, match="too long"):
        inspected(SDIST, gzip.compress(info.tobuf() + bytes(4096)))


def test_too_long_metadata_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_METADATA_BYTES", 1000)
    with pytest.raises(InvalidArchive, match="its core metadata is longer"):
        inspected(WHEEL, wheel("foo-bar", "1.0", body="x" * 2000))
    with pytest.raises(InvalidArchive, match="its core metadata is longer"):
        inspected(SDIST, sdist("foo-bar", "1.0", lines="Summary: " + "x" * 2000))


def test_an_archive_with_too_many_members_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 50)
    with pytest.raises(InvalidArchive, match="members; build it with fewer"):
        inspected(WHEEL, wheel("foo-bar", "1.0", more={f"a{n}": b"" for n in range(60)}))
    with pytest.raises(InvalidArchive, match="members; build it with fewer"):
        inspected(SDIST, tar(*(member(f"foo_bar-1.0/a{n}") for n in range(60))))


def test_metadata_of_another_project_is_not_accepted() -> None:
    with pytest.raises(InvalidArchive, match=r"is 'other-1\.0\.dist-info', where installers look for 'foo_bar-1\.0\."):
        inspected(WHEEL, wheel("other", "1.0"))


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"name": "foo-bar", "version": "1.0"},
        {"name": "Foo.Bar", "version": "1.0.0"},
        {"name": "foo_bar", "version": "v1.0"},
        {"name": "", "version": ""},
        {"name": "FOO--bar", "version": "1.0.0"},
    ],
)
def test_names_and_versions_agree_in_any_spelling(form: dict[str, str]) -> None:
    check_agreement(name_of(WHEEL), "the form", form.get("name"), form.get("version"))


@pytest.mark.parametrize(
    ("project", "version"),
    [
        ("foo-baz", None),
        (None, "1.1"),
        ("../foo-bar", None),
        ("foo bar", None),
        (None, "one"),
        ("foo", "1.0"),
        ("foo-bar", "1.0+local"),
        ("foo-bar", "1.0.post1"),
    ],
)
def test_a_disagreement_is_refused(project: str | None, version: str | None) -> None:
    with pytest.raises(FieldMismatch, match="but the form says"):
        check_agreement(name_of(WHEEL), "the form", project, version)


def test_a_header_is_read_up_to_its_description() -> None:
    fields = read_header(b"A: 1\r\nb: 2\n  more\nB: 3\nno colon\n\nA: body\n").fields
    assert fields == {"a": ["1"], "b": ["2\n  more", "3"]}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_content_raises_an_unexpected_error(data: st.DataObject) -> None:
    """However bytes are changed, cut or inserted, the file is read or refused."""
    filename, content = data.draw(
        st.sampled_from(
            [
                (WHEEL, wheel("foo-bar", "1.0")),
                (SDIST, sdist("foo-bar", "1.0")),
                ("foo-bar-1.0.zip", sdist_zip("foo-bar", "1.0")),
                ("foo-bar-1.0.tgz", gzip.compress(data.draw(st.binary(max_size=2000)))),
                (wheel_name("foo-bar", "1.0"), data.draw(st.binary(max_size=300))),
            ]
        )
    )
    if filename == SDIST and data.draw(st.booleans()):
        unpacked = mutated(data, gzip.decompress(content))
        content = gzip.compress(unpacked, mtime=0)
    else:
        content = mutated(data, content)
    name = name_of(filename)
    look_into(io.BytesIO(content), name)
    with contextlib.suppress(InvalidArchive):
        assert inspect(io.BytesIO(content), name).name


def mutated(data: st.DataObject, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 6))):
        if not changed:
            break
        at = data.draw(st.integers(0, len(changed) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if action == "set":
            changed[at] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del changed[at : at + data.draw(st.integers(1, 200))]
        else:
            changed[at:at] = data.draw(st.binary(max_size=20))
    return bytes(changed)
