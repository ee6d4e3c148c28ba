"""A wheel that pip or uv cannot install is refused. Their behaviour was tested with pip 26.3 and uv 0.13.9."""

from __future__ import annotations

import io
import zipfile

import pytest

from ops.index.errors import InvalidArchive
from ops.index.packages import wheel as wheels
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name, parse
from ops.index.packages.inspection import inspect
from tests.index.archives import core_metadata, wheel, wheel_name

WHEEL = "foo_bar-1.0-py3-none-any.whl"


def name_of(filename: str) -> Name:
    name = parse(filename)
    assert name is not None
    return name


def inspected(content: bytes, filename: str = WHEEL) -> Contents:
    return inspect(io.BytesIO(content), name_of(filename))


def in_folder(folder: str, metadata: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{folder}/METADATA", metadata)
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{folder}/RECORD", f"{folder}/RECORD,,\n")
    return buffer.getvalue()


def replaced(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(wheel("foo-bar", "1.0"))) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for path in old.namelist():
            if not path.endswith(f"/{name}"):
                new.writestr(path, old.read(path))
        new.writestr(f"foo_bar-1.0.dist-info/{name}", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("filename", "folder", "name", "version"),
    [
        (WHEEL, "foo_bar-1.0.dist-info", "foo-bar", "1.0"),
        (WHEEL, "Foo.Bar-1.0.dist-info", "Foo.Bar", "1.0"),
        (WHEEL, "FOO__BAR-1.0.0.dist-info", "foo-bar", "1.0"),
        (WHEEL, "foo_bar-v1.0.dist-info", "foo-bar", "v1.0"),
        ("Foo.Bar-1.00-1abc-py2.py3-none-any.whl", "Foo.Bar-1.00.dist-info", "Foo.Bar", "1.00"),
        ("foo-1.0.post1-py3-none-any.whl", "foo-1.0-1.dist-info", "foo", "1.0-1"),
        ("foo-1!1.0-py3-none-any.whl", "foo-1!1.0.dist-info", "foo", "1!1.0"),
        ("foo-1.0+abc_1-py3-none-any.whl", "foo-1.0+abc_1.dist-info", "foo", "1.0+abc.1"),
        ("foo-1.0rc1-py3-none-any.whl", "foo-1.0.rc1.dist-info", "foo", "1.0.RC1"),
    ],
)
def test_metadata_folders_in_every_spelling_known_to_installers_are_accepted(
    filename: str, folder: str, name: str, version: str
) -> None:
    assert inspected(in_folder(folder, core_metadata(name, version)), filename).version == version


@pytest.mark.parametrize(
    "folder",
    [
        "foo-bar-1.0.dist-info",
        "foo_bar-2.0.dist-info",
        "foo_bar.dist-info",
        "foo_barley-1.0.dist-info",
        "other-1.0.dist-info",
        f"foo_bar-{'9' * 100}.dist-info",
    ],
)
def test_a_metadata_folder_that_installers_ignore_is_refused_with_the_expected_name(folder: str) -> None:
    with pytest.raises(InvalidArchive, match=rf"'{folder}', where installers look for 'foo_bar-1\.0\.dist-info'"):
        inspected(in_folder(folder, core_metadata("foo-bar", "1.0")))


@pytest.mark.parametrize("folder", ["foo_bar-1.0.DIST-INFO", "x/foo_bar-1.0.dist-info"])
def test_other_folders_are_not_metadata(folder: str) -> None:
    with pytest.raises(InvalidArchive, match="no core metadata"):
        inspected(in_folder(folder, core_metadata("foo-bar", "1.0")))


@pytest.mark.parametrize(
    "content",
    [
        b"Root-Is-Purelib: true\n",
        b"\nWheel-Version: 1.0\n",
        b"garbage\nWheel-Version: 1.0\n",
        b"Wheel-Version: 2.0\n",
        b"Wheel-Version: x\n",
        b"Wheel-Version: 1\n",
        b"wheel-version: 1.0\n",
        b"Wheel-Version: 1." + b"9" * 5000,
        b"Wheel-Version: 1.0\nX: \xe9\n",
    ],
)
def test_an_invalid_wheel_file_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArchive, match="WHEEL"):
        inspected(replaced("WHEEL", content))


