"""The plugin that keeps nbval from going on after a failing cell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from ops.workspace import PROJECT_ROOT

MakeNotebook = Callable[..., Path]


@pytest.fixture
def two_notebooks(make_notebook: MakeNotebook, tmp_path: Path) -> Path:
    """One whose second cell fails and whose third leaves a mark, and one that is good."""
    mark = f"import pathlib; pathlib.Path({str(tmp_path / 'mark')!r}).touch()"
    folder = tmp_path / "notebooks"
    for path in (
        make_notebook("01_fails", "# F", "a = 1", "1 / 0", mark, folder=folder),
        make_notebook("02_good", "# G", "a = 1", "b = 2", folder=folder),
    ):
        node = nbformat.read(path, as_version=4)
        for number, cell in enumerate(cell for cell in node.cells if cell.cell_type == "code"):
            cell.execution_count = number + 1
        nbformat.write(node, path)
    return folder


def _nbval(folder: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--nbval", "--nbval-current-env", "-p", "no:cacheprovider",
         "-c", os.devnull, "--rootdir", str(folder), str(folder)],
        env={
            **{name: value for name, value in os.environ.items() if name != "FORCE_COLOR"},
            "PYTHONPATH": str(PROJECT_ROOT), "PYTEST_ADDOPTS": "", "PY_COLORS": "0", "NO_COLOR": "1",
        },
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    return re.sub(r" in [0-9.]+s.*", "", done.stdout.strip().splitlines()[-1]).strip("= ")


def test_after_a_failing_cell_the_rest_of_that_notebook_is_skipped_and_the_next_one_runs(two_notebooks: Path) -> None:
    assert _nbval(two_notebooks, "-p", "ops.runbook.nbval_stop") == "1 failed, 3 passed, 1 skipped"
    assert not (two_notebooks.parent / "mark").exists()


def test_without_the_plugin_nbval_goes_on(two_notebooks: Path) -> None:
    # The day that this fails, the plugin can go.
    assert _nbval(two_notebooks) == "1 failed, 4 passed"
    assert (two_notebooks.parent / "mark").exists()
