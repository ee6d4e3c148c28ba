"""Paths are shown so that they can be typed and say nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.places import shown
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT


def test_a_path_in_the_workspace_is_shown_below_the_variable_that_names_it(newcomer: Path) -> None:
    assert shown(newcomer / "runbook" / "users" / "local") == "$PYPI_RUNBOOK_HOME/users/local"
    assert shown(newcomer / "runbook") == "$PYPI_RUNBOOK_HOME"


def test_a_path_in_the_project_is_shown_relative_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOME_VARIABLE)
    assert shown(PROJECT_ROOT / ".runbook" / "users") == ".runbook/users"


def test_a_path_in_the_home_is_shown_below_the_tilde_and_any_other_as_it_is(newcomer: Path) -> None:
    assert shown(newcomer / "files") == "~/files"
    assert shown(Path("/srv/files")) == "/srv/files"
