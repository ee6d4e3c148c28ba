"""Tables, bars and text for notebooks, which read the same as plain text and as HTML.

Text carries the meaning, colour none of it. Every table has a caption and headers, so that a screen reader can say
where it is (WCAG 2.2, success criterion 1.3.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Self


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, with aligned columns separated by two spaces.

    Parameters:
        rows: each with the same number of cells.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


KEY = "pypi-runbook"
"""The entry of an output's metadata; the words below are its keys."""

PLAN = "plan"
OUTCOME = "outcome"
PLACE = "place"
"""The target and its environment, as in ``modal.staging``."""
ADDRESS = "address"
"""The root URL of the index."""

APPROVED_VARIABLE = "RUNBOOK_APPROVED_PLAN"
"""Variable with the SHA-256 of the only plan that the notebook may apply."""


def where(place: str, address: str = "") -> dict[str, str]:
    """The entries for the location: the target's place and the index's address, as far as known."""
    return {key: value for key, value in ((PLACE, place), (ADDRESS, address)) if value}


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the singular or the plural."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def change_line(change: Mapping[str, str]) -> str:
    """One change of a plan as a line: ``+ server  start it``, ``~ hosting min_containers  1 -> 0``.

    Parameters:
        change: ``sign``, ``thing``, ``now``, ``then`` and optionally ``refused``.
    """
    then = change["then"] + (f"; refused: {change['refused']}" if change.get("refused") else "")
    before = f"{change['now']}; " if change["sign"] == "~" and not change["then"].startswith(change["now"]) else ""
    return f"{change['sign']} {change['thing']}  {before}{then}"


BAR_CELLS = 40
"""Characters of the longest bar in a plain-text chart."""
HTML_BAR_CELLS = 24
"""The same in a table, where other columns need space."""

_TABLE = "table-layout:auto;border-collapse:collapse;margin:0.5em 0;text-align:left"
_CELL = "text-align:left;vertical-align:top;padding:0.2em 1em 0.2em 0;overflow-wrap:break-word"
_HEAD = f"{_CELL};white-space:nowrap"
_DATE = re.compile(r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}\b")
_CHART = "width:100%;max-width:50em"
_CAPTION = "text-align:left;font-weight:bold;padding:0.2em 0;caption-side:top;color:inherit;min-width:20em"


@dataclass(frozen=True)
class Table:
    """Rows under headers, with a caption that describes them.

    Parameters:
        caption: one line, shown above.
        header: the columns' names.
        rows: with one cell per column; the first one names the row.
        note: a sentence below the table; may be empty.
        metadata: for the record of the run, by the words of :mod:`ops.table`; not shown.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        caption: str,
        header: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        note: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """A table of any values, each shown by its ``str``.

        Raises:
            ValueError: a row has more or fewer cells than there are columns.
        """
        cells = tuple(tuple(str(cell) for cell in row) for row in rows)
        if any(len(row) != len(header) for row in cells):
            raise ValueError(f"every row of {caption!r} needs {len(header)} cells")
        return cls(caption, tuple(header), cells, note, metadata or {})

    def _repr_mimebundle_(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The metadata of the output; IPython adds the plain text and the HTML."""
        del given
        return {}, {KEY: dict(self.metadata)} if self.metadata else {}

    def __repr__(self) -> str:
        widths = [max(map(len, cells)) for cells in zip(self.header, *self.rows)]
        header, rule, *lines = columns([self.header, ["─" * width for width in widths], *self.rows])
        return "\n".join([self.caption, "", header, rule, *lines, *(["", self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="{_HEAD}">{escape(cell)}</th>' for cell in self.header)
        body = "".join(
            f'<tr><th scope="row" style="{_CELL};font-weight:normal">{_cell(row[0])}</th>'
            + "".join(f'<td style="{_CELL}">{_cell(cell)}</td>' for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        note = f"<p>{escape(self.note)}</p>" if self.note else ""
        return _framed(self.caption, head, body) + note


class Tabular:
    """Anything displayed as a table."""

    def table(self) -> Table:
        """The table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def _repr_mimebundle_(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.table()._repr_mimebundle_(**given)


@dataclass(frozen=True)
class Timings:
    """Times of several steps, as a table whose last column is a bar.

    Parameters:
        caption: one line, shown above.
        steps: description and duration in seconds of each step, in order.
    """

    caption: str
    steps: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        """The total of all steps, in seconds."""
        return sum(seconds for _, seconds in self.steps)

    def __repr__(self) -> str:
        labels = [*(step for step, _ in self.steps), "in all"]
        times = [*(f"{seconds:.2f} s" for _, seconds in self.steps), f"{self.total:.2f} s"]
        bars = [*("█" * max(round(share * BAR_CELLS), 1) for share in self._shares()), ""]
        width, span = max(map(len, labels)), max(map(len, times))
        lines = [f"{label:<{width}}  {time:>{span}}  {bar}".rstrip() for label, time, bar in zip(labels, times, bars)]
        return "\n".join([self.caption, "", *lines])

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col" style="{_HEAD}">{cell}</th>' for cell in ("step", "time", "beside the longest")
        )
        body = "".join(
            _bar(step, f"{seconds:.2f} s", share) for (step, seconds), share in zip(self.steps, self._shares())
        )
        return _framed(self.caption, head, body + _bar("in all", f"{self.total:.2f} s", None), style=_CHART)

    def _shares(self) -> list[float]:
        """Each step's time as a share of the longest."""
        longest = max((seconds for _, seconds in self.steps), default=0.0) or 1.0
        return [seconds / longest for _, seconds in self.steps]


def bar(share: float) -> str:
    """A bar for an HTML table cell, drawn with characters: GitHub and others remove the styles of an output.

    Parameters:
        share: of the longest bar, 0 to 1.
    """
    return (
        f'<span role="img" aria-label="{share:.0%} of the longest" style="color:#4c72b0;white-space:nowrap">'
        f"{'█' * max(round(share * HTML_BAR_CELLS), 1)}</span>"
    )


def _cell(text: str) -> str:
    """The text of a cell in HTML. Browsers would break a date at its hyphens in a narrow window."""
    return _DATE.sub(r'<span style="white-space:nowrap">\g<0></span>', escape(text))


def _bar(step: str, time: str, share: float | None) -> str:
    return (
        f'<tr><th scope="row" style="{_CELL};font-weight:normal">{escape(step)}</th>'
        f'<td style="{_CELL};text-align:right;white-space:nowrap;width:1%">{time}</td>'
        f'<td style="{_CELL};width:45%">{"" if share is None else bar(share)}</td></tr>'
    )


def _framed(caption: str, head: str, body: str, *, style: str = "") -> str:
    """The whole of a table; on a narrow screen it scrolls separately from the page."""
    return (
        f'<div style="overflow-x:auto"><table style="{_TABLE};{style}"><caption style="{_CAPTION}">{escape(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


@dataclass(frozen=True)
class Text:
    """Preformatted lines to read and to copy."""

    text: str

    def __repr__(self) -> str:
        return self.text
