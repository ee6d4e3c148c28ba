"""Upgrade: a good version stays, a bad one is rolled back, and the same version changes nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops import provision, rollback, upgrade
from ops.errors import ParameterError, RunbookError, VerificationError
from ops.http_client import HttpClient
from ops.plan import Outcome
from ops.preflight import preflight_of_index
from ops.settings import PACKAGES_VOLUME
from ops.targets import UPGRADE, Target, local, open_target
from ops.targets.local import LocalTarget
from ops.targets.process import ServerProcess
from ops.workspace import PROJECT_ROOT
from tests.fakes import FakeTarget
from tests.local_index import local_index

pytest_plugins = ["tests.operations"]


def git(clone: Path, *arguments: str) -> str:
    command = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of the server's code, for creating and breaking versions."""
    folder = tmp_path / "clone"
    shutil.copytree(PROJECT_ROOT / "ops", folder / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__\n")
    git(tmp_path, "init", "-q", str(folder))
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "First")
    for module in (local, upgrade):
        monkeypatch.setattr(module, "PROJECT_ROOT", folder)
    return folder


@pytest.fixture
def versioned(clone: Path) -> Iterator[Target]:
    """A provisioned local target that runs the clone's code."""
    del clone
    with local_index() as found:
        yield found


def change(clone: Path, message: str, *, old: str = "", new: str = "", file: str = "ops/index/__init__.py") -> str:
    """Commit a change of the code, and return the commit."""
    path = clone / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else f"{text}{new}\n")
    git(clone, "commit", "-qam", message)
    return git(clone, "rev-parse", "HEAD")


def health(target: Target) -> None:
    """A fast smoke test."""
    deployment = target.state().require(target.place)
    with HttpClient(deployment.url) as index:
        if index.request("GET", "health").text.strip() != "ok":
            raise RunbookError("the health page says something else")


def upgraded(target: Target, revision: str = "") -> Outcome:
    described = upgrade.describe(target, revision=revision)
    quick = upgrade.Upgrade(target=target, commit=described.commit, test=health)
    upgrade.plan(quick)
    outcome = upgrade.apply(quick)
    upgrade.verify(quick)
    return outcome


@pytest.mark.slow
def test_a_new_version_is_deployed_once_and_can_be_rolled_back(versioned: Target, clone: Path) -> None:
    assert not upgraded(versioned).changed
    commit = change(clone, "Say <b>more</b>", new="# more")
    described = upgrade.describe(versioned, dry_run=True)
    assert not upgrade.apply(described).changed
    rows = upgrade.changes(described).rows
    assert [row[1:] for row in rows] == [("Say <b>more</b>", "no")]
    assert "<b>" not in upgrade.changes(described)._repr_html_()
    assert len(upgrade.plan(upgrade.describe(versioned)).pending) == 1
    assert upgraded(versioned).done[0] == ("server", "version 2 deployed, in place of 1")
    assert not upgraded(versioned).changed
    assert upgrade.changes(upgrade.describe(versioned)).rows == (("none", "it is this version", "no"),)
    assert versioned.history()[0].commit == commit
    rollback.roll_back(versioned)
    assert [release.tag for release in versioned.history()] == ["rollback-to-1", "upgrade", ""]
    assert versioned.outdated() == "runs with another code"
    assert not upgraded(versioned, "HEAD~1").changed
    assert upgraded(versioned, commit[:10]).changed
    assert "the commit" in repr(upgrade.plan(upgrade.describe(versioned, revision="HEAD~1")))
    assert git(clone, "worktree", "list").count("\n") == 0, "no worktree is left"


def test_a_server_stopped_by_a_killed_upgrade_is_started_again_with_the_version_before(
    versioned: Target, clone: Path
) -> None:
    change(clone, "Change", new="# more")
    versioned.deploy()
    assert [release.version for release in versioned.history()] == ["2", "1"]
    versioned.unfinished_upgrade.write_text("1")
    versioned.stop()
    assert versioned.resume()
    assert versioned.outdated() == "runs with another code"
    assert upgraded(versioned).done[0] == ("server", "version 2 deployed, in place of 1")
    assert not versioned.unfinished_upgrade.exists()


