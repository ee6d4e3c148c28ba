"""The Modal target: everything the local target does, through Modal's own client."""

from __future__ import annotations

import asyncio
import builtins
import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import modal
import pytest
import requests
from grpclib import Status

from ops import rotation
from ops.admin_api import AdminApi
from ops.errors import (
    AuthenticationError,
    BusyError,
    NetworkError,
    NotDeployedError,
    PermissionDeniedError,
    PlanError,
    QuotaError,
    RateLimitError,
    RunbookError,
    StartError,
    TargetError,
    TimeLimitError,
)
from ops.secret import Secret
from ops.settings import ADMIN_FUNCTION, PACKAGES_VOLUME, SECRET_KEY, SECRET_NAME, Settings
from ops.targets import CredentialAge, modal_volumes, open_target
from ops.targets import lock as lock_module
from ops.targets import modal as modal_target
from ops.targets.modal import ModalTarget
from ops.targets.modal_session import SUPPORTED, ask, command_line
from ops.targets.modal_versions import AppVersions
from ops.workspace import PROJECT_ROOT, Workspace
from tests.modal.conftest import forget_client
from tests.modal.traffic import eventually
from tests.standin.control_plane import TOKEN_CREATED, ControlPlane

PROBE = Path(__file__).parent / "probe" / "probe_deploy.py"


@pytest.fixture
def target(client: Mapping[str, str], workspace: Workspace) -> ModalTarget:
    del client
    return ModalTarget(workspace=workspace)


@pytest.fixture
def provisioned(target: ModalTarget) -> ModalTarget:
    if not target.secret_exists(SECRET_NAME):
        target.put_secret(SECRET_NAME, {SECRET_KEY: Secret("a-token-of-the-tests-that-is-long-enough")})
    return target


def by_name(target: ModalTarget) -> dict[str, Any]:
    return {check.name: check for check in target.checks()}


# --- the preflight -------------------------------------------------------------------------------------------------


def test_the_preflight_checks_client_credentials_workspace_environment_and_file(target: ModalTarget) -> None:
    checks = by_name(target)
    assert list(checks) == ["client", "credentials", "workspace", "environment", "deployment file"]
    assert all(check.passed for check in checks.values())
    assert checks["environment"].detail == "main"


