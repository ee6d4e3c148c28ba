"""The plugin that stops nbval after a failing cell, and keeps it away from the operator's index."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from ops.workspace import PROJECT_ROOT


@pytest.fixture
def two_notebooks(tmp_path: Path) -> Path:
    """A notebook whose second cell fails and whose third leaves a mark, and a valid one."""
    mark = f"import pathlib; pathlib.Path({str(tmp_path / 'mark')!r}).touch()"
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, sources in {"01_fails": ("a = 1", "1 / 0", mark), "02_good": ("a = 1", "b = 2")}.items():
        cells = [new_code_cell(source, execution_count=number + 1) for number, source in enumerate(sources)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / f"{name}.ipynb")
    return folder


def _nbval(folder: Path, *options: str, tries: int = 3) -> str:
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
    summary = re.sub(r" in [0-9.]+s.*", "", done.stdout.strip().splitlines()[-1]).strip("= ")
    # Its ports are chosen before it binds them, and another program may be faster.
    if "Kernel died before replying" in done.stdout and tries > 1:
        return _nbval(folder, *options, tries=tries - 1)
    assert "error" not in summary, done.stdout + done.stderr
    return summary


@pytest.mark.slow
def test_after_a_failing_cell_the_rest_of_that_notebook_is_skipped_and_the_next_one_runs(two_notebooks: Path) -> None:
    assert _nbval(two_notebooks, "-p", "tests.notebooks.nbval_plugin") == "1 failed, 3 passed, 1 skipped"
    assert not (two_notebooks.parent / "mark").exists()


def test_without_the_plugin_nbval_continues(two_notebooks: Path) -> None:
    # Once this fails, the plugin can be removed.
    assert _nbval(two_notebooks) == "1 failed, 4 passed"
    assert (two_notebooks.parent / "mark").exists()


def test_a_notebook_that_needs_earlier_ones_passes_alone_on_a_temporary_workspace(
    newcomer: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "INDEX_PASSWORD": "of-the-operator", "PYPI_APP_NAME": "mine"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--nbval-lax",
         str(PROJECT_ROOT / "notebooks" / "02_onboard_user.ipynb")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (newcomer / "runbook").exists()


def test_without_nbval_the_plugin_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_it(request):\n    assert not request.config.pluginmanager.hasplugin('runbook-nbval')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "-p", "tests.notebooks.nbval_plugin",
         "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
