"""A second run of a notebook changes nothing, and a killed and repeated run ends like any other.

Killed by SIGKILL, halfway through its steps; with ``RUNBOOK_MATRIX=full`` at each of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import pytest

from ops.runbook import list_notebooks
from ops.runbook.store import comparable
from ops.workspace import PROJECT_ROOT
from tests.notebooks.world import World

pytestmark = pytest.mark.timeout(7200)

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "invite a team": ("02_onboard_user", {"users_csv": "HOME/team.csv"}),
    "make a token": ("02_onboard_user", {"username": "carol", "token_days": 30, "archive": True}),
    "rotate a token": ("04_rotate_credentials", {"rotate": "token", "username": "alice", "max_age_days": 0}),
    "rotate a password": ("04_rotate_credentials", {"rotate": "password", "username": "alice", "max_age_days": 0}),
    "rotate the admin token": ("04_rotate_credentials", {"rotate": "admin", "max_age_days": 0}),
    "offboard": ("05_offboard_user", {"username": "alice", "confirm": "alice"}),
    "back up": ("06_back_up", {"destination": "HOME/more"}),
    "restore": ("07_restore", {"source": "HOME/snapshots", "confirm": "local"}),
    "upgrade": ("08_upgrade", {"revision": "good"}),
    "upgrade to a broken version": ("08_upgrade", {"revision": "broken"}),
    "yank": ("11_manage_releases", {"action": "yank", "project": "spam", "version": "1.0", "reason": "bad"}),
    "delete": (
        "11_manage_releases",
        {"action": "delete", "project": "spam", "version": "1.0", "confirm": "spam 1.0"},
    ),
    "incident": (
        "12_incident",
        {"project": "spam", "version": "1.0", "reason": "bad", "lock_publisher": True, "confirm": "spam 1.0"},
    ),
    "tear down": ("99_tear_down", {"snapshot": "HOME/last", "confirm": "local"}),
}
"""Notebooks that change something, with the parameters for that."""

TWICE: Mapping[str, Mapping[str, Any]] = {
    "rotate a token": {"max_age_days": 1},
    "rotate a password": {"max_age_days": 1},
    "rotate the admin token": {"max_age_days": 1},
}
"""Different parameters of the second run: rotating whatever the age would change something each time."""

FULL = os.environ.get("RUNBOOK_MATRIX") == "full"

READING = ("00_start_here", "09_audit", "90_troubleshoot")
"""Notebooks that change nothing."""

ELSEWHERE = ("01_provision", "03_smoke_test", "13_trusted_publishing")
"""Tested with their operations: without an index, with a test's leftovers, and with an issuer of ID tokens."""


def test_every_notebook_is_covered_here() -> None:
    tried = {notebook for notebook, _ in CASES.values()}
    names = [notebook.name for notebook in comparable(list_notebooks(PROJECT_ROOT / "notebooks"))]
    assert sorted([*tried, *READING, *ELSEWHERE]) == names, "name each notebook in CASES, READING or ELSEWHERE"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", READING)
def test_a_read_only_notebook_changes_nothing(notebook: str, world: World) -> None:
    before = world.contents()
    for _ in range(2):
        assert not world.run(notebook)["error"]
    assert world.contents() == before


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_killed_and_repeated_notebook_ends_like_an_uninterrupted_one(case: str, world: World) -> None:
    notebook, parameters = CASES[case]
    lost = case == "restore"
    world.reset(lost=lost)
    whole = world.run(notebook, parameters)
    expected, before, steps = world.seen(), world.contents(), len(whole["steps"])
    if not whole["error"]:
        assert not world.run(notebook, {**parameters, **TWICE.get(case, {})})["error"]
        assert world.contents() == before, "the second run changes nothing"
    different = {}
    for number in range(1, steps + 1) if FULL else [(steps + 1) // 2]:
        world.reset(lost=lost)
        assert world.run(notebook, parameters, number)["killed"], number
        again = world.run(notebook, parameters)
        seen = world.seen()
        if again["error"][:50] != whole["error"][:50] or seen != expected:
            changed = {name: (value, expected.get(name)) for name, value in seen.items() if value != expected.get(name)}
            different[number] = (whole["steps"][number - 1], again["error"], changed)
    logging.getLogger(__name__).info("%s has %d steps", case, steps)
    assert not different, f"{len(different)} of {steps} steps"