def test_a_new_version_that_hangs_is_replaced_if_its_upgrade_was_killed(
    versioned: Target, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(target: LocalTarget, process: ServerProcess) -> bool:
        raise KeyboardInterrupt

    change(clone, "Hang", new="import time; time.sleep(600)")
    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "_responds", killed)
        with pytest.raises(KeyboardInterrupt):
            upgraded(versioned)
    monkeypatch.setattr(local, "STOP_SECONDS", 0.5)
    preflight_of_index(versioned)
    health(versioned)
    assert "go back to version 1 if it fails" in repr(upgrade.plan(upgrade.describe(versioned)))


@pytest.mark.parametrize("deploy", [lambda target: rollback.roll_back(target, version="2"), provision.apply])
def test_after_another_deployment_a_killed_upgrade_is_over(
    provisioned: FakeTarget, deploy: Callable[[Target], Outcome]
) -> None:
    for version in ("one", "two", "three"):
        provisioned.deploy(revision=version)
    provisioned.unfinished_upgrade.write_text("1")
    deploy(provisioned)
    provisioned.old = "runs with another code"
    back = f"go back to version {rollback.current(provisioned)} if it fails"
    assert back in repr(upgrade.plan(upgrade.Upgrade(target=provisioned, commit="four")))


def test_a_killed_upgrade_is_still_tested_after_the_index_was_provisioned(provisioned: FakeTarget) -> None:
    provisioned.deploy(tag=UPGRADE, revision="two")
    provisioned.unfinished_upgrade.write_text("1")
    provisioned.code = ""  # the clone's, which is the same
    provision.apply(provisioned)
    assert "go back to version 1 if it fails" in repr(upgrade.plan(upgrade.Upgrade(target=provisioned)))


def test_a_change_of_the_volumes_format_is_marked(versioned: Target, clone: Path) -> None:
    change(clone, "Write otherwise", new="# otherwise", file="ops/index/packages/annotations.py")
    assert upgrade.changes(upgrade.describe(versioned)).rows[0][1:] == ("Write otherwise", "yes")


@pytest.mark.parametrize("broken", ["import no_such_module", "raise SystemExit('refused')"])
def test_a_version_that_does_not_start_is_rolled_back(versioned: Target, clone: Path, broken: str) -> None:
    change(clone, "Break", new=broken)
    with pytest.raises(VerificationError, match="was rolled back: version 1 runs again") as raised:
        upgraded(versioned)
    assert "did not respond" in raised.value.why
    health(versioned)
    assert [release.version for release in versioned.history()] == ["1"]
    provision.verify(versioned)


@pytest.mark.slow
def test_a_version_that_starts_but_fails_the_smoke_test_is_rolled_back(versioned: Target, clone: Path) -> None:
    change(
        clone,
        "Refuse every removal",
        old="if not identity.may_administer:\n            raise Forbidden",
        new="if True:\n            raise Forbidden",
        file="ops/index/packages/releases.py",
    )
    with pytest.raises(VerificationError, match="was rolled back: version 1 runs again"):
        upgrade.apply(upgrade.describe(versioned))
    assert [release.tag for release in versioned.history()][:2] == ["rollback-to-1", "upgrade"]
    left = [file.path for file in versioned.list_files(PACKAGES_VOLUME) if file.path.endswith((".whl", ".tar.gz"))]
    assert left == [], "the release that the new version refused to remove"
    upgrade.smoke_test(versioned)


def test_without_an_earlier_version_the_error_says_what_to_do(provisioned: FakeTarget) -> None:
    provisioned.old, provisioned.versions = "runs with another code", []

    def fail(target: Target) -> None:
        raise RunbookError("it smokes")

    with pytest.raises(VerificationError, match="there is none to roll back to") as raised:
        upgrade.apply(upgrade.Upgrade(target=provisioned, test=fail))
    assert raised.value.why == "it smokes"


@pytest.mark.parametrize(
    "revision", ["no-such-branch", "--help", "-x", "a b", "a\nb", " HEAD", "HEAD;ls", "../x", "<b>"]
)
def test_an_unknown_revision_is_refused(clone: Path, revision: str) -> None:
    del clone
    with pytest.raises(ParameterError, match="revision"):
        upgrade.describe(open_target("local"), revision=revision)
