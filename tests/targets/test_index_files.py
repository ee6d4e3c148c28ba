"""Formats of the index's own files, read and written from outside."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ops.index.packages.annotations import Tombstones
from ops.index.packages.sidecars import Sidecars
from ops.index.storage.directory import StagingFolder
from ops.targets import index_files
from tests.index.archives import wheel


@pytest.mark.parametrize(
    ("path", "project"),
    [
        ("Spam_Eggs-1.0-py3-none-any.whl", "spam-eggs"),
        ("sub/spam-1.0.tar.gz", "spam"),
        (".hidden/spam-1.0.tar.gz", None),
        (".index/facts/spam-1.0.tar.gz", None),
        ("spam-1.0.tar.gz.asc", None),
        ("notes.txt", None),
    ],
)
def test_distributions_are_the_files_that_the_index_lists(path: str, project: str | None) -> None:
    found = index_files.distribution(path)
    assert (found.project if found else None) == project


def test_tombstones_of_the_index_are_read_and_damaged_lines_reported(tmp_path: Path) -> None:
    graves = Tombstones(tmp_path, StagingFolder(tmp_path, locked=False))
    graves.put("spam-1.tar.gz", "a" * 64)
    (file,) = (tmp_path / ".index" / "removed").iterdir()
    content = file.read_text() + "half a li"
    assert list(index_files.tombstones(file.name, content)) == [("spam-1.tar.gz", "a" * 64), ("", "")]
    assert list(index_files.tombstones("spam-1.tar.gz", "b" * 64)) == [("spam-1.tar.gz", "b" * 64)]


def test_users_have_the_same_roles_as_in_the_index_and_hashes_are_not_shown() -> None:
    found = index_files.accounts(b"alice:x\nbob:y\n", b"reader: bob\nproject/spam: alice\n")
    assert found["alice"].rights == "publisher of spam"
    assert found["bob"].rights == "reader"
    assert "'x'" not in repr(found)


def test_info_of_a_copied_file_can_be_read_by_the_index_and_is_not_valid(tmp_path: Path) -> None:
    file = tmp_path / "spam-1.0.tar.gz"
    file.write_bytes(b"spam")
    sidecars = Sidecars(tmp_path, StagingFolder(tmp_path, locked=False))
    path = tmp_path / ".index" / "facts" / file.name
    path.parent.mkdir(parents=True)
    sha256 = hashlib.sha256(b"spam").hexdigest()
    path.write_bytes(index_files.file_info(sha256=sha256, size=4, uploaded=12.5))
    info = sidecars.read(file.name)
    assert info is not None
    assert (info.sha256, info.upload_time) == (sha256, 12.5)
    assert not info.is_valid_for(file.stat()), "the index recomputes the rest"
    assert index_files.recorded_hash(path.read_bytes()) == sha256
    assert index_files.recorded_hash(b"{") == ""


def test_a_file_is_refused_for_its_name_its_content_and_their_disagreement(tmp_path: Path) -> None:
    contents = {
        "good-1.0-py3-none-any.whl": wheel("good", "1.0"),
        "other-1.0-py3-none-any.whl": wheel("good", "1.0"),
        "broken-1.0.tar.gz": b"no archive",
        "setup-1.0.exe": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = {path.name: why for path, why in index_files.upload_refusals(sorted(tmp_path.iterdir()))}
    assert found.pop("good-1.0-py3-none-any.whl") == ""
    assert all(found.values())
    assert set(found) == contents.keys() - {"good-1.0-py3-none-any.whl"}


@pytest.mark.parametrize(
    ("content", "status"),
    [(b'{"status": "archived"}', "archived"), (b'{"status": "gone"}', ""), (b"{", ""), (b"[]", "")],
)
def test_only_statuses_known_to_the_index_are_read(content: bytes, status: str) -> None:
    assert index_files.status_of(content) == status


def test_a_line_written_to_the_audit_log_can_be_read_back() -> None:
    from ops.audit_log import parse_log

    line = index_files.audit_line("2026-01-31T00:00:00Z", "restore", "alice", {"users": ["bob reader"], "files": 2})
    (event,) = parse_log(line)
    assert event is not None
    assert event["users"] == ["bob reader"]