def test_without_credentials_it_says_how_to_get_them_and_sends_modal_nothing(
    target: ModalTarget, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    monkeypatch.delenv("MODAL_TOKEN_SECRET")
    plane.called.clear()
    check = by_name(target)["credentials"]
    assert not check.passed
    assert "modal token new" in check.detail
    assert plane.called == []


def test_wrong_credentials_are_detected(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with ControlPlane(tokens=[("ak-right", "as-right")]) as plane:
        for name, value in plane.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-wrong")
        forget_client()
        check = by_name(ModalTarget(workspace=workspace))["workspace"]
        forget_client()
    assert not check.passed
    assert "Token validation failed" in check.detail
    assert "modal token new" in check.detail


def test_a_missing_environment_is_detected(
    client: Mapping[str, str], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    del client
    monkeypatch.setenv("MODAL_ENVIRONMENT", "staging")
    check = by_name(ModalTarget(workspace=workspace))["environment"]
    assert not check.passed
    assert "modal environment create staging" in check.detail


def test_an_untested_client_version_is_named(target: ModalTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modal, "__version__", "1.7.0")
    check = by_name(target)["client"]
    assert not check.passed
    assert "1.6.4" in check.detail


def test_the_supported_versions_match_the_packages_requirement() -> None:
    first, end = (".".join(map(str, bound)) for bound in SUPPORTED)
    assert f'"modal>={first},<{end}"' in (PROJECT_ROOT / "pyproject.toml").read_text()


# --- secrets -------------------------------------------------------------------------------------------------------


def test_a_secret_is_sent_to_modal_and_the_local_copy_is_private(
    target: ModalTarget, plane: ControlPlane, workspace: Workspace
) -> None:
    assert target.recall_secret("one", SECRET_KEY) is None
    target.put_secret("one", {SECRET_KEY: Secret("the-first-value")})
    stored = plane.secrets.named("one", "main")
    assert stored is not None
    assert stored.values == {SECRET_KEY: "the-first-value"}
    assert target.recall_secret("one", SECRET_KEY) == Secret("the-first-value")
    (copy,) = workspace.secrets("modal.main").iterdir()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_an_existing_secret_gets_the_new_value_and_keeps_its_id(target: ModalTarget, plane: ControlPlane) -> None:
    target.put_secret("two", {SECRET_KEY: Secret("the-first-value")})
    before = plane.secrets.named("two", "main")
    target.put_secret("two", {SECRET_KEY: Secret("the-second-value")})
    after = plane.secrets.named("two", "main")
    assert before is not None
    assert before is after, "deployed functions refer to it by id"
    assert after.values == {SECRET_KEY: "the-second-value"}
    assert target.recall_secret("two", SECRET_KEY) == Secret("the-second-value")


def test_the_variable_takes_precedence_over_the_copy(target: ModalTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    target.put_secret("three", {SECRET_KEY: Secret("from-the-file")})
    monkeypatch.setenv(SECRET_KEY, "from-the-environment")
    assert target.recall_secret("three", SECRET_KEY) == Secret("from-the-environment")


def test_deleting_a_secret_deletes_the_copy_too(target: ModalTarget, workspace: Workspace) -> None:
    target.put_secret("five", {SECRET_KEY: Secret("a-value")})
    assert target.delete_secret("five")
    assert not target.secret_exists("five")
    assert list(workspace.secrets("modal.main").iterdir()) == []
    assert not target.delete_secret("five")


def test_environments_have_their_own_secrets_and_their_own_copies(
    client: Mapping[str, str], plane: ControlPlane, workspace: Workspace
) -> None:
    del client
    if "dev" not in plane.environments:
        plane.environments.append("dev")
    main, dev = ModalTarget(workspace=workspace), ModalTarget(workspace=workspace, environment="dev")
    main.put_secret("six", {SECRET_KEY: Secret("of-the-default")})
    assert not dev.secret_exists("six")
    dev.put_secret("six", {SECRET_KEY: Secret("of-dev")})
    assert main.recall_secret("six", SECRET_KEY) == Secret("of-the-default")
    assert dev.recall_secret("six", SECRET_KEY) == Secret("of-dev")


# --- volumes -------------------------------------------------------------------------------------------------------


def test_a_volume_is_created_once_and_deleted_once(target: ModalTarget) -> None:
    assert not target.volume_exists("box")
    target.create_volume("box")
    target.create_volume("box")
    assert target.volume_exists("box")
    assert list(target.list_files("box")) == []
    assert target.delete_volume("box")
    assert not target.delete_volume("box")


def test_a_volume_is_deleted_after_its_dicts_so_that_a_second_run_finds_what_the_first_left(
    target: ModalTarget, plane: ControlPlane
) -> None:
    target.create_volume(PACKAGES_VOLUME)
    modal.Dict.objects.create(target.settings.claims_dict, environment_name="main")
    plane.fail("DictDelete", Status.PERMISSION_DENIED, "you may not")
    with pytest.raises(PermissionDeniedError):
        target.delete_volume(PACKAGES_VOLUME)
    assert target.delete_volume(PACKAGES_VOLUME)
    assert [found for found in plane.dicts.by_id.values() if found.name == target.settings.claims_dict] == []


def test_files_are_transferred_both_ways_unchanged_even_large_ones(
    target: ModalTarget, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modal_volumes, "PROGRESS_BYTES", 10 * 1024**2)
    target.create_volume("files")
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    large.write_bytes(os.urandom(20_000_000) + bytes(5_000_000))
    target.upload("files", ".htpasswd", small)
    target.upload("files", "deep/er/large.whl", large)
    files = [(file.path, file.size) for file in target.list_files("files")]
    assert files == [(".htpasswd", 5), ("deep/er/large.whl", 25_000_000)]
    target.download("files", "deep/er/large.whl", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert "MiB downloaded" in capsys.readouterr().err
    target.upload("files", ".htpasswd", large)
    assert target.list_files("files")[0].size == 25_000_000, "an existing file is replaced"


def test_a_download_that_fails_leaves_no_file(target: ModalTarget, tmp_path: Path) -> None:
    target.create_volume("files")
    with pytest.raises(TargetError, match="not-there"):
        target.download("files", "not-there", tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


# --- the app -------------------------------------------------------------------------------------------------------


def test_nothing_exists_before_the_first_deployment(target: ModalTarget) -> None:
    assert target.deployment() is None
    assert target.history() == []
    assert not target.stop()
    with pytest.raises(NotDeployedError):
        target.logs()


def test_a_deployment_responds_and_a_second_one_changes_nothing(provisioned: ModalTarget, plane: ControlPlane) -> None:
    first = provisioned.deploy(tag="v0.1.0")
    assert first.changed
    assert requests.get(f"{first.url}health", timeout=60).status_code == 200
    assert requests.get(first.index_url, timeout=60).status_code == 401
    assert requests.get(f"{first.admin_url}health", timeout=60).status_code == 200
    again = provisioned.deploy()
    assert not again.changed
    found = provisioned.deployment()
    assert found is not None
    assert (found.url, found.admin_url) == (first.url, first.admin_url)
    assert plane.function("server").web_url + "/" == first.url


def test_the_history_has_tag_commit_and_time_in_utc(provisioned: ModalTarget) -> None:
    provisioned.deploy(tag="v0.1.1")
    release = provisioned.history()[0]
    assert release.tag == "v0.1.1"
    assert release.when.endswith("+00:00")
    assert "fake-user" in release.detail


def test_every_credentials_age_is_reported_even_modals_own_token(provisioned: ModalTarget) -> None:
    ages = {age.name: age for age in provisioned.credential_ages()}
    assert ages["secret pypi-auth-token (admin token)"].created is not None
    created = datetime.fromtimestamp(TOKEN_CREATED, UTC)
    assert ages["token of Modal"] == CredentialAge("token of Modal", created, created + timedelta(days=30))


def test_a_rotation_keeps_the_old_admin_token_until_the_containers_have_the_new_one(
    provisioned: ModalTarget,
) -> None:
    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: Secret("the-former-token-of-this-test-0123456789")})
    provisioned.deploy()
    _, admin = AdminApi.of(provisioned)
    with admin:
        eventually(lambda: admin.users_status() == 200)  # until then, a container with an older token responds
    described = rotation.describe(provisioned, rotate="admin", max_age_days=90)
    assert not rotation.apply(described).changed
    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: Secret("a-token-that-no-container-has-yet-0123456789")})
    _, admin = AdminApi.of(provisioned)
    with admin:
        assert admin.users_status() == 200, "with the old one"
    assert len(rotation.plan(described).pending) == 1
    rotation.verify(described, rotation.apply(described))
    assert provisioned.recall_former_secret(SECRET_NAME, SECRET_KEY) is None
    assert not rotation.apply(described).changed


def test_of_a_secret_refused_by_modal_both_values_are_kept_until_the_next_deployment_sends_the_new_one(
    provisioned: ModalTarget, plane: ControlPlane
) -> None:
    old, new = Secret("the-old-value-of-this-test-0123456789"), Secret("the-new-value-of-this-test-0123456789")
    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: old})
    provisioned.deploy()
    plane.fail("SecretGetOrCreate", Status.PERMISSION_DENIED, "you may not")
    with pytest.raises(PermissionDeniedError):
        provisioned.put_secret(SECRET_NAME, {SECRET_KEY: new})
    assert provisioned.recall_former_secret(SECRET_NAME, SECRET_KEY) == old
    assert provisioned.recall_secret(SECRET_NAME, SECRET_KEY) == new
    provisioned.deploy()
    stored = plane.secrets.named(SECRET_NAME, "main")
    assert stored is not None
    assert stored.values == {SECRET_KEY: new.reveal()}
    assert provisioned.recall_former_secret(SECRET_NAME, SECRET_KEY) is None


