"""Backups on Modal: nightly by the app, by the notebook's steps from outside, and a move from this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops import audit, back_up, restore
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from ops.snapshots import Bucket
from ops.snapshots.__main__ import main as check_recent
from ops.snapshots.backup import read_snapshot
from ops.snapshots.snapshot import name_of
from ops.targets.modal import ModalTarget
from ops.workspace import PROJECT_ROOT, Workspace
from tests.modal.conftest import deploy, run_modal
from tests.modal.test_workflows import step
from tests.snapshots.conftest import USERS, make_index
from tests.standin.control_plane import ControlPlane

if TYPE_CHECKING:
    from tests.object_store import ObjectStore  # a plugin here, which is not to be imported twice

pytest_plugins = ["tests.object_store"]


@pytest.fixture
def target(plane: ControlPlane, client: Mapping[str, str], workspace: Workspace) -> ModalTarget:
    """The control plane as a target."""
    del plane, client
    return ModalTarget(workspace=workspace)


def set_destination(plane: ControlPlane, destination: str, variables: Mapping[str, str]) -> None:
    source = plane.directory / "backup.json"
    source.write_text(json.dumps({"BACKUP_DESTINATION": destination, "BACKUP_DAILY": "30", **variables}))
    done = run_modal(plane, "secret", "create", "pypi-backup", "--from-json", str(source), "--force")
    assert done.returncode == 0, done.stdout + done.stderr


def make_one_day_older(destination: str) -> None:
    """Replace the only snapshot by the same of the night before."""
    bucket = Bucket.open(destination)
    (name,) = bucket.snapshots()
    snapshot = read_snapshot(bucket, name)
    earlier = replace(snapshot, name=name_of(snapshot.taken - timedelta(days=1)))
    bucket.put_snapshot(earlier.name, earlier.to_bytes())
    bucket.delete_snapshot(name)


def upload(target: ModalTarget, volume: str, path: str, content: bytes, folder: Path) -> None:
    copy = folder / "content"
    copy.write_bytes(content)
    target.upload(volume, path, copy)


def fill(target: ModalTarget, folder: Path) -> None:
    """Put two packages and two users on the target, unless already present."""
    back_up.apply(back_up.describe(make_index(folder / "here"), destination=str(folder / "snapshots")))
    restore.apply(restore.describe(target, source=str(folder / "snapshots"), confirm="modal"))


def test_without_a_destination_the_app_has_no_nightly_function(index: ControlPlane) -> None:
    app = index.apps.named("pypiserver")
    assert app is not None
    assert "back_up" not in app.layout


def test_an_index_moves_from_this_machine_to_modal_and_back(
    index: ControlPlane, target: ModalTarget, tmp_path: Path
) -> None:
    here = make_index(tmp_path / "here")
    back_up.apply(back_up.describe(here, destination=str(tmp_path / "snapshots")))
    job = restore.describe(target, source=str(tmp_path / "snapshots"), confirm="modal")
    assert restore.apply(job).changed
    assert {row[2] for row in restore.verify(job).rows} == {"equal"}
    assert not restore.apply(job).changed
    tree = here.tree()
    for path in ("spam-1.0.tar.gz", ".index/yanked/spam-1.0.tar.gz", ".index/status/spam"):
        target.download(PACKAGES_VOLUME, path, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == tree[f"{PACKAGES_VOLUME}/{path}"]
    back_up.apply(back_up.describe(target, destination=str(tmp_path / "of-modal")))
    back = make_index(tmp_path / "back", filled=False)
    job = restore.describe(back, source=str(tmp_path / "of-modal"), confirm="local")
    restore.apply(job)
    restore.verify(job)
    whole = {path: content for path, content in tree.items() if "/.index/staging/" not in path}
    assert back.tree().items() >= whole.items()


def test_the_notebooks_steps_back_up_from_outside_and_a_second_run_changes_nothing(
    index: ControlPlane, target: ModalTarget, tmp_path: Path
) -> None:
    fill(target, tmp_path / "before")
    job = back_up.describe(target, destination=str(tmp_path / "snapshots"))
    back_up.preflight(job)
    assert back_up.apply(job).changed
    assert not back_up.apply(job).changed
    assert "alice, bob" in repr(back_up.verify(job, thorough=True))
    report = audit.read(target, snapshots=str(tmp_path / "snapshots"), fail_at="never")
    assert ("users", "1 publisher, 1 reader") in audit.contents(report).rows
    assert "billing is not told to this token" in repr(audit.costs(report))
    index.costs = {"gpu": "0", "cpu": "1.25", "disk": "0.003", "memory": "1234.5"}
    rows = [row[:2] for row in audit.costs(report).rows]
    assert rows == [("memory", "1,234.50"), ("cpu", "1.25"), ("disk", "under 0.01"), ("together", "1,235.75")]


@pytest.mark.slow
def test_the_app_takes_snapshots_once_a_destination_is_set(
    index: ControlPlane, target: ModalTarget, s3_variables: dict[str, str], s3: Callable[[str], str],
    object_store: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fill(target, tmp_path / "before")
    bucket = s3("nightly")
    set_destination(index, bucket, s3_variables)
    deploy(index)
    definition = index.function("back_up").definition
    assert definition.schedule.cron.cron_string
    assert all(mount.read_only for mount in definition.volume_mounts)
    assert check_recent([bucket]) == 1
    assert index.call("back_up") == ""
    assert "taken: 2 packages and 2 users; 0 old ones deleted" in index.log()
    assert check_recent([bucket]) == 0
    assert check_recent([bucket, "--hours", "0"]) == 1
    assert index.call("back_up") == ""
    assert "is of today already" in index.log()
    # The next night finds the same files.
    make_one_day_older(bucket)
    object_store.requests.clear()
    assert index.call("back_up") == ""
    assert len(Bucket.open(bucket).snapshots()) == 2
    written = [request for request in object_store.requests if request.startswith("PUT")]
    assert [request.split("/")[3] for request in written] == ["snapshots"], "no blob is copied"
    assert "testing-secret-key" not in index.log()
    assert "$2y$" not in index.log() + capsys.readouterr().out
    # Everything is lost, and restored.
    upload(target, CREDENTIALS_VOLUME, ".htpasswd", b"", tmp_path)
    target.delete_file(PACKAGES_VOLUME, "spam-1.0.tar.gz")
    job = restore.describe(target, source=bucket, confirm="modal.main")
    restore.apply(job)
    restore.verify(job)
    target.download(CREDENTIALS_VOLUME, ".htpasswd", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == USERS


@pytest.mark.slow
def test_a_failed_nightly_backup_says_why_and_loses_nothing(
    index: ControlPlane, s3_variables: dict[str, str], s3: Callable[[str], str]
) -> None:
    s3("present")
    before = len(index.exceptions)
    for destination, why in (("s3://absent/x", "NoSuchBucket"), ("/tmp/folder", "is not the URL of a bucket")):
        set_destination(index, destination, s3_variables)
        for container in index.live("back_up"):
            index.kill(container)  # a warm one would still have the old secret
        assert "the function raised" in index.call("back_up")
        assert why in index.log()
    del index.exceptions[before:]


def test_the_workflow_looks_for_last_nights_snapshot(s3: Callable[[str], str]) -> None:
    destination = s3("checked")
    look = step("snapshot.yaml", "snapshot", "Look for it")

    def found() -> tuple[int, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-e", "-c", look["run"]],
            env={**os.environ, "PATH": path, "DESTINATION": destination},
            cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    assert found() == (1, "There is no snapshot: set up the nightly back-up, or run the notebook 06_back_up.\n")
    for hours, code in ((31, 1), (5, 0)):
        name = name_of(datetime.now(UTC) - timedelta(hours=hours))
        Bucket.open(destination).put_snapshot(name, b"{}")
        assert found()[0] == code
        assert name in found()[1]


def test_the_workflows_check_runs_without_modal_or_jupyter(tmp_path: Path) -> None:
    script = (
        "import sys, runpy\n"
        "for name in ('modal', 'IPython', 'papermill', 'nbformat'): sys.modules[name] = None\n"
        f"sys.argv = ['snapshots', {str(tmp_path / 'absent')!r}]\n"
        "runpy.run_module('ops.snapshots', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "there are no snapshots in" in done.stderr
