"""The command `runbook`, run like a newcomer: as a process, from anywhere, with an empty HOME."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.cli import EXIT_CHANGES, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from ops.cli.runs import read_parameters
from ops.errors import ParameterError
from ops.targets.process import ServerProcess
from ops.workspace import PROJECT_ROOT, Workspace
from tests.benchmark.servers import free_port
from tests.index.serving import eventually


def runbook(*arguments: str, cwd: Path = PROJECT_ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", _MAIN, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


# Like the console script, and importable from any directory.
_MAIN = f"import sys; sys.path.insert(0, {str(PROJECT_ROOT)!r}); from ops.cli import main; sys.exit(main())"


@pytest.fixture
def stopped_afterwards(newcomer: Path) -> Iterator[None]:
    yield
    runbook("stop")


def _server(workspace: Workspace) -> ServerProcess:
    process = ServerProcess.load(workspace.target("local") / "server.json")
    assert process is not None
    return process


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_afterwards")
def test_up_sets_up_a_working_index_and_a_second_run_changes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    first = runbook("up", cwd=tmp_path)

    assert first.returncode == 0, first.stdout + first.stderr
    url = re.search(r"Index +(http://\S+/simple/)", first.stdout)
    assert url is not None
    for line in ("User ", "Credentials ", "Client files ", "Report ", "Stop "):
        assert f"\n{line}" in first.stdout
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(url[1])
    refusal.value.close()
    assert refusal.value.code == 401
    server = _server(workspace)
    kept = _state(workspace)

    second = runbook("up", cwd=tmp_path)

    assert second.returncode == 0, second.stdout + second.stderr
    assert _server(workspace) == server
    assert _state(workspace) == kept
    assert "nothing" in second.stdout.lower()


_GROWING = {"activity", "audit", ".audit", "staging", "pages", "claims", "removed"}


def _state(workspace: Workspace) -> dict[str, bytes]:
    """Everything that must stay: users, secrets, client files and packages.

    Not the log, locks, audit lines, download counts, and the index's tombstones of files that
    the smoke test removed.
    """
    kept: dict[str, bytes] = {}
    for folder in (workspace.target("local"), workspace.home / "users"):
        for path in sorted(folder.rglob("*")):
            passing = {"lock", "server.log", ".lock"} & {path.name} or _GROWING & set(path.parts)
            if path.is_file() and not passing and not path.name.endswith(".lock"):
                kept[str(path.relative_to(workspace.home))] = path.read_bytes()
    return kept


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_afterwards")
def test_another_up_repairs_a_killed_server_with_its_users_and_address(workspace: Workspace) -> None:
    assert runbook("run", "01", "02", "-p", f"port={free_port()}").returncode == 0
    before = _server(workspace)
    os.kill(before.pid, signal.SIGKILL)

    done = runbook("run", "01", "02")

    assert done.returncode == 0, done.stdout + done.stderr
    assert _server(workspace).port == before.port
    assert _server(workspace).pid != before.pid


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_afterwards")
def test_a_move_to_another_port_says_which_users_to_inform(workspace: Workspace) -> None:
    assert runbook("run", "01", "02", "-p", f"port={free_port()}").returncode == 0
    before = _server(workspace).port

    done = runbook("run", "01", "-p", f"port={free_port()}")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"The index moved from http://127.0.0.1:{before}/. Tell its users (alice)" in done.stdout
    assert str(before) not in (workspace.user("local", "alice") / "env.sh").read_text()


def test_status_without_an_index_says_how_to_start() -> None:
    done = runbook("status")

    assert done.returncode == 0
    assert "make run" in done.stdout


def test_without_an_earlier_version_rollback_says_what_to_do() -> None:
    done = runbook("rollback")

    assert done.returncode == EXIT_FAILED
    assert "check out the commit that you want" in done.stderr
    assert runbook("history", "--current").stdout == "\n"


def test_stop_without_an_index_is_not_an_error() -> None:
    done = runbook("stop")

    assert (done.returncode, done.stderr) == (0, "")
    assert "No index is running" in done.stdout


def test_list_names_every_notebook_with_its_parameters() -> None:
    done = runbook("list")

    for notebook in (PROJECT_ROOT / "notebooks").glob("*.ipynb"):
        assert notebook.stem in done.stdout
    assert "-p target='local'" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "01_provision", "-p", "prot=8000"), "port"),
        (("run", "01_provision", "-p", "port=many"), "int"),
        (("run", "01_provision", "-p", "dry_run=perhaps"), "bool"),
        (("run", "01_provision", "-p", "nonsense"), "NAME=VALUE"),
        (("run", "01_provision", "-p", "target=cloud"), "local"),
        (("run", "01_provision", "-p", "port=99999999"), "65535"),
        (("run", "77_nothing"), "01_provision"),
    ],
)
def test_invalid_arguments_are_refused_with_a_correction(
    arguments: tuple[str, ...], said: str, workspace: Workspace
) -> None:
    done = runbook(*arguments)

    assert done.returncode in {EXIT_USAGE, EXIT_FAILED}
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (workspace.target("local") / "server.json").exists()


def test_an_interrupted_run_ends_with_130_and_leaves_a_record(workspace: Workspace) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _MAIN, "run", "01_provision", "-p", "dry_run=true"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
    ) as process:
        eventually(lambda: list(workspace.records.glob("*/record.json")))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == EXIT_INTERRUPTED, errors
    assert "Traceback" not in errors
    (record,) = workspace.records.glob("*/record.json")
    assert json.loads(record.read_text())["outcome"] == "interrupted"


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_afterwards")
def test_a_plan_is_shown_stored_approved_and_applied_once(workspace: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    planned = runbook("plan", "01", "-p", f"port={free_port()}", "--out", str(file))
    assert planned.returncode == EXIT_CHANGES, planned.stderr
    assert "\n  + server  start it\n  4 to make\n" in planned.stdout
    assert not (workspace.target("local") / "server.json").exists()

    assert runbook("run", "--plan", str(file)).returncode == 0
    again = runbook("run", "--plan", str(file))
    assert again.returncode == EXIT_FAILED
    assert "the approved plan no longer fits, and nothing was changed" in again.stderr
    nothing = runbook("plan", "01")
    assert (nothing.returncode, nothing.stdout) == (0, "01_provision\n  Nothing to change.\n")
    other = runbook("run", "--plan", str(file), "-p", "dry_run=true")
    assert "it was made with port=" in other.stderr


@pytest.mark.parametrize(
    "arguments", [("plan",), ("plan", "01", "--nonsense"), ("plan", "01", "-p", "x"), ("diff", "1")]
)
def test_usage_errors_of_commands_that_exit_with_2_for_changes_exit_with_1(arguments: tuple[str, ...]) -> None:
    done = runbook(*arguments)
    assert done.returncode == EXIT_FAILED
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_failed_run_is_resumed_from_the_notebook_that_failed(workspace: Workspace) -> None:
    failed = runbook("run", "99", "02", "-p", "username=a:b")
    assert failed.returncode == EXIT_FAILED
    assert "99_tear_down     ok" in failed.stdout
    assert "1 ok, 0 changed, 1 failed, 0 skipped" in failed.stdout

    resumed = runbook("run", "--resume", "-p", "username=bob")

    assert resumed.returncode == EXIT_FAILED, "there is no index"
    assert "from 02_onboard_user" in resumed.stdout
    assert "99_tear_down " not in resumed.stdout
    first, second = (json.loads(line.read_text()) for line in sorted(workspace.records.glob("*/record.json")))
    assert second["resumes"].endswith("-run")
    assert second["parameters"]["username"] == "bob"
    assert first["parameters"]["username"] == "a:b"
    assert "--resume continues the last run" in runbook("run", "01", "--resume").stderr


def test_the_status_of_every_target_and_environment_is_given_as_json(workspace: Workspace) -> None:
    (workspace.home / "modal.staging").mkdir(parents=True)
    found = json.loads(runbook("status", "--json").stdout)
    assert [(each["target"], each["environment"]) for each in found] == [("local", ""), ("modal", "staging")]
    assert found[0] | {"deployed": False, "responds": False, "users": []} == found[0]
    assert found[1]["error"]


def test_parameters_from_a_file_are_typed_and_overridden_by_single_ones(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("port: 8000\nusername: bob\nnames: [a, b]\n")
    assert read_parameters(["username=eve", "x=a=b"], [file]) == {
        "port": 8000, "username": "eve", "names": ["a", "b"], "x": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("content", ["- a", "just text", "a: [", "1: x", "\x00"])
def test_a_file_without_parameters_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(content)
    with pytest.raises(ParameterError):
        read_parameters([], [file])
    with pytest.raises(ParameterError, match="cannot be read"):
        read_parameters([], [tmp_path / "missing.yaml"])
    with pytest.raises(ParameterError, match="NAME=VALUE"):
        read_parameters(["nonsense"])
