"""The workflows: what they may do, and that their commands work, in order, in a clean clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.workspace import PROJECT_ROOT
from tests.conftest import DOWNLOADS
from tests.modal.conftest import TOKEN, deploy
from tests.standin.control_plane import ControlPlane

WORKFLOWS = sorted((PROJECT_ROOT / ".github" / "workflows").glob("*.yaml"))
SECRETS = {"MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "AUTH_TOKEN"}
STEP_SECONDS = 850
_NOT_INHERITED = ("MODAL_", "PYPI_", "PYTHON", "PYTEST", "VIRTUAL_ENV", "VENV", "AUTH_TOKEN", "ARGS", "MAKE")


def load(name: str) -> dict[Any, Any]:
    loaded = yaml.safe_load((PROJECT_ROOT / ".github" / "workflows" / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def jobs(name: str) -> list[dict[str, Any]]:
    return list(load(name)["jobs"].values())


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = Path(sys.executable).parent / name
    return subprocess.run([str(found), *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_zizmor_finds_nothing(file: Path) -> None:
    done = tool("zizmor", "--offline", "--no-progress", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_the_schema_of_workflows_is_kept(file: Path) -> None:
    done = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned_and_no_expression_stands_in_a_command(file: Path) -> None:
    workflow = load(file.name)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        for step in job["steps"]:
            if uses := step.get("uses"):
                assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", uses)
            assert "${{" not in step.get("run", "")


def test_checks_need_no_secret_and_deploying_gives_secrets_to_just_the_steps_that_need_them() -> None:
    assert "secrets." not in (PROJECT_ROOT / ".github" / "workflows" / "ci.yaml").read_text()
    for name, environment, expected in (
        ("deploy-modal.yaml", "modal", ["Provision", "Smoke test", "Look for secrets in the records"]),
        ("smoke-test.yaml", "modal-smoke-test", ["Smoke test", "Look for secrets in the records"]),
    ):
        (job,) = jobs(name)
        assert not SECRETS & set(job.get("env", {}))
        assert [step["name"] for step in job["steps"] if SECRETS & set(step.get("env", {}))] == expected
        assert job["environment"] == environment


def test_a_deployment_is_never_cancelled_and_by_hand_only_shows_the_plan_unless_asked_otherwise() -> None:
    workflow = load("deploy-modal.yaml")
    assert workflow["concurrency"]["cancel-in-progress"] is False
    triggers = workflow[True]  # YAML 1.1 reads the key "on" as a boolean
    assert triggers["push"] == {"branches": ["main"]}
    assert triggers["workflow_dispatch"]["inputs"]["dry_run"]["default"] is True


def test_the_daily_smoke_test_is_off_until_it_is_switched_on() -> None:
    workflow = load("smoke-test.yaml")
    assert workflow[True]["schedule"]
    assert workflow["jobs"]["smoke-test"]["if"] == "github.event_name == 'workflow_dispatch' || vars.SMOKE_TEST == 'on'"


@pytest.mark.parametrize("name", ["deploy-modal.yaml", "smoke-test.yaml"])
def test_nothing_is_uploaded_before_it_was_looked_through(name: str) -> None:
    (job,) = jobs(name)
    names = [step["name"] for step in job["steps"]]
    upload = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert names.index("Look for secrets in the records") < names.index(upload["name"])
    assert "steps.scan.outcome == 'success'" in upload["if"]
    assert upload["with"]["path"].endswith("records"), "client files and secrets stand beside it"


# --- executed ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has: the files that git knows, as they are now."""
    folder = tmp_path_factory.mktemp("checkout") / "clone"
    listed = subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source := PROJECT_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)  # so that .gitignore counts
    return folder


def execute(clone: Path, steps: list[dict[str, Any]], home: Path, variables: Mapping[str, str]) -> str:
    """Run the commands of a job as the runner does: bash, ended at the first error."""
    printed = ""
    for step in steps:
        if "run" not in step:
            continue
        secrets = {
            name: value for name, value in variables.items() if name in step.get("env", {}) or name not in SECRETS
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=clone,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)},
                **DOWNLOADS,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(home),
                **secrets,
            },
            capture_output=True,
            text=True,
            timeout=STEP_SECONDS,
            check=False,
        )
        printed += f"--- {step['name']}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, printed
    return printed


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_commands_of_the_checks_work_in_order_in_a_clean_clone(clone: Path, tmp_path: Path) -> None:
    (job,) = jobs("ci.yaml")
    # Not all tests within a test: those of the settings stand for them.
    printed = execute(clone, job["steps"], tmp_path, {"ARGS": "tests/targets -q -k port"})
    assert "passed" in printed
    assert (clone / ".runbook" / "records").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_commands_of_the_deployment_work_in_order_in_a_clean_clone(
    clone: Path, plane: ControlPlane, tmp_path: Path
) -> None:
    (job,) = jobs("deploy-modal.yaml")
    summary = tmp_path / "summary.md"
    variables = {
        **{name: value for name, value in plane.variables.items() if name != "MODAL_CONFIG_PATH"},
        "MODAL_ENVIRONMENT": "",
        "AUTH_TOKEN": TOKEN,
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    plan = [step for step in job["steps"] if step["name"] != "Smoke test"]
    execute(clone, plan, tmp_path, {**variables, "DRY_RUN": "true"})
    assert plane.apps.by_id == {}, "a dry run deploys nothing"
    execute(clone, job["steps"], tmp_path, {**variables, "DRY_RUN": "false"})
    assert plane.apps.named("pypiserver") is not None
    stored = plane.secrets.named("pypi-auth-token", "main")
    assert stored is not None
    assert stored.values == {"AUTH_TOKEN": TOKEN}
    assert "| 03_smoke_test | Publish it | succeeded |" in summary.read_text()
    summary.unlink()
    execute(clone, jobs("smoke-test.yaml")[0]["steps"], tmp_path, variables)
    assert "| 03_smoke_test | Publish it | succeeded |" in summary.read_text()
    records = "".join(p.read_text(errors="replace") for p in (clone / ".runbook" / "records").rglob("*") if p.is_file())
    assert TOKEN not in records


def test_a_secret_in_a_record_stops_the_upload(tmp_path: Path) -> None:
    record = tmp_path / "records" / "20260101T000000Z-x"
    record.mkdir(parents=True)
    (record / "x.html").write_text(f"<p>{TOKEN}</p>")
    done = subprocess.run(
        [sys.executable, ".github/records.py", "scan"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYPI_RUNBOOK_HOME": str(tmp_path), "AUTH_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "a secret stands in 20260101T000000Z-x/x.html" in done.stdout
    assert TOKEN not in done.stdout


def test_the_plain_command_goes_on_deploying_beside_it(plane: ControlPlane) -> None:
    if plane.secrets.named("pypi-auth-token", "main") is None:
        from tests.modal.conftest import create_secret

        create_secret(plane)
    deploy(plane)
    assert plane.apps.named("pypiserver") is not None
