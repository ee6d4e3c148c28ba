"""The overview of all runs: one page with a chart of their outcomes and times, and links to their reports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jinja2

from ops.errors import RunbookError
from ops.private_files import replace_file
from ops.runbook.record import Record, list_records
from ops.runbook.report import FILTERS, TEMPLATE, TEMPLATES, style
from ops.runbook.summary import counts

CHART_RUNS = 60
"""The newest runs that the chart shows; the table below it has all."""


def write_overview(records: Path, path: Path | None = None) -> Path:
    """Write the page over the records in the folder *records*; return its path.

    Parameters:
        records: the folder of all records.
        path: the page; ``index.html`` in that folder when None.

    Raises:
        RunbookError: there is no record, or the page cannot be written.
    """
    found = list_records(records)
    if not found:
        raise RunbookError("there is nothing to report", why=f"{records} holds no record", todo="run a notebook first")
    path = (path or records / "index.html").absolute()
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES / TEMPLATE), autoescape=True)
    environment.filters.update(FILTERS)
    runs = [_run(record, path.parent) for record in found]
    bars = list(reversed(runs[:CHART_RUNS]))
    longest = max(bar["record"].seconds for bar in bars) or 1.0
    for bar in bars:
        bar["share"] = round(max(100 * bar["record"].seconds / longest, 1.5), 1)
    template = environment.get_template("overview.html.j2")
    page = template.render(runs=runs, bars=bars, longest=longest, style=style())
    try:
        replace_file(path, page)
    except OSError as error:
        raise RunbookError(f"the page {path} cannot be written", why=error.strerror or str(error)) from None
    return path


def _run(record: Record, folder: Path) -> dict[str, Any]:
    report = Path(os.path.relpath(record.report, folder)).as_posix() if record.report.is_file() else ""
    places = dict.fromkeys(
        ".".join(part for part in (entry.target, entry.environment) if part) for entry in record.notebooks
    )
    return {"record": record, "report": report, "counts": counts(record), "where": ", ".join(filter(None, places))}
