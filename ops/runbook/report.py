"""Reports of runs: pages of the executed notebooks of one run, and one page about all runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from ops.errors import RunbookError
from ops.private_files import replace_file
from ops.redaction import Redactor
from ops.runbook.record import Failure, Record, list_records
from ops.runbook.summary import counts
from ops.table import change_line

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE = "runbook_report"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOTEBOOK_LINK = re.compile(
    r"<a [^>]*href=\"(?P<name>[^\":/]+)\.ipynb(?P<rest>#[^\"]*)?\"[^>]*>(?P<text>.*?)</a>", re.DOTALL
)


_LOG = logging.getLogger(__name__)
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False


def write_reports(record: Record, redactor: Redactor) -> None:
    """Write the page of each executed notebook of *record*, and ``index.html`` if there are several.

    Parameters:
        record: a run that has ended; ``report`` of its notebooks is set.
        redactor: masks the finished pages again.
    """
    for entry in record.notebooks:
        if entry.executed and (record.folder / entry.executed).is_file():
            entry.report = f"{entry.name}.html"
    shown = _masked(record, redactor)
    for number, entry in enumerate(shown.notebooks):
        if entry.report:
            page = _notebook_page(shown, number)
            replace_file(record.folder / entry.report, redactor.text(page))
    if len(record.notebooks) != 1 or not record.notebooks[0].report:
        replace_file(record.folder / "index.html", redactor.text(_run_page(shown)))


def duration(seconds: float) -> str:
    """A readable duration: ``0.4 s``, ``42 s``, ``3 min 5 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _masked(record: Record, redactor: Redactor) -> Record:
    """A copy to display. File names stay: the files are there under those names."""
    notebooks = [
        dataclasses.replace(
            entry,
            title=redactor.text(entry.title),
            parameters=redactor.tree(entry.parameters),
            steps=[dataclasses.replace(step, title=redactor.text(step.title)) for step in entry.steps],
            plan=redactor.tree(entry.plan),
            changes=redactor.tree(entry.changes),
        )
        for entry in record.notebooks
    ]
    error = Failure(**redactor.tree(dataclasses.asdict(record.error))) if record.error else None
    return dataclasses.replace(record, notebooks=notebooks, error=error, parameters=redactor.tree(record.parameters))


def _notebook_page(record: Record, number: int) -> str:
    entry = record.notebooks[number]
    node = nbformat.read(record.folder / entry.executed, as_version=4)
    exporter = HTMLExporter(
        extra_template_basedirs=[str(TEMPLATES)],
        template_name=TEMPLATE,
        filters={**FILTERS, "plain": _plain, "without_title": _without_title},
        # It warns about images without alternative text in HTML displayed by a notebook.
        log=_LOG,
        exclude_anchor_links=True,
    )
    longest = max((step.seconds for step in entry.steps), default=0.0) or 1.0
    error = record.error if record.error and record.error.notebook in {entry.name, ""} else None
    page, _ = exporter.from_notebook_node(
        node,
        resources={
            "runbook": {
                "record": record,
                "entry": entry,
                "error": error,
                "outcome": entry.outcome if len(record.notebooks) > 1 else record.outcome,
                "style": style(),
                "anchors": [_anchor(node, step.cells) for step in entry.steps],
                "shares": [round(100 * step.seconds / longest) for step in entry.steps],
                "before": record.notebooks[number - 1] if number else None,
                "after": record.notebooks[number + 1] if number + 1 < len(record.notebooks) else None,
            }
        },
    )
    reports = {other.name: other.report for other in record.notebooks if other.report}
    return _NOTEBOOK_LINK.sub(lambda match: _relinked(match, reports), page)


def _run_page(record: Record) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES / TEMPLATE), autoescape=True)
    environment.filters.update(FILTERS)
    failed = [entry for entry in record.notebooks if record.error and entry.name == record.error.notebook]
    link = failed[0].report if failed else ""
    if link and record.error and record.error.cell is not None:
        link += f"#cell-{record.error.cell}"
    return environment.get_template("run.html.j2").render(record=record, style=style(), error_link=link)


def style() -> str:
    """The style sheet of all pages, light and dark."""
    own = (TEMPLATES / TEMPLATE / "report.css").read_text(encoding="utf-8")
    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


def _anchor(node: Any, cells: Sequence[int]) -> int:
    """The cell with a step's heading: the last text before its code."""
    return next((index for index in range(cells[0], -1, -1) if node.cells[index].cell_type == "markdown"), cells[0])


def _relinked(match: re.Match[str], reports: dict[str, str]) -> str:
    report = reports.get(match["name"])
    return f'<a href="{report}">{match["text"]}</a>' if report else match["text"]


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def _plain(text: str) -> str:
    return _COLOUR.sub("", text)


def _without_title(markdown: str) -> str:
    """The first cell's text; its title is already in the summary."""
    return re.sub(r"\A\s*#[ \t]+.*\n?", "", markdown)


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


FILTERS: Mapping[str, Any] = {"change_line": change_line, "duration": duration, "moment": _moment, "literal": _literal}


CHART_RUNS = 60
"""Maximum number of runs in the chart, which shows the newest; the table below has all."""


def write_overview(records: Path, path: Path | None = None) -> Path:
    """Write the page about the records in the folder *records*; return its path.

    Parameters:
        records: the folder of all records.
        path: the page; None for ``index.html`` in that folder.

    Raises:
        RunbookError: there is no record, or the page cannot be written.
    """
    found = list_records(records)
    if not found:
        raise RunbookError("there is nothing to report", why=f"{records} has no records", todo="run a notebook first")
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
