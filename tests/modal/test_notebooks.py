"""The runbook on Modal: the same notebooks with one parameter changed, with real pip, uv and twine."""

from __future__ import annotations

import base64
import json
import netrc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_NAME
from ops.workspace import PROJECT_ROOT, Workspace
from tests.modal.conftest import TOKEN
from tests.standin.control_plane import ControlPlane

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operator")


def runbook(plane: ControlPlane, home: Path, *arguments: str, **variables: str) -> str:
    """Run notebooks as an operator or a pipeline does; on failure, show the output."""
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "run", *arguments, "-p", "target=modal"],
        cwd=PROJECT_ROOT,
        env={
            **os.environ,
            **plane.variables,
            "HOME": str(home),
            "PYPI_RUNBOOK_HOME": str(home / "runbook"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(home: Path) -> list[dict[str, object]]:
    files = sorted((home / "runbook" / "records").glob("*/record.json"))
    return [json.loads(file.read_text()) for file in files]


def texts(home: Path) -> str:
    return "".join(
        path.read_text(errors="replace") for path in (home / "runbook" / "records").rglob("*") if path.is_file()
    )


def test_the_plan_alone_changes_nothing(plane: ControlPlane, home: Path) -> None:
    runbook(plane, home, "01_provision", "-p", "dry_run=true")
    assert plane.apps.by_id == {}
    assert plane.volumes.by_id == {}
    assert plane.secrets.by_id == {}


def test_from_nothing_to_an_index_used_by_real_clients(plane: ControlPlane, home: Path) -> None:
    runbook(plane, home, "01_provision", "02_onboard_user", "03_smoke_test")
    assert {v.name for v in plane.volumes.by_id.values()} == {PACKAGES_VOLUME, CREDENTIALS_VOLUME}
    assert plane.secrets.named(SECRET_NAME, "main") is not None
    users = Workspace(home / "runbook").user("modal.main", "alice")
    assert plane.function("server").web_url in (users / "pip.conf").read_text()
    agents = {request.method for request in plane.requests}
    assert {"GET", "POST"} <= agents
    assert plane.exceptions == []


def test_a_second_run_finds_everything_in_place(plane: ControlPlane, home: Path) -> None:
    before = len(plane.apps.by_id[plane.function("server").app_id].versions)
    runbook(plane, home, "01_provision", "02_onboard_user")
    assert "Everything was in place already" in texts(home)
    assert len(plane.apps.by_id[plane.function("server").app_id].versions) == before


def test_it_is_backed_up_restored_and_audited_and_second_runs_change_nothing(plane: ControlPlane, home: Path) -> None:
    assert " 1 changed" in runbook(plane, home, "06_back_up")
    again = runbook(plane, home, "06_back_up", "07_restore", "09_audit", "-p", "confirm=modal")
    assert "3 ok, 0 changed" in again, again


def test_no_record_log_or_url_contains_a_secret(plane: ControlPlane, home: Path) -> None:
    stored = plane.secrets.named(SECRET_NAME, "main")
    assert stored is not None
    (token,) = stored.values.values()
    hosts = netrc.netrc(Workspace(home / "runbook").user("modal.main", "alice") / "netrc").hosts
    ((_, _, password),) = hosts.values()
    seen = texts(home) + plane.log() + " ".join(request.target for request in plane.requests)
    for secret in (token, password):
        assert secret not in seen
        assert base64.b64encode(f"alice:{secret}".encode()).decode() not in seen
    assert token != TOKEN


def test_behind_proxy_auth_the_notebooks_send_the_proxy_token_and_never_show_it(
    plane: ControlPlane, home: Path
) -> None:
    plane.proxy_tokens.add(("wk-the-identifier", "ws-the-proxy-secret"))
    runbook(
        plane,
        home,
        "01_provision",
        "02_onboard_user",
        PYPI_PROXY_AUTH="1",
        MODAL_PROXY_TOKEN_ID="wk-the-identifier",
        MODAL_PROXY_TOKEN_SECRET="ws-the-proxy-secret",
    )
    assert plane.function("register_user").definition.webhook_config.requires_proxy_auth
    seen = texts(home) + plane.log() + " ".join(request.target for request in plane.requests)
    assert "ws-the-proxy-secret" not in seen


def test_teardown_leaves_nothing_on_modal(plane: ControlPlane, home: Path) -> None:
    runbook(plane, home, "99_tear_down")
    assert plane.apps.named("pypiserver") is not None, "nothing is deleted unless named"
    runbook(plane, home, "99_tear_down", "-p", "confirm=modal")
    assert plane.apps.named("pypiserver") is None
    assert [v.name for v in plane.volumes.by_id.values() if not v.deleted] == []
    assert plane.secrets.by_id == {}
    assert plane.dicts.by_id == {}
    assert plane.containers() == []
