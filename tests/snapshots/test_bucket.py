"""A bucket: a folder or S3 on loopback, written once, with every failure in one sentence."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops.errors import BucketError, ParameterError, SnapshotError
from ops.snapshots import bucket as module
from ops.snapshots.bucket import Bucket
from tests.snapshots.conftest import sha256

if TYPE_CHECKING:
    from tests.object_store import ObjectStore  # a plugin here, which is not to be imported twice

pytest_plugins = ["tests.object_store"]


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "new" / "folder")
    make: Callable[[str], str] = request.getfixturevalue("s3")
    return make("both")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    return path


def fetched(bucket: Bucket, name: str) -> bytes:
    out = io.BytesIO()
    bucket.fetch_blob(name, out)
    return out.getvalue()


def test_blobs_and_snapshots_are_read_as_they_were_written(place: str, file: Path) -> None:
    bucket = Bucket.open(place, create=True)
    name = sha256(b"bytes")
    bucket.put_blob(name, file)
    bucket.put_snapshot("2026-01-31T02-17-00Z", b"{}")
    assert fetched(bucket, name) == b"bytes"
    assert bucket.blobs()[name].size == 5
    assert bucket.snapshots() == ["2026-01-31T02-17-00Z"]
    assert bucket.read_snapshot("2026-01-31T02-17-00Z") == b"{}"
    bucket.delete_snapshot("2026-01-31T02-17-00Z")
    bucket.delete_blob(name)
    bucket.delete_blob(name)
    assert (bucket.snapshots(), bucket.blobs()) == ([], {})


def test_stored_objects_are_never_rewritten(place: str, file: Path, tmp_path: Path) -> None:
    bucket = Bucket.open(place, create=True)
    name = sha256(b"bytes")
    other = tmp_path / "other"
    other.write_bytes(b"other")
    bucket.put_blob(name, file)
    bucket.put_blob(name, other)
    assert fetched(bucket, name) == b"bytes"
    bucket.put_snapshot("x", b"1")
    with pytest.raises(BucketError, match="there is a snapshot x already"):
        bucket.put_snapshot("x", b"2")
    bucket.delete_snapshot("x")
    bucket.delete_blob(name)


def test_a_large_blob_is_sent_in_parts(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SINGLE_BYTES", 1000)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(6 * 1024**2))
    bucket = Bucket.open(place, create=True)
    bucket.put_blob(sha256(large.read_bytes()), large)
    assert fetched(bucket, sha256(large.read_bytes())) == large.read_bytes()
    bucket.delete_blob(sha256(large.read_bytes()))


def test_missing_and_damaged_blobs_are_distinguished(tmp_path: Path, file: Path) -> None:
    bucket = Bucket.open(str(tmp_path), create=True)
    with pytest.raises(SnapshotError, match="is missing in"):
        fetched(bucket, "0" * 64)
    bucket.put_blob("0" * 64, file)
    with pytest.raises(SnapshotError, match="is damaged") as raised:
        fetched(bucket, "0" * 64)
    assert "cut short or altered" in raised.value.why


def test_a_new_folder_is_private_and_an_open_one_is_detected(tmp_path: Path) -> None:
    bucket = Bucket.open(str(tmp_path / "new"), create=True)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert not bucket.open_to_others
    (tmp_path / "new").chmod(0o755)
    assert bucket.open_to_others


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("ftp://host/x", "is no bucket"),
        ("s3:///x", "is no bucket"),
        ("https://host/x", "is no bucket"),
        ("s3://key:secret@bucket/x", "contains credentials"),
        ("s3://bucket/x?token=abc", "contains credentials"),
    ],
)
def test_an_invalid_place_is_refused_without_repeating_credentials(place: str, what: str) -> None:
    with pytest.raises(ParameterError, match=what) as raised:
        Bucket.open(place)
    assert "secret" not in str(raised.value)
    assert "abc" not in str(raised.value)


def test_a_missing_folder_is_not_created_for_reading(tmp_path: Path) -> None:
    with pytest.raises(BucketError, match="there are no snapshots in"):
        Bucket.open(str(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


def failure(call: Callable[[], object]) -> BucketError:
    with pytest.raises(BucketError) as raised:
        call()
    assert raised.value.why
    assert raised.value.todo
    assert "Debug" not in str(raised.value)
    assert str(raised.value).count("\n") == 2
    return raised.value


def test_a_missing_or_refusing_bucket_is_reported_in_one_sentence(s3: Callable[[str], str]) -> None:
    s3("exists")
    assert "NoSuchBucket" in failure(Bucket.open("s3://absent/x").blobs).why


def test_missing_credentials_are_named(s3: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = s3("private")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = failure(lambda: Bucket.open(place).blobs())
    assert "AWS_ACCESS_KEY_ID" in error.todo


@pytest.mark.parametrize(
    ("status", "todo"), [(500, "nothing was lost"), (403, "the right to list"), (507, "free some space there")]
)
def test_every_refusal_by_a_bucket_is_reported_in_one_sentence(
    status: int,
    todo: str,
    s3: Callable[[str], str],
    object_store: ObjectStore,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRIES", 0)
    bucket = Bucket.open(s3("failing"))
    object_store.fail(status)
    for call in (
        bucket.blobs,
        bucket.snapshots,
        lambda: bucket.put_blob(sha256(b"bytes"), file),
        lambda: bucket.put_snapshot("x", b"{}"),
        lambda: bucket.read_snapshot("x"),
        lambda: fetched(bucket, sha256(b"bytes")),
        lambda: bucket.delete_snapshot("x"),
        lambda: bucket.delete_blob(sha256(b"bytes")),
    ):
        assert todo in failure(call).todo


def test_an_unreadable_folder_is_reported_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who can read everything
    error = failure(lambda: Bucket.open(str(tmp_path)))
    assert "permission was denied" in error.why
    assert "the right to list" in error.todo