@pytest.mark.slow
@pytest.mark.parametrize("sent", [False, True])
def test_rotations_killed_while_modal_gets_the_new_admin_token_lock_nobody_out(
    provisioned: ModalTarget, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, *, sent: bool
) -> None:
    class Killed(BaseException):
        pass

    def killed(doing: str, work: Callable[[], Any], **options: Any) -> Any:
        if doing != "keep the secret":
            return ask(doing, work, **options)
        if sent:
            ask(doing, work, **options)
        raise Killed

    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: Secret("the-token-before-two-killed-rotations")})
    provisioned.deploy()
    for _ in range(2):
        described = rotation.describe(provisioned, rotate="admin", max_age_days=0)
        with monkeypatch.context() as patched:
            patched.setattr(modal_target, "ask", killed)
            with pytest.raises(Killed):
                rotation.apply(described)
        for container in plane.live(ADMIN_FUNCTION):
            plane.kill(container)  # the next one has what Modal has now
    rotation.preflight(provisioned)
    described = rotation.describe(provisioned, rotate="admin", max_age_days=90)
    assert rotation.plan(described).pending[0].then == "complete it"
    rotation.verify(described, rotation.apply(described))
    assert provisioned.recall_former_secret(SECRET_NAME, SECRET_KEY) is None
    assert provisioned.outdated() == ""


