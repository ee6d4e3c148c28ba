"""The notebook 07_restore: shows a plan, needs the target's name, and verifies by reading everything again."""

from __future__ import annotations

import netrc
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from ops import back_up, restore
from ops.errors import ConfirmationError, RunbookError, SnapshotError, VerificationError
from ops.http_client import JSON
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from ops.targets import open_target
from ops.workspace import PROJECT_ROOT, Workspace
from tests.benchmark.servers import free_port
from tests.index.archives import wheel
from tests.snapshots.conftest import Index, make_index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return make_index(tmp_path / "index")


@pytest.fixture
def empty(tmp_path: Path) -> Index:
    return make_index(tmp_path / "empty", filled=False)


@pytest.fixture
def source(index: Index, tmp_path: Path) -> str:
    """A folder with a snapshot of the index."""
    place = str(tmp_path / "snapshots")
    back_up.apply(back_up.describe(index, destination=place))
    return place


def rows(plan: object) -> dict[str, str]:
    return {change.thing: change.to_do for change in plan.changes}  # type: ignore[attr-defined]


def test_a_lost_index_is_restored_and_a_second_run_changes_nothing(index: Index, empty: Index, source: str) -> None:
    job = restore.describe(empty, source=source, confirm="local")
    assert "2 files" in repr(restore.preflight(job))
    assert "not checked" in repr(restore.acceptance(job))
    found = rows(restore.plan(job))
    assert found["volume pypiserver-data"] == "create"
    assert found["user alice"] == "restore as publisher"
    assert found["user bob"] == "restore as reader"
    assert found["yank of spam-1.0.tar.gz"] == "set it: too old"
    assert found["files"].startswith("add 3 files")
    assert "revocations after the last of these snapshots" in found
    assert restore.apply(job).changed
    assert {row[2] for row in restore.verify(job).rows} == {"equal"}
    assert (
        empty.tree().items()
        >= {path: content for path, content in index.tree().items() if "/staging/" not in path}.items()
    )
    again = restore.describe(empty, source=source, confirm="local")
    assert restore.plan(again).pending == ()
    assert not restore.apply(again).changed


def test_without_the_targets_name_it_only_shows(empty: Index, source: str) -> None:
    job = restore.describe(empty, source=source)
    plan = restore.plan(job)
    assert plan.pending == ()
    assert 'until the parameter confirm is "local"' in plan.held
    assert not restore.apply(job).changed
    assert "left as it was" in repr(restore.verify(job))
    assert not empty.volume_exists(PACKAGES_VOLUME)


@pytest.mark.parametrize("confirm", ["modal", "Local", "yes"])
def test_another_name_is_refused(empty: Index, source: str, confirm: str) -> None:
    job = restore.describe(empty, source=source, confirm=confirm)
    for step in (restore.preflight, restore.plan, restore.apply):
        with pytest.raises(ConfirmationError, match="nothing was changed"):
            step(job)
    assert not empty.volume_exists(PACKAGES_VOLUME)


def test_every_user_and_annotation_that_would_change_is_a_row(index: Index, source: str) -> None:
    index.write(".htpasswd", b"alice:other\nmallory:x\n", CREDENTIALS_VOLUME)
    index.write(".htgroup", b"admin: alice\n", CREDENTIALS_VOLUME)
    index.write(".index/yanked/spam-2.0.tar.gz", b"since")
    index.write(".index/status/spam", b'{"status": "archived"}')
    found = rows(restore.plan(restore.describe(index, source=source, confirm="local")))
    assert found["user alice"] == "restore password and publisher"
    assert found["user bob"] == "restore as reader"
    assert found["user mallory"] == "remove"
    assert found["yank of spam-2.0.tar.gz"] == "lift it"
    assert found["status of spam"] == "set it: deprecated"


def test_different_bytes_are_shown_as_refused_and_nothing_is_changed(index: Index, source: str) -> None:
    index.write("spam-1.0.tar.gz", b"SPAM 1.0")
    index.write(".htpasswd", b"", CREDENTIALS_VOLUME)
    job = restore.describe(index, source=source, confirm="local")
    assert "refused: the index has different bytes" in rows(restore.plan(job))["spam-1.0.tar.gz"]
    before = index.tree()
    with pytest.raises(SnapshotError, match="nothing was changed"):
        restore.apply(job)
    assert index.tree() == before


def test_a_difference_afterwards_fails_the_verification(index: Index, source: str) -> None:
    job = restore.describe(index, source=source, confirm="local")
    index.write("spam-1.0.tar.gz", b"SPAM 1.0")
    index.write(".htpasswd", b"mallory:x\n", CREDENTIALS_VOLUME)
    index.delete_file(PACKAGES_VOLUME, ".index/yanked/spam-1.0.tar.gz")
    with pytest.raises(VerificationError, match="3 checks of 3 failed") as raised:
        restore.verify(job)
    for named in ("spam-1.0.tar.gz", ".htpasswd", ".index/yanked/spam-1.0.tar.gz"):
        assert named in raised.value.why


