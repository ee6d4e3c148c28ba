"""A snapshot: read as it was written, and refused if anything in it is false."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ops.errors import SnapshotError
from ops.snapshots.snapshot import Item, Snapshot, is_kept, is_log, is_text, moment

NAME = "2026-01-31T02-17-00Z"
SNAPSHOT = Snapshot(
    NAME,
    "local",
    {"spam-1.tar.gz": Item("a" * 64, 5, 1, uploaded=1.5), ".index/yanked/spam-1.tar.gz": Item.of_text(b"\xff why", 2)},
    {".htpasswd": Item.of_text(b"alice:$2y$hash\n# bob:no\ncarol:x\n", 3)},
)


def test_it_is_read_as_it_was_written_whatever_the_encoding_of_its_texts() -> None:
    read = Snapshot.from_bytes(NAME, SNAPSHOT.to_bytes())
    assert read == SNAPSHOT
    assert read.packages[".index/yanked/spam-1.tar.gz"].content == b"\xff why"
    assert read.usernames == ["alice", "carol"]
    assert read.distributions == ["spam-1.tar.gz"]
    assert [path for path, _ in read.blobs()] == ["spam-1.tar.gz"]


def lying(change: str) -> bytes:
    """The snapshot with one falsification, and a matching hash unless the hash itself is falsified."""
    from ops.snapshots.snapshot import _digest

    content: dict[str, Any] = json.loads(SNAPSHOT.to_bytes())
    del content["sha256"]
    match change:
        case "hash":
            return json.dumps({**content, "sha256": "0" * 64}).encode()
        case "name":
            content["name"] = "2026-02-01T02-17-00Z"
        case "format":
            content["format"] = 2
        case "text":
            content["credentials"][".htpasswd"]["text"] += "mallory:x\n"
        case "size":
            content["packages"]["spam-1.tar.gz"]["size"] = "5"
        case "unknown":
            content["packages"]["spam-1.tar.gz"]["color"] = "red"
        case "missing":
            del content["credentials"]
        case path:
            content["packages"][path] = content["packages"].pop("spam-1.tar.gz")
    return json.dumps({**content, "sha256": _digest(content)}).encode()


@pytest.mark.parametrize(
    "change",
    ["hash", "name", "format", "text", "size", "unknown", "missing", "../spam.tar.gz", "/spam", "a//b", "a\0b", ""],
)
def test_a_falsified_snapshot_is_refused_with_a_sentence(change: str) -> None:
    with pytest.raises(SnapshotError, match=f"the snapshot {NAME} (is damaged|cannot be read)") as raised:
        Snapshot.from_bytes(NAME, lying(change))
    assert raised.value.why
    assert raised.value.todo


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", SNAPSHOT.to_bytes()[:-20], b"\xff"])
def test_a_truncated_snapshot_is_refused(content: bytes) -> None:
    with pytest.raises(SnapshotError, match="is damaged"):
        Snapshot.from_bytes(NAME, content)


def test_its_name_is_its_time() -> None:
    assert SNAPSHOT.taken.isoformat() == "2026-01-31T02:17:00+00:00"
    with pytest.raises(SnapshotError, match="is not a snapshot's name"):
        moment("yesterday")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("spam-1.tar.gz", True),
        (".index/yanked/x", True),
        (".index/audit/2026-01-01.a.jsonl", True),
        (".htpasswd", True),
        (".tokens.json", True),
        (".htpasswd.lock", False),
        (".htpasswd.abc.new", False),
        (".reserve/0", False),
        (".index/reserve/0", False),
        (".index/audit.reserve/0", False),
        (".index/staging/1-2", False),
        (".index/facts/spam-1.tar.gz", False),
        (".index/pages/spam.json", False),
        (".index/claims/.1", False),
    ],
)
def test_locks_and_recomputable_data_are_left_out(path: str, kept: bool) -> None:
    assert is_kept(path) is kept


def test_small_files_with_decisions_are_texts_and_logs_and_packages_are_blobs() -> None:
    assert is_text("packages", ".index/yanked/x", 10)
    assert is_text("credentials", ".tokens.json", 10)
    assert not is_text("credentials", ".tokens.json", 2 * 1024**2)
    assert not is_text("packages", "spam-1.tar.gz", 10)
    assert not is_text("packages", ".index/audit/a.jsonl", 10)
    assert is_log("credentials", ".audit/a.jsonl")
