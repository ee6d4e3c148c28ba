"""Runs of small notebooks in real kernels: their outcomes and records."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop

from ops.errors import NotebookError, ParameterError, RunError
from ops.runbook import (
    ConsoleProgress,
    Progress,
    Record,
    RunInterruptedError,
    RunOptions,
    execution,
    list_records,
    run_notebooks,
    silent,
)
from ops.runbook.execution import ExecutionOptions
from ops.workspace import PROJECT_ROOT, Workspace

Count = Callable[[object, str], list[tuple[Any, ...]]]
MakeNotebook = Callable[..., Path]
Start = Callable[[Path, Path], subprocess.Popen[str]]

SLOW_CELL = """
import pathlib, time
try:
    pathlib.Path({mark!r}).touch()
    time.sleep(60)
finally:
    pathlib.Path({mark!r} + ".cleaned").touch()
"""

ENDLESS_CELL = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    print("on", flush=True)
    time.sleep(0.05)
"""


def outputs(record: Record | Path, name: str) -> str:
    """All standard output of an executed notebook's cells."""
    folder = record.folder if isinstance(record, Record) else record
    node = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    return "".join(output.get("text", "") for cell in node.cells if cell.cell_type == "code" for output in cell.outputs)


def wait_for(condition: Callable[[], Any], *, seconds: float = 120) -> Any:
    """Wait until *condition* holds, and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come true in time")


def test_a_run_leaves_the_executed_notebook_a_report_and_a_record_of_its_steps(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_notebook(
        "01_tiny",
        "# Tiny\n\nDoes a thing.",
        "## Steps",
        "### Plan",
        "import os, sys, sysconfig\nprint(os.getcwd(), sys.executable, target, repr(version), flag, sep='|')",
        "### Apply",
        "2",
        "3",
        parameters='target: str = "local"\nversion: str = "1.0"\nflag: bool = True',
    )
    seen: list[Progress] = []
    monkeypatch.chdir(tmp_path)
    record = run_notebooks(
        [path], {"version": "1.10", "flag": "false"}, options=RunOptions(workspace=workspace, on_progress=seen.append)
    )

    assert outputs(record, "01_tiny").strip() == f"{PROJECT_ROOT}|{sys.executable}|local|'1.10'|False"
    assert record.outcome == "succeeded"
    assert record.report == record.folder / "01_tiny.html"
    assert record.report.is_file()
    assert record.folder.parent == workspace.records
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700
    stored = json.loads((record.folder / "record.json").read_text())
    assert stored["schema"] == 2
    assert stored["outcome"] == "succeeded"
    assert stored["parameters"] == {"version": "1.10", "flag": False}
    assert stored["notebooks"][0]["parameters"] == {"target": "local", "version": "1.10", "flag": False}
    assert set(stored["versions"]) >= {"python", "pypi-runbook", "papermill"}
    assert stored["started"] <= stored["ended"]
    steps = stored["notebooks"][0]["steps"]
    assert [(step["title"], step["outcome"]) for step in steps] == [
        ("Tiny", "succeeded"),
        ("Plan", "succeeded"),
        ("Apply", "succeeded"),
    ]
    executed = nbformat.read(record.folder / "01_tiny.ipynb", as_version=4)
    assert [executed.cells[index].source for index in steps[2]["cells"]] == ["2", "3"]
    assert [(p.step, p.steps, p.title, p.outcome) for p in seen] == [
        (1, 3, "Tiny", "running"),
        (1, 3, "Tiny", "succeeded"),
        (2, 3, "Plan", "running"),
        (2, 3, "Plan", "succeeded"),
        (3, 3, "Apply", "running"),
        (3, 3, "Apply", "succeeded"),
    ]
    assert Record.read(record.folder) == record


def test_a_failing_cell_ends_the_run_and_the_error_says_what_why_and_what_to_do(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    failing = make_notebook(
        "01_fails",
        "# Fails",
        "### Plan",
        "1",
        "### Apply",
        "from ops.errors import TargetError\n"
        "raise TargetError('the server did not start', why='the port is taken', todo='free it')",
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()",
        "### Verify",
        "1",
    )
    after = make_notebook("02_after", "# After", f"import pathlib\npathlib.Path({str(mark)!r}).touch()")
    with pytest.raises(RunError, match="01_fails failed in its step 'Apply'") as caught:
        run_notebooks([failing, after], options=RunOptions(workspace=workspace, on_progress=silent, name="up"))
    assert caught.value.why == "the server did not start: the port is taken"
    assert caught.value.todo.startswith("free it. See 90_troubleshoot#TargetError. The report is ")
    assert not mark.exists(), "a cell after the failing one ran"
    assert caught.value.record is not None
    assert caught.value.record.name.endswith("-up")
    record = Record.read(caught.value.record)
    assert record.outcome == "failed"
    assert record.report == record.folder / "index.html"
    assert [notebook.outcome for notebook in record.notebooks] == ["failed", "skipped"]
    assert [step.outcome for step in record.notebooks[0].steps] == ["succeeded", "failed", "skipped"]
    assert record.error is not None
    assert (record.error.notebook, record.error.step, record.error.exception) == ("01_fails", "Apply", "TargetError")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import sys; sys.exit(0)", "a cell ended the notebook by sys.exit()"),
        ("import os; os._exit(0)", "DeadKernelError: the kernel ended while the cell ran"),
    ],
)
def test_a_cell_that_ends_the_kernel_or_the_notebook_fails_the_run(
    make_notebook: MakeNotebook, workspace: Workspace, code: str, what: str
) -> None:
    path = make_notebook("01_exits", "# Exits", code, "1")
    with pytest.raises(RunError, match="01_exits failed") as caught:
        run_notebooks([path], options=RunOptions(workspace=workspace, on_progress=silent))
    assert what in caught.value.why
    assert caught.value.record is not None
    assert Record.read(caught.value.record).outcome == "failed"


def test_a_cell_skipped_by_a_tag_fails_the_run(make_notebook: MakeNotebook, workspace: Workspace) -> None:
    path = make_notebook("01_skips", "# Skips", "1", "2")
    node = nbformat.read(path, as_version=4)
    node.cells[1].metadata["tags"] = ["skip-execution"]
    nbformat.write(node, path)
    with pytest.raises(RunError) as caught:
        run_notebooks([path], options=RunOptions(workspace=workspace, on_progress=silent))
    assert caught.value.why == "a cell was not executed: it was skipped by a tag"


@pytest.mark.timeout(120)  # enough for any machine: a cell that is not ended runs forever
@pytest.mark.parametrize("code", ["import time\ntime.sleep(600)", ENDLESS_CELL], ids=["waits", "ignores the interrupt"])
def test_a_cell_that_runs_too_long_is_ended_and_the_run_fails(
    make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, count_calls: Count, code: str
) -> None:
    monkeypatch.setattr(execution, "INTERRUPT_GRACE", 0.2)
    interrupted = count_calls(AsyncKernelManager, "interrupt_kernel")
    path = make_notebook("01_hangs", "# Hangs", "### Wait", code, "1")
    with pytest.raises(RunError, match="failed in its step 'Wait'") as caught:
        run_notebooks(
            [path],
            options=RunOptions(
                workspace=workspace, on_progress=silent, execution=ExecutionOptions(execution_timeout=1)
            ),
        )
    assert caught.value.why == "TimeoutError: the cell ran for longer than 1 seconds"
    assert len(interrupted) == 1, "the cell had no chance to clean up"


def test_nothing_runs_when_a_parameter_or_a_notebook_is_wrong(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_notebook("01_x", "# X", parameters="n: int = 1")
    monkeypatch.setenv("TWINE_PASSWORD", "known-secret")
    with pytest.raises(ParameterError, match="there is no parameter m in 01_x"):
        run_notebooks([path], {"m": "1"}, options=RunOptions(workspace=workspace))
    with pytest.raises(ParameterError, match="cannot be 'x'"):
        run_notebooks([path], {"n": "x"}, options=RunOptions(workspace=workspace))
    with pytest.raises(NotebookError):
        run_notebooks([path, tmp_path / "gone.ipynb"], options=RunOptions(workspace=workspace))
    with pytest.raises(NotebookError, match="no notebook was named"):
        run_notebooks([], options=RunOptions(workspace=workspace))
    named = make_notebook("02_x", "# X", parameters="name: str = 'x'")
    with pytest.raises(ParameterError, match="the value of name is a secret") as caught:
        run_notebooks([named], {"name": "known-secret"}, options=RunOptions(workspace=workspace))
    assert "known-secret" not in str(caught.value)
    assert not workspace.home.exists()


def test_two_runs_in_the_same_second_and_a_notebook_given_twice_do_not_collide(
    make_notebook: MakeNotebook, workspace: Workspace
) -> None:
    path = make_notebook("01_{odd} name", "# Odd", "print(n)", parameters="n: int = 1")
    record = run_notebooks([path, path], {"n": 5}, options=RunOptions(workspace=workspace, on_progress=silent))
    assert outputs(record, "01_{odd} name") == outputs(record, "01_{odd} name-2") == "5\n"
    assert record.folder.name.endswith("-run")


HOSTILE_KERNEL = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Python 3", "language": "python"}


def test_the_kernel_is_this_interpreter_whatever_is_in_the_user_s_home(
    make_notebook: MakeNotebook,
    workspace: Workspace,
    newcomer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for folder in (newcomer / ".local/share/jupyter/kernels/python3", tmp_path / "path/kernels/python3"):
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps(HOSTILE_KERNEL))
    startup = newcomer / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print('of the user')\nraise SystemExit")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    path = make_notebook(
        "01_x",
        "# X",
        "import os, pathlib, shutil, sys\n"
        "print(sys.executable, shutil.which('python'))\n"
        "print(pathlib.Path(os.environ['IPYTHONDIR']).with_name('kernel.log').read_text(), end='')",
        kernelspec={"name": "julia", "display_name": "Julia"},
    )
    record = run_notebooks([path], options=RunOptions(workspace=workspace))
    assert outputs(record, "01_x") == f"{sys.executable} {Path(sys.executable).parent / 'python'}\n"
    captured = capfd.readouterr()
    assert captured.out.startswith("01_x   1/1  X … ok ")
    assert captured.err == "", "a warning was printed"
    assert not (newcomer / ".jupyter").exists()


def test_the_home_need_not_be_writable(make_notebook: MakeNotebook, tmp_path: Path) -> None:
    path = make_notebook("01_x", "# X", "print('ran')")
    code = textwrap.dedent(f"""
        from pathlib import Path
        from ops.runbook import RunOptions, run_notebooks
        from ops.workspace import Workspace
        run_notebooks([Path({str(path)!r})], options=RunOptions(workspace=Workspace(Path({str(tmp_path / "home")!r}))))
    """)
    # /proc is not writable, even for root.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", "HOME": "/proc", "PYTHONPATH": str(PROJECT_ROOT), "LANG": "C"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "01_x   1/1  X" in done.stdout


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts runs in separate processes; kills those still running after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(path: Path, home: Path) -> subprocess.Popen[str]:
        started.append(_start(path, home))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def _start(path: Path, home: Path) -> subprocess.Popen[str]:
    code = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        from ops.runbook import execution, RunOptions, run_notebooks
        from ops.workspace import Workspace
        execution.INTERRUPT_GRACE = 60  # the machine may be busy
        # Tests in a shell's background inherit that SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run_notebooks([Path({str(path)!r})], options=RunOptions(workspace=Workspace(Path({str(home)!r}))))
        except KeyboardInterrupt as interrupted:
            print(interrupted)
            sys.exit(130)
    """)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_run_interrupted_right_after_its_record_was_created_is_recorded_as_such(
    make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Record.save

    def save_and_be_interrupted(self: Record, redactor: Any) -> None:
        save(self, redactor)
        monkeypatch.setattr(Record, "save", save)
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "save", save_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_notebooks([make_notebook("01_x", "# X", "1")], options=RunOptions(workspace=workspace, on_progress=silent))
    (record,) = list_records(workspace.records)
    assert record.outcome == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_kernel_and_is_recorded_as_such(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path, start: Start, number: int
) -> None:
    mark = tmp_path / "started"
    path = make_notebook("01_x", "# X", "### First", "1", "### Slow", SLOW_CELL.format(mark=str(mark)), "### Last", "1")
    process = start(path, workspace.home)
    wait_for(mark.exists)
    (kernel,) = (child for child in psutil.Process(process.pid).children() if "ipykernel" in " ".join(child.cmdline()))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "3  Slow … INTERRUPTED" in out
    assert f"the run was interrupted; its record is {workspace.records}" in out
    assert err == ""
    assert not kernel.is_running()
    assert mark.with_name("started.cleaned").exists(), "the cell could not clean up after itself"
    (record,) = list_records(workspace.records)
    assert record.outcome == "interrupted"
    assert [step.outcome for step in record.notebooks[0].steps] == ["succeeded", "interrupted", "skipped"]
    assert record.report.is_file()
    executed = nbformat.read(record.folder / "01_x.ipynb", as_version=4)
    error = executed.cells[4].outputs[-1]
    assert error.ename == "KeyboardInterrupt"
    assert "sleep" in "".join(error.traceback), "it does not say where the cell was"


def test_a_run_interrupted_while_it_receives_an_output_says_where_the_cell_was(
    make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = execution.RedactingClient.process_message

    def receive_and_be_interrupted(self: execution.RedactingClient, msg: dict[str, Any], *rest: Any) -> Any:
        received = receive(self, msg, *rest)
        if msg["msg_type"] == "stream":
            monkeypatch.setattr(execution.RedactingClient, "process_message", receive)
            raise KeyboardInterrupt
        return received

    monkeypatch.setattr(execution.RedactingClient, "process_message", receive_and_be_interrupted)
    # One statement: between two of them the kernel is in its own code, and no traceback names the cell's.
    cell = "import time\nfor text in ['begun']:\n    print(text, flush=True)\n    time.sleep(60)"
    path = make_notebook("01_x", "# X", cell)
    with pytest.raises(RunInterruptedError) as caught:
        run_notebooks([path], options=RunOptions(workspace=workspace, on_progress=silent))
    executed = nbformat.read(caught.value.record.folder / "01_x.ipynb", as_version=4).cells[-1]
    assert [output.output_type for output in executed.outputs] == ["stream", "error"]
    assert "sleep" in "".join(executed.outputs[-1].traceback), "it does not say where the cell was"


def test_a_run_interrupted_while_its_kernel_starts_leaves_no_kernel(
    make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(client: execution.RedactingClient) -> None:
        assert client.km.has_kernel
        raise KeyboardInterrupt

    monkeypatch.setattr(execution.RedactingClient, "start_new_kernel_client", interrupted)
    path = make_notebook("01_x", "# X", "1")
    with pytest.raises(RunInterruptedError) as caught:
        run_notebooks([path], options=RunOptions(workspace=workspace, on_progress=silent))
    assert caught.value.record.outcome == "interrupted"
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children() if child.status() != "zombie"]
    assert not [command for command in commands if "ipykernel" in command]


def test_a_killed_run_leaves_a_complete_notebook_without_secrets_and_a_record(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path, start: Start
) -> None:
    mark = tmp_path / "started"
    path = make_notebook(
        "01_x",
        "# X",
        "### First",
        "from ops.secret import Secret\nprint('is', Secret('canary-secret').reveal())",
        "### Slow",
        SLOW_CELL.format(mark=str(mark)),
    )
    process = start(path, workspace.home)
    wait_for(mark.exists)
    (kernel,) = (child for child in psutil.Process(process.pid).children() if "ipykernel" in " ".join(child.cmdline()))
    process.kill()
    process.communicate(timeout=60)
    (record,) = list_records(workspace.records)
    assert json.loads((record.folder / "record.json").read_text())["outcome"] == "running"
    assert record.outcome == "interrupted", "its process is gone"
    assert [step.outcome for step in record.notebooks[0].steps] == ["succeeded", "running"]
    assert outputs(record, "01_x") == "is ********\n"
    wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)


def test_the_notebook_sees_the_given_workspace(make_notebook: MakeNotebook, tmp_path: Path) -> None:
    path = make_notebook("01_x", "# X", "from ops.workspace import Workspace\nprint(Workspace.default().home)")
    record = run_notebooks(
        [path], options=RunOptions(workspace=Workspace(tmp_path / "other"), on_progress=ConsoleProgress())
    )
    assert outputs(record, "01_x") == f"{tmp_path / 'other'}\n"


def test_a_secret_written_by_a_notebook_into_its_record_fails_the_run_and_is_removed(
    make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINE_PASSWORD", "written-into-the-record")
    path = make_notebook(
        "01_x",
        "# X",
        "import os\nfrom ops.workspace import Workspace\n"
        "(folder,) = Workspace.default().records.iterdir()\n"
        "(folder / 'upload.log').write_text('sent ' + os.environ['TWINE_PASSWORD'])\n"
        "(folder / 'upload.bin').write_bytes(b'\\xff' + os.environb[b'TWINE_PASSWORD'])",
    )
    with pytest.raises(RunError, match="01_x failed") as caught:
        run_notebooks([path], options=RunOptions(workspace=workspace, on_progress=silent))
    assert caught.value.why == (
        "a secret was found in the finished record and removed: it was in upload.bin, upload.log"
    )
    assert caught.value.record is not None
    assert (caught.value.record / "upload.log").read_text() == "sent ********"
    assert not (caught.value.record / "upload.bin").exists()
    assert Record.read(caught.value.record).outcome == "failed"
    assert "it was in upload.bin" in (caught.value.record / "01_x.html").read_text()


def test_a_kernel_that_does_not_start_fails_the_run_with_a_record(
    make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_notebook("01_x", "# X", "1")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="01_x failed") as caught:
        run_notebooks(
            [path],
            options=RunOptions(workspace=workspace, on_progress=silent),
        )
    assert caught.value.why.startswith("the notebook could not be run: RuntimeError: Kernel died")
    assert caught.value.record is not None
    assert (caught.value.record / "01_x.html").is_file()


def test_the_end_of_a_run_is_not_cut_short_by_a_repeated_interrupt() -> None:
    done = []

    async def broken_off() -> None:
        raise KeyboardInterrupt

    async def ends_the_kernel() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.append(True)

    loop = ensure_event_loop()
    echo = loop.create_task(broken_off())
    execution.run_to_its_end(ends_the_kernel)
    assert done == [True]
    assert isinstance(echo.exception(), KeyboardInterrupt)
