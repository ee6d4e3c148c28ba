"""Unreadable or unwritable files and folders affect nothing else, and recover once accessible."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ops.index.packages.file_info import FileInfoStore
from ops.index.packages.sidecars import LATEST, Sidecars
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Node
from tests.index.serving import eventually


@pytest.fixture
def directory(node: Node) -> Path:
    return node.directory


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let refreshes follow each other at once, even on a busy machine."""
    monkeypatch.setattr("ops.index.packages.directory.FREE_SECONDS", 1e6)


def put(directory: Path, name: str, version: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / wheel_name(name, version)
    path.write_bytes(wheel(name, version))
    return path


def versions(node: Node, name: str) -> tuple[str, ...]:
    found = node.repository.project(name)
    return () if found is None else found.versions


def test_a_circular_link_hides_nothing_else(node: Node, directory: Path) -> None:
    path = put(directory, "foo", "1.0")
    put(directory / "sub", "foo", "2.0")
    for name in ("loop", "loop-1.0.tar.gz", "sub/loop-1.0.tar.gz"):
        (directory / name).symlink_to(directory / name)
    (directory / "through-1.0.tar.gz").symlink_to(path / "no-folder")
    assert versions(node, "foo") == ("1.0", "2.0")
    assert node.repository.projects() == ["foo"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_an_unreadable_folder_keeps_its_known_files(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    put(directory, "foo", "1.0")
    put(directory / "sub", "bar", "1.0")
    assert node.repository.projects() == ["bar", "foo"]
    scandir = os.scandir

    def fail(path: Any) -> Any:
        if str(path).startswith(str(directory)):
            raise OSError(number, os.strerror(number))
        return scandir(path)

    put(directory, "foo", "2.0")
    put(directory / "sub", "bar", "2.0")
    with monkeypatch.context() as broken:
        broken.setattr(os, "scandir", fail)
        for _ in range(3):
            assert versions(node, "foo") == ("1.0",)
            assert versions(node, "bar") == ("1.0",)
    assert len(caplog.records) == 2, "one line per folder"
    assert versions(node, "foo") == ("1.0", "2.0")
    assert versions(node, "bar") == ("1.0", "2.0")


def test_a_removed_folder_shows_nothing(node: Node, directory: Path) -> None:
    path = put(directory / "sub", "bar", "1.0")
    assert versions(node, "bar") == ("1.0",)
    path.unlink()
    path.parent.rmdir()
    assert versions(node, "bar") == ()


def test_a_file_that_is_readable_again_is_listed_again(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(directory, "foo", "1.0")
    put(directory, "foo", "2.0")
    of = FileInfoStore.of

    def fail(self: FileInfoStore, path: str) -> Any:
        if "2.0" in path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return of(self, path)

    with monkeypatch.context() as broken:
        broken.setattr(FileInfoStore, "of", fail)
        assert versions(node, "foo") == ("1.0",)
    eventually(lambda: versions(node, "foo") == ("1.0", "2.0"))


def test_file_info_that_cannot_be_stored_is_used_anyway(
    node: Node, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Sidecars, path: str, file_info: object, metadata: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Sidecars, "write", full)
    path = put(directory, "foo", "1.0")
    found = node.repository.project("foo")
    assert found is not None
    assert found.files[0].metadata_sha256 is not None
    metadata = node.repository.metadata(path.name)
    assert metadata is not None
    assert metadata.startswith(b"Metadata-Version")


@pytest.mark.parametrize("upload_time", [-1.0, 1e300, float("nan"), float("inf"), "now", None, LATEST + 1])
def test_file_info_with_an_impossible_date_is_computed_again(node: Node, directory: Path, upload_time: object) -> None:
    path = put(directory, "foo", "1.0")
    assert versions(node, "foo") == ("1.0",)
    sidecar = directory / ".index" / "facts" / path.name
    first, _, rest = sidecar.read_bytes().partition(b"\n")
    sidecar.write_bytes(json.dumps(json.loads(first) | {"upload_time": upload_time}).encode() + b"\n" + rest)
    node.repository.listing.touch(["foo"])
    found = node.repository.project("foo")
    assert found is not None
    assert found.files[0].upload_time.timestamp() == pytest.approx(path.stat().st_mtime)


@pytest.mark.parametrize("seconds", [-(10**9), 10**9])
def test_a_file_of_any_age_is_listed(node: Node, directory: Path, seconds: int) -> None:
    path = put(directory, "foo", "1.0")
    os.utime(path, (seconds, seconds))
    found = node.repository.project("foo")
    assert found is not None
    assert found.files[0].upload_time.timestamp() == max(seconds, 0)
