"""Preflight checks: everything missing is listed before anything changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ops import onboard, smoke, tear_down
from ops.errors import ConfirmationError, PreflightError
from ops.preflight import preflight, preflight_of_index
from ops.table import Table
from tests.fakes import FakeIndex, FakeTarget

pytest_plugins = ["tests.operations"]


def test_a_preflight_lists_everything_that_is_missing() -> None:
    target = FakeTarget(FakeIndex.__new__(FakeIndex))
    assert preflight(target).rows == (("fake", "in memory", "yes"),)
    target.problems = ["no flour", "no oven"]
    with pytest.raises(PreflightError) as caught:
        preflight(target)
    assert caught.value.problems == ("fault: no flour", "fault: no oven")


@pytest.mark.parametrize("operation", [onboard.preflight, smoke.preflight])
def test_an_operation_that_needs_an_index_says_so_before_its_first_step(
    operation: Callable[..., Table], target: FakeTarget
) -> None:
    with pytest.raises(PreflightError, match=r"there is none on the target .*; run the notebook 01_provision first"):
        operation(target)


def test_a_running_index_and_a_valid_admin_token_pass(provisioned: FakeTarget) -> None:
    assert [row[0] for row in preflight_of_index(provisioned).rows] == ["fake", "index", "admin token"]


def test_a_missing_admin_token_is_found(provisioned: FakeTarget) -> None:
    provisioned.secrets.clear()
    with pytest.raises(PreflightError, match="admin token: this machine has no copy"):
        preflight_of_index(provisioned)


def test_a_refused_admin_token_is_found(provisioned: FakeTarget) -> None:
    provisioned.index.token = "another one"
    with pytest.raises(PreflightError, match="admin token: the index refuses it; "):
        preflight_of_index(provisioned)


def test_no_request_is_sent_to_an_index_on_an_unusable_target(target: FakeTarget) -> None:
    target.problems = ["no flour"]
    with pytest.raises(PreflightError) as caught:
        preflight_of_index(target)
    assert caught.value.problems == ("fault: no flour",)


def test_a_teardown_confirmed_for_another_target_stops_in_its_preflight(provisioned: FakeTarget) -> None:
    assert tear_down.preflight(provisioned, confirm="").rows == tear_down.preflight(provisioned, confirm="local").rows
    with pytest.raises(ConfirmationError, match="nothing was deleted"):
        tear_down.preflight(provisioned, confirm="another")
