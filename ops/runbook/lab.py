"""Runs by hand: JupyterLab on dated copies of notebooks, masked at each save and recorded like headless runs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ops.errors import RunbookError
from ops.parameters import distribute
from ops.private_files import replace_file
from ops.redaction import Redactor
from ops.runbook import record as outcomes
from ops.runbook.kernel import OwnKernelSpecs, kernel_path
from ops.runbook.notebook import Notebook, steps
from ops.runbook.record import BY_HAND, NotebookRecord, Record, StepRecord
from ops.runbook.runner import notebook_environment, refuse_secrets
from ops.runbook.workspace_secrets import recorded_secrets, scan, workspace_sources
from ops.secret import REGISTER_VARIABLE
from ops.workspace import Workspace

RECORD_VARIABLE = "RUNBOOK_LAB_RECORD"
"""Variable that passes the record's folder to the server's process."""

START_SECONDS = 60.0
END_SECONDS = 60.0
"""Time in which a server that no longer serves shuts down its kernels and ends."""

_SERVER_FILES = "jpserver-*.json"
_SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"recordTiming": True},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},
}
"""Defaults of JupyterLab, below the user's own: each cell keeps its execution times, and no question about
news covers the notebook."""
_CONFIGURATION = "from ops.runbook.lab import configure\n\nconfigure(c)\n"


def open_notebooks(
    notebooks: Sequence[Path],
    parameters: Mapping[str, object],
    *,
    workspace: Workspace,
    arguments: Sequence[str] = (),
) -> Record:
    """Open copies of *notebooks* in JupyterLab, and return the record when its server has ended.

    Parameters:
        notebooks: their files, which do not change.
        parameters: name to value, set in the copies.
        workspace: the operator's folder.
        arguments: passed on to ``jupyter lab``.

    Raises:
        RunbookError: JupyterLab is not installed, or does not start.
        ParameterError: an unknown parameter, a value of another type, or a secret given as one; nothing was opened.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise RunbookError("JupyterLab is not installed", todo="run: make lab, or: pip install -e '.[lab]'")
    opened = {notebook.name: notebook for notebook in map(Notebook.read, notebooks)}
    values = distribute(parameters, {name: notebook.parameters for name, notebook in opened.items()})
    with tempfile.TemporaryDirectory(prefix="runbook-lab-", ignore_cleanup_errors=True) as scratch:
        secrets_file = Path(scratch) / "secrets"
        secrets_file.touch(mode=0o600)
        redactor = Redactor(sources=(*workspace_sources(workspace, os.environ), recorded_secrets(secrets_file)))
        refuse_secrets(parameters, redactor)
        workspace.create()
        record = Record.create(workspace.records, next(iter(opened)) if len(opened) == 1 else "lab")
        record.purpose = BY_HAND
        record.parameters = {key: value for given in values.values() for key, value in given.items()}
        for name, notebook in opened.items():
            record.notebooks.append(_copy(notebook, values[name], record.folder / f"{name}.ipynb"))
        record.save(redactor)
        start = time.monotonic()
        _serve(record, Path(scratch), notebook_environment(workspace, secrets_file), arguments)
        return _finished(record.folder, redactor, time.monotonic() - start)


def _copy(notebook: Notebook, values: Mapping[str, Any], path: Path) -> NotebookRecord:
    """Write a copy without outputs and with the parameters set; return its entry in the record."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    node = load_notebook_node(str(notebook.path))
    if values:
        node = parameterize_notebook(node, dict(values), kernel_name="python3", language="python")
    node.metadata.pop("papermill", None)
    for cell in node.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    replace_file(path, nbformat.writes(node))
    all_values = {parameter.name: parameter.default for parameter in notebook.parameters} | dict(values)
    found = steps(((cell.cell_type, cell.source) for cell in node.cells), title=notebook.title)
    entry = NotebookRecord(notebook.name, notebook.title, all_values, executed=path.name)
    entry.steps = [StepRecord(step.title, list(step.cells)) for step in found]
    return entry


def _serve(record: Record, scratch: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    configuration = scratch / "jupyter_lab_config.py"
    configuration.write_text(_CONFIGURATION, encoding="utf-8")
    settings = scratch / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(_SETTINGS), encoding="utf-8")
    first = record.notebooks[0].executed
    runtime = scratch / "runtime"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--config={configuration}",
        f"--LabApp.default_url=/lab/tree/{first}",
    ]
    if os.getuid() == 0:
        command.append("--allow-root")
    variables = {
        **environment,
        "PATH": kernel_path(environment.get("PATH", "")),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_CONFIG_PATH": os.pathsep.join(
            filter(None, [str(scratch / "config"), environment.get("JUPYTER_CONFIG_PATH", "")])
        ),
        RECORD_VARIABLE: str(record.folder),
    }
    with subprocess.Popen([*command, *arguments], env=variables, cwd=record.folder) as server, _sigterm_ends(server):
        try:
            url = _started(server, runtime)
            for entry in record.notebooks:
                print(f"{entry.name}: {url}lab/tree/{entry.executed}", file=sys.stderr)  # noqa: T201
            print(f"Record: {record.folder}", file=sys.stderr)  # noqa: T201
            _await_end(server, runtime, url)
        finally:
            if server.poll() is None:
                server.terminate()


@contextlib.contextmanager
def _sigterm_ends(server: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on to the server, so that the record is finished after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _await_end(server: subprocess.Popen[bytes], runtime: Path, url: str) -> None:
    """Wait for the end of the server, and kill it if it stays after it has stopped serving.

    An idle thread of AnyIO can keep its process for ever: Python waits for such threads at the end.
    """
    stopped = None
    while server.poll() is None:
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):  # JupyterLab asks by itself
            server.wait(timeout=1)
        if any(runtime.glob(_SERVER_FILES)) or _accepts(url):
            stopped = None
        elif stopped is None:
            stopped = time.monotonic()
        elif time.monotonic() - stopped > END_SECONDS:
            server.kill()


def _accepts(url: str) -> bool:
    """True if something accepts connections at a URL of this machine."""
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), timeout=5).close()
    except ConnectionRefusedError:
        return False
    except OSError:  # busy, perhaps
        return True
    return True


def _started(server: subprocess.Popen[bytes], runtime: Path) -> str:
    """The server's URL, without its token."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        for file in runtime.glob(_SERVER_FILES):
            with contextlib.suppress(OSError, ValueError, KeyError):
                return str(json.loads(file.read_text(encoding="utf-8"))["url"])
        time.sleep(0.1)
    raise RunbookError("JupyterLab did not start", why="its own messages say why", todo="see them above")


