"""Measurements: repeated figures of each contender, goals, and rows of both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Literal

from ops.errors import RunbookError

Better = Literal["lower", "higher"]

_NOTE_LETTERS = 160
"""Longest reason of a failure, which stands in a column of a table."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One contender's figures in one row.

    Parameters:
        name: the contender.
        values: every figure, in order of measurement; empty if there is none.
        note: why there is none, or other remarks.
        failed: True if it was tried and failed, False if it was not tried.
    """

    name: str
    values: tuple[float, ...] = ()
    note: str = ""
    failed: bool = False

    @property
    def median(self) -> float | None:
        """The median, or None if there are no figures."""
        return statistics.median(self.values) if self.values else None

    def text(self) -> str:
        """Median and range for a table; no range if there is only one figure."""
        if not self.values:
            return "failed" if self.failed else "not measured"
        if len(self.values) == 1:
            return f"{figure(self.values[0])} (once)"
        least, most = min(self.values), max(self.values)
        return f"{figure(statistics.median(self.values))} ({figure(least)} to {figure(most)})"


def entries_of(values: Mapping[str, Sequence[float]]) -> tuple[Entry, ...]:
    """An entry for each contender, from its figures."""
    return tuple(Entry(name=name, values=tuple(found)) for name, found in values.items())


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal and whether it was met; None if unknown."""

    goal: str
    found: str
    met: bool | None

    @property
    def word(self) -> str:
        """The verdict in one or two words."""
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of several contenders.

    Parameters:
        title: what was measured.
        unit: of every figure.
        better: whether lower or higher figures are better.
        entries: one for each contender, in measuring order.
        verdicts: on the goals of this row.
        method: how it was measured, in a sentence or two.
    """

    title: str
    unit: str
    better: Better
    entries: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...] = ()
    method: str = ""

    def judged(self, *verdicts: Verdict) -> Row:
        """This row with verdicts on its goals."""
        return replace(self, verdicts=verdicts)

    def median(self, name: str) -> float | None:
        """The median of the contender *name*, or None if it has no figures."""
        return next((entry.median for entry in self.entries if entry.name == name), None)

    def best(self, names: Sequence[str]) -> tuple[str, float] | None:
        """The contender among *names* with the best median, and that median."""
        found = [(name, median) for name in names if (median := self.median(name)) is not None]
        if not found:
            return None
        return (min if self.better == "lower" else max)(found, key=lambda pair: pair[1])


def interleaved(
    contenders: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    budget_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[Entry]:
    """Interleave the contenders (A B C C B A), so that a slowdown of the machine affects all of them.

    Every second round is reversed, so that each contender comes before its neighbours as often as after them.

    Parameters:
        contenders: each measures once and returns its figure.
        rounds: number of measurements of each.
        budget_seconds: a contender that has used this much skips the remaining rounds. Each is measured at least once.
        clock: for the tests.

    A contender that raises a :class:`~ops.errors.RunbookError` gets a failed entry; the others continue.
    """
    values: dict[str, list[float]] = {name: [] for name in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    failures: dict[str, str] = {}
    for number in range(rounds):
        for name, measure in list(contenders.items())[:: -1 if number % 2 else 1]:
            if name in failures or spent[name] >= budget_seconds:
                continue
            begin = clock()
            try:
                values[name].append(measure())
            except RunbookError as error:
                failures[name] = shorten(str(error), _NOTE_LETTERS, placeholder=" …")
            spent[name] += clock() - begin
    return [
        Entry(
            name=name,
            values=() if name in failures else tuple(found),
            note=failures.get(name, ""),
            failed=name in failures,
        )
        for name, found in values.items()
    ]


def at_most(row: Row, subject: str, peer: str, factor: float) -> Verdict:
    """The goal that *subject* needs at most *factor* times as much as *peer*."""
    ratio = _ratio(row, subject, [peer])
    goal = f"at most {factor:g} times {peer}"
    return _verdict(row, subject, goal, ratio, None if ratio is None else ratio[1] <= factor)


def at_least(row: Row, subject: str, peers: Sequence[str], factor: float, *, called: str) -> Verdict:
    """The goal that the rate of *subject* is at least *factor* times the best of *peers*.

    Parameters:
        called: a name for the peers as a group.
    """
    ratio = _ratio(row, subject, peers)
    goal = f"at least {factor:g} times {called}" if factor >= 1 else f"at least {factor:.0%} of {called}"
    return _verdict(row, subject, goal, ratio, None if ratio is None else ratio[1] >= factor)


def times_faster(row: Row, subject: str, peers: Sequence[str], factor: float, *, called: str) -> Verdict:
    """The goal that the best of *peers* takes at least *factor* times as long as *subject*."""
    found = _ratio(row, subject, peers)
    inverse = None if found is None else (found[0], 1 / found[1])
    goal = f"at least {factor:g} times faster than {called}"
    return _verdict(row, subject, goal, inverse, None if inverse is None else inverse[1] >= factor)


def below(row: Row, subject: str, limit: float) -> Verdict:
    """The goal that the worst figure of *subject* is at most *limit*, in the row's unit."""
    entry = next((entry for entry in row.entries if entry.name == subject), None)
    goal = f"{subject}: at most {limit:g} {row.unit}"
    if entry is None or not entry.values:
        return Verdict(goal=goal, found=entry.note if entry else "", met=False if entry and entry.failed else None)
    worst = max(entry.values)
    return Verdict(goal=goal, found=f"{figure(worst)} {row.unit}", met=worst <= limit)


def median_within(row: Row, subject: str, limit: float) -> Verdict:
    """The goal that the median of *subject* is no worse than *limit*, in the row's unit."""
    entry = next((entry for entry in row.entries if entry.name == subject), None)
    lower = row.better == "lower"
    goal = f"{subject}: at {'most' if lower else 'least'} {figure(limit)} {row.unit}"
    median = None if entry is None else entry.median
    if entry is None or median is None:
        return Verdict(goal=goal, found=entry.note if entry else "", met=False if entry and entry.failed else None)
    return Verdict(goal=goal, found=f"{figure(median)} {row.unit}", met=median <= limit if lower else median >= limit)


def figure(value: float) -> str:
    """Format with three significant digits and thousands separators, never with an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value else "0"


def _ratio(row: Row, subject: str, peers: Sequence[str]) -> tuple[str, float] | None:
    ours = row.median(subject)
    best = row.best(peers)
    if ours is None or best is None or not best[1] or not ours:
        return None
    return best[0], ours / best[1]


def _verdict(row: Row, subject: str, goal: str, ratio: tuple[str, float] | None, met: bool | None) -> Verdict:
    if ratio is None:
        entry = next((entry for entry in row.entries if entry.name == subject), None)
        # If ours fails the goal is missed; without the peer it stays open.
        return Verdict(goal=goal, found=entry.note if entry else "", met=False if entry and entry.failed else None)
    return Verdict(goal=goal, found=f"{ratio[1]:.3g} times {ratio[0]}", met=met)
