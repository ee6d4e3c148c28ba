"""Results, for display in a notebook and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from ops.table import Table, bar
from tests.benchmark.machine import Machine
from tests.benchmark.measurement import Entry, Row

BAR_CELLS = 30

_CELL = "text-align:left;vertical-align:top;padding:0.2em 1em 0.2em 0"


class Results:
    """Rows for display in a notebook: each as a table with bars and the verdicts on its goals.

    Parameters:
        rows: at least one.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)

    def __repr__(self) -> str:
        return "\n\n\n".join(_text(row) for row in self.rows)

    def _repr_html_(self) -> str:
        return "".join(_html(row) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of a run: machine, versions and all figures.

    Parameters:
        scale: the name of the scale.
        machine: the machine that it ran on.
        versions: of the contenders, the clients, and the packages that ours uses.
        rows: in order of measurement.
    """

    scale: str
    machine: Machine
    versions: Mapping[str, str]
    rows: tuple[Row, ...]

    def goals(self) -> Table:
        """Every goal and its result."""
        lines = [
            (row.title, verdict.goal, verdict.found or "–", verdict.word)  # noqa: RUF001 - a dash in a table
            for row in self.rows
            for verdict in row.verdicts
        ]
        note = (
            "" if self.scale == "full" else "At this scale sizes are smaller than the goals mean: an indication only."
        )
        return Table.of("Goals", ("What", "Goal", "Found", "Verdict"), lines, note=note)

    def setting(self) -> Table:
        """The machine, the versions and the date."""
        machine = self.machine
        lines = [
            ("Date", machine.when),
            ("CPU", f"{machine.cpu}, {machine.cores} cores"),
            ("Memory", f"{machine.memory / 2**30:.1f} GiB"),
            ("System", machine.system),
            ("Disk", machine.disk),
            ("Load average at the start", f"{machine.load:.2f}"),
            ("Scale", self.scale),
            *self.versions.items(),
        ]
        return Table.of("Machine and versions", ("What", "Value"), lines)

    def save(self, folder: Path) -> Path:
        """Write everything as JSON to *folder*, named by date; returns the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.machine.when.replace(':', '').replace('+0000', 'Z')}-{self.scale}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


def _text(row: Row) -> str:
    shares = _shares(row)
    lines = [
        (entry.name, entry.text(), "█" * max(round(share * BAR_CELLS), int(share > 0)), entry.note)
        for entry, share in zip(row.entries, shares)
    ]
    table = Table.of(_caption(row), _header(row), lines, note=row.method)
    verdicts = [f"Goal: {v.goal}. Found: {v.found or 'nothing'}. Verdict: {v.word}." for v in row.verdicts]
    return "\n".join([repr(table), *verdicts])


def _html(row: Row) -> str:
    head = "".join(f'<th scope="col" style="{_CELL}">{escape(cell)}</th>' for cell in _header(row))
    body = "".join(_html_line(entry, share) for entry, share in zip(row.entries, _shares(row)))
    verdicts = "".join(
        f"<li>Goal: {escape(v.goal)}. Found: {escape(v.found or 'nothing')}. <strong>{escape(v.word)}</strong></li>"
        for v in row.verdicts
    )
    return (
        '<div style="overflow-x:auto">'
        '<table style="table-layout:auto;border-collapse:collapse;width:100%;max-width:60em">'
        f'<caption style="text-align:left;font-weight:bold;color:inherit">{escape(_caption(row))}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<p>{escape(row.method)}</p>" + (f"<ul>{verdicts}</ul>" if verdicts else "")
    )


def _html_line(entry: Entry, share: float) -> str:
    return (
        f'<tr><th scope="row" style="{_CELL};font-weight:normal">{escape(entry.name)}</th>'
        f'<td style="{_CELL};white-space:nowrap">{escape(entry.text())}</td>'
        f'<td style="{_CELL};width:35%">{bar(share) if entry.values else ""}</td>'
        f'<td style="{_CELL}">{escape(entry.note)}</td></tr>'
    )


def _caption(row: Row) -> str:
    return f"{row.title}: {row.unit}, {row.better} is better"


def _header(row: Row) -> tuple[str, str, str, str]:
    return ("server", f"median (range), {row.unit}", "beside the longest", "note")


def _shares(row: Row) -> list[float]:
    medians = [entry.median or 0.0 for entry in row.entries]
    longest = max(medians, default=0.0) or 1.0
    return [median / longest for median in medians]