def _finished(folder: Path, redactor: Redactor, seconds: float) -> Record:
    from ops.runbook.report import write_reports

    record = Record.read(folder)
    states = {entry.outcome for entry in record.notebooks}
    ended = outcomes.FAILED if outcomes.FAILED in states else outcomes.SUCCEEDED
    record.end(ended if states <= {outcomes.SUCCEEDED, outcomes.FAILED} else outcomes.INTERRUPTED, seconds)
    redactor.refresh()
    write_reports(record, redactor)
    record.save(redactor)
    scan(folder, redactor)
    return record


def configure(configuration: Any) -> None:
    """Set up the server's process: the copies' folder, this interpreter's kernel, and the save hooks.

    Parameters:
        configuration: traitlets' ``c`` of a configuration file.
    """
    folder = Path(os.environ[RECORD_VARIABLE])
    saves = _Saves(folder)
    configuration.ServerApp.root_dir = str(folder)
    configuration.ServerApp.kernel_spec_manager_class = OwnKernelSpecs
    configuration.FileContentsManager.pre_save_hook = saves.mask
    configuration.FileContentsManager.post_save_hook = saves.note


class _Saves:
    """Masks each notebook that JupyterLab saves, and records its progress."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        sources = workspace_sources(Workspace.default(), os.environ)
        self._redactor = Redactor(sources=(*sources, recorded_secrets(Path(os.environ[REGISTER_VARIABLE]))))

    def mask(self, model: dict[str, Any], path: str, contents_manager: Any) -> None:
        """Mask a notebook before it is written."""
        import nbformat

        del path, contents_manager
        if model["type"] == "notebook":
            model["content"] = self._redactor.notebook(nbformat.from_dict(model["content"]))
        elif isinstance(model.get("content"), str):
            model["content"] = self._redactor.text(model["content"])

    def note(self, model: dict[str, Any], os_path: str, contents_manager: Any) -> None:
        """Record the outcomes of a saved notebook."""
        import nbformat

        del contents_manager
        if model["type"] != "notebook":
            return
        record = Record.read(self._folder)
        for entry in record.notebooks:
            if entry.executed == Path(os_path).name:
                _learn(entry, nbformat.read(os_path, as_version=4))
                record.save(self._redactor)


def _learn(entry: NotebookRecord, node: Any) -> None:
    """Read the steps and their outcomes from a notebook that is being run by hand."""
    found = list(_steps(entry, node))
    entry.steps = found
    entry.seconds = round(sum(step.seconds for step in found), 3)
    entry.plan = entry.changes = None
    for cell in node.cells:
        if cell.cell_type == "code":
            entry.learn(cell.outputs)
    states = {step.outcome for step in found}
    entry.outcome = (
        outcomes.FAILED
        if outcomes.FAILED in states
        else outcomes.SUCCEEDED
        if states == {outcomes.SUCCEEDED}
        else outcomes.RUNNING
    )


def _steps(entry: NotebookRecord, node: Any) -> Iterator[StepRecord]:
    for step in steps(((cell.cell_type, cell.source) for cell in node.cells), title=entry.title):
        cells = [node.cells[index] for index in step.cells]
        failed = any(output.output_type == "error" for cell in cells for output in cell.outputs)
        whole = all(cell.execution_count is not None for cell in cells)
        outcome = outcomes.FAILED if failed else outcomes.SUCCEEDED if whole else outcomes.SKIPPED
        yield StepRecord(step.title, list(step.cells), outcome, round(sum(map(_seconds, cells)), 3))


def _seconds(cell: Any) -> float:
    """Duration of a cell, from the message times that JupyterLab stores; 0.0 without them."""
    times = cell.metadata.get("execution", {})
    try:
        begin, end = (datetime.fromisoformat(times[key]) for key in ("iopub.execute_input", "shell.execute_reply"))
    except (KeyError, TypeError, ValueError):
        return 0.0
    return max((end - begin).total_seconds(), 0.0)
