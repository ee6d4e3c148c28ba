"""Records of runs: one folder each, with the executed notebooks, their reports and ``record.json``.

    <workspace>/records/20260102T030405Z-01_provision/
      record.json           user, target, parameters, changes, and the duration of each step
      01_provision.ipynb    as executed, masked
      01_provision.html     the same as a page, with a summary at the top
      index.html            if the run had several notebooks

``record.json`` exists from the start of the run and is replaced atomically at each step: a killed run leaves
one that says ``running``, with everything done so far. ``record.schema.json`` next to this module describes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ops.errors import RunbookError
from ops.private_files import private_folder, replace_file
from ops.redaction import Redactor
from ops.runbook.provenance import Provenance
from ops.table import ADDRESS, KEY, OUTCOME, PLACE, PLAN

SCHEMA = 2
"""Of ``record.json``. Records of schema 1, which lack plans, changes and provenance, can be read."""
RECORD_FILE = "record.json"

RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
INTERRUPTED = "interrupted"
SKIPPED = "skipped"

RUN = "run"
PLAN_ONLY = "plan"
BY_HAND = "lab"

_STAMP = "%Y%m%dT%H%M%SZ"
_FOLDER = re.compile(r"[0-9]{8}T[0-9]{6}Z-.+")


@dataclass(slots=True)
class StepRecord:
    """One step of a notebook: its heading, its cells in the executed notebook, its outcome and duration."""

    title: str
    cells: list[int]
    outcome: str = SKIPPED
    seconds: float = 0.0


@dataclass(slots=True)
class NotebookRecord:
    """One notebook of a run.

    Parameters:
        name: ``01_provision``.
        title: its first heading.
        parameters: all of its parameters, including defaults.
        outcome: one of the words above.
        seconds: its duration.
        executed: the executed notebook's name in the record's folder; empty until it is written.
        report: the same for its page.
        steps: its headings and their cells.
        target: ``local`` or ``modal``; empty until known.
        environment: of Modal, or an empty string.
        address: the root URL of the index; empty if there is none.
        plan: from :meth:`ops.plan.Plan.to_json`; None if none was shown.
        changes: what was done, each with ``thing`` and ``done``; None if the notebook did not get that far.
        note: the outcome's note.
    """

    name: str
    title: str
    parameters: Mapping[str, Any]
    outcome: str = SKIPPED
    seconds: float = 0.0
    executed: str = ""
    report: str = ""
    steps: list[StepRecord] = field(default_factory=list)
    target: str = ""
    environment: str = ""
    address: str = ""
    plan: Mapping[str, Any] | None = None
    changes: Sequence[Mapping[str, str]] | None = None
    note: str = ""

    @property
    def pending(self) -> Sequence[Mapping[str, str]]:
        """The changes that the plan would make."""
        if not self.plan or not self.plan["pending"]:
            return ()
        return [change for change in self.plan["changes"] if change["sign"] not in {"", "±"}]

    def learn(self, outputs: Sequence[Mapping[str, Any]]) -> bool:
        """Read the metadata of a cell's outputs; return whether they contain a plan or an outcome.

        Parameters:
            outputs: in the notebook format 4, masked.
        """
        told = False
        for output in outputs:
            found = output.get("metadata", {}).get(KEY, {})
            if place := found.get(PLACE):
                self.target, _, self.environment = place.partition(".")
            self.address = found.get(ADDRESS) or self.address
            if PLAN in found:
                self.plan, told = found[PLAN], True
            if OUTCOME in found:
                self.changes, self.note, told = found[OUTCOME]["changes"], found[OUTCOME]["note"], True
        return told


@dataclass(slots=True)
class Failure:
    """The reason why a run failed: what, why, what to do, and where in the notebook."""

    what: str
    why: str = ""
    todo: str = ""
    notebook: str = ""
    step: str = ""
    cell: int | None = None
    exception: str = ""


@dataclass(slots=True)
class Record:
    """One run, as stored in ``record.json`` in *folder*. Times are UTC, in ISO 8601; durations are seconds.

    Parameters:
        folder: of the record.
        name: of the run, ``01_provision`` or ``up``.
        started: time of the start.
        parameters: the given ones.
        notebooks: in order.
        outcome: one of the words above.
        ended: time of the end; empty while it runs.
        seconds: its duration.
        error: the failure.
        process: the process id of the runner.
        purpose: :data:`RUN`; :data:`PLAN_ONLY` if the notebooks were run up to their plans; :data:`BY_HAND` if
            they were run in JupyterLab.
        resumes: the folder of the run that this one continued, or an empty string.
        provenance: user, revision and CI run.
    """

    folder: Path
    name: str
    started: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notebooks: list[NotebookRecord] = field(default_factory=list)
    outcome: str = RUNNING
    ended: str = ""
    seconds: float = 0.0
    error: Failure | None = None
    process: int = 0
    purpose: str = RUN
    resumes: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    @classmethod
    def create(cls, records: Path, name: str, *, now: datetime | None = None) -> Self:
        """Create a folder for a new run, readable by its owner only.

        Parameters:
            records: the folder of all records.
            name: of the run, ``01_provision`` or ``up``.
            now: the start time.

        Raises:
            RunbookError: the folder cannot be created.
        """
        moment = (now or datetime.now(UTC)).astimezone(UTC)
        stem = f"{moment.strftime(_STAMP)}-{name}"
        try:
            private_folder(records)
            for number in range(1, 1000):
                folder = records / (stem if number == 1 else f"{stem}-{number}")
                try:
                    folder.mkdir(mode=0o700)
                    folder.chmod(0o700)
                except FileExistsError:
                    # Another run that started within the same second.
                    continue
                return cls(folder, name, started=_iso(moment), process=os.getpid(), provenance=Provenance.of_now())
        except OSError as error:
            raise RunbookError(
                f"the record of the run cannot be stored in {records}",
                why=error.strerror or str(error),
                todo="set PYPI_RUNBOOK_HOME to a folder that this user can write to",
            ) from None
        raise RunbookError(f"there are a thousand records named {stem}", todo=f"clear {records}")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record in *folder*. One that says ``running`` although its process is gone was ``interrupted``.

        Raises:
            RunbookError: there is no record there that this version can read.
        """
        try:
            stored = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
            schema = stored.pop("schema")
            if schema not in {1, SCHEMA}:
                raise ValueError(f"its schema is {schema}, but this version knows 1 and {SCHEMA}")
            stored.pop("report", None)
            provenance = Provenance.from_json(stored)
            notebooks = [
                NotebookRecord(**{**item, "steps": [StepRecord(**step) for step in item["steps"]]})
                for item in stored.pop("notebooks")
            ]
            error = stored.pop("error")
            failure = Failure(**error) if error else None
            record = cls(folder, **stored, notebooks=notebooks, error=failure, provenance=provenance)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunbookError(f"{folder} holds no record of a run", why=str(error)) from None
        if record.outcome == RUNNING and not _alive(record.process):
            record.outcome = INTERRUPTED
        return record

    @property
    def report(self) -> Path:
        """The page to open first: the notebook's report, or the index over several."""
        if len(self.notebooks) == 1 and self.notebooks[0].report:
            return self.folder / self.notebooks[0].report
        return self.folder / "index.html"

    def to_json(self) -> dict[str, Any]:
        """Content of ``record.json``."""
        stored = dataclasses.asdict(self)
        del stored["folder"]
        provenance = stored.pop("provenance")
        return {"schema": SCHEMA, **stored, **provenance, "report": self.report.name}

    def save(self, redactor: Redactor) -> None:
        """Mask ``record.json``, and write it atomically."""
        text = json.dumps(redactor.tree(self.to_json()), indent=2, ensure_ascii=False) + "\n"
        replace_file(self.folder / RECORD_FILE, text)

    def end(self, outcome: str, seconds: float) -> None:
        """Record how the run ended, and after how many seconds."""
        self.outcome, self.seconds, self.ended = outcome, round(seconds, 3), _iso(datetime.now(UTC))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _alive(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def list_records(records: Path) -> tuple[Record, ...]:
    """The records in a folder, newest first; folders without a record are skipped."""
    found = []
    for folder in sorted(records.iterdir(), reverse=True) if records.is_dir() else ():
        if _FOLDER.fullmatch(folder.name) and (folder / RECORD_FILE).is_file():
            try:
                found.append(Record.read(folder))
            except RunbookError:
                continue
    return tuple(found)


def prune(records: Path, *, keep: int) -> tuple[Path, ...]:
    """Remove all but the newest *keep* records; running ones stay.

    Returns:
        the folders that were removed.
    """
    gone = tuple(record.folder for record in list_records(records)[keep:] if record.outcome != RUNNING)
    for folder in gone:
        shutil.rmtree(folder)
    return gone
