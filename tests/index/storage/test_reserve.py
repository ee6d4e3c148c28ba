"""Reserved space is available when the disk is full, and is reserved again afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.reserve import Reserve
from tests.index.full_disk import fill, free


def files(folder: Path) -> list[int]:
    return sorted(path.stat().st_size for path in folder.iterdir()) if folder.exists() else []


def test_a_full_disk_has_space_while_the_reserve_is_released(small_disk: Path) -> None:
    reserve = Reserve(DirectoryStorage(small_disk), "reserve")
    reserve.fill()
    fill(small_disk)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "before").write_bytes(bytes(5000))
    with reserve.lent():
        (small_disk / "inside").write_bytes(bytes(5000))
    assert free(small_disk) < 2 * 4096, "unused space is reserved again"
    with reserve.lent(), reserve.lent():
        (small_disk / "again").write_bytes(bytes(5000))


def test_an_unfilled_reserve_leaves_no_files(tmp_path: Path) -> None:
    reserve = Reserve(DirectoryStorage(tmp_path), "reserve")
    with reserve.lent():
        pass
    assert not reserve.spend()
    assert list(tmp_path.iterdir()) == []


def test_a_nearly_full_disk_is_not_an_error_and_is_used_up(small_disk: Path) -> None:
    left = 16 * 1024
    fill(small_disk, leave=left)
    reserve = Reserve(DirectoryStorage(small_disk), "reserve")
    reserve.fill()
    assert sum(files(small_disk / "reserve")) >= left // 2
    assert reserve.spend()
    while reserve.spend():
        pass
    assert free(small_disk) >= left // 2


def test_two_servers_of_a_directory_share_it(tmp_path: Path) -> None:
    one, two = (Reserve(DirectoryStorage(tmp_path), "reserve") for _ in range(2))
    one.fill()
    two.fill()
    before = files(tmp_path / "reserve")
    with one.lent(), two.lent():
        assert files(tmp_path / "reserve") == []
    assert files(tmp_path / "reserve") == before
    assert sum(before) == 1024**2


def test_a_read_only_directory_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "makedirs", refuse)
    reserve = Reserve(DirectoryStorage(tmp_path), "reserve")
    reserve.fill()
    with reserve.lent():
        pass


def test_a_small_disk_keeps_most_of_its_space_for_packages(small_disk: Path) -> None:
    before = free(small_disk)
    Reserve(DirectoryStorage(small_disk), "reserve").fill()
    assert before // 100 < before - free(small_disk) < before // 20
