"""An invalid value of a parameter ends a notebook with one sentence, and changes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from ops.errors import ParameterError
from ops.parameters import require_type
from ops.runbook import list_notebooks
from ops.runbook.store import comparable
from ops.workspace import PROJECT_ROOT
from tests.notebooks.world import World

NOTEBOOKS = list_notebooks(PROJECT_ROOT / "notebooks")
TARGET = {"target": "mars"}
BAD: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "00_start_here": {},
    "01_provision": {"port": {"port": 70000}, "lower_protection": {"target": "modal", "lower_protection": "all"}},
    "02_onboard_user": {
        "username": {"username": "a:b"},
        "role": {"role": "king"},
        "projects": {"projects": "-"},
        "folder": {"folder": "/dev/null/folder"},
        "public_index": {"public_index": "nowhere"},
        "password_env": {"password_env": "NOT_SET"},
        "token_days": {"token_days": 366},
        "users_csv": {"users_csv": "missing.csv"},
    },
    "03_smoke_test": {},
    "04_rotate_credentials": {
        "rotate": {"rotate": "all"},
        "username": {"username": "alice"},
        "label": {"rotate": "token", "username": "alice", "label": "none"},
        "max_age_days": {"max_age_days": -1},
    },
    "05_offboard_user": {"username": {"username": "a:b"}, "role": {"role": "king"}, "confirm": {"confirm": "bob"}},
    "06_back_up": {
        "destination": {"destination": "ftp://host/folder"},
        "daily": {"daily": -1},
        "weekly": {"weekly": -1},
        "monthly": {"monthly": -1},
    },
    "07_restore": {
        "source": {"source": "HOME/nothing"},
        "snapshot": {"source": "HOME/snapshots", "snapshot": "2001"},
        "confirm": {"source": "HOME/snapshots", "confirm": "mars"},
    },
    "08_upgrade": {"revision": {"revision": "nothing"}},
    "09_audit": {
        "snapshots": {"snapshots": "ftp://host/folder"},
        "public_index": {"public_index": "nowhere"},
        "fail_at": {"fail_at": "times"},
    },
    "11_manage_releases": {
        "action": {"action": "burn"},
        "project": {"action": "yank", "project": "-", "version": "1.0"},
        "version": {"action": "yank", "project": "spam", "version": "9.9"},
        "status": {"action": "status", "project": "spam", "status": "eaten"},
        "owners": {"action": "reserve", "project": "acme", "owners": "a:b"},
        "reason": {"action": "yank", "project": "spam", "version": "1.0", "reason": "x" * 2000},
        "keep": {"action": "prune", "keep": -1},
        "older_than_days": {"action": "prune", "older_than_days": -1},
        "confirm": {"action": "delete", "project": "spam", "version": "1.0", "confirm": "spam"},
    },
    "12_incident": {
        "project": {"project": "-", "version": "1.0"},
        "version": {"project": "spam", "version": "9.9"},
        "reason": {"project": "spam", "version": "1.0", "reason": "x" * 2000},
        "confirm": {"project": "spam", "version": "1.0", "reason": "bad", "confirm": "spam"},
    },
    "13_trusted_publishing": {"file": {"file": "missing.toml"}},
    "90_troubleshoot": {},
    "99_tear_down": {
        "snapshot": {"snapshot": "HOME/runbook/local", "confirm": "local"},
        "confirm": {"confirm": "mars"},
    },
}
"""Parameters of a run, by notebook and by the parameter with the bad value; all have a bad target too."""


def test_every_parameter_but_flags_has_a_bad_value_here() -> None:
    declared = {
        notebook.name: {each.name for each in notebook.parameters if each.type != "bool"} - set(TARGET)
        for notebook in comparable(NOTEBOOKS)
    }
    assert {name: set(values) for name, values in BAD.items()} == declared, "list them in BAD"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_no_parameter_accepts_a_value_of_another_type(notebook: Any) -> None:
    for parameter in notebook.parameters:
        for value in (None, {}, b"", 1j, *((1,) if parameter.type != "int" else ("1",))):
            with pytest.raises(ParameterError, match=f"the parameter {parameter.name} cannot be"):
                require_type(parameter, value)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", BAD)
def test_a_bad_value_is_refused_with_one_sentence_and_changes_nothing(notebook: str, world: World) -> None:
    before = world.contents()
    accepted = []
    for name, parameters in {**BAD[notebook], "target": TARGET}.items():
        error = world.run(notebook, parameters)["error"]
        if not re.fullmatch(r"[^\n]+(\nWhy: [^\n]+)?\nWhat to do: [^\n]+", error):
            accepted.append((name, error))
    assert not accepted
    assert world.contents() == before
