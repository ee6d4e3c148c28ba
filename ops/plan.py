"""Plans, outcomes and proofs of operations, as notebooks display them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ops.errors import ApprovalError, VerificationError
from ops.table import APPROVED_VARIABLE, OUTCOME, PLAN, Table, Tabular, change_line, where

NOTHING = "nothing"

DRY_RUN = "A dry run: nothing was changed."

Sign = Literal["+", "~", "-", "±"]
"""Created, changed, deleted; or created and deleted again, so that nothing of it stays."""


@dataclass(frozen=True)
class Change:
    """One thing, as it is and as it would be.

    Parameters:
        thing: a noun phrase.
        now: how it is.
        then: what would be done, or an empty string when it stays as it is.
        sign: the kind of the change.
        refused: why applying the plan would fail because of it, or an empty string.
    """

    thing: str
    now: str
    then: str = ""
    sign: Sign = "~"
    refused: str = ""

    def __str__(self) -> str:
        return change_line(self.to_json())

    @property
    def to_do(self) -> str:
        """The change in words, and the refusal if there is one."""
        return f"{self.then}; refused: {self.refused}" if self.refused else self.then

    def to_json(self) -> dict[str, str]:
        """The change for a plan file and a record; one that leaves the thing as it is has no sign."""
        stored = {"sign": self.sign if self.then else "", "thing": self.thing, "now": self.now, "then": self.then}
        return stored | ({"refused": self.refused} if self.refused else {})


@dataclass(frozen=True, repr=False)
class Plan(Tabular):
    """All that an operation would do, in order.

    Parameters:
        caption: the operation in a few words.
        changes: every thing that it looked at, also those that stay.
        place: the target and its environment.
        address: the root URL of the index, if there is one.
        held: why none of the changes would be made, or an empty string.
    """

    caption: str
    changes: tuple[Change, ...]
    place: str = ""
    address: str = ""
    held: str = ""

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that would be made and would last."""
        return tuple(change for change in self.changes if change.then and change.sign != "±" and not self.held)

    @property
    def sha256(self) -> str:
        """The SHA-256 over what is and what would be, in canonical JSON: keys sorted, no spaces, UTF-8."""
        lasting = [change.to_json() for change in self.changes if change.sign != "±"]
        content = {"caption": self.caption, "place": self.place, "held": self.held, "changes": lasting}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The plan for a plan file and a record."""
        changes = [change.to_json() for change in self.changes]
        stored = {"caption": self.caption, "changes": changes, "pending": len(self.pending), "sha256": self.sha256}
        return stored | ({"held": self.held} if self.held else {})

    def require_approved(self) -> None:
        """Refuse a plan other than the one that was approved for this run, if one was.

        Raises:
            ApprovalError: the world has changed since the approval.
        """
        approved = os.environ.get(APPROVED_VARIABLE)
        if approved and approved != self.sha256:
            raise ApprovalError(
                "the approved plan no longer fits, and nothing was changed",
                why="what is there has changed since the plan was made; it would now be: "
                + ("; ".join(map(str, self.pending)) or "nothing to change"),
                todo="make a new plan with `runbook plan`, and have that one approved",
            )

    def table(self) -> Table:
        """The plan as a table, with the number of changes below."""
        return Table.of(
            self.caption,
            ("what", "is", "to do"),
            [(change.thing, change.now, change.to_do or NOTHING) for change in self.changes],
            note=self._note(),
            metadata={PLAN: self.to_json(), **where(self.place, self.address)},
        )

    def _note(self) -> str:
        if self.held:
            return self.held
        if count := len(self.pending):
            return f"{_counted(count, 'change')} to make."
        if any(change.then for change in self.changes):
            return "Nothing of it stays."
        return "Everything is in place: nothing to change."


def require_approved(look: Callable[[], Plan]) -> None:
    """Refuse, under the target's lock and before anything is changed, to apply another plan than the approved one.

    Parameters:
        look: makes the plan anew. Not called when no plan was approved for this run.

    Raises:
        ApprovalError: the world has changed since the approval.
    """
    if os.environ.get(APPROVED_VARIABLE):
        look().require_approved()


@dataclass(frozen=True, repr=False)
class Outcome(Tabular):
    """Changes that an operation made.

    Parameters:
        caption: the operation in a few words.
        done: each thing that was changed and how.
        note: a sentence on why nothing was changed, or on what there is now.
        place: the target and its environment.
        address: the root URL of the index, if there is one.
    """

    caption: str
    done: tuple[tuple[str, str], ...]
    note: str = ""
    place: str = ""
    address: str = ""

    @property
    def changed(self) -> bool:
        """True if anything is other than before."""
        return bool(self.done)

    def to_json(self) -> dict[str, Any]:
        """The outcome for a record."""
        return {"changes": [{"thing": thing, "done": done} for thing, done in self.done], "note": self.note}

    def table(self) -> Table:
        """The changes as a table, one row each."""
        return Table.of(
            self.caption,
            ("what", "done"),
            self.done or (("everything", "left as it was"),),
            note=self.note,
            metadata={OUTCOME: self.to_json(), **where(self.place, self.address)},
        )


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at from outside.

    Parameters:
        question: what was tried.
        expected: what should be seen.
        seen: what was seen.
        passed: whether that is as it should be.
        todo: what to do when it is not, if its cause is known.
    """

    question: str
    expected: str
    seen: str
    passed: bool
    todo: str = ""


def proven(caption: str, findings: Sequence[Finding], *, todo: str) -> Table:
    """The findings as a table, when all are as they should be.

    Parameters:
        caption: what they prove.
        findings: in order.
        todo: what to do when one is not and says nothing itself.

    Raises:
        VerificationError: at least one is not; all of those are named.
    """
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        why = "; ".join(f"{finding.question}: {finding.seen} instead of {finding.expected}" for finding in failed)
        known = "; ".join(dict.fromkeys(finding.todo for finding in failed if finding.todo))
        what = f"{_counted(len(failed), 'check')} of {len(findings)} failed"
        raise VerificationError(what, why=why, todo=known or todo)
    rows = [(finding.question, finding.expected, finding.seen) for finding in findings]
    return Table.of(caption, ("tried", "expected", "seen"), rows)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
