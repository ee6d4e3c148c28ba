"""State of an app that is deployed but does not respond, and of an index that responds but refuses."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from ops import provision, tear_down
from ops.admin_api import AdminApi
from ops.cli import main
from ops.errors import IndexRequestError, NotRespondingError, StartError, VerificationError
from ops.secret import Secret
from ops.settings import SECRET_KEY, SECRET_NAME, Settings
from ops.status import status
from ops.targets import modal as modal_target
from ops.targets.modal import ModalTarget
from ops.targets.modal_versions import AppVersions
from ops.workspace import PROJECT_ROOT, Workspace
from tests.modal.traffic import eventually
from tests.standin.apps import LogLine
from tests.standin.control_plane import ControlPlane

ERROR = "ModuleNotFoundError: No module named 'not_in_the_image'"


@pytest.fixture
def target(
    client: Mapping[str, str], workspace: Workspace, monkeypatch: pytest.MonkeyPatch, plane: ControlPlane
) -> ModalTarget:
    del client
    monkeypatch.setattr(modal_target, "REFUSED_SECONDS", 0.0)
    if "staging" not in plane.environments:
        plane.environments.append("staging")
    return ModalTarget(workspace=workspace, environment="staging")


@pytest.fixture
def broken(target: ModalTarget, tmp_path: Path) -> ModalTarget:
    """An app whose containers cannot start, as after a deployment without one of its packages."""
    root = tmp_path / "broken"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("ops", "deployments"):
        shutil.copytree(PROJECT_ROOT / name, root / name, ignore=ignored)
    file = root / "deployments" / "pypi_deploy.py"
    text = file.read_text()
    assert text.count("    from ops.index import Options, create_index\n") == 1
    file.write_text(text.replace("    from ops.index import Options, create_index\n", "    import not_in_the_image\n"))
    if not target.secret_exists(SECRET_NAME):
        target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
    AppVersions(Settings(), "staging", root=root).deploy()
    return target


def test_plan_errors_status_and_teardown_distinguish_it_from_one_never_provisioned(
    broken: ModalTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    state = broken.state()
    assert state.deployment is not None
    assert not state.responds
    assert state.error == ERROR
    assert broken.deployment() is None
    rows = {change.thing: change for change in provision.plan(broken).changes}
    assert rows["server"].now.endswith(f"does not respond: {ERROR}")
    assert rows["server"].then == "bring it up to date"
    with pytest.raises(NotRespondingError) as caught:
        AdminApi.of(broken)
    assert ERROR in caught.value.why
    assert "modal.staging" in caught.value.what
    assert ERROR in status(broken)
    assert main(["status", "--target", "modal", "--environment", "staging"]) == 0
    assert ERROR in capsys.readouterr().out
    assert tear_down.plan(broken).changes[0].then == "stop it, with all that it does on a schedule"


def test_a_deployment_that_does_not_respond_ends_with_the_error(
    broken: ModalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modal_target, "RESPONSE_SECONDS", 5.0)
    monkeypatch.setattr(AppVersions, "deploy", lambda *_, **__: None)
    with pytest.raises(StartError, match="does not respond") as caught:
        broken.deploy()
    assert caught.value.why == ERROR


def test_the_next_deployment_fixes_it_and_the_old_error_is_no_longer_reported(
    broken: ModalTarget, plane: ControlPlane
) -> None:
    assert ERROR in broken.state().error
    provision.apply(broken)
    assert broken.state().responds
    assert ERROR in plane.log(environment="staging"), "it stays in the log"
    assert broken._last_error() == ""


def test_status_reports_an_index_that_responds_and_one_that_is_missing(
    target: ModalTarget, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    provision.apply(target)
    told = status(target)
    assert "(responds)" in told
    assert "modal.staging" in told
    assert "the defaults" in told
    assert "not deployed" in status(ModalTarget(workspace=workspace, settings=Settings(app_name="none")))
    assert main(["status", "--environment", "staging"]) == 2
    assert "--target modal --environment staging" in capsys.readouterr().err


def test_the_log_is_split_into_lines_even_where_pieces_have_no_newline(
    target: ModalTarget, plane: ControlPlane
) -> None:
    provision.apply(target)
    app = plane.apps.named("pypiserver", "staging")
    assert app is not None
    app.log += [LogLine(time.time(), "ta-x", "fu-x", 1, f"line {number}") for number in range(10)]
    assert target.logs(3).splitlines() == ["line 7", "line 8", "line 9"]


def test_a_secret_changed_elsewhere_is_named_in_the_advice(
    target: ModalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    provision.apply(target)
    eventually(lambda: verified(target), 60)
    monkeypatch.setenv(SECRET_KEY, "a-token-of-yesterday-that-is-long-enough")
    with pytest.raises(VerificationError) as caught:
        provision.verify(target)
    assert "the environment variable AUTH_TOKEN differs from the index's" in caught.value.todo
    assert "changed elsewhere" in caught.value.todo

    other = ModalTarget(workspace=workspace, environment="main")
    monkeypatch.delenv(SECRET_KEY)
    other.put_secret(SECRET_NAME, {SECRET_KEY: Secret("the-token-of-the-main-environment-0123")})
    monkeypatch.setenv(SECRET_KEY, "the-token-of-the-main-environment-0123")
    with pytest.raises(VerificationError) as caught:
        provision.verify(target)
    assert "is that of the environment main, but this is staging" in caught.value.todo
    assert "0123" not in str(caught.value)


def test_a_missing_or_refused_proxy_token_is_named_in_the_advice(
    target: ModalTarget, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret("the-token-behind-proxy-auth-01234567")})
    monkeypatch.setenv("PYPI_PROXY_AUTH", "1")
    provision.apply(target)
    with pytest.raises(VerificationError) as caught:
        provision.verify(target)
    assert "create a proxy token" in caught.value.todo
    _, admin = AdminApi.of(target)
    with admin, pytest.raises(IndexRequestError) as refused:
        admin.users()
    assert "create a proxy token" in refused.value.todo
    monkeypatch.setenv("MODAL_PROXY_TOKEN_ID", "wk-unknown")
    monkeypatch.setenv("MODAL_PROXY_TOKEN_SECRET", "ws-unknown")
    with pytest.raises(VerificationError) as caught:
        provision.verify(target)
    assert "is not accepted" in caught.value.todo
    plane.proxy_tokens.add(("wk-unknown", "ws-unknown"))
    provision.verify(target)


def verified(target: ModalTarget) -> bool:
    try:
        provision.verify(target)
    except VerificationError:
        return False
    return True
