"""The smoke test itself: what it proves, what makes it fail, and that it always cleans up."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ops import onboard, provision, tear_down, test_release
from ops.admin_api import AdminApi
from ops.errors import IndexRequestError, NotDeployedError, PreflightError, RunbookError, VerificationError
from ops.redaction import Redactor
from ops.secret import REGISTER_VARIABLE
from ops.smoke import SmokeTest
from ops.table import Table
from ops.targets import Target, open_target
from ops.temporary_user import temporary_admin
from ops.test_release import TrialRelease
from ops.workspace import PROJECT_ROOT, Workspace
from tests.fakes import FakeIndex, FakeTarget
from tests.process_list import ProcessList

pytest_plugins = ["tests.operations"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> TrialRelease:
    """One build for all tests that only need some release."""
    return test_release.build("0.1.0.dev20260102030405678", tmp_path_factory.mktemp("sample"))


@pytest.fixture
def smoke(provisioned: FakeTarget, built: TrialRelease, monkeypatch: pytest.MonkeyPatch) -> SmokeTest:
    """A smoke test of the fake index, with an already built release."""
    test = SmokeTest(provisioned)
    test.temporary_user.version = built.version
    monkeypatch.setattr(test_release, "build", lambda *_: built)
    monkeypatch.setattr("ops.polling.SECONDS", 0.0)
    return test


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate temporary folder, to check what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def run(*steps: Callable[[], Table]) -> None:
    for step in steps:
        step()


@pytest.fixture
def no_secret_in_the_process_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register every secret that the test creates, as in a notebook."""
    register = tmp_path / "secrets"
    register.touch(mode=0o600)
    monkeypatch.setenv(REGISTER_VARIABLE, str(register))
    with ProcessList() as processes:
        yield
    redactor = Redactor(base64.b64decode(line).decode() for line in register.read_text().splitlines())
    for program in ("ops.index", "pip", "uv", "twine", "build"):
        assert any(program in line for line in processes.command_lines), program
    for line in processes.command_lines:
        assert not redactor.finds(line), redactor.text(line)


@pytest.mark.slow
@pytest.mark.usefixtures("no_secret_in_the_process_list")
def test_the_whole_runbook_works_on_this_machine_and_leaves_nothing(workspace: Workspace, temporary: Path) -> None:
    target: Target = open_target("local", workspace=workspace)
    try:
        provision.apply(target)
        assert len(provision.verify(target).rows) == 5
        onboarding = onboard.describe(target, username="al ice")
        onboard.apply(onboarding)
        assert len(onboard.verify(onboarding).rows) == 5
        test = SmokeTest(target)
        assert [change.sign for change in test.plan().changes] == ["±", "±"]
        assert test.plan().pending == ()
        run(test.start, test.refusals, test.build, test.publish, test.install, test.compare, test.remove)
        steps = [step for step, _ in test.timings().steps]
        for client in ("HTTP", "pip", "uv", "build", "twine", "uv publish"):
            assert any(step.startswith(f"{client}:") for step in steps), client
        assert list(temporary.iterdir()) == []
        _, admin = AdminApi.of(target)
        with admin:
            assert [user.username for user in admin.users()] == ["al ice"]
        assert not provision.apply(target).changed
        assert not onboard.apply(onboarding).changed
        published = [file.path for file in target.list_files("pypiserver-data") if not file.path.startswith(".index/")]
        assert published == []
        tear_down.apply(target, confirm="local")
        assert {seen for _, _, seen in tear_down.verify(target, confirm="local").rows} == {"gone"}
    finally:
        target.stop()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("open", "HTTP: a stranger: 200 instead of 401"),
        ("overwrite", r"twine: other bytes as this wheel: taken \(200\) instead of refused"),
        ("lying", "SHA-256 of the wheel: built"),
        ("sticky", "the release: still there instead of removed; the user: still there instead of deleted"),
    ],
)
def test_an_index_that_misbehaves_fails_the_test(
    smoke: SmokeTest, index: FakeIndex, temporary: Path, fault: str, said: str
) -> None:
    smoke.start()
    index.faults.add(fault)
    if fault == "open":
        steps = [smoke.refusals]
    elif fault == "sticky":
        steps = [smoke.remove]
        index.files["pypi_runbook-0.1.0.dev20260102030405678.tar.gz"] = b"published"
    else:
        steps = [smoke.build, smoke.publish, smoke.compare]
    with pytest.raises(VerificationError, match=said):
        run(*steps)
    assert list(temporary.iterdir()) == []
    if fault != "sticky":
        assert (index.users, index.files) == ({}, {})


