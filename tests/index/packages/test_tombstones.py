"""What was removed is remembered, in few files however much it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ops.index.disk.writing import INDEX_FOLDER, Workbench
from ops.index.packages.tombstones import Tombstones


def tombstones(directory: Path) -> Tombstones:
    return Tombstones(directory, Workbench(directory, locked=True))


def digest(number: int) -> str:
    return f"{number:064x}"


def test_thousands_of_them_need_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    ours = tombstones(tmp_path)
    for number in range(3000):
        ours.put(f"spam-1.{number}-py3-none-any.whl", digest(number))
    assert len(list((tmp_path / INDEX_FOLDER / "removed").iterdir())) <= 256
    theirs = tombstones(tmp_path)
    theirs.look()
    for number in range(3000):
        for stones in (ours, theirs):
            assert stones.get(f"spam-1.{number}-py3-none-any.whl") == digest(number)
    assert ours.get("eggs-1-py3-none-any.whl") is None


def test_what_another_process_adds_is_noticed_and_kept(tmp_path: Path) -> None:
    ours, theirs = tombstones(tmp_path), tombstones(tmp_path)
    names = [f"spam-1.{number}.tar.gz" for number in range(5000)]
    first, second = [name for name in names if ours.claim(name) == ours.claim(names[0])][:2]
    ours.put(first, digest(1))
    theirs.put(second, digest(2))
    ours.look(thoroughly=True)
    assert (ours.get(first), ours.get(second)) == (digest(1), digest(2))


def test_the_same_again_adds_nothing(tmp_path: Path) -> None:
    ours = tombstones(tmp_path)
    ours.put("spam-1.tar.gz", digest(1))
    (file,) = (tmp_path / INDEX_FOLDER / "removed").iterdir()
    before = file.read_bytes()
    ours.put("spam-1.tar.gz", digest(1))
    assert file.read_bytes() == before


def test_a_line_that_is_damaged_harms_no_other(tmp_path: Path) -> None:
    ours = tombstones(tmp_path)
    ours.put("spam-1.tar.gz", digest(1))
    (file,) = (tmp_path / INDEX_FOLDER / "removed").iterdir()
    file.write_bytes(b"\xff\n\n" + file.read_bytes() + b"torn")
    theirs = tombstones(tmp_path)
    theirs.look()
    assert theirs.get("spam-1.tar.gz") == digest(1)
