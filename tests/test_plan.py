"""Plans, outcomes and proofs, as a notebook shows them."""

from __future__ import annotations

import pytest

from ops.errors import VerificationError
from ops.plan import Change, Finding, Outcome, Plan, proven


def test_a_plan_counts_what_it_would_change() -> None:
    plan = Plan("Bake", (Change("oven", "cold", "heat it"), Change("flour", "there")))
    assert plan.table().rows == (("oven", "cold", "heat it"), ("flour", "there", "nothing"))
    assert plan.table().note == "1 change to make."
    assert [change.thing for change in plan.pending] == ["oven"]


def test_a_plan_without_changes_says_that_everything_is_in_place() -> None:
    assert "Everything is in place: nothing to change." in repr(Plan("Bake", (Change("flour", "there"),)))


def test_an_outcome_shows_what_was_done_or_that_nothing_was() -> None:
    assert Outcome("Bake", (("oven", "heated"),)).table().rows == (("oven", "heated"),)
    assert Outcome("Bake", ()).table().rows == (("everything", "left as it was"),)
    assert not Outcome("Bake", ()).changed


def test_a_proof_names_every_finding_that_is_not_as_expected() -> None:
    findings = [Finding("bread", "brown", "brown", True), Finding("oven", "off", "on", False)]
    with pytest.raises(VerificationError, match=r"1 check of 2 failed.*\n.*oven: on instead of off"):
        proven("Baked", findings, todo="bake again")
    assert proven("Baked", findings[:1], todo="").rows == (("bread", "brown", "brown"),)
