"""Plans on Modal: manual changes appear as rows, and an approved plan is applied unchanged or not at all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ops import provision
from ops.errors import ApprovalError
from ops.secret import Secret
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_KEY, SECRET_NAME
from ops.table import APPROVED_VARIABLE
from ops.targets.modal import ModalTarget
from ops.targets.modal_versions import SHIPPED, AppVersions
from ops.workspace import PROJECT_ROOT, Workspace
from tests.standin.control_plane import ControlPlane


@pytest.fixture
def target(client: Mapping[str, str], workspace: Workspace) -> ModalTarget:
    del client
    return ModalTarget(workspace=workspace)


def test_a_stale_plan_is_refused_in_100_of_100_races(
    target: ModalTarget, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def secret() -> None:
        target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})

    changes: tuple[tuple[Callable[[], object], Callable[[], object]], ...] = (
        (secret, lambda: target.delete_secret(SECRET_NAME)),
        (lambda: target.create_volume(PACKAGES_VOLUME), lambda: target.delete_volume(PACKAGES_VOLUME)),
        (lambda: target.create_volume(CREDENTIALS_VOLUME), lambda: target.delete_volume(CREDENTIALS_VOLUME)),
    )
    for number in range(100):
        change, back = changes[number % len(changes)]
        monkeypatch.setenv(APPROVED_VARIABLE, provision.plan(target).sha256)
        change()
        with pytest.raises(ApprovalError):
            provision.apply(target)
        assert plane.apps.by_id == {}
        monkeypatch.delenv(APPROVED_VARIABLE)
        back()


def test_manual_changes_on_modal_are_rows_of_the_plan(target: ModalTarget, workspace: Workspace) -> None:
    provision.apply(target)
    assert provision.plan(target).pending == ()
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
    (server,) = provision.plan(target).pending
    assert "runs with an older secret" in str(server)
    provision.apply(target)
    assert provision.plan(target).pending == ()
    (copy,) = (path for path in target.private_paths() if path.is_file())
    copy.chmod(0o644)
    (mode,) = provision.plan(target).pending
    assert "open to other users" in str(mode)
    provision.apply(target)
    workspace.home.chmod(0o755)
    (mode,) = provision.plan(target).pending
    assert "open to other users" in str(mode)
    provision.apply(target)
    target.stop()
    assert [str(change) for change in provision.plan(target).pending] == ["+ server  start it"]
    target.delete_secret(SECRET_NAME)
    target.delete_volume(PACKAGES_VOLUME)
    assert len(provision.plan(target).pending) == 3


def test_code_that_differs_from_the_deployed_commit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    code = tmp_path / "ops" / "index" / "server.py"
    code.parent.mkdir(parents=True)
    code.write_text("1\n")
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    releases = AppVersions.__new__(AppVersions)
    releases._root = tmp_path

    def deployed(found: str) -> str:
        monkeypatch.setattr(releases, "_rows", lambda: [(None, found)])
        return releases.outdated()

    assert deployed(commit) == ""
    assert deployed(f"{commit}*") == f"runs the code of {commit[:12]} with changes that were not committed"
    (tmp_path / "README.md").write_text("not shipped")
    assert deployed(commit) == ""
    assert deployed(f"{commit}*") == "", "Modal marks a clone as dirty for a change in any file, and would do so again"
    code.write_text("2\n")
    assert deployed(commit) == f"runs the code of the commit {commit[:12]}"
    assert deployed(f"{commit}*") == "", "both have unknown changes"
    assert deployed("0" * 40) == f"runs the code of the commit {'0' * 12}, which this clone does not have"


def test_the_files_compared_are_the_files_shipped() -> None:
    text = (PROJECT_ROOT / "deployments" / "pypi_deploy.py").read_text()
    listed = text.partition("SHIPPED = (")[2].partition(")")[0]
    shipped = {
        f"ops/{line.strip().strip(',').strip(chr(34)).rstrip('/')}" for line in listed.split("\n") if line.strip()
    }
    assert {"deployments", *shipped} == set(SHIPPED)
