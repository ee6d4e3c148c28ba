"""Every notebook in JupyterLab, opened by ``runbook open`` and run in Chromium like a person.

Each notebook runs in one of four ways, with ``RUNBOOK_MATRIX=full`` in all; the other programs are in test_matrix.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ops.errors import INTERRUPTED
from ops.runbook import Notebook, Record
from ops.runbook.notebook import GUARD
from ops.runbook.plan_file import is_plan_cell
from ops.workspace import PROJECT_ROOT
from tests.index import chromium
from tests.index.chromium import Chromium
from tests.notebooks.test_matrix import ALL, QUICK, Index, good, make_index

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="JupyterLab is not installed: make lab"),
    pytest.mark.skipif(not chromium.PROGRAM, reason="Chromium is not installed"),
]

WAYS = ("good", "unknown", "wrong", "interrupted")
CASES = [
    pytest.param(way, notebook, id=f"{way}-{notebook.name}")
    for row, notebook in enumerate(ALL)
    for column, way in enumerate(WAYS)
    if row % len(WAYS) == column or os.environ.get("RUNBOOK_MATRIX") == "full"
    if way != "good" or notebook in QUICK
]
CONTENT = "jupyterapp.shell.currentWidget.content"


@dataclass
class Lab:
    """A JupyterLab on copies of all notebooks, and a browser that shows it.

    Parameters:
        url: its root.
        folder: of its record, with the copies.
        copies: of the notebooks by name, before the first run.
        page: the browser.
    """

    url: str
    folder: Path
    copies: dict[str, bytes]
    page: Chromium

    def request(self, method: str, path: str) -> bytes:
        """Send a request to the server's own API (Jupyter Server REST API)."""
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers={"Authorization": "token t"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return bytes(response.read())

    def until(self, expression: str, *, seconds: float = 180) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.page.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"this did not become true: {expression}"
            time.sleep(0.1)

    def show(self, name: str, **how: Any) -> None:
        """Open a notebook as ``runbook open`` copied it, and wait until its new kernel is ready."""
        for session in json.loads(self.request("GET", "api/sessions")):
            self.request("DELETE", f"api/sessions/{session['id']}")
        (self.folder / f"{name}.ipynb").write_bytes(self.copies[name])
        self.page.open(f"{self.url}lab/tree/{name}.ipynb?token=t&reset", **how)
        self.until(f"window.jupyterapp && jupyterapp.shell.currentWidget?.context?.path === '{name}.ipynb'")
        self.until(f"{CONTENT}.model?.cells?.length > 3")
        self.until("jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'")

    def edit(self, source: str, change: str) -> None:
        """Replace the cell with a given source."""
        cells = f"Array.from({CONTENT}.model.sharedModel.cells)"
        self.page.run(f"{cells}.find(cell => cell.source === {json.dumps(source)}).setSource({json.dumps(change)})")

    def run_all(self) -> None:
        """Start *Run All Cells*."""
        self.page.run("window.ended = false; jupyterapp.commands.execute('notebook:run-all-cells')"
                      ".finally(() => { window.ended = true }); 0")  # fmt: skip

    def save(self) -> Record:
        """Save, and return the record as it is then."""
        self.page.run("jupyterapp.commands.execute('docmanager:save')")
        return Record.read(self.folder)

    def errors(self, name: str) -> list[str]:
        """The text of each error in the saved notebook, once the page shows it too."""
        node = nbformat.read(self.folder / f"{name}.ipynb", as_version=4)
        outputs = [output for cell in node.cells for output in cell.get("outputs", ())]
        found = ["\n".join(output.traceback) for output in outputs if output.output_type == "error"]
        drawn = "Array.from(document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.stderr\"]'))"
        drawn = f"{drawn}.map(each => each.textContent.trim())"
        self.until(f"JSON.stringify({drawn}) === JSON.stringify({json.dumps(found)})")
        return found


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    yield from make_index(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def lab(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    before = {path: path.read_bytes() for path in (PROJECT_ROOT / "notebooks").iterdir()}
    command = [
        *(sys.executable, "-m", "ops.cli", "open", "--", "--no-browser", "--port=0"),
        *("--IdentityProvider.token=t", "--LabApp.expose_app_in_browser=True"),
    ]
    log = tmp_path_factory.mktemp("lab") / "log"
    with (
        log.open("w") as stream,
        subprocess.Popen(command, cwd=PROJECT_ROOT, env=index.environment, stdout=stream, stderr=stream) as process,
    ):
        try:
            end = time.monotonic() + 120
            while "Record: " not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            lines = log.read_text().splitlines()
            url = next(line for line in lines if line.startswith("01_provision: ")).split()[1].partition("lab/")[0]
            folder = Path(next(line for line in lines if line.startswith("Record: ")).partition(" ")[2])
            copies = {path.stem: path.read_bytes() for path in folder.glob("*.ipynb")}
            with Chromium(tmp_path_factory.mktemp("profile")) as page:
                yield Lab(url, folder, copies, page)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
    assert {path: path.read_bytes() for path in (PROJECT_ROOT / "notebooks").iterdir()} == before
    assert (folder / "01_provision.html").is_file(), "the record has reports"


@pytest.mark.parametrize(("way", "notebook"), CASES)
def test_a_notebook_is_equally_safe_and_clear_in_jupyterlab(
    way: str, notebook: Notebook, lab: Lab, index: Index, tmp_path: Path
) -> None:
    before = index.state()
    lab.show(notebook.name)
    cell = notebook.parameters_cell
    assert cell is not None
    wrong: dict[str, dict[str, Any]] = {"unknown": {"targt": "local"}, "wrong": {"target": ["local"]}}
    values = good(notebook) | wrong.get(way, {})
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    lab.edit(cell.source, "\n".join([cell.source, *lines]))
    mark = tmp_path / "mark"
    if way == "interrupted":
        code = [each.source for each in notebook.cells if each.kind == "code"]
        stop = next(filter(is_plan_cell, code), code[code.index(GUARD) + 1])
        lab.edit(stop, f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(600)")
    lab.run_all()
    if way == "interrupted":
        end = time.monotonic() + 180
        while not mark.exists():
            assert time.monotonic() < end, lab.save()
            time.sleep(0.1)
        lab.page.run("jupyterapp.commands.execute('notebook:interrupt-kernel'); 0")
    lab.until("window.ended")
    record = lab.save()
    entry = next(each for each in record.notebooks if each.name == notebook.name)
    shown = lab.errors(notebook.name)
    if way == "good":
        assert shown == []
        assert all(step.seconds > 0 for step in entry.steps)
    elif way == "interrupted":
        assert shown == [INTERRUPTED]
    else:
        said = "there is no parameter targt" if way == "unknown" else "the parameter target cannot be ['local']"
        error, *more = shown
        # The guard refuses cells that were sent before JupyterLab received the error.
        assert all(each.startswith("ParameterError: this cell was not run.") for each in more)
        assert said in error
        assert [line.partition(":")[0] for line in error.splitlines()[1:]] == ["Why", "What to do"]
    assert entry.outcome == ("succeeded" if way == "good" else "failed")
    assert index.state() == before
