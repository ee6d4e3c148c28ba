"""Runs by hand: copies that are masked at each save, and their record."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from ops.errors import ParameterError, RunbookError
from ops.redaction import Redactor
from ops.runbook import Notebook, Record, lab
from ops.runbook.record import BY_HAND
from ops.secret import REGISTER_VARIABLE
from ops.workspace import PROJECT_ROOT, Workspace
from tests.index.serving import eventually

MakeNotebook = Callable[..., Path]
SECRET = "correct-horse-battery"


@pytest.fixture
def opened(make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Record:
    """The record of a copied notebook, before anything was run."""
    monkeypatch.setenv("TWINE_PASSWORD", SECRET)
    path = make_notebook("01_x", "# X", "### First", "1", "### Second", "2", "3", parameters="name: str = 'a'")
    workspace.create()
    record = Record.create(workspace.records, "01_x")
    record.purpose = BY_HAND
    record.notebooks = [lab._copy(Notebook.read(path), {"name": "b"}, record.folder / "01_x.ipynb")]
    record.save(Redactor())
    (workspace.home / "secrets").touch()
    monkeypatch.setenv(lab.RECORD_VARIABLE, str(record.folder))
    monkeypatch.setenv(REGISTER_VARIABLE, str(workspace.home / "secrets"))
    return record


def fetched(request: urllib.request.Request) -> str:
    """The body of the response; empty while the server does not respond."""
    try:
        with urllib.request.urlopen(request) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def saves(record: Record) -> Any:
    """Configuration of JupyterLab's server."""
    configuration = SimpleNamespace(ServerApp=SimpleNamespace(), FileContentsManager=SimpleNamespace())
    lab.configure(configuration)
    assert configuration.ServerApp.root_dir == str(record.folder)
    return configuration.FileContentsManager


def test_a_copy_has_the_parameters_set_and_no_outputs(opened: Record) -> None:
    node = nbformat.read(opened.folder / "01_x.ipynb", as_version=4)
    assert [cell.source for cell in node.cells if "injected-parameters" in cell.metadata.get("tags", ())] == [
        '# Parameters\nname = "b"\n'
    ]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in node.cells)
    assert opened.notebooks[0].parameters == {"name": "b"}


def test_saved_notebooks_are_masked_and_recorded(opened: Record) -> None:
    hooks, path = saves(opened), opened.folder / "01_x.ipynb"

    def save(change: Callable[[Any], None]) -> Record:
        node = nbformat.read(path, as_version=4)
        change(node)
        model = {"type": "notebook", "content": json.loads(nbformat.writes(node))}
        hooks.pre_save_hook(model=model, path="01_x.ipynb", contents_manager=None)
        nbformat.write(nbformat.from_dict(model["content"]), path)
        hooks.post_save_hook(model={"type": "notebook"}, os_path=str(path), contents_manager=None)
        return Record.read(opened.folder)

    def half(node: Any) -> None:
        for number, cell in enumerate([cell for cell in node.cells if cell.cell_type == "code"][:-1]):
            cell.execution_count = number
            cell.outputs = [nbformat.v4.new_output("stream", text=f"{SECRET}\n")]

    def whole(node: Any) -> None:
        node.cells[-1].execution_count = 9

    def failing(node: Any) -> None:
        node.cells[-1].outputs = [nbformat.v4.new_output("error", ename="E", evalue="v", traceback=[])]

    entry = save(half).notebooks[0]
    assert SECRET not in path.read_text()
    assert "********" in path.read_text()
    assert (entry.outcome, [step.outcome for step in entry.steps][-2:]) == ("running", ["succeeded", "skipped"])
    assert save(whole).notebooks[0].outcome == "succeeded"
    assert save(failing).notebooks[0].outcome == "failed"
    record = lab._finished(opened.folder, Redactor([SECRET]), 3)
    assert (record.outcome, record.seconds) == ("failed", 3)
    assert record.report.is_file()


@pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is not None, reason="JupyterLab is installed here")
def test_without_jupyterlab_the_error_says_how_to_install_it(make_notebook: MakeNotebook, workspace: Workspace) -> None:
    with pytest.raises(RunbookError, match="JupyterLab is not installed") as caught:
        lab.open_notebooks([make_notebook("01_x", "# X", "1")], {}, workspace=workspace)
    assert "make lab" in caught.value.todo
    assert not workspace.home.exists()


@pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="JupyterLab is not installed here")
def test_jupyterlab_serves_the_copies_and_the_record_is_finished_when_it_ends(
    make_notebook: MakeNotebook, workspace: Workspace
) -> None:
    path = make_notebook("01_x", "# X", "1", parameters="n: int = 1")
    before = path.read_bytes()
    with pytest.raises(ParameterError):
        lab.open_notebooks([path], {"m": 1}, workspace=workspace)
    command = (
        *(sys.executable, "-m", "ops.cli", "open", str(path), "-p", "n=2", "--"),
        *("--no-browser", "--port=0", "--IdentityProvider.token=t"),
    )
    with subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        url = next(line for line in process.stdout if line.startswith("01_x: ")).split()[1]
        assert "token" not in url
        base = url.partition("lab/")[0]
        request = urllib.request.Request(f"{base}api/contents/01_x.ipynb", headers={"Authorization": "token t"})
        eventually(lambda: "n = 2" in fetched(request))
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    (file,) = workspace.records.glob("*/record.json")
    assert Record.read(file.parent).outcome == "interrupted"
    assert path.read_bytes() == before


def test_a_server_that_no_longer_serves_and_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Python waits at its end for an idle thread."""
    monkeypatch.setattr(lab, "END_SECONDS", 0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import threading; threading.Thread(target=threading.Event().wait).start()"
    with subprocess.Popen([sys.executable, "-c", code]) as server:
        lab._await_end(server, tmp_path, f"http://127.0.0.1:{port}/")
        assert server.returncode == -signal.SIGKILL


@pytest.mark.parametrize("sign", ["its file", "its port"])
def test_a_server_that_still_serves_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    monkeypatch.setattr(lab, "END_SECONDS", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if sign == "its file":
            listener.close()
            (tmp_path / "jpserver-1.json").touch()
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as server:
            looks, really_wait = iter([False, False, False, True]), server.wait

            def wait(timeout: float) -> None:
                if next(looks):
                    server.terminate()
                    really_wait()

            monkeypatch.setattr(server, "wait", wait)
            lab._await_end(server, tmp_path, f"http://127.0.0.1:{port}/")
            monkeypatch.undo()
            assert server.returncode == -signal.SIGTERM
