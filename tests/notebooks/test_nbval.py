"""The stored outputs are still true: nbval runs the notebooks and compares every output."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbval.plugin import get_sanitize_patterns

from ops.runbook import list_notebooks
from ops.runbook.store import SKIP_TAG, comparable
from ops.workspace import PROJECT_ROOT
from tests.notebooks.nbval_plugin import SANITIZE

NOTEBOOKS = list_notebooks(PROJECT_ROOT / "notebooks")
SKIPPED = [notebook.name for notebook in NOTEBOOKS for cell in notebook.cells if SKIP_TAG in cell.tags]
"""The notebook of each cell that measures for minutes, which is not compared."""


def _nbval(*paths: str | Path, cwd: Path = PROJECT_ROOT) -> str:
    """The last line of plain ``pytest --nbval`` on *paths*, which must pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "--nbval", *map(str, paths)],
        cwd=cwd, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    advice = (
        "An output differs from the stored one: run make notebooks, and commit the difference if you intended it.\n"
    )
    assert done.returncode == 0, advice + done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_every_output_of_every_notebook_equals_the_stored_one() -> None:
    skipped = f", {len(SKIPPED)} skipped" if SKIPPED else ""
    assert re.fullmatch(f"[0-9]+ passed{skipped} in .*", _nbval("notebooks/"))


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_notebooks_pass_in_another_order_and_from_another_directory(tmp_path: Path) -> None:
    others = [notebook.path for notebook in comparable(NOTEBOOKS) if notebook.name != "03_smoke_test"]
    assert re.fullmatch("[0-9]+ passed in .*", _nbval(*reversed(others), cwd=tmp_path))


def test_only_the_benchmark_skips_cells() -> None:
    assert set(SKIPPED) <= {"10_benchmark"}


def sanitized(text: str) -> str:
    """The text as compared by nbval."""
    for regex, replacement in get_sanitize_patterns(SANITIZE.read_text()):
        text = re.sub(regex, replacement, text)
    return text


def test_the_sanitize_file_is_read_completely() -> None:
    lines = [line for line in SANITIZE.read_text().splitlines() if line.startswith("[")]
    assert len(get_sanitize_patterns(SANITIZE.read_text())) == len(lines)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("in ~/pypi-runbook/.runbook/users/local/alice", "in ~/runbook/users/local/alice"),
        ("in .runbook/users", "in /home/bob/clone/.runbook/users"),
        ("a  ~/.runbook/users        b\n─────", "a  /srv/runbook/users   b\n───────────"),
        ("at http://127.0.0.1:8765/", "at http://127.0.0.1:40123/"),
        ("port 8765 is free", "port 40123 is free"),
        ("process 12", "process 93212"),
        ("Python     3.12.1; 3.11 or newer", "Python     3.13.0; 3.11 or newer"),
        ("pypi_runbook-0.1.0.dev20261123121631727-py3-none-any.whl", "pypi_runbook-0.2.0.dev1-py3-none-any.whl"),
        ("user smoke-6b042e9f8cb2", "user smoke-9999999aaaaa"),
        ("5 files, 1,833 bytes", "12 files, 9 bytes"),
        ("in 0.41 s", "in 12.7 s"),
        ("2026-01-02T03:04:05Z", "2026-11-12 13:14:15 UTC"),
        ("snapshot 2026-01-02T03-04-05Z", "snapshot 2026-11-12T13-14-15Z"),
        ("in ~/pypi-runbook/.runbook/snapshots/local", "in /tmp/x/runbook/snapshots/local"),
        ("a" * 64, "b" * 64),
    ],
)
def test_differences_between_runs_are_not_compared(one: str, other: str) -> None:
    assert one != other
    assert sanitized(one) == sanitized(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("seen 401", "seen 200"),
        ("as it must be: yes", "as it must be: NO"),
        ("user alice", "user bob"),
        ("4 changes to make", "3 changes to make"),
        ("write 5 files, mode 0600", "write 5 files, mode 0644"),
        ("write 5 files, mode 0600", "write 4 files, mode 0600"),
        ("volume pypiserver-data missing", "volume pypiserver-credentials missing"),
        ("http://127.0.0.1:8765/", "http://0.0.0.0:8765/"),
        ("refused (400)", "refused (409)"),
    ],
)
def test_what_a_notebook_says_is_compared(one: str, other: str) -> None:
    assert sanitized(one) != sanitized(other)