@pytest.mark.parametrize(
    "content", [b"Wheel-Version: 1.0\n", b"Wheel-Version: 1.9\nTag: a-b-c\n", b"Wheel-Version: 0.1\n"]
)
def test_a_minimal_wheel_file_is_accepted(content: bytes) -> None:
    inspected(replaced("WHEEL", content))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a.py,,\n\n", 2),
        (b"\na.py,,\n", 1),
        (b"a.py,sha256=x,3,more\n", 1),
        (b"a.py\n", 1),
        (b"a.py,sha256=x,many\n", 1),
        (b"a.py,sha256=x,-1\n", 1),
        (b"a.py,sha256=x," + b"9" * 30 + b"\n", 1),
        (b"a,b.py,sha256=x,3\n", 1),
        (b'"a.py,,\nb.py,,\n', 2),
        (b"a.py,,\n\xe9.py,,\n", 2),
        (b"a" * 140_000 + b",,\n", 1),
    ],
)
def test_a_record_that_pip_or_uv_cannot_parse_is_refused_with_its_line(content: bytes, line: int) -> None:
    with pytest.raises(InvalidArchive, match=f"line {line} of its RECORD"):
        inspected(replaced("RECORD", content))


@pytest.mark.parametrize(
    "content", [b"x", b"a.py,,\n", b'"a,b.py",sha256=x,3\n', b"gone.py,md5=x,\r\n", b"a.py,,\na.py,,\n"]
)
def test_a_record_that_disagrees_with_the_archive_is_accepted_as_installers_do(content: bytes) -> None:
    inspected(replaced("RECORD", b"" if content == b"x" else content))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("d = demo:main\n", 1),
        ("[console_scripts]\nd\n", 2),
        ("[console_scripts]\nd = demo\n", 2),
        ("[console_scripts]\n# c\nd = demo : main\n", 3),
        ("[console_scripts]\nd = demo:main() --x\n", 2),
        ("[console_scripts]\nd = demo:main [a\n", 2),
        ("[console_scripts]\nd = de-mo:main\n", 2),
        ("[console_scripts]\n../d = demo:main\n", 2),
        ("[console_scripts]\na/d = demo:main\n", 2),
        ("[console_scripts]\n.. = demo:main\n", 2),
        ("[console_scripts]\nd = demo:main\nd = demo:other\n", 3),
        ("[console_scripts]\nd = demo:main\n[console_scripts]\n", 3),
        ("[console_scripts\nd = demo:main\n", 1),
        ("[gui_scripts]\nd = demo\n", 2),
        ("[gui_scripts]\nd = demo:main\n  e = demo:main\n", 3),
        ("[other]\nno value\n", 2),
        ("[other]\na = b\n; comment\n", 3),
        ("[console_scripts]\npython3.13 = demo:main\n", 2),
        ("[console_scripts]\nPyPy = demo:main\n", 2),
        ("[console_scripts]\n" + "d" * 256 + " = demo:main\n", 2),
        ("[other]\na" + " " * 200_000 + "b\n", 2),
    ],
)
def test_invalid_entry_points_are_refused_with_their_line(content: str, line: int) -> None:
    with pytest.raises(InvalidArchive, match=rf"line {line} of its entry_points\.txt"):
        inspected(replaced("entry_points.txt", content.encode()))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# comment\n; comment\n\n[console_scripts]\r\nd = demo.a.b:Main.run\r\n",
        "[console_scripts]\nd=demo:main [a-b,c]\n",
        "[console_scripts]\npythonx=demo:main\npython4=demo:main\npip=demo:main\n",
        "  [console_scripts]\n  d = demo:main\n  e.f-g = demo:main\n",
        "[other]\nx = anything: at all!! # and more\n  and = more\n[third]\nx = 1\n",
        "[console_scripts]\nd = demo:gr\u00f6\u00dfe\n",
    ],
)
def test_entry_points_that_installers_accept_are_accepted(content: str) -> None:
    inspected(replaced("entry_points.txt", content.encode()))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf[console_scripts]\nd = a:b\n", b"[x]\n# \xe9\n"])
