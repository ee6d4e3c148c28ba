"""An sdist that neither pip nor uv can install is refused."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from ops.index.errors import InvalidArchive
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import parse
from ops.index.packages.inspection import inspect
from tests.index.archives import core_metadata, sdist, sdist_zip

SDIST = "foo_bar-1.0.tar.gz"


def inspected(content: bytes, filename: str = SDIST) -> Contents:
    name = parse(filename)
    assert name is not None
    return inspect(io.BytesIO(content), name)


def with_files(files: dict[str, bytes]) -> bytes:
    members = []
    for path, content in files.items():
        info = tarfile.TarInfo(path)
        info.size = len(content)
        members.append((info, content))
    return sdist("foo-bar", "1.0", members=members)


@pytest.mark.parametrize("path", ["other/setup.py", "setup.py", "._foo_bar-1.0", "./foo_bar-1.0/setup.py"])
def test_a_second_root_hides_the_project_from_pip(path: str) -> None:
    with pytest.raises(InvalidArchive, match="pip does not find the project"):
        inspected(with_files({path: b""}))


@pytest.mark.parametrize("setup", [None, "setup.cfg", "src/setup.py", "setup.py/x", "Setup.py"])
def test_an_sdist_that_says_nowhere_how_to_build_it_is_refused(setup: str | None) -> None:
    with pytest.raises(InvalidArchive, match=r"neither pyproject\.toml nor setup\.py"):
        inspected(sdist("foo-bar", "1.0", setup=setup))
    with pytest.raises(InvalidArchive, match=r"neither pyproject\.toml nor setup\.py"):
        inspected(sdist_zip("foo_bar", "1.0", setup=setup), "foo_bar-1.0.zip")


@pytest.mark.parametrize("setup", ["setup.py", "pyproject.toml"])
def test_either_of_both_files_is_enough(setup: str) -> None:
    inspected(sdist("foo-bar", "1.0", setup=setup))
    inspected(sdist_zip("foo_bar", "1.0", setup=setup), "foo_bar-1.0.zip")


@pytest.mark.parametrize(
    "content",
    [
        b"[build-system\n",
        b"x = 1\nx = 2\n",
        b"# \xe9\n",
        b"\xef\xbb\xbf[project]\n",
        b"x = " + b"[" * 5000,
        b"[build-system]\nbuild-backend = 'x'\n",
        b"[build-system]\nrequires = 'hatchling'\n",
        b"[build-system]\nrequires = ['hatch ling']\n",
        b"x = " + b"9" * 5000,
        b"[build-system]\nrequires = []\nbuild-backend = 5\n",
        b"[build-system]\nrequires = []\nbuild-backend = ''\n",
        b"[build-system]\nrequires = []\nbuild-backend = 'a:b c'\n",
        b"[build-system]\nrequires = []\nbuild-backend = 'a'\nbackend-path = '.'\n",
        b"[build-system]\nrequires = []\nbuild-backend = 'a'\nbackend-path = ['a/../..']\n",
        b"[build-system]\nrequires = []\nbuild-backend = 'a'\nbackend-path = ['/etc']\n",
    ],
)
def test_a_pyproject_that_pip_cannot_read_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArchive, match=r"pyproject\.toml"):
        inspected(with_files({"foo_bar-1.0/pyproject.toml": content}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[tool.black]\nline-length = 100\n",
        b"[build-system]\nrequires = []\nbuild-backend = 'a._b:c.d'\nbackend-path = ['.', 'src/x', '..x']\n",
        b"[build-system]\nrequires = ['setuptools>=40; python_version>\"3\"']\n",
    ],
)
def test_a_minimal_pyproject_is_accepted(content: bytes) -> None:
    inspected(with_files({"foo_bar-1.0/pyproject.toml": content}))
    inspected(with_files({"foo_bar-1.0/tests/pyproject.toml": b"[broken"}))


def test_a_file_that_is_also_a_folder_is_refused() -> None:
    with pytest.raises(InvalidArchive, match="both a file and a folder"):
        inspected(with_files({"foo_bar-1.0/a": b"", "foo_bar-1.0/a/b": b""}))


def test_requirements_are_checked_in_sdists_too() -> None:
    with pytest.raises(InvalidArchive, match=r"the line 'Requires-Dist: demo = 1' in 'foo_bar-1\.0/PKG-INFO'"):
        inspected(sdist("foo-bar", "1.0", lines="Requires-Dist: demo = 1\n", metadata_version="2.1"))


def test_the_metadata_of_an_old_sdist_may_be_in_any_encoding() -> None:
    content = core_metadata("foo-bar", "1.0", metadata_version="1.1") + b"Author: J\xf6rg\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("foo-bar-1.0/PKG-INFO")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("foo-bar-1.0/setup.py"))
    assert inspected(buffer.getvalue()).name == "foo-bar"


def test_a_folder_around_the_root_hides_the_project_from_pip() -> None:
    info = tarfile.TarInfo(".")
    info.type = tarfile.DIRTYPE
    with pytest.raises(InvalidArchive, match="pip does not find the project"):
        inspected(sdist("foo-bar", "1.0", members=[(info, b"")]))


@pytest.mark.parametrize("path", ["a:b", "a\x01b", "a ", "a /b", "a\n", "x/."])
def test_a_name_that_uv_does_not_unpack_is_refused(path: str) -> None:
    with pytest.raises(InvalidArchive, match="rename it"):
        inspected(with_files({f"foo_bar-1.0/{path}": b""}))


@pytest.mark.parametrize("path", ["a b", " a", "a;b", "con", "\u00e9", "...", "-x"])
def test_an_unusual_file_name_is_accepted(path: str) -> None:
    assert inspected(with_files({f"foo_bar-1.0/{path}": b""})).name == "foo-bar"


def with_link(kind: bytes, target: str, *, path: str = "foo_bar-1.0/link") -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.linkname = kind, target
    return sdist("foo-bar", "1.0", members=[(info, b"")])


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "../foo_bar-1.0/PKG-INFO"),
        (tarfile.SYMTYPE, ".."),
        (tarfile.SYMTYPE, ""),
        (tarfile.SYMTYPE, "link"),
        (tarfile.SYMTYPE, "a/../PKG-INFO"),
        (tarfile.SYMTYPE, "a\\b"),
        (tarfile.SYMTYPE, "a" * 256),
        (tarfile.LNKTYPE, "PKG-INFO"),
        (tarfile.LNKTYPE, "foo_bar-1.0/missing"),
        (tarfile.LNKTYPE, "foo_bar-1.0/link"),
        (tarfile.LNKTYPE, "./foo_bar-1.0/PKG-INFO"),
    ],
)
def test_a_link_that_pip_or_uv_does_not_unpack_is_refused(kind: bytes, target: str) -> None:
    with pytest.raises(InvalidArchive, match="leave it out"):
        inspected(with_link(kind, target))


@pytest.mark.parametrize("target", ["../PKG-INFO", "./x", "missing", "x/y"])
def test_a_symbolic_link_inside_the_project_is_accepted(target: str) -> None:
    assert inspected(with_link(tarfile.SYMTYPE, target, path="foo_bar-1.0/a/link")).name == "foo-bar"


def test_a_damaged_header_or_end_of_a_tar_file_is_refused() -> None:
    content = gzip.decompress(with_files({"foo_bar-1.0/last": b""}))
    header = content.index(b"foo_bar-1.0/last")
    for damaged in (content[: header + 512], content[:header] + b"x" + content[header + 1 :]):
        with pytest.raises(InvalidArchive, match="a header is damaged, or the end of the archive is missing"):
            inspected(gzip.compress(damaged))


def test_a_negative_size_is_refused() -> None:
    info = tarfile.TarInfo("foo_bar-1.0/x")
    info.pax_headers = {"size": "-512"}
    with pytest.raises(InvalidArchive):
        inspected(sdist("foo-bar", "1.0", members=[(info, b"")]))