def test_after_a_rotation_the_next_deployment_replaces_the_containers(
    provisioned: ModalTarget, plane: ControlPlane
) -> None:
    deployment = provisioned.deploy()

    def admits(token: str) -> bool:
        response = requests.get(
            f"{deployment.admin_url}users", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        return response.status_code == 200

    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: Secret("the-token-before-the-rotation-0123")})
    provisioned.deploy()
    eventually(lambda: admits("the-token-before-the-rotation-0123"), 120)
    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: Secret("the-token-after-the-rotation-01234")})
    assert admits("the-token-before-the-rotation-0123"), "running containers keep the old value"
    assert provisioned.deploy().changed
    eventually(lambda: not admits("the-token-before-the-rotation-0123"), 120)
    eventually(lambda: admits("the-token-after-the-rotation-01234"), 120)
    assert not provisioned.deploy().changed, "once is enough"


def test_no_secret_appears_in_the_process_list(provisioned: ModalTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Recorded(subprocess.Popen[Any]):
        """Records every process started, including by ``subprocess.run``."""

        def __init__(self, command: Any, *arguments: Any, **options: Any) -> None:
            seen.extend(map(str, command))
            super().__init__(command, *arguments, **options)

    provisioned.deploy()  # a changed secret only replaces containers that are running
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    provisioned.put_secret(SECRET_NAME, {SECRET_KEY: Secret("a-value-that-nobody-may-see-0123456")})
    provisioned.deploy()
    assert "rollover" in seen
    assert not [word for word in seen if "nobody-may-see" in word]


def test_on_a_plan_with_rollbacks_modals_own_is_used(provisioned: ModalTarget, plane: ControlPlane) -> None:
    plane.apps.plan = "team"
    try:
        provisioned.deploy(tag="one")
        version = provisioned.history()[0].version
        provisioned.deploy(tag="two")
        assert provisioned.rollback(version).changed
    finally:
        plane.apps.plan = "starter"
    app = plane.apps.named("pypiserver")
    assert app is not None
    assert app.versions[-1].rollback_of == int(version)


def test_a_missing_version_is_refused_with_a_list_of_versions(provisioned: ModalTarget) -> None:
    provisioned.deploy(tag="only")
    with pytest.raises(TargetError, match="there is no version '999'") as error:
        provisioned.rollback("999")
    assert provisioned.history()[0].version in error.value.why


def clone(folder: Path, more: Mapping[str, str] = MappingProxyType({})) -> Path:
    """A clone of this tree's deployment, with one commit, and with *more* files by their paths."""
    root = folder / "clone"
    root.mkdir()
    shutil.copytree(PROJECT_ROOT / "ops", root / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT_ROOT / "deployments", root / "deployments", ignore=shutil.ignore_patterns("__pycache__"))
    git = [
        "git",
        "-C",
        str(root),
        "-c",
        "user.name=T",
        "-c",
        "user.email=t@example.org",
        "-c",
        "init.defaultBranch=main",
    ]
    for path, content in {".gitignore": "__pycache__/\n", **more}.items():
        (root / path).write_text(content)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    return root


def cloned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> AppVersions:
    """The versions of an app that are deployed from a clone."""
    root = clone(tmp_path)
    monkeypatch.chdir(root)
    return AppVersions(settings, "", root=root)


def test_on_a_plan_without_rollbacks_that_versions_commit_is_deployed(
    provisioned: ModalTarget,
    plane: ControlPlane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = clone(tmp_path)
    monkeypatch.chdir(root)
    settings = Settings(app_name="elsewhere")
    releases = AppVersions(settings, "", root=root)
    releases.deploy("one")
    file = root / "deployments" / "pypi_deploy.py"
    file.write_text(file.read_text().replace("timeout=hosting.request_seconds", "timeout=77"))
    git = ["git", "-C", str(root), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "commit", "-q", "-a", "-m", "two"], check=True)
    releases.deploy("two")
    assert plane.function("server", app="elsewhere").definition.timeout_secs == 77
    releases.rollback("1")
    assert plane.function("server", app="elsewhere").definition.timeout_secs != 77
    assert releases.history()[0].tag == "rollback-to-1"
    assert releases.history()[0].detail == releases.history()[-1].detail, "the same commit, for the next rollback"
    assert "not part of this workspace's plan" in capsys.readouterr().err
    listed = subprocess.run([*git, "worktree", "list"], check=True, capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 1, "the temporary worktree must be removed"


def test_a_rollback_works_across_the_commit_that_added_a_setting(
    provisioned: ModalTarget, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del provisioned
    root = clone(tmp_path)
    monkeypatch.chdir(root)
    git = ["git", "-C", str(root), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    for path, added, before in (
        ("ops/settings.py", r"    (audit_bytes: int|backup_secret: str) = .*\n", ""),
        ("ops/settings.py", r', "backup_secret"', ""),
        ("ops/targets/modal_hosting.py", r"settings\.backup_secret", '"pypi-backup"'),
        ("deployments/pypi_deploy.py", r"settings\.backup_secret", '"pypi-backup"'),
        ("deployments/pypi_deploy.py", r",?\s*audit_bytes=limits.audit_bytes(?=[,)])", ""),
    ):
        earlier, count = re.subn(added, before, (root / path).read_text())
        assert count
        (root / path).write_text(earlier)
    subprocess.run([*git, "commit", "-q", "-a", "-m", "earlier"], check=True)
    monkeypatch.setenv("PYPI_AUDIT_BYTES", "88888")
    monkeypatch.setenv("PYPI_AUDIT_DAYS", "8")
    releases = AppVersions(Settings(app_name="earlier"), "", root=root)
    releases.deploy("one")
    releases.deploy("two")
    monkeypatch.delenv("PYPI_AUDIT_BYTES")
    monkeypatch.delenv("PYPI_AUDIT_DAYS")
    releases.rollback("1")
    assert releases.history()[0].tag == "rollback-to-1"
    told = plane.image_environment(plane.function("server", app="earlier").definition.image_id)
    assert told["PYPI_AUDIT_DAYS"] == "8"
    assert releases.hosting().limits.audit_bytes == 88888, "for the next deployment, which supports it"


def test_a_rollback_keeps_current_protections(
    provisioned: ModalTarget, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del provisioned
    releases = cloned(tmp_path, monkeypatch, Settings(app_name="protected"))
    releases.deploy("open")
    monkeypatch.setenv("PYPI_PROXY_AUTH", "1")
    releases.deploy("closed")
    monkeypatch.delenv("PYPI_PROXY_AUTH")
    plane.apps.plan = "team"
    try:
        releases.rollback("1")
    finally:
        plane.apps.plan = "starter"
    assert plane.function("register_user", app="protected").definition.webhook_config.requires_proxy_auth
    assert releases.history()[0].tag == "rollback-to-1", "the commit: Modal's rollback would open the application"


def test_a_rollback_keeps_current_limits(
    provisioned: ModalTarget, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del provisioned
    releases = cloned(tmp_path, monkeypatch, Settings(app_name="limited"))
    releases.deploy("unlimited")
    monkeypatch.setenv("PYPI_TOTAL_QUOTA_BYTES", "77777")
    releases.deploy("limited")
    monkeypatch.delenv("PYPI_TOTAL_QUOTA_BYTES")
    plane.apps.plan = "team"

    def quota() -> str:
        image = plane.function("server", app="limited").definition.image_id
        return plane.image_environment(image)["PYPI_TOTAL_QUOTA_BYTES"]

    try:
        releases.rollback("1")
        assert quota() == "77777"
        assert releases.history()[0].tag == "rollback-to-1", "the commit: Modal's rollback would lift the quota"
        releases.deploy("again")
        rolled_back = plane.called.count("AppRollback")
        releases.rollback("3")
        assert plane.called.count("AppRollback") == rolled_back + 1, "that version has the current limits"
    finally:
        plane.apps.plan = "starter"
    assert quota() == "77777"
    assert releases.hosting().differences().changes == ()


def test_stopping_keeps_volumes_and_secrets_and_can_be_undone(provisioned: ModalTarget) -> None:
    provisioned.deploy(tag="before")
    assert provisioned.stop()
    assert not provisioned.stop()
    assert provisioned.deployment() is None
    assert provisioned.volume_exists(PACKAGES_VOLUME)
    assert provisioned.secret_exists(SECRET_NAME)
    assert provisioned.deploy().changed


def test_the_log_is_the_containers_output(provisioned: ModalTarget, plane: ControlPlane) -> None:
    provisioned.deploy(tag="log")
    app = plane.apps.named("pypiserver")
    assert app is not None
    from tests.standin.apps import LogLine

    app.log += [LogLine(time.time(), "ta-x", "fu-x", 1, f"line {number}\n") for number in range(100)]
    assert provisioned.logs(3).splitlines() == ["line 97", "line 98", "line 99"]


def test_an_index_that_does_not_respond_after_a_deployment_is_an_error_with_its_log(
    provisioned: ModalTarget, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modal_target, "RESPONSE_SECONDS", 2.0)
    provisioned.deploy(tag="broken")
    monkeypatch.setattr(modal_target, "_healthy", lambda url, seconds: False)
    with pytest.raises(StartError, match="does not respond"):
        provisioned.deploy()


def test_a_slow_cold_start_is_waited_for(provisioned: ModalTarget, plane: ControlPlane) -> None:
    provisioned.stop()
    plane.cold_start_seconds = 3
    try:
        assert provisioned.deploy().changed
    finally:
        plane.cold_start_seconds = 0


def test_only_one_run_at_a_time_changes_the_target(
    target: ModalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "WAIT_SECONDS", 0.1)
    other = ModalTarget(workspace=workspace)
    with target.lock(), pytest.raises(BusyError):
        lock_module.exclusive(workspace.target("modal.main") / "lock", what="the target modal", seconds=0.1).__enter__()
    with other.lock():
        pass


def test_the_target_is_opened_by_name(client: Mapping[str, str], workspace: Workspace) -> None:
    del client
    assert open_target("modal", workspace=workspace).name == "modal"


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "kind", "advice"),
    [
        (Status.UNAUTHENTICATED, "Token validation failed", AuthenticationError, "modal token new"),
        (Status.PERMISSION_DENIED, "this role may not", PermissionDeniedError, "role"),
        (Status.PERMISSION_DENIED, "custom domains need the Team plan", PlanError, "plan"),
        (Status.RESOURCE_EXHAUSTED, "Rate limit exceeded", RateLimitError, "wait"),
        (Status.RESOURCE_EXHAUSTED, "the workspace has reached its limit of volumes", QuotaError, "limits"),
        (Status.FAILED_PRECONDITION, "The client version is too old, please upgrade", TargetError, "newer version"),
    ],
)
def test_modals_refusals_become_errors_that_say_what_why_and_what_to_do(
    target: ModalTarget, plane: ControlPlane, status: Status, message: str, kind: type[RunbookError], advice: str
) -> None:
    plane.fail("VolumeGetOrCreate", status, message)
    with pytest.raises(kind) as caught:
        target.create_volume("refused")
    error = caught.value
    assert "create the volume" in error.what
    assert message in error.why
    assert advice in error.todo


def test_a_short_outage_is_retried_and_a_long_one_is_a_network_error(target: ModalTarget, plane: ControlPlane) -> None:
    plane.fail("VolumeGetOrCreate", Status.UNAVAILABLE, "the server is going away", times=2)
    target.create_volume("patient")
    plane.fail("VolumeGetOrCreate", Status.UNAVAILABLE, "the server is going away", times=4)
    with pytest.raises(NetworkError) as caught:
        target.create_volume("impatient")
    assert "status.modal.com" in caught.value.todo


def test_a_secret_missing_at_deployment_points_to_the_notebook_that_creates_it(
    client: Mapping[str, str], workspace: Workspace
) -> None:
    del client
    target = ModalTarget(workspace=workspace, settings=Settings(app_name="lost", secret_name="never-made"))
    with pytest.raises(TargetError) as caught:
        target.deploy()
    assert "never-made" in caught.value.what
    assert "01_provision" in caught.value.todo


def test_the_command_lines_messages_become_the_same_errors(plane: ControlPlane, target: ModalTarget) -> None:
    del target
    plane.fail("AppList", Status.RESOURCE_EXHAUSTED, "Rate limit exceeded")
    with pytest.raises(RateLimitError, match="show the apps"):
        command_line("show the apps", "app", "list")


def test_waiting_has_a_limit_and_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops.targets.modal_session.QUIET_SECONDS", 0)
    answered = threading.Event()
    try:
        with pytest.raises(TimeLimitError) as caught:
            ask("wait for ever", lambda: answered.wait(60), seconds=1)
    finally:
        answered.set()
    assert caught.value.seconds == 1
    assert "… waiting for Modal to wait for ever" in capsys.readouterr().err


def test_it_works_inside_an_event_loop_as_in_a_notebook(target: ModalTarget) -> None:
    """Modal warns about blocking calls there, and warnings are errors here."""

    async def cell() -> bool:
        return target.volume_exists("anything")

    assert asyncio.run(cell()) is False


@pytest.fixture
def without_modal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import_module = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name == "modal" or name.startswith("modal."):
            raise ModuleNotFoundError("No module named 'modal'", name="modal")
        return import_module(name, *args, **options)

    kept = {name: module for name, module in sys.modules.items() if name.startswith("ops.targets.modal")}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    yield
    for name in list(sys.modules):
        if name.startswith("ops.targets.modal") and name not in kept:
            del sys.modules[name]
    monkeypatch.undo()
    sys.modules.update(kept)
    importlib.invalidate_caches()


def test_without_modal_the_error_says_how_to_install_it(without_modal: None, workspace: Workspace) -> None:
    del without_modal
    with pytest.raises(TargetError) as caught:
        open_target("modal", workspace=workspace)
    assert "make modal" in caught.value.todo
