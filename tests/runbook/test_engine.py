"""No known secret leaves a run, in any form, in any file, on any stream."""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import subprocess
import sys
import textwrap
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from ops.errors import RunError
from ops.runbook import Redactor, RunOptions, execution, list_records, run_notebooks
from ops.workspace import PROJECT_ROOT, Workspace

MakeNotebook = Callable[..., Path]

BORN = "born-in-the-kernel/+&\"'x"
ENVIRONMENT = "from-the-environment-7f3a"
IN_URL = "in-a-url@51c2"
IN_FILE = "in-a-secret-file-e90b"
WRITTEN = "written-by-a-notebook-88d1"
CANARIES = (BORN, ENVIRONMENT, IN_URL, IN_FILE, WRITTEN)

CELLS = """
import base64, html, json, os, pathlib, sys, urllib.parse
from IPython.display import HTML, display
from ops.secret import Secret
from ops.workspace import Workspace

workspace = Workspace.default()
folder = workspace.user("local", "alice")
folder.mkdir(parents=True)
(folder / ".pypirc").write_text("[x]\\npassword = written-by-a-notebook-88d1\\n")
canaries = [
    Secret("born-in-the-kernel/+&\\"'x").reveal(),
    os.environ["TWINE_PASSWORD"],
    urllib.parse.unquote(os.environ["PIP_INDEX_URL"].split(":")[2].split("@")[0]),
    (workspace.secrets("local") / "token.env").read_text().strip().split("=")[1],
    "written-by-a-notebook-88d1",
]
---
for value in canaries:
    print("plain", value)
    print(repr(value), value.encode(), {"password": value}, json.dumps(value), json.dumps({"a": repr(value)}))
    print(urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value), html.escape(value), value.encode().hex())
    print(f"https://alice:{urllib.parse.quote(value, safe='')}@index.example/simple/")
---
for value in canaries:
    for user in ("a", "ab", "abc"):
        print("Authorization: Basic", base64.b64encode(f"{user}:{value}".encode()).decode())
        print(base64.urlsafe_b64encode(f"{user}:{value}:more".encode()).decode())
---
for value in canaries:
    for letter in value:
        print(letter, end="", flush=True)
    print()
    for letter in value:
        print(letter, end="", file=sys.stderr, flush=True)
---
for value in canaries:
    display(HTML(f"<b>{html.escape(value)}</b><!-- {value} -->"))
    display({"application/json": {value: [value]}, "text/plain": value}, raw=True, metadata={"note": value})
---
os.write(1, (" ".join(canaries) + "\\n").encode())
os.write(2, (" ".join(canaries) + "\\n").encode())
os.system("echo " + canaries[1])
---
class CanaryError(Exception):
    pass

def call(url, password):
    raise CanaryError(f"401 for {url}", password, {"Authorization": base64.b64encode(f"x:{password}".encode())})

call(f"https://alice:{canaries[0]}@index.example/", canaries[1])
"""


