"""Medians, interleaving and verdicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ops.errors import IndexRequestError
from tests.benchmark.measurement import (
    Entry,
    Row,
    at_least,
    at_most,
    below,
    figure,
    interleaved,
    times_faster,
)


def row(unit: str = "s", **medians: float | None) -> Row:
    entries = tuple(Entry(name=name, values=() if value is None else (value,)) for name, value in medians.items())
    return Row(title="t", unit=unit, better="lower" if unit == "s" else "higher", entries=entries)


def test_contenders_take_turns() -> None:
    turns: list[str] = []

    def contender(name: str) -> Callable[[], float]:
        def measure() -> float:
            turns.append(name)
            return float(len(turns))

        return measure

    entries = interleaved({name: contender(name) for name in "ABC"}, rounds=3, budget_seconds=60)

    assert "".join(turns) == "ABCCBAABC"
    assert [entry.values for entry in entries] == [(1, 6, 7), (2, 5, 8), (3, 4, 9)]


def test_a_contender_that_exceeds_its_budget_skips_further_rounds_but_is_measured_once() -> None:
    now = 0.0

    def slow() -> float:
        nonlocal now
        now += 50
        return 50

    entries = interleaved({"slow": slow, "fast": lambda: 1.0}, rounds=3, budget_seconds=40, clock=lambda: now)

    assert [len(entry.values) for entry in entries] == [1, 3]


def test_a_failed_contender_has_the_reason_and_the_others_continue() -> None:
    def failing() -> float:
        raise IndexRequestError("it broke", why="it is old, " + "very " * 100)

    broken, good = interleaved({"broken": failing, "good": lambda: 2.0}, rounds=2, budget_seconds=60)

    assert broken.failed
    assert broken.values == ()
    assert broken.note.startswith("it broke. Why: it is old, very")
    assert len(broken.note) <= 160
    assert good.values == (2, 2)


def test_a_programming_error_is_raised() -> None:
    def mistaken() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interleaved({"x": mistaken}, rounds=1, budget_seconds=1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((3.0, 1.0, 2.0), "2.00 (1.00 to 3.00)"),
        ((4.0, 1.0), "2.50 (1.00 to 4.00)"),
        ((12345.6,), "12,346 (once)"),
        ((), "not measured"),
    ],
)
def test_an_entry_shows_its_median_and_range(values: tuple[float, ...], text: str) -> None:
    assert Entry(name="x", values=values).text() == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (32085.0, "32,085")]
)
def test_a_figure_has_three_significant_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert figure(value) == text


def test_verdicts_on_durations() -> None:
    found = row(ours=1.0, nginx=0.96, slow=20.0, slower=30.0)
    assert at_most(found, "ours", "nginx", 1.05).met
    assert not at_most(found, "ours", "nginx", 1.04).met
    assert times_faster(found, "ours", ["slow", "slower"], 20, called="stock").met
    assert not times_faster(found, "ours", ["slow", "slower"], 21, called="stock").met


def test_verdicts_on_rates_compare_with_the_best_of_the_peers() -> None:
    found = row("requests/s", ours=100.0, nginx=190.0, one=9.0, other=10.0)
    assert at_least(found, "ours", ["nginx"], 0.5, called="nginx").met
    verdict = at_least(found, "ours", ["one", "other"], 10, called="stock")
    assert verdict.met
    assert verdict.found == "10 times other"
    assert not at_least(found, "ours", ["one", "other"], 10.1, called="stock").met


def test_a_limit_applies_to_the_worst_figure() -> None:
    entry = Entry(name="ours", values=(0.5, 0.9, 0.6))
    found = Row(title="t", unit="s", better="lower", entries=(entry,))
    assert not below(found, "ours", 0.7).met
    assert below(found, "ours", 0.9).met


def test_an_absent_peer_leaves_a_goal_open_and_our_own_failure_misses_it() -> None:
    assert at_most(row(ours=1.0, nginx=None), "ours", "nginx", 1).word == "not measured"
    failed = Row(
        title="t",
        unit="s",
        better="lower",
        entries=(Entry(name="ours", failed=True, note="broke"), Entry(name="nginx", values=(1.0,))),
    )
    assert at_most(failed, "ours", "nginx", 1).word == "MISSED"
    assert below(failed, "ours", 1).word == "MISSED"
