"""Plans, outcomes and proofs, as shown in a notebook."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ops import onboard, provision, tear_down
from ops.errors import ApprovalError, VerificationError
from ops.plan import Change, Finding, Outcome, Plan, proven
from ops.secret import Secret
from ops.table import APPROVED_VARIABLE, KEY
from tests.fakes import FakeIndex, FakeTarget

pytest_plugins = ["tests.operations"]


def test_a_plan_counts_what_it_would_change() -> None:
    plan = Plan("Bake", (Change("oven", "cold", "heat it"), Change("flour", "there")))
    assert plan.table().rows == (("oven", "cold", "heat it"), ("flour", "there", "nothing"))
    assert plan.table().note == "1 change to make."
    assert [change.thing for change in plan.pending] == ["oven"]
    refused = Plan("Bake", (*plan.changes, Change("bread", "raw", "bake it", refused="no oven")))
    assert refused.table().note == "2 changes to make; 1 would be refused."


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


def test_a_plan_has_one_line_for_each_change_with_the_sign_of_its_kind() -> None:
    assert str(Change("server", "does not run", "start it", "+")) == "+ server  start it"
    assert str(Change("hosting min_containers", "1", "1 -> 0")) == "~ hosting min_containers  1 -> 0"
    assert str(Change("user alice", "reader", "make a publisher")) == "~ user alice  reader; make a publisher"
    assert str(Change("volume x", "9 files", "delete it", "-", refused="no")) == "- volume x  delete it; refused: no"


def test_the_hash_of_a_plan_covers_the_current_and_the_planned_state() -> None:
    cold = Change("oven", "cold", "heat it")
    plan = Plan("Bake", (cold, Change("flour", "there")), "local")
    assert plan.sha256 == Plan("Bake", (cold, Change("flour", "there")), "local", "http://127.0.0.1:1/").sha256
    others = (
        Plan("Bake", (cold,), "local"),
        Plan("Bake", (cold, Change("flour", "gone")), "local"),
        Plan("Bake", (Change("oven", "cold", "heat it to 200"), Change("flour", "there")), "local"),
        Plan("Bake", (cold, Change("flour", "there")), "modal.main"),
        Plan("Bake", (cold, Change("flour", "there")), "local", held="not now"),
    )
    assert plan.sha256 not in {other.sha256 for other in others}


def test_temporary_changes_are_shown_but_neither_pending_nor_hashed() -> None:
    plan = Plan("Test", (Change("user", "not there", "register, then delete", "±"),))
    assert plan.pending == ()
    assert plan.table().rows == (("user", "not there", "register, then delete"),)
    assert plan.sha256 == Plan("Test", ()).sha256


def test_a_held_plan_shows_its_changes_and_would_make_none() -> None:
    plan = Plan("Delete", (Change("volume", "9 files", "delete it", "-"),), held="Nothing was confirmed.")
    assert plan.pending == ()
    assert plan.table().note == "Nothing was confirmed."


def test_plan_and_outcome_are_in_the_output_s_metadata_and_not_in_its_representations() -> None:
    data, metadata = Plan("Bake", (Change("oven", "cold", "heat it"),), "local", "http://h/")._repr_mimebundle_()
    assert data == {}
    assert metadata[KEY]["plan"]["changes"] == [{"sign": "~", "thing": "oven", "now": "cold", "then": "heat it"}]
    assert (metadata[KEY]["place"], metadata[KEY]["address"]) == ("local", "http://h/")
    _, metadata = Outcome("Bake", (("oven", "heated"),), "Done.")._repr_mimebundle_()
    assert metadata[KEY]["outcome"] == {"changes": [{"thing": "oven", "done": "heated"}], "note": "Done."}


def by_hand(target: FakeTarget, number: int) -> None:
    """One of several unplanned changes of the target."""
    changes: tuple[Callable[[], object], ...] = (
        target.secrets.clear,
        lambda: target.volumes.pop("pypiserver-data"),
        lambda: target.volumes.pop("pypiserver-credentials"),
        target.stop,
        lambda: setattr(target, "failure", "it crashed"),
    )
    changes[number % len(changes)]()


def test_an_outdated_plan_is_refused_in_100_of_100_races(index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    for number in range(100):
        target = FakeTarget(index)
        provision.apply(target)
        target.old = "runs other code"
        monkeypatch.setenv(APPROVED_VARIABLE, provision.plan(target).sha256)
        by_hand(target, number)
        before = (dict(target.secrets), dict(target.volumes), target.running)
        with pytest.raises(ApprovalError, match="no longer fits, and nothing was changed"):
            provision.apply(target)
        monkeypatch.delenv(APPROVED_VARIABLE)
        refused += (dict(target.secrets), dict(target.volumes), target.running) == before
    assert refused == 100


def test_every_operation_applies_the_approved_plan_and_no_other(
    target: FakeTarget, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def approve(plan: Plan) -> None:
        monkeypatch.setenv(APPROVED_VARIABLE, plan.sha256)

    approve(provision.plan(target))
    assert provision.apply(target).changed
    onboarding = onboard.describe(target, username="alice")
    approve(onboard.plan(onboarding))
    index.add_user("alice", "made-by-hand-meanwhile")
    with pytest.raises(ApprovalError):
        onboard.apply(onboarding)
    index.users.clear()
    assert onboard.apply(onboarding).changed
    approve(tear_down.plan(target, confirm="local"))
    target.volumes["pypiserver-data"]["new-1.tar.gz"] = b"published meanwhile"
    with pytest.raises(ApprovalError):
        tear_down.apply(target, confirm="local")
    approve(tear_down.plan(target, confirm="local"))
    target.put_secret("other", {"KEY": Secret("unrelated-value")})
    assert tear_down.apply(target, confirm="local").changed