def spellings(secret: str) -> Iterator[str]:
    """The forms to look for, written independently of the redactor's."""
    data = secret.encode()
    yield from (secret, repr(secret)[1:-1], repr(data)[2:-1], json.dumps(secret)[1:-1], html.escape(secret), data.hex())
    yield json.dumps(json.dumps(secret)[1:-1])[1:-1]
    yield json.dumps(repr(secret)[1:-1])[1:-1]
    yield urllib.parse.quote(secret, safe="")
    yield urllib.parse.quote_plus(secret)
    for before in (b"", b"a", b"ab"):
        whole = base64.b64encode(before + data)
        # All but the parts that depend on the surrounding text.
        piece = whole[4 : len(whole) // 4 * 4 - 4].decode()
        yield piece
        yield piece.replace("+", "-").replace("/", "_")


def assert_clean(text: str, where: object) -> None:
    for secret in CANARIES:
        for form in spellings(secret):
            assert form not in text, f"{form!r}, of {secret!r}, is in {where}"


@pytest.fixture
def canaries(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets planted in the environment and in the workspace."""
    monkeypatch.setenv("TWINE_PASSWORD", ENVIRONMENT)
    monkeypatch.setenv("PIP_INDEX_URL", f"https://alice:{urllib.parse.quote(IN_URL)}@index.example/simple/")
    path = workspace.secrets("local") / "token.env"
    path.parent.mkdir(parents=True)
    path.write_text(f"AUTH_TOKEN={IN_FILE}\n")


@pytest.fixture
def leaky(make_notebook: MakeNotebook) -> Path:
    """A notebook that shows every secret in every way."""
    cells = CELLS.strip().split("\n---\n")
    return make_notebook("01_leaky", f"# Leaky\n\nSays {ENVIRONMENT}.", *cells, parameters='target: str = "local"')


@pytest.mark.usefixtures("canaries")
def test_no_canary_is_found_in_a_record_in_any_form(
    leaky: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "papermill")
    saved: list[str] = []
    original = execution.write_notebook

    def watched(notebook: object, path: Path) -> None:
        original(notebook, path)
        saved.append(path.read_text())

    monkeypatch.setattr(execution, "write_notebook", watched)
    with pytest.raises(RunError) as caught:
        run_notebooks([leaky], {"target": "local"}, options=RunOptions(workspace=workspace))

    folder = caught.value.record
    assert folder is not None
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"01_leaky.ipynb", "01_leaky.html", "record.json"}
    for path in files:
        text = path.read_text()
        assert_clean(text, path.name)
        # A notebook is stored line by line: also check the joined lines.
        assert_clean(text.replace('",\n', "").replace("\n", ""), path.name)
    node = nbformat.read(folder / "01_leaky.ipynb", as_version=4)
    for cell in node.cells:
        assert_clean("".join(output.get("text", "") for output in cell.get("outputs", ())), "the streams")
    assert len(saved) > 2 * len(node.cells)
    assert_clean(saved[-1], "the last save")
    assert "CanaryError" in saved[-1], "the notebook did not run to its last cell"
    captured = capfd.readouterr()
    assert_clean(captured.out, "standard output")
    assert_clean(captured.err, "standard error")
    assert_clean(caplog.text, "the log")
    assert_clean(str(caught.value), "the error")
    assert "401 for https://alice:********@index.example/" in str(caught.value)


def test_papermill_s_log_is_masked_while_a_notebook_runs(caplog: pytest.LogCaptureFixture) -> None:
    with execution._masked_log(Redactor([ENVIRONMENT])):
        logging.getLogger("papermill").warning("it is %s", ENVIRONMENT)
    logging.getLogger("papermill").warning("it is over")
    assert caplog.messages == ["it is ********", "it is over"]


ENTRY_POINT = "[papermill.engine]\nrunbook = ops.runbook.engine:RedactingEngine\n"


@pytest.mark.usefixtures("canaries")
def test_papermill_s_own_command_masks_too_if_the_project_is_installed(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path
) -> None:
    installed = tmp_path / "site"
    information = installed / "pypi_runbook-0.0.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pypi-runbook\nVersion: 0.0.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINT)
    source = make_notebook(
        "01_x", "# X", "import os\nprint('is', os.environ['TWINE_PASSWORD'], flag)", parameters="flag: bool = True"
    )
    target = tmp_path / "out.ipynb"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "--engine", "runbook", "--log-output"),
            *(str(source), str(target), "-p", "flag", "False"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(PROJECT_ROOT)])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is ******** False" in target.read_text()
    assert "is ******** False" in done.stderr
    assert_clean(done.stdout + done.stderr + target.read_text(), "papermill's command")


@pytest.mark.parametrize("first", ["ops.runbook.engine", "papermill", "ops.runbook", "ops.runbook.execution"])
def test_the_engine_can_be_imported_first_or_by_papermill(tmp_path: Path, first: str) -> None:
    information = tmp_path / "pypi_runbook-0.0.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: pypi-runbook\nVersion: 0.0.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINT)
    code = textwrap.dedent(f"""
        import {first}
        from papermill.engines import papermill_engines
        from ops.runbook.engine import RedactingEngine
        assert papermill_engines.get_engine("runbook") is RedactingEngine
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT_ROOT)])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_runbook_imports_neither_papermill_nor_nbconvert() -> None:
    code = (
        "import sys, ops.runbook; print([m for m in ('papermill', 'nbconvert', 'nbformat', 'zmq') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_papermill_runs_other_notebooks_with_its_own_engine(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path
) -> None:
    source, target = make_notebook("01_x", "# X", "print('theirs')"), tmp_path / "out.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(source), str(target)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "theirs" in target.read_text()
    assert not workspace.home.exists()


def test_a_run_by_papermill_leaves_the_same_record(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path
) -> None:
    source = make_notebook("01_x", "# X", "### First", "n", "### Second", "1 / 0", parameters="n: int = 1")
    target = tmp_path / "out.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--engine", "runbook", str(source), str(target), "-p", "n", "2"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith("Error: unexpected ZeroDivisionError")
    (record,) = list_records(workspace.records)
    assert (record.outcome, record.parameters, record.error and record.error.step) == ("failed", {"n": 2}, "Second")
    assert [step.outcome for step in record.notebooks[0].steps][-2:] == ["succeeded", "failed"]
    assert f"Report: {record.report}" in done.stderr
    assert nbformat.read(record.folder / "01_x.ipynb", as_version=4).cells == nbformat.read(target, as_version=4).cells
