"""Plans, outcomes and proofs of operations, as notebooks display them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ops.errors import ApprovalError, VerificationError
from ops.table import APPROVED_VARIABLE, OUTCOME, PLAN, Table, Tabular, change_line, counted, where

NOTHING = "nothing"

DRY_RUN = "A dry run: nothing was changed."

Sign = Literal["+", "~", "-", "±"]
"""Created, changed, deleted; or temporary: created and deleted again."""


@dataclass(frozen=True)
class Change:
    """One thing, as it is and as it would be.

    Parameters:
        thing: a noun phrase.
        now: its current state.
        then: what would be done; empty if it stays as it is.
        sign: the kind of the change.
        refused: why applying this would fail; empty if it would not.
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
        """The change as text, with the refusal if there is one."""
        return f"{self.then}; refused: {self.refused}" if self.refused else self.then

    def to_json(self) -> dict[str, str]:
        """The change for a plan file and a record; one that changes nothing has no sign."""
        stored = {"sign": self.sign if self.then else "", "thing": self.thing, "now": self.now, "then": self.then}
        return stored | ({"refused": self.refused} if self.refused else {})


@dataclass(frozen=True, repr=False)
class Plan(Tabular):
    """Everything that an operation would do, in order.

    Parameters:
        caption: short description of the operation.
        changes: everything that was checked, including what stays.
        place: the target and its environment.
        address: the root URL of the index, if there is one.
        held: why none of the changes would be made; empty if they would.
    """

    caption: str
    changes: tuple[Change, ...]
    place: str = ""
    address: str = ""
    held: str = ""

    @property
    def pending(self) -> tuple[Change, ...]:
        """The lasting changes that would be made."""
        return tuple(change for change in self.changes if change.then and change.sign != "±" and not self.held)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the current and planned states, in canonical JSON: keys sorted, no spaces, UTF-8."""
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
        """Refuse any plan other than the one approved for this run, if one was.

        Raises:
            ApprovalError: the target has changed since the approval.
        """
        approved = os.environ.get(APPROVED_VARIABLE)
        if approved and approved != self.sha256:
            raise ApprovalError(
                "the approved plan no longer fits, and nothing was changed",
                why="the target has changed since the plan was made; a new plan would be: "
                + ("; ".join(map(str, self.pending)) or "nothing to change"),
                todo="make a new plan with `runbook plan`, and have it approved",
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
            refused = sum(bool(change.refused) for change in self.pending)
            return f"{counted(count, 'change')} to make{f'; {refused} would be refused' if refused else ''}."
        if any(change.then for change in self.changes):
            return "Nothing of it stays."
        return "Everything is in place: nothing to change."


def require_approved(look: Callable[[], Plan]) -> None:
    """Refuse to apply any other plan than the approved one. Call it under the target's lock, before any change.

    Parameters:
        look: makes a new plan. Not called if no plan was approved for this run.

    Raises:
        ApprovalError: the target has changed since the approval.
    """
    if os.environ.get(APPROVED_VARIABLE):
        look().require_approved()


@dataclass(frozen=True, repr=False)
class Outcome(Tabular):
    """Changes that an operation made.

    Parameters:
        caption: short description of the operation.
        done: each changed thing, and how it was changed.
        note: a sentence about why nothing was changed, or about the result.
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
        """True if anything was changed."""
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
    """One check from outside.

    Parameters:
        question: what was tried.
        expected: what should be seen.
        seen: what was seen.
        passed: whether that is as expected.
        todo: what to do otherwise, if the cause is known.
    """

    question: str
    expected: str
    seen: str
    passed: bool
    todo: str = ""


def proven(caption: str, findings: Sequence[Finding], *, todo: str) -> Table:
    """The findings as a table, if all passed.

    Parameters:
        caption: of the table.
        findings: in order.
        todo: what to do about failed findings without advice of their own.

    Raises:
        VerificationError: at least one failed; all failed ones are listed.
    """
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        why = "; ".join(f"{finding.question}: {finding.seen} instead of {finding.expected}" for finding in failed)
        known = "; ".join(dict.fromkeys(finding.todo for finding in failed if finding.todo))
        what = f"{counted(len(failed), 'check')} of {len(findings)} failed"
        raise VerificationError(what, why=why, todo=known or todo)
    rows = [(finding.question, finding.expected, finding.seen) for finding in findings]
    return Table.of(caption, ("tried", "expected", "seen"), rows)
