"""The notebook 06_back_up: shows a plan, copies once, reads back, and deletes by rule."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops import back_up
from ops.errors import ApprovalError, BucketError, ParameterError, SnapshotError, VerificationError
from ops.snapshots import Backup
from ops.table import APPROVED_VARIABLE
from ops.workspace import Workspace
from tests.snapshots.conftest import Index, make_index, sha256


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return make_index(tmp_path / "index")


def test_a_first_run_takes_a_snapshot_and_a_second_changes_nothing(index: Index, tmp_path: Path) -> None:
    job = back_up.describe(index, destination=str(tmp_path / "snapshots"))
    assert "0 snapshots" in repr(back_up.preflight(job))
    plan = back_up.plan(job)
    assert [(change.thing, change.sign) for change in plan.pending] == [("snapshot", "+")]
    outcome = back_up.apply(job)
    assert len(outcome.done) == 1
    assert "alice, bob" in repr(back_up.verify(job))
    assert back_up.plan(job).pending == ()
    again = back_up.apply(job)
    assert not again.changed
    assert "holds everything" in again.note
    assert len(back_up.snapshots(job).rows) == 1


def test_a_dry_run_shows_and_changes_nothing(index: Index, tmp_path: Path) -> None:
    job = back_up.describe(index, destination=str(tmp_path / "snapshots"))
    assert not back_up.apply(job, dry_run=True).changed
    assert "there is none yet" in repr(back_up.verify(job, dry_run=True))
    assert back_up.snapshots(job).rows == ()
    with pytest.raises(VerificationError, match="1 check of 1 failed"):
        back_up.verify(job)


def test_without_a_destination_it_is_a_private_folder_of_the_workspace(index: Index, workspace: Workspace) -> None:
    back_up.apply(back_up.describe(index))
    folder = workspace.home / "snapshots" / "local"
    assert len(list((folder / "snapshots").iterdir())) == 1
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_open_to_others_is_closed(index: Index, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    job = back_up.describe(index, destination=str(tmp_path / "open"))
    assert "close it to them" in repr(back_up.plan(job))
    back_up.apply(job)
    assert (tmp_path / "open").stat().st_mode & 0o077 == 0
    assert back_up.plan(job).pending == ()


def test_expired_snapshots_are_shown_before_they_are_deleted(index: Index, tmp_path: Path) -> None:
    job = back_up.describe(index, destination=str(tmp_path / "snapshots"), daily=1, weekly=0, monthly=0)
    Backup(index, job.bucket(), "local", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)).take()
    back_up.apply(job)
    assert [row[0] for row in back_up.snapshots(job).rows if row[0].startswith("2026-01-01")] == []
    Backup(index, job.bucket(), "local", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)).take()
    plan = back_up.plan(job)
    assert [change.thing for change in plan.pending] == ["snapshot 2026-01-01T00-00-00Z"]
    assert back_up.apply(job).done == (("snapshot 2026-01-01T00-00-00Z", "deleted"),)


def test_a_damaged_old_snapshot_does_not_stop_a_backup_and_keeps_all_bytes(index: Index, tmp_path: Path) -> None:
    job = back_up.describe(index, destination=str(tmp_path / "snapshots"))
    (tmp_path / "snapshots" / "snapshots").mkdir(parents=True, mode=0o700)
    (tmp_path / "snapshots").chmod(0o700)
    (tmp_path / "snapshots" / "snapshots" / "2026-01-01T00-00-00Z.json").write_text("{")
    assert "2026-01-01T00-00-00Z is damaged" in repr(back_up.plan(job))
    outcome = back_up.apply(job)
    assert len(outcome.done) == 1
    assert "No file was deleted: the snapshot 2026-01-01T00-00-00Z is damaged" in outcome.note
    assert ("2026-01-01T00-00-00Z", "damaged: cannot be restored", "", "") in back_up.snapshots(job).rows


def test_a_truncated_blob_fails_the_verification_and_the_next_run_repairs_it(index: Index, tmp_path: Path) -> None:
    job = back_up.describe(index, destination=str(tmp_path / "snapshots"))
    back_up.apply(job)
    blob = tmp_path / "snapshots" / "blobs" / sha256(b"spam 1.0")
    blob.write_bytes(b"spam")
    with pytest.raises(SnapshotError, match="is incomplete"):
        back_up.verify(job)
    back_up.apply(job)
    back_up.verify(job, thorough=True)
    assert blob.read_bytes() == b"spam 1.0"


def test_only_the_approved_plan_is_applied(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = back_up.describe(index, destination=str(tmp_path / "snapshots"))
    monkeypatch.setenv(APPROVED_VARIABLE, back_up.plan(job).sha256)
    index.write("new-1.tar.gz", b"new")
    with pytest.raises(ApprovalError):
        back_up.apply(job)
    monkeypatch.setenv(APPROVED_VARIABLE, back_up.plan(job).sha256)
    assert back_up.apply(job).changed


@pytest.mark.parametrize(
    "parameters",
    [
        {"daily": -1},
        {"daily": 0, "weekly": 0, "monthly": 0},
        {"destination": "ftp://host/x"},
        {"destination": "s3://key:secret@bucket"},
    ],
)
def test_bad_parameters_are_refused_before_anything_is_done(index: Index, parameters: dict[str, object]) -> None:
    with pytest.raises(ParameterError) as raised:
        back_up.preflight(back_up.describe(index, **parameters))  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


def test_a_file_as_destination_is_refused_with_a_sentence(index: Index, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BucketError, match="could not open"):
        back_up.preflight(back_up.describe(index, destination=str(tmp_path / "file")))
