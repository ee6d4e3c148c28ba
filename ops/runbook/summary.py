"""Summaries of a run for people: lines for a terminal, Markdown for a job's page, commands for GitHub's log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from ops.runbook import record as outcomes
from ops.runbook.record import PLAN_ONLY, Failure, NotebookRecord, Record
from ops.table import change_line, columns

_WORDS = {outcomes.SUCCEEDED: "ok", outcomes.RUNNING: "running"}


def plan_lines(entry: NotebookRecord) -> tuple[str, ...]:
    """The plan of a notebook: a line for each change, and their number."""
    if entry.plan is None:
        return ()
    lines = [change_line(change) for change in entry.plan["changes"] if change["sign"]]
    if entry.plan.get("held"):
        return (*lines, entry.plan["held"])
    count = len(entry.pending)
    return (*lines, f"{count} to make" if count else "Nothing of it stays." if lines else "Nothing to change.")


def change_lines(entry: NotebookRecord) -> tuple[str, ...]:
    """The changes that a notebook has made, their number, and its note."""
    if entry.changes is None:
        return ()
    lines = [f"{change['thing']}: {change['done']}" for change in entry.changes]
    return (*lines, f"Done: {len(lines)} changed", *filter(None, [entry.note]))


def outcome_lines(entry: NotebookRecord) -> tuple[str, ...]:
    """Lines of a notebook's outcome, or otherwise of its plan."""
    return change_lines(entry) or plan_lines(entry)


def counts(record: Record) -> str:
    """The recap on one line: ``2 ok, 4 changed, 0 failed, 1 skipped``."""
    ended = [entry.outcome for entry in record.notebooks]
    ok, skipped = ended.count(outcomes.SUCCEEDED), ended.count(outcomes.SKIPPED)
    changed = sum(len(entry.changes or ()) for entry in record.notebooks)
    return f"{ok} ok, {changed} changed, {len(ended) - ok - skipped} failed, {skipped} skipped"


def recap(record: Record) -> str:
    """A line for each notebook of a finished run, and the counts."""
    rows = [
        (entry.name, _WORDS.get(entry.outcome, entry.outcome), _changed(record, entry), _duration(entry))
        for entry in record.notebooks
    ]
    text = "\n".join(columns(rows))
    return f"{text}\n{counts(record)}" if len(rows) > 1 else text


def tell(record: Record, stream: TextIO, variables: Mapping[str, str]) -> None:
    """Print the recap of a run; in a GitHub job also as log commands and on the job's page.

    Parameters:
        record: of a run that has ended.
        stream: for the recap and the commands.
        variables: ``GITHUB_ACTIONS``, and ``GITHUB_STEP_SUMMARY``, which names the file of the job's page.
    """
    write_flushed(stream, f"\n{recap(record)}\n")
    if variables.get("GITHUB_ACTIONS") == "true" and (commands := workflow_commands(record)):
        write_flushed(stream, f"{commands}\n")
    if page := variables.get("GITHUB_STEP_SUMMARY"):
        with Path(page).open("a", encoding="utf-8") as file:
            file.write(markdown([record]))


def write_flushed(stream: TextIO, text: str) -> None:
    """Write and flush; falls back to ASCII rather than fail a run because of the stream's encoding."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.replace("…", "...").encode("ascii", "replace").decode("ascii"))
    stream.flush()


def workflow_commands(record: Record) -> str:
    """Commands for GitHub's log: an error for the failure, a notice for each plan and outcome.

    Format: GitHub, "Workflow commands for GitHub Actions".
    """
    found = [
        f"::notice title={_property(entry.name)}::{_data(told)}"
        for entry in record.notebooks
        if entry.outcome == outcomes.SUCCEEDED and (told := _changed(record, entry))
    ]
    if record.error is not None:
        title = record.error.notebook or record.name
        found.append(f"::error title={_property(title)}::{_data(reason(record.error))}")
    return "\n".join(found)


def reason(error: Failure) -> str:
    """Reason for a failed run and what to do, as sentences."""
    parts = [f"{error.what}: {error.why}" if error.why else error.what, error.todo]
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def markdown(records: Iterable[Record]) -> str:
    """A section for each run, in GitHub's Markdown."""
    return "\n\n".join(map(_section, records)) + "\n"


def _section(record: Record) -> str:
    purpose = "Plan" if record.purpose == PLAN_ONLY else "Run"
    found = [f"### {purpose} {_cell(record.name)}: {record.outcome}", counts(record)]
    if record.error is not None:
        step = f" in the step *{_cell(record.error.step)}*" if record.error.step else ""
        found.append(f"**{_cell(record.error.notebook or record.name)} failed{step}.** {_cell(reason(record.error))}")
    rows = ["| notebook | where | outcome | changes | time |", "|---|---|---|---|---|"]
    for entry in record.notebooks:
        where = ".".join(part for part in (entry.target, entry.environment) if part)
        cells = (entry.name, where, entry.outcome, _changed(record, entry), _duration(entry))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    found.append("\n".join(rows))
    for entry in record.notebooks:
        for title, text in (("plan", plan_lines(entry)), ("changes", change_lines(entry))):
            if text and (title == "changes" or not entry.changes):
                # The text cannot close a fence longer than any it contains.
                found.append(f"**{_cell(entry.name)}**, {title}:\n\n````diff\n" + "\n".join(text) + "\n````")
        steps = [
            f"| {_cell(entry.name)} | {_cell(step.title)} | {step.outcome} | {step.seconds:.1f} |"
            for step in entry.steps
        ]
        table = "\n".join(["| notebook | step | outcome | seconds |", "|---|---|---|---|", *steps])
        found.append(f"<details><summary>Steps of {_cell(entry.name)}</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(found)


def _changed(record: Record, entry: NotebookRecord) -> str:
    if entry.changes is not None:
        return f"{len(entry.changes)} changed"
    if entry.plan is not None and (record.purpose == PLAN_ONLY or entry.outcome != outcomes.SUCCEEDED):
        return f"{len(entry.pending)} to make"
    return ""


def _duration(entry: NotebookRecord) -> str:
    return f"{entry.seconds:.1f} s" if entry.outcome != outcomes.SKIPPED else ""


def _cell(text: str) -> str:
    """Text escaped for a table cell: no HTML, no cell ends."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(safe.split())


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