def test_a_restoration_is_in_the_audit_log(empty: Index, source: str) -> None:
    restore.apply(restore.describe(empty, source=source, confirm="local"))
    audit = empty.volume_folder(PACKAGES_VOLUME) / ".index" / "audit"
    (log,) = audit.glob("*.restore-*.jsonl")
    assert '"event": "restore"' in log.read_text()
    assert '"alice publisher"' in log.read_text()
    assert "$2y$" not in log.read_text()


def test_a_directory_is_imported_with_files_that_an_upload_would_have_refused(tmp_path: Path, empty: Index) -> None:
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "good-1.0-py3-none-any.whl").write_bytes(wheel("good", "1.0"))
    (folder / "broken-1.0.tar.gz").write_bytes(b"no archive")
    (folder / "other-1.0-py3-none-any.whl").write_bytes(wheel("good", "1.0"))
    (folder / "notes.txt").write_bytes(b"")
    job = restore.describe(empty, source=str(folder), confirm="local")
    checked = {row[0]: row[1] for row in restore.acceptance(job).rows}
    assert "cannot be opened" in checked["broken-1.0.tar.gz"]
    assert checked["other-1.0-py3-none-any.whl"].startswith("would be refused: ")
    assert checked["notes.txt"] == "skipped: not a distribution"
    assert checked["all others"] == "would be accepted"
    restore.apply(job)
    restore.verify(job)
    assert {path for path in empty.tree() if "/.index/" not in path} == {
        f"pypiserver-data/{name}.0{suffix}"
        for name, suffix in {
            "good-1": "-py3-none-any.whl",
            "broken-1": ".tar.gz",
            "other-1": "-py3-none-any.whl",
        }.items()
    }
    (log,) = (empty.volume_folder(PACKAGES_VOLUME) / ".index" / "audit").iterdir()
    assert log.read_text().count('"event": "upload", "user": "importer"') == 3


@pytest.mark.parametrize("source", ["absent", "ftp://host/x", "s3://key:secret@bucket"])
def test_invalid_sources_are_refused_with_a_sentence(empty: Index, tmp_path: Path, source: str) -> None:
    place = source if "://" in source else str(tmp_path / source)
    with pytest.raises(RunbookError) as raised:
        restore.preflight(restore.describe(empty, source=place))
    assert "secret" not in str(raised.value)
    assert raised.value.todo


@pytest.mark.parametrize("snapshot", ["yesterday", "1999-01-01", "../x", ""])
def test_a_missing_snapshot_is_refused_with_the_existing_ones(empty: Index, source: str, snapshot: str) -> None:
    with pytest.raises(SnapshotError, match="there is no snapshot") as raised:
        restore.preflight(restore.describe(empty, source=source, snapshot=snapshot))
    assert "there are 1, from" in raised.value.why


@pytest.mark.slow
def test_a_restored_index_responds_as_before_to_the_same_users(workspace: Workspace, tmp_path: Path) -> None:
    """A real server: publish, yank, back up with the notebook, lose everything, restore with the notebook, compare."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli", "run", *arguments],
            cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def seen() -> dict[str, object]:
        deployment = target.state().require("local")
        page = requests.get(f"{deployment.url}simple/spam/", auth=login, headers={"Accept": JSON}, timeout=60)
        return {"status": page.status_code, "files": page.json()["files"], "project": page.json()["project-status"]}

    target = open_target("local")
    try:
        run("01_provision", "02_onboard_user", "-p", f"port={free_port()}")
        deployment = target.state().require("local")
        hosts = netrc.netrc(workspace.user("local", "alice") / "netrc").hosts
        login = ("alice", hosts[urlsplit(deployment.url).hostname or ""][2])
        for version in ("1.0", "2.0"):
            form = {":action": "file_upload", "protocol_version": "1", "name": "spam", "version": version}
            content = {"content": (f"spam-{version}-py3-none-any.whl", wheel("spam", version))}
            sent = requests.post(deployment.url, auth=login, data=form, files=content, timeout=60)
            assert sent.status_code == 200, sent.text
        for action, body in (("yank", {"version": "1.0", "reason": "bad"}), ("status", {"status": "deprecated"})):
            sent = requests.post(f"{deployment.url}projects/spam/{action}", auth=login, json=body, timeout=60)
            assert sent.status_code == 200, sent.text
        before = seen()
        place = str(tmp_path / "snapshots")
        assert "1 changed" in run("06_back_up", "-p", f"destination={place}")
        assert " 0 changed" in run("06_back_up", "-p", f"destination={place}")
        target.stop()
        for volume in (PACKAGES_VOLUME, CREDENTIALS_VOLUME):
            target.delete_volume(volume)
        run("07_restore", "01_provision", "-p", f"source={place}", "-p", "confirm=local")
        assert seen() == before
        assert run("09_audit", "-p", f"snapshots={place}", "-p", "fail_at=warning")
    finally:
        target.stop()