def test_entry_points_in_another_encoding_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidArchive, match=r"entry_points\.txt"):
        inspected(replaced("entry_points.txt", content))


@pytest.mark.parametrize("path", ["foo_bar-1.0.data/weird/x", "foo_bar-1.0.data/x"])
def test_data_that_no_installer_can_place_is_refused(path: str) -> None:
    with pytest.raises(InvalidArchive, match="cannot place it"):
        inspected(wheel("foo-bar", "1.0", more={path: b""}))
    inspected(wheel("foo-bar", "1.0", more={"foo_bar-1.0.data/scripts/x": b"", "foo_bar-1.0.data/data/a/b": b""}))


@pytest.mark.parametrize("script", ["python", "Python3", "python.exe", "a/b", "a/"])
def test_a_script_that_uv_does_not_install_is_refused(script: str) -> None:
    with pytest.raises(InvalidArchive, match="which uv refuses"):
        inspected(wheel("foo-bar", "1.0", more={f"foo_bar-1.0.data/scripts/{script}": b""}))


@pytest.mark.parametrize("tags", ["PY3-none-any", "py3-none-ANY", "py3-none-a+b", f"{2**64}-py3-none-any"])
def test_a_file_name_that_uv_cannot_use_is_refused(tags: str) -> None:
    name = parse(f"foo_bar-1.0-{tags}.whl")
    assert name is not None
    with pytest.raises(InvalidArchive, match=r"its (tag|build number)"):
        inspect(io.BytesIO(wheel("foo-bar", "1.0")), name)


@pytest.mark.parametrize("version", ["1.18446744073709551615", "99999999999999999999!1", "1.dev" + "9" * 20])
def test_a_version_too_large_for_uv_is_refused(version: str) -> None:
    with pytest.raises(InvalidArchive, match="is too large for uv"):
        inspected(wheel("foo-bar", version), wheel_name("foo-bar", version))


def test_long_numbers_in_a_local_version_are_accepted() -> None:
    version = "18446744073709551614+" + "9" * 30
    assert inspected(wheel("foo-bar", version), wheel_name("foo-bar", version)).version == version


@pytest.mark.parametrize("path", ["foo_bar-1.0.egg-info", "other.egg-info/PKG-INFO"])
def test_old_metadata_that_breaks_pip_is_refused(path: str) -> None:
    with pytest.raises(InvalidArchive, match="lacks Name or Version, so pip fails"):
        inspected(wheel("foo-bar", "1.0", more={path: b"Name: x\n"}))
    inspected(wheel("foo-bar", "1.0", more={path: b"Name: x\nVersion: 1\n", "foo_bar/x.egg-info/PKG-INFO": b""}))


@pytest.mark.parametrize(
    "more",
    [
        {"a": b"", "a.b": b"", "a/b": b""},
        {"a\nb.py": b""},
        {"x" * 256: b""},
        {"a/" * 1100 + "x": b""},
    ],
)
def test_members_that_cannot_be_unpacked_are_refused(more: dict[str, bytes]) -> None:
    with pytest.raises(InvalidArchive, match="its member '"):
        inspected(wheel("foo-bar", "1.0", more=more))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_uv_does_not_know_is_refused(compression: int) -> None:
    buffer = io.BytesIO(wheel("foo-bar", "1.0"))
    with zipfile.ZipFile(buffer, "a", compression) as archive:
        archive.writestr("x.py", "")
    with pytest.raises(InvalidArchive, match="compressed"):
        inspected(buffer.getvalue())


def test_bytes_before_or_after_the_archive_are_refused_as_by_uv() -> None:
    content = wheel("foo-bar", "1.0")
    with pytest.raises(InvalidArchive, match="not the end of the file"):
        inspected(content + b"junk")
    with pytest.raises(InvalidArchive, match="not at the start of the file"):
        inspected(b"#!/bin/sh\n" + content)
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"fine"
    inspected(buffer.getvalue())


def test_the_size_of_files_that_are_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wheels.MAX_BYTES, "entry_points.txt", 1000)
    with pytest.raises(InvalidArchive, match=r"entry_points\.txt' is longer"):
        inspected(replaced("entry_points.txt", b"#" * 2000))
