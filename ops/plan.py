"""Plans, outcomes and proofs of operations, as notebooks display them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ops.errors import VerificationError
from ops.table import Table

NOTHING = "nothing"

DRY_RUN = "A dry run: nothing was changed."


@dataclass(frozen=True)
class Change:
    """One thing, as it is and as it would be.

    Parameters:
        thing: a noun phrase.
        now: how it is.
        then: what would be done, or an empty string when it stays as it is.
    """

    thing: str
    now: str
    then: str = ""


@dataclass(frozen=True)
class Plan:
    """All that an operation would do, in order.

    Parameters:
        caption: the operation in a few words.
        changes: every thing that it looked at, also those that stay.
    """

    caption: str
    changes: tuple[Change, ...]

    @property
    def pending(self) -> tuple[Change, ...]:
        """The changes that would be made."""
        return tuple(change for change in self.changes if change.then)

    def table(self) -> Table:
        """The plan as a table, with the number of changes below."""
        count = len(self.pending)
        note = "Everything is in place: nothing to change." if not count else f"{_counted(count, 'change')} to make."
        rows = [(change.thing, change.now, change.then or NOTHING) for change in self.changes]
        return Table.of(self.caption, ("what", "is", "to do"), rows, note=note)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@dataclass(frozen=True)
class Outcome:
    """What an operation did.

    Parameters:
        caption: the operation in a few words.
        done: each thing that was changed and how.
        note: a sentence on why nothing was changed, or on what there is now.
    """

    caption: str
    done: tuple[tuple[str, str], ...]
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether anything is other than before."""
        return bool(self.done)

    def table(self) -> Table:
        """What was done as a table, one row a change."""
        return Table.of(
            self.caption, ("what", "done"), self.done or (("everything", "left as it was"),), note=self.note
        )

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


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