def test_after_a_failed_step_no_other_one_runs(smoke: SmokeTest, index: FakeIndex) -> None:
    smoke.start()
    index.faults.add("open")
    with pytest.raises(VerificationError):
        smoke.refusals()
    with pytest.raises(RunbookError, match="this smoke test has ended"):
        smoke.publish()


def test_an_end_that_failed_leaves_no_file_and_can_be_repeated(
    smoke: SmokeTest, index: FakeIndex, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke.start()
    with monkeypatch.context() as patch:
        refused = IndexRequestError("refused", status=503, why="it is busy", todo="wait")
        patch.setattr(smoke.temporary_user, "delete_user", Mock(side_effect=refused))
        with pytest.raises(IndexRequestError):
            smoke.temporary_user.end()
    assert list(temporary.iterdir()) == []
    assert smoke.temporary_user.username in index.users
    smoke.temporary_user.end()
    assert index.users == {}


def test_a_kernel_shut_down_midway_leaves_nothing(provisioned: FakeTarget, index: FakeIndex, temporary: Path) -> None:
    token = provisioned.secrets["pypi-auth-token"]["AUTH_TOKEN"].reveal()
    script = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from ops.secret import Secret\n"
        "from ops.smoke import SmokeTest\n"
        "from tests.fakes import FakeTarget\n"
        "target = FakeTarget(SimpleNamespace(url=sys.argv[1], token=''))\n"
        "target.secrets, target.running = {'pypi-auth-token': {'AUTH_TOKEN': Secret(input())}}, True\n"
        "test = SmokeTest(target)\n"
        "test.start()\n"
        "print(test.temporary_user.username)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, index.url],
        input=f"{token}\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT_ROOT,
    )
    username = ended.stdout.strip()
    assert username.startswith("smoke-")
    assert any(login[0] == username for login in index.logins), "it never started"
    assert index.users == {}
    assert list(temporary.iterdir()) == []


