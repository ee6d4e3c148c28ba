"""The workflows: their permissions, and that their commands work, in order, in a clean clone."""

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

from ops.runbook import find_notebook, list_notebooks
from ops.runbook.plan_file import is_plan_cell
from ops.settings import LOWER_PROTECTION_VARIABLE, Hosting, IndexLimits
from ops.workspace import PROJECT_ROOT
from tests.conftest import DOWNLOADS
from tests.modal.conftest import TOKEN, deploy
from tests.standin.control_plane import ControlPlane

VARIABLES = [*Hosting().variables(), *IndexLimits().variables()]
WORKFLOWS = sorted((PROJECT_ROOT / ".github" / "workflows").glob("*.yaml"))
SECRETS = {"MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "AUTH_TOKEN"}
STEP_SECONDS = 850
_NOT_INHERITED = ("MODAL_", "PYPI_", "PYTHON", "PYTEST", "VIRTUAL_ENV", "VENV", "AUTH_TOKEN", "ARGS", "MAKE")


def load(name: str) -> dict[Any, Any]:
    loaded = yaml.safe_load((PROJECT_ROOT / ".github" / "workflows" / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def job(workflow: str, name: str) -> dict[str, Any]:
    found = load(workflow)["jobs"][name]
    assert isinstance(found, dict)
    return found


PLAN = ("deploy-modal.yaml", "plan")
DEPLOY = ("deploy-modal.yaml", "deploy")
DRIFT = ("drift.yaml", "drift")
SMOKE_TEST = ("smoke-test.yaml", "smoke-test")
PUBLISH = ("smoke-test.yaml", "publish")
CHECKS = ("ci.yaml", "checks")


def step(workflow: str, name: str, title: str) -> dict[str, Any]:
    (found,) = [each for each in job(workflow, name)["steps"] if each["name"] == title]
    assert isinstance(found, dict)
    return found


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = Path(sys.executable).parent / name
    return subprocess.run([str(found), *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_zizmor_finds_nothing(file: Path) -> None:
    done = tool("zizmor", "--offline", "--no-progress", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_match_the_schema(file: Path) -> None:
    done = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned_and_no_command_contains_an_expression(file: Path) -> None:
    workflow = load(file.name)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        expected = {} if name == "switched-off" else {"contents": "read"}
        more = {"drift": {"issues": "write"}, "publish": {"id-token": "write"}}
        assert job["permissions"] == expected | more.get(name, {})
        assert "secrets" not in job, "a called job must get none"
        for step in job.get("steps", ()):
            if uses := step.get("uses"):
                advice = (
                    f"pin {uses} by the commit of its release, with the version in a comment: @<40 digits>  # v4.2.2"
                )
                assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}|\./\.github/actions/[\w-]+", uses), advice
            assert "${{" not in step.get("run", "")


def test_checks_need_no_secret_and_only_the_steps_that_need_secrets_get_them() -> None:
    assert "secrets." not in (PROJECT_ROOT / ".github" / "workflows" / "ci.yaml").read_text()
    scan = "Scan the records for secrets"
    deploying = [
        "Record the deployed version",
        "Apply the plan",
        "Smoke test",
        "Roll back to the previous version",
        scan,
    ]
    for where, environment, expected in (
        (PLAN, "modal-plan", ["Plan", scan]),
        (DEPLOY, "modal", deploying),
        (DRIFT, "modal-plan", ["Plan"]),
        (SMOKE_TEST, "modal-smoke-test", ["Smoke test", scan]),
    ):
        found = job(*where)
        assert not SECRETS & set(found.get("env", {}))
        assert [each["name"] for each in found["steps"] if SECRETS & set(each.get("env", {}))] == expected
        assert found["environment"] == environment


def test_deploying_waits_for_the_checks_and_a_plan_with_changes_and_planning_for_nothing() -> None:
    checks, deploy = job("deploy-modal.yaml", "checks"), job(*DEPLOY)
    assert checks["uses"] == "./.github/workflows/ci.yaml"
    assert checks["if"] == "${{ !inputs.dry_run }}"
    assert "workflow_call" in load("ci.yaml")[True]
    assert deploy["needs"] == ["checks", "plan"]
    assert deploy["if"] == "${{ !inputs.dry_run && needs.plan.outputs.changes == 'true' }}"
    assert "needs" not in job(*PLAN)
    assert step(*DEPLOY, "Apply the plan")["env"]["PLAN"] == "${{ needs.plan.outputs.plan }}"


def test_the_inputs_are_the_notebooks_modal_parameters() -> None:
    notebook = find_notebook("01_provision", PROJECT_ROOT / "notebooks")
    types = {"str": "string", "bool": "boolean"}
    expected = {
        each.name: {"description": each.help, "type": types[each.type], "default": each.default}
        for each in notebook.parameters
        if each.name != "target" and not each.help.startswith("local only")
    }
    expected["dry_run"]["default"] = True  # a manual run only plans
    inputs = load("deploy-modal.yaml")[True]["workflow_dispatch"]["inputs"]
    assert inputs == expected
    assert list(inputs) == list(expected)


def test_a_push_runs_the_checks_once() -> None:
    pushed = [file.name for file in WORKFLOWS if "push" in load(file.name)[True]]
    assert pushed == ["deploy-modal.yaml"], "which calls them"


def test_a_clone_without_the_variable_deploys_nothing_and_stays_green() -> None:
    assert job(*PLAN)["if"] == "github.event_name == 'workflow_dispatch' || vars.DEPLOY_MODAL == 'on'"
    off = job("deploy-modal.yaml", "switched-off")
    assert off["if"] == "github.event_name == 'push' && vars.DEPLOY_MODAL != 'on'"
    assert "DEPLOY_MODAL" in execute(PROJECT_ROOT, off["steps"], PROJECT_ROOT, {})


def test_a_failed_deployment_is_rolled_back() -> None:
    titles = [each["name"] for each in job(*DEPLOY)["steps"]]
    before, provision, smoke_test, back = (
        titles.index(title)
        for title in (
            "Record the deployed version",
            "Apply the plan",
            "Smoke test",
            "Roll back to the previous version",
        )
    )
    assert before < provision < smoke_test < back
    found = step(*DEPLOY, "Roll back to the previous version")
    assert found["if"] == "failure() && steps.before.outcome == 'success'"
    assert found["env"]["BEFORE"] == "${{ steps.before.outputs.version }}"
    limits = [job(*DEPLOY)["steps"][each]["timeout-minutes"] for each in (provision, smoke_test)]
    assert sum(limits) < job(*DEPLOY)["timeout-minutes"], "a job that times out does not roll back"
    (checkout,) = [each for each in job(*DEPLOY)["steps"] if "checkout" in each.get("uses", "")]
    assert checkout["with"]["fetch-depth"] == 0, "an earlier commit may be deployed"


def test_planning_and_applying_get_every_variable_for_hosting_and_limits() -> None:
    for where in (step(*PLAN, "Plan"), step(*DEPLOY, "Apply the plan"), step(*DRIFT, "Plan")):
        told = {name: value for name, value in where["env"].items() if name.startswith("PYPI_")}
        assert told == {name: f"${{{{ vars.{name} }}}}" for name in VARIABLES}


def test_lowering_a_protection_must_be_requested_on_each_run() -> None:
    assert step(*PLAN, "Plan")["env"]["LOWER_PROTECTION"] == "${{ inputs.lower_protection }}"
    for file in WORKFLOWS:
        assert LOWER_PROTECTION_VARIABLE not in file.read_text()


def test_jobs_that_run_on_modal_install_no_test_dependencies() -> None:
    for where in (PLAN, DEPLOY, SMOKE_TEST, DRIFT):
        assert step(*where, "Install")["run"] == "make modal"


def test_a_deployment_is_never_cancelled_and_a_manual_run_only_plans_by_default() -> None:
    workflow = load("deploy-modal.yaml")
    assert workflow["concurrency"]["cancel-in-progress"] is False
    triggers = workflow[True]  # YAML 1.1 reads the key "on" as a boolean
    assert triggers["push"] == {"branches": ["main"]}
    assert triggers["workflow_dispatch"]["inputs"]["dry_run"]["default"] is True


def test_the_job_that_publishes_without_a_secret_has_none_and_can_request_an_id_token() -> None:
    assert "secrets." not in yaml.safe_dump(job(*PUBLISH))
    assert job(*PUBLISH)["permissions"] == {"contents": "read", "id-token": "write"}
    assert "vars.INDEX_URL != ''" in job(*PUBLISH)["if"]
    assert job(*SMOKE_TEST)["permissions"] == {"contents": "read"}


def test_the_daily_smoke_test_is_off_by_default() -> None:
    workflow = load("smoke-test.yaml")
    assert workflow[True]["schedule"]
    assert workflow["jobs"]["smoke-test"]["if"] == "github.event_name == 'workflow_dispatch' || vars.SMOKE_TEST == 'on'"


@pytest.mark.parametrize("where", [PLAN, DEPLOY, SMOKE_TEST])
def test_nothing_is_uploaded_before_it_is_scanned(where: tuple[str, str]) -> None:
    steps = job(*where)["steps"]
    names = [each["name"] for each in steps]
    upload = next(each for each in steps if "upload-artifact" in each.get("uses", ""))
    assert names.index("Scan the records for secrets") < names.index(upload["name"])
    assert "steps.scan.outcome == 'success'" in upload["if"]
    assert upload["with"]["path"].strip().endswith("records"), "client files and secrets are next to it"


# --- executed ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, with uncommitted changes."""
    folder = tmp_path_factory.mktemp("checkout") / "clone"
    listed = subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source := PROJECT_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)  # so that .gitignore counts
    commit(folder, "one")
    return folder


def commit(clone: Path, message: str) -> None:
    git = ["git", "-C", str(clone), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    for arguments in (["add", "--all"], ["commit", "--quiet", "--message", message]):
        subprocess.run([*git, *arguments], check=True)


def execute(clone: Path, steps: list[dict[str, Any]], home: Path, variables: Mapping[str, str]) -> str:
    """Run a job's commands as the runner does: in bash, stopping at the first error."""
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
    # Not all tests within a test: those of the settings represent them.
    printed = execute(clone, job(*CHECKS)["steps"], tmp_path, {"ARGS": "tests/targets -q -k port"})
    assert "passed" in printed
    assert (clone / ".runbook" / "records").is_dir()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_commands_of_the_deployment_work_in_order_in_a_clean_clone(
    clone: Path, plane: ControlPlane, tmp_path: Path
) -> None:
    back = step(*DEPLOY, "Roll back to the previous version")
    planning = job(*PLAN)["steps"]
    good = [each for each in job(*DEPLOY)["steps"] if each != back]
    summary, outputs = tmp_path / "summary.md", tmp_path / "outputs"
    variables = {
        **{name: value for name, value in plane.variables.items() if name != "MODAL_CONFIG_PATH"},
        "MODAL_ENVIRONMENT": "",
        "LOWER_PROTECTION": "",
        **dict.fromkeys(VARIABLES, ""),
        "PYPI_UPLOADS_PER_USER": "7",
        "AUTH_TOKEN": TOKEN,
        "GITHUB_OUTPUT": str(outputs),
        "GITHUB_STEP_SUMMARY": str(summary),
    }

    another = tmp_path / "another clone"
    subprocess.run(["git", "clone", "--quiet", str(clone), str(another)], check=True)

    def planned() -> dict[str, str]:
        """Plan in the other clone, of which only the outputs reach the job that applies the plan."""
        subprocess.run(["git", "-C", str(another), "pull", "--quiet"], check=True)
        outputs.unlink(missing_ok=True)
        execute(another, planning, tmp_path, variables)
        found = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        outputs.unlink()
        return found

    plan = planned()
    assert plane.apps.by_id == {}, "a plan deploys nothing"
    assert plan["changes"] == "true"
    assert "+ server  start it" in summary.read_text()
    execute(clone, good, tmp_path, {**variables, "PLAN": plan["plan"]})
    assert outputs.read_text() == "version=\n"
    assert planned()["changes"] == "false"
    assert plane.apps.named("pypiserver") is not None
    stored = plane.secrets.named("pypi-auth-token", "main")
    assert stored is not None
    assert stored.values == {"AUTH_TOKEN": TOKEN}
    assert "| 03_smoke_test | Publish it | succeeded |" in summary.read_text()
    summary.unlink()
    execute(clone, job(*SMOKE_TEST)["steps"], tmp_path, variables)
    assert "| 03_smoke_test | Publish it | succeeded |" in summary.read_text()
    outputs.unlink(missing_ok=True)
    execute(clone, [step(*DRIFT, "Plan")], tmp_path, variables)
    assert outputs.read_text() == "code=0\n", (clone / "issue.md").read_text()

    file = clone / "deployments" / "pypi_deploy.py"
    file.write_text(file.read_text().replace("timeout=hosting.request_seconds", "timeout=77"))
    commit(clone, "two")
    outputs.unlink(missing_ok=True)
    del variables["PYPI_UPLOADS_PER_USER"]
    plan = planned()
    assert plan["changes"] == "true", "the code has changed"
    without_test = [each for each in good if each["name"] != "Smoke test"]
    execute(clone, without_test, tmp_path, {**variables, "PLAN": plan["plan"]})
    assert plane.function("server").definition.timeout_secs == 77
    assert outputs.read_text() == "version=1\n"
    printed = execute(clone, [back], tmp_path, {**variables, "BEFORE": "1"})
    server = plane.function("server").definition
    assert server.timeout_secs != 77
    assert plane.image_environment(server.image_id)["PYPI_UPLOADS_PER_USER"] == "7"
    assert "version 1 deployed again, in place of 2" in printed
    assert "the index, without credentials" in printed
    records = "".join(p.read_text(errors="replace") for p in (clone / ".runbook" / "records").rglob("*") if p.is_file())
    assert TOKEN not in records


NOT_DRIFT = {"02_onboard_user", "06_back_up", "07_restore"}
"""Notebooks whose plans do not count as drift; drift.yaml says why."""


def test_drift_plans_every_notebook_that_has_a_plan() -> None:
    planned = [
        notebook.name
        for notebook in list_notebooks(PROJECT_ROOT / "notebooks")
        if any(cell.kind == "code" and is_plan_cell(cell.source) for cell in notebook.cells)
    ]
    named = re.findall(r"[0-9]{2}_\w+", step(*DRIFT, "Plan")["run"])
    assert named == [name for name in planned if name not in NOT_DRIFT], (
        "add the notebook to drift.yaml, or say why not"
    )


@pytest.mark.parametrize(
    ("codes", "expected"),
    [({}, "code=0"), ({"99": 2}, "code=2"), ({"01": 2, "03": 1, "99": 1}, "code=2"), ({"03": 1}, None)],
)
def test_drift_is_any_plan_with_changes_and_not_a_failed_plan(
    tmp_path: Path, codes: Mapping[str, int], expected: str | None
) -> None:
    fake = tmp_path / ".venv" / "bin" / "runbook"
    fake.parent.mkdir(parents=True)
    cases = "".join(f" {number}_*) exit {code};;" for number, code in codes.items())
    fake.write_text(f'#!/bin/sh\necho "$2"\ncase "$2" in{cases} *) exit 0;; esac\n')
    fake.chmod(0o755)
    outputs = tmp_path / "outputs"
    outputs.touch()
    if expected is None:
        with pytest.raises(AssertionError):
            execute(tmp_path, [step(*DRIFT, "Plan")], tmp_path, {"GITHUB_OUTPUT": str(outputs)})
    else:
        execute(tmp_path, [step(*DRIFT, "Plan")], tmp_path, {"GITHUB_OUTPUT": str(outputs)})
        assert "01_provision" in (tmp_path / "issue.md").read_text()
    assert outputs.read_text().splitlines() == ([expected] if expected else [])


FAKE_GH = """#!/bin/sh
echo "$@" >> "$GH_LOG"
case "$1 $2" in "issue list") echo "$GH_OPEN" ;; esac
"""


@pytest.mark.parametrize(
    ("code", "opened", "expected"),
    [
        ("2", "", "issue create --title The index on Modal differs from its plan --label drift --body-file issue.md"),
        ("2", "7", "issue edit 7 --body-file issue.md"),
        ("0", "7", "issue close 7 --comment The drift is gone."),
        ("0", "", "issue list --label drift"),
    ],
)
def test_one_issue_is_open_while_there_is_drift(tmp_path: Path, code: str, opened: str, expected: str) -> None:
    fake = tmp_path / "bin" / "gh"
    fake.parent.mkdir()
    fake.write_text(FAKE_GH)
    fake.chmod(0o755)
    variables = {
        "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}",
        "GH_LOG": str(tmp_path / "log"),
        "GH_OPEN": opened,
        "CODE": code,
    }
    execute(tmp_path, [step(*DRIFT, "Open, update or close the issue")], tmp_path, variables)
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith(expected)


def test_a_secret_in_a_record_stops_the_upload(tmp_path: Path) -> None:
    record = tmp_path / "records" / "20260101T000000Z-x"
    record.mkdir(parents=True)
    (record / "x.html").write_text(f"<p>{TOKEN}</p>")
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "records", "scan"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYPI_RUNBOOK_HOME": str(tmp_path), "AUTH_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "a secret was found in 20260101T000000Z-x/x.html" in done.stdout
    assert TOKEN not in done.stdout


def test_the_plain_command_still_deploys(plane: ControlPlane) -> None:
    if plane.secrets.named("pypi-auth-token", "main") is None:
        from tests.modal.conftest import create_secret

        create_secret(plane)
    deploy(plane)
    assert plane.apps.named("pypiserver") is not None
