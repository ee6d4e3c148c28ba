"""Start: everything missing at once, each with its fix; what comes next; and a map of every notebook."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops import onboard, start_here
from ops.errors import PreflightError, TargetError
from ops.runbook import Notebook, list_notebooks
from ops.workspace import PROJECT_ROOT
from tests.fakes import FakeTarget

pytest_plugins = ["tests.operations"]


@pytest.fixture(autouse=True)
def named(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake target has the name ``local``."""
    monkeypatch.setattr(start_here, "open_target", lambda name: {"local": target}[name])


def test_everything_that_is_missing_is_listed_at_once_with_its_fix(
    target: FakeTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    target.problems = ["no room: make some"]
    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(start_here, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    table = start_here.checks("local")
    assert {row[0] for row in table.rows if row[2] == "NO"} == {*start_here.TOOLS, "git", "notebooks", "fault"}
    with pytest.raises(PreflightError) as raised:
        start_here.verify("local")
    assert len(raised.value.problems) == len(start_here.TOOLS) + 3
    for problem in raised.value.problems:
        assert ": " in problem.partition(": ")[2], problem


def test_a_target_whose_package_is_missing_is_one_of_the_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> object:
        raise TargetError(f"{name} cannot be used", why="modal is not installed", todo="run: make modal")

    monkeypatch.setattr(start_here, "open_target", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = {row[0]: row[1:] for row in start_here.checks("modal").rows}
    assert rows["target"] == ("modal is not installed: run: make modal", "NO")
    assert rows["git"][1] == "NO"
    assert "modal is not installed" in repr(start_here.found("modal"))
    assert "fix what" in repr(start_here.next_steps("modal"))
    with pytest.raises(PreflightError, match="git"):
        start_here.verify("modal")


def test_a_missing_modal_client_is_listed_among_all_failures(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['modal'] = None\n"
        "from ops import start_here, errors\n"
        "try: start_here.verify('modal')\n"
        "except errors.PreflightError as error: print(*error.problems, sep='\\n')"
    )
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    git, modal = done.stdout.splitlines()
    assert git.startswith("git: not installed")
    assert modal.startswith("target: the package modal is not installed")
    assert "run: make modal" in modal


def test_what_comes_next_follows_from_the_current_state(target: FakeTarget, provisioned: FakeTarget) -> None:
    target.running = False
    assert "01_provision" in repr(start_here.next_steps("local"))
    target.running = True
    assert "02_onboard_user" in repr(start_here.next_steps("local"))
    onboard.apply(onboard.describe(provisioned, username="alice"))
    assert "03_smoke_test" in repr(start_here.next_steps("local"))
    assert "alice" in repr(start_here.found("local"))
    target.failure = "OSError: no room"
    assert "90_troubleshoot" in repr(start_here.next_steps("local"))
    assert "no room" in repr(start_here.found("local"))


def test_with_everything_in_place_it_is_ready(target: FakeTarget) -> None:
    assert start_here.verify("local").rows[0][1] == "0"


def test_the_map_leads_to_every_notebook() -> None:
    folder = PROJECT_ROOT / "notebooks"
    notebook = Notebook.read(folder / "00_start_here.ipynb")
    text = "\n".join(cell.source for cell in notebook.cells if cell.kind == "markdown")
    names = [each.name for each in list_notebooks(folder) if each.name != notebook.name]
    missing = [name for name in names if f"| [{name}]({name}.ipynb) |" not in text]
    assert missing == [], f"add a row to the map in 00_start_here for {', '.join(missing)}"
