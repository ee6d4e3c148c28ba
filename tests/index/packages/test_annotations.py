"""Annotations are read or taken strictly; removed names are remembered, in few files however many they are."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ops.index.packages import annotations as module
from ops.index.packages.annotations import Annotations, Tombstones
from ops.index.storage.directory import INDEX_FOLDER, StagingFolder


def tombstones(directory: Path) -> Tombstones:
    return Tombstones(directory, StagingFolder(directory, locked=True))


def digest(number: int) -> str:
    return f"{number:064x}"


def test_an_annotation_that_cannot_be_read_closes_its_project_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Annotations(tmp_path, StagingFolder(tmp_path, locked=True)).set_status("spam", "deprecated", None)
    Annotations(tmp_path, StagingFolder(tmp_path, locked=True)).set_status("eggs", "quarantined", "malware")
    Annotations(tmp_path, StagingFolder(tmp_path, locked=True)).set_attestation_policy("spam", "audit")

    def refuse(path: str, *rest: Any) -> Any:
        if path.endswith("/spam"):
            raise PermissionError(errno.EACCES, "not yours", path)
        return open(path, *rest)

    monkeypatch.setattr(module, "open", refuse, raising=False)
    found = Annotations(tmp_path, StagingFolder(tmp_path, locked=True))
    for _ in range(2):
        found.look()
    assert found.status("spam") == ("archived", "its status cannot be read")
    assert found.status("eggs") == ("quarantined", "malware")
    assert found.attestation_policy("spam") == "enforce"
    assert len([line for line in caplog.messages if "not yours" in line]) == 2  # once for each folder
    monkeypatch.undo()
    assert found.look()[1] == {"spam"}
    assert (found.status("spam"), found.attestation_policy("spam")) == (("deprecated", None), "audit")


def test_thousands_of_tombstones_need_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    ours, theirs = tombstones(tmp_path), tombstones(tmp_path)
    for number in range(3000):
        ours.put(f"spam-1.{number}-py3-none-any.whl", digest(number))
    assert len(list((tmp_path / INDEX_FOLDER / "removed").iterdir())) <= 256
    for number in range(3000):
        for stones in (ours, theirs):
            assert stones.get(f"spam-1.{number}-py3-none-any.whl") == digest(number)
    assert ours.get("eggs-1-py3-none-any.whl") is None


def test_tombstones_of_another_process_are_seen_at_once_and_kept(tmp_path: Path) -> None:
    ours, theirs = tombstones(tmp_path), tombstones(tmp_path)
    names = [f"spam-1.{number}.tar.gz" for number in range(5000)]
    first, second = [name for name in names if ours.lock_name(name) == ours.lock_name(names[0])][:2]
    ours.put(first, digest(1))
    theirs.put(second, digest(2))
    assert (ours.get(first), ours.get(second)) == (digest(1), digest(2))


def test_a_repeated_tombstone_adds_nothing(tmp_path: Path) -> None:
    ours = tombstones(tmp_path)
    ours.put("spam-1.tar.gz", digest(1))
    (file,) = (tmp_path / INDEX_FOLDER / "removed").iterdir()
    before = file.read_bytes()
    ours.put("spam-1.tar.gz", digest(1))
    assert file.read_bytes() == before


def test_a_damaged_line_affects_no_other(tmp_path: Path) -> None:
    ours = tombstones(tmp_path)
    ours.put("spam-1.tar.gz", digest(1))
    (file,) = (tmp_path / INDEX_FOLDER / "removed").iterdir()
    file.write_bytes(b"\xff\n\n" + file.read_bytes() + b"torn\n")
    assert ours.get("spam-1.tar.gz") == digest(1)
    damaged = next(name for name in (f"eggs-{n}.zip" for n in range(5000)) if ours.lock_name(name).endswith(file.name))
    ours.put(damaged, digest(2))
    assert (ours.get("spam-1.tar.gz"), ours.get(damaged)) == (digest(1), digest(2))


def test_tombstones_of_the_first_version_are_still_read(tmp_path: Path) -> None:
    folder = tmp_path / INDEX_FOLDER / "removed"
    folder.mkdir(parents=True)
    (folder / "spam-1+local.1-py3-none-any.whl").write_text(digest(7))
    assert tombstones(tmp_path).get("spam-1+local.1-py3-none-any.whl") == digest(7)


def test_unreadable_tombstones_are_an_error(tmp_path: Path) -> None:
    ours = tombstones(tmp_path)
    (tmp_path / INDEX_FOLDER / "removed" / ours.lock_name("spam-1.tar.gz").partition("/")[2]).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        ours.get("spam-1.tar.gz")


def test_on_a_full_disk_a_file_becomes_its_own_tombstone(tmp_path: Path) -> None:
    path = tmp_path / "spam-1.0.tar.gz"
    path.write_bytes(b"x" * 100_000)
    tombstones(tmp_path).put_in_place_of(str(path), path.name, digest(1))
    assert not path.exists()
    assert tombstones(tmp_path).get(path.name) == digest(1)
    left = list((tmp_path / INDEX_FOLDER / "removed").iterdir())
    assert [file.stat().st_size for file in left] == [64]


def test_the_bytes_behind_a_link_are_not_overwritten(tmp_path: Path) -> None:
    path, other, link = tmp_path / "spam-1.0.tar.gz", tmp_path / "elsewhere", tmp_path / "spam-1.1.tar.gz"
    path.write_bytes(b"bytes")
    os.link(path, other)
    link.symlink_to(other)
    for each in (path, link):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            tombstones(tmp_path).put_in_place_of(str(each), each.name, digest(1))
    assert other.read_bytes() == path.read_bytes() == b"bytes"


def test_a_name_is_taken_once_the_file_has_been_moved_even_if_not_overwritten_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spam-1.0.tar.gz"
    path.write_bytes(b"\xff" * 1000)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", killed)
    with pytest.raises(KeyboardInterrupt):
        tombstones(tmp_path).put_in_place_of(str(path), path.name, digest(1))
    assert tombstones(tmp_path).get(path.name) not in {None, digest(2)}
