"""CONTRIBUTING's "add an operation and its notebook", followed literally in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ops.runbook.notebook import Notebook
from ops.workspace import PROJECT_ROOT
from tests.notebooks.structure import check

CONTRIBUTING = (PROJECT_ROOT / ".github" / "CONTRIBUTING.md").read_text()
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")


def block(language: str) -> str:
    """The only fenced block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    return str(found)


def notebook_of(outline: str) -> Any:
    """The notebook described by the outline."""
    cells = []
    v4: Any = nbformat.v4
    for number, part in enumerate(re.split(r"^%% ", outline, flags=re.MULTILINE)[1:]):
        kind, _, source = part.partition("\n")
        make = v4.new_markdown_cell if kind == "markdown" else v4.new_code_cell
        cell = make(source.strip(), id=f"20-{number:02}")
        if kind == "parameters":
            cell.metadata["tags"] = ["parameters"]
        cells.append(cell)
    return v4.new_notebook(cells=cells)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the project with the operation and the notebook from CONTRIBUTING."""
    root = tmp_path / "clone"
    shutil.copytree(PROJECT_ROOT, root, ignore=NOT_COPIED)
    (root / "ops" / "greet.py").write_text(block("python").partition("\n")[2])
    nbformat.write(notebook_of(block("text")), root / "notebooks" / "20_greet.ipynb")
    return root


def run(clone: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(clone), "PYPI_RUNBOOK_HOME": str(clone / ".runbook")}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_an_operation_and_notebook_added_as_described_run_and_pass_every_check(clone: Path) -> None:
    stored = run(clone, "ops.runbook.store", "20_greet")
    assert stored.returncode == 0, stored.stderr
    assert check(Notebook.read(clone / "notebooks" / "20_greet.ipynb")) == ()

    first, second = (run(clone, "ops.cli", "run", "20_greet", "-p", "text=Hello") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (clone / ".runbook" / "greeting-local.txt").read_text() == "Hello"

    for tool in (
        ("ruff", "check", "ops/greet.py"),
        ("ruff", "format", "--check", "ops/greet.py"),
        ("mypy", "ops/greet.py"),
    ):
        done = run(clone, *tool)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_notebook_without_stored_outputs_is_refused(clone: Path) -> None:
    assert any(
        "output" in problem or "run" in problem
        for problem in check(Notebook.read(clone / "notebooks" / "20_greet.ipynb"))
    )