def test_what_a_killed_test_left_on_this_machine_is_removed_by_the_next(
    smoke: SmokeTest, index: FakeIndex, workspace: Workspace
) -> None:
    token = smoke._target.recall_secret("pypi-auth-token", "AUTH_TOKEN")
    assert token is not None
    script = (
        "import os, signal, sys\n"
        "from types import SimpleNamespace\n"
        "from ops.secret import Secret\n"
        "from ops.temporary_user import TemporaryUser, temporary_admin\n"
        "from tests.fakes import FakeTarget\n"
        "target = FakeTarget(SimpleNamespace(url=sys.argv[1], token=''))\n"
        "target.secrets, target.running = {'pypi-auth-token': {'AUTH_TOKEN': Secret(input())}}, True\n"
        "user = TemporaryUser(target)\n"
        "user.start()\n"
        "with temporary_admin(target, 'incident'):\n"
        "    print(user.version, user.inside(''), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, index.url]
    killed = subprocess.run(
        command, input=f"{token.reveal()}\n", stdout=subprocess.PIPE, text=True, check=False, cwd=PROJECT_ROOT
    )
    version, folder = killed.stdout.split()
    assert any(Path(folder).rglob("netrc"))
    index.files[f"pypi_runbook-{version}.tar.gz"] = b"published"
    assert sorted(name.partition("-")[0] for name in index.users) == ["incident", "smoke"]
    assert ("left over from killed tests", "2 users and 1 releases removed") in smoke.start().rows
    assert list(index.users) == [smoke.temporary_user.username]
    assert index.files == {}
    assert not Path(folder).exists()
    smoke.temporary_user.end()
    assert list((workspace.target("local") / "temporary").iterdir()) == []


def test_the_user_of_a_run_that_begins_meanwhile_is_not_mistaken_for_a_leftover(
    smoke: SmokeTest, index: FakeIndex, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = workspace.target("local") / "temporary" / "smoke-0000000000ab"
    new.parent.mkdir(parents=True, mode=0o700)
    new.touch()  # and not locked yet
    users, begun = AdminApi.users, list[str]()

    def users_after_the_other_run_has_gone_on(admin: AdminApi) -> Any:
        with contextlib.suppress(OSError), new.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it would wait here
            index.add_user(new.name, "a-good-password")
            begun.append(new.name)
        return users(admin)

    monkeypatch.setattr(AdminApi, "users", users_after_the_other_run_has_gone_on)
    smoke.start()
    assert set(begun) <= index.users.keys()
    smoke.temporary_user.end()


def test_the_release_of_a_killed_test_is_removed_even_if_another_run_has_removed_its_user(
    smoke: SmokeTest, index: FakeIndex, workspace: Workspace
) -> None:
    left = workspace.target("local") / "temporary" / "smoke-killed"
    left.parent.mkdir(parents=True)
    left.write_text("0.1.0.dev29990101000000000")
    index.add_user(left.name, "a-good-password")
    index.files["pypi_runbook-0.1.0.dev29990101000000000.tar.gz"] = b"published"
    with temporary_admin(smoke._target, "incident"):
        assert left.name not in index.users
    assert ("left over from killed tests", "0 users and 1 releases removed") in smoke.start().rows
    assert index.files == {}
    assert not left.exists()


def test_old_leftovers_of_killed_tests_are_removed_and_everything_else_stays(
    smoke: SmokeTest, index: FakeIndex
) -> None:
    now = int(time.time())
    old, fresh = f"smoke-{now - 7200:08x}abcd", f"smoke-{now - 60:08x}abcd"
    for username in (old, fresh, "smoke-screen", "alice"):
        index.add_user(username, "a-good-password")
    moment = datetime.now(UTC)
    releases = {
        "old": f"0.1.0.dev{moment - timedelta(hours=2):%Y%m%d%H%M%S}000",
        "fresh": f"0.1.0.dev{moment:%Y%m%d%H%M%S}000",
        "others": "0.1.0",
    }
    for version in releases.values():
        index.files[f"pypi_runbook-{version}.tar.gz"] = b"published"
    assert ("left over from killed tests", "1 users and 1 releases removed") in smoke.start().rows
    assert set(index.users) == {fresh, "smoke-screen", "alice", smoke.temporary_user.username}
    assert {name.split("-")[1].removesuffix(".tar.gz") for name in index.files} == {
        releases["fresh"],
        releases["others"],
    }
    smoke.temporary_user.end()
    smoke.temporary_user.end()
    assert smoke.temporary_user.username not in index.users


def test_without_an_index_nothing_is_left(target: FakeTarget, temporary: Path) -> None:
    with pytest.raises(NotDeployedError):
        SmokeTest(target).start()
    assert list(temporary.iterdir()) == []


def test_a_step_before_the_start_says_so(provisioned: FakeTarget) -> None:
    with pytest.raises(RunbookError, match="was not started"):
        SmokeTest(provisioned).refusals()


def test_a_build_has_the_requested_version_and_does_not_change_the_source(built: TrialRelease, tmp_path: Path) -> None:
    assert built.wheel.name == "pypi_runbook-0.1.0.dev20260102030405678-py3-none-any.whl"
    assert built.sdist.name == "pypi_runbook-0.1.0.dev20260102030405678.tar.gz"
    assert "dev2026" not in (PROJECT_ROOT / "ops" / "__init__.py").read_text()
    other = built.altered(tmp_path)
    for mine, theirs in ((built.wheel, other.wheel), (built.sdist, other.sdist)):
        assert mine.name == theirs.name
        assert mine.read_bytes() != theirs.read_bytes()


def test_without_the_source_there_is_nothing_to_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_release, "PROJECT_ROOT", tmp_path)
    with pytest.raises(PreflightError, match=r"pyproject\.toml"):
        test_release.build("1", tmp_path / "sample")
