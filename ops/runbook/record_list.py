"""The list of records: selecting, finding and comparing records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ops.errors import RunbookError
from ops.runbook.record import BY_HAND, Record, list_records
from ops.runbook.summary import counts
from ops.table import columns


def choose(
    records: Sequence[Record], *, notebook: str = "", outcome: str = "", target: str = "", since: str = ""
) -> list[Record]:
    """Those of *records* that match all given criteria.

    Parameters:
        records: newest first.
        notebook: a part of the name of one of the run's notebooks.
        outcome: ``succeeded``, ``failed``, ``interrupted`` or ``running``.
        target: ``local``, ``modal``, or that with the environment, as in ``modal.staging``.
        since: a date or time in ISO 8601, UTC.
    """
    return [
        record
        for record in records
        if (not outcome or record.outcome == outcome)
        and (not since or record.started >= since)
        and any(notebook in entry.name for entry in record.notebooks)
        and (not target or any(target in {entry.target, _place(entry)} for entry in record.notebooks))
    ]


def format_records(chosen: Sequence[Record], records: Sequence[Record]) -> str:
    """A line for each chosen record, with its number among all *records*: 1 is the newest."""
    numbers = {record.folder: number for number, record in enumerate(records, 1)}
    rows = [
        (
            str(numbers[record.folder]),
            f"{datetime.fromisoformat(record.started):%Y-%m-%d %H:%M:%S}",
            record.outcome,
            f"{record.seconds:.1f} s",
            f"{record.purpose} {_names(record)}",
            counts(record),
            record.folder.name,
        )
        for record in chosen
    ]
    rows.insert(0, ("", "started (UTC)", "outcome", "time", "notebooks", "recap", "record"))
    return "\n".join(columns(rows))


def _names(record: Record) -> str:
    """The notebooks of a run; of those open in JupyterLab the ones that were run."""
    entries = record.notebooks
    if record.purpose == BY_HAND:
        entries = [entry for entry in entries if entry.outcome != "skipped"]
    return " ".join(entry.name for entry in entries) or "no notebook was run"


def find_record(name: str, records: Path) -> Record:
    """The record with this *name*: its folder, the start or end of its name, or its number in the list.

    Raises:
        RunbookError: there is none, or more than one.
    """
    path = Path(name)
    if (path / "record.json").is_file():
        return Record.read(path)
    found = list_records(records)
    if name.isdecimal() and 0 < int(name) <= len(found):
        return found[int(name) - 1]
    matches = [record for record in found if name and record.folder.name.startswith(name)]
    matches = matches or [record for record in found if name and record.folder.name.endswith(name)]
    if len(matches) == 1:
        return matches[0]
    raise RunbookError(
        f"{len(matches) or 'no'} records are named {name!r}",
        why=f"there are {len(found)} in {records}",
        todo="use the number or folder shown by `runbook records list`",
    )


def differences(first: Record, second: Record) -> list[str]:
    """The differences between two runs: ``-`` lines for the first, ``+`` lines for the second. Times are ignored."""
    before, after = dict(_properties(first)), dict(_properties(second))
    lines = []
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            lines += [f"{sign} {name}: {facts[name]}" for sign, facts in (("-", before), ("+", after)) if name in facts]
    return lines


def _properties(record: Record) -> Iterator[tuple[str, str]]:
    yield "purpose", record.purpose
    yield "outcome", record.outcome
    for group in ("who", "revision", "versions"):
        for name, value in getattr(record.provenance, group).items():
            yield f"{group} {name}", _shown(value)
    for entry in record.notebooks:
        of = entry.name
        yield f"{of} outcome", entry.outcome
        yield f"{of} where", " ".join(part for part in (_place(entry), entry.address) if part)
        for name, value in entry.parameters.items():
            yield f"{of} parameter {name}", _shown(value)
        for change in (entry.plan or {}).get("changes", ()):
            yield f"{of} plan of {change['thing']}", "; ".join(part for part in (change["now"], change["then"]) if part)
        for done in entry.changes or ():
            yield f"{of} changed {done['thing']}", done["done"]
        for step in entry.steps:
            yield f"{of} step {step.title}", step.outcome
    if record.error is not None:
        yield "error", f"{record.error.what}: {record.error.why}".rstrip(": ")


def _place(entry: Any) -> str:
    return ".".join(part for part in (entry.target, entry.environment) if part)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
