"""Storing the notebooks' outputs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest

from ops.errors import RunError
from ops.runbook.notebook import Notebook
from ops.runbook.store import end_processes_of, store
from ops.workspace import PROJECT_ROOT

MakeNotebook = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A separate project with this one's package."""
    folder = tmp_path / "project"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "ops").symlink_to(PROJECT_ROOT / "ops")
    (folder / ".runbook").mkdir()
    return folder


def test_outputs_are_stored_from_a_fresh_state_without_traces_of_this_run(
    make_notebook: MakeNotebook, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYPI_RUNBOOK_HOME", "/nowhere")
    path = make_notebook(
        "01_x",
        "# X",
        "from ops.workspace import shown\nfrom ops.workspace import Workspace\n"
        "folder = Workspace.default().create().home",
        "print(shown(folder), [path.name for path in folder.iterdir()])",
        "import sys; print('a', flush=True); print('b')",
        folder=project / "notebooks",
        papermill={"old": 1},
    )
    node = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in node.cells]
    node.cells[1].metadata["execution"] = {"iopub.status.busy": "2020"}
    nbformat.write(node, path)

    assert store([Notebook.read(path)], project=project) == (path,)

    node = nbformat.read(path, as_version=4)
    assert node.cells[2].outputs == [
        {"output_type": "stream", "name": "stdout", "text": "~/pypi-runbook/.runbook []\n"}
    ]
    assert [output.text for output in node.cells[3].outputs] == ["a\nb\n"]
    assert [cell.execution_count for cell in node.cells[1:]] == [1, 2, 3]
    assert [cell.id for cell in node.cells] == ids
    assert all(cell.metadata == {} for cell in node.cells)
    assert node.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert store([Notebook.read(path)], project=project) == (), "the same run stored something different"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('broken')", "was not stored, because it failed"),
        ("from ops.secret import Secret\nprint(Secret('shown-by-mistake').reveal())", "because it shows a secret"),
    ],
)
def test_nothing_is_stored_when_a_notebook_fails_or_shows_a_secret(
    make_notebook: MakeNotebook, project: Path, code: str, message: str
) -> None:
    good = make_notebook("01_good", "# G", "print(1)", folder=project / "notebooks")
    bad = make_notebook("02_bad", "# B", code, folder=project / "notebooks")
    before = good.read_bytes(), bad.read_bytes()
    with pytest.raises(RunError, match=message) as caught:
        store([Notebook.read(good), Notebook.read(bad)], project=project)
    assert "shown-by-mistake" not in str(caught.value)
    assert (good.read_bytes(), bad.read_bytes()) == before


def test_only_processes_started_from_a_folder_are_ended(tmp_path: Path) -> None:
    sleep = "import sys, time; time.sleep(60)"
    ours = subprocess.Popen([sys.executable, "-c", sleep, str(tmp_path / "x")], start_new_session=True)
    other = subprocess.Popen([sys.executable, "-c", sleep, str(tmp_path.parent / "y")], start_new_session=True)
    try:
        time.sleep(0.2)
        assert end_processes_of(tmp_path) == (ours.pid,)
        assert not psutil.pid_exists(ours.pid)
        assert psutil.pid_exists(other.pid)
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
