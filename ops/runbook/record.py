"""Record of a run: a folder with the executed notebooks, their reports and ``record.json``.

    <workspace>/records/20260102T030405Z-01_provision/
      record.json           what ran, with what, how it ended and how long each step took
      01_provision.ipynb    as it was executed, masked
      01_provision.html     the same for reading, with a summary at its top
      index.html            when the run had several notebooks

``record.json`` is there from the first moment, and replaced as a whole at each step: a run that was killed leaves one
that says ``running``, with what had been done.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from ops import __version__
from ops.errors import RunbookError
from ops.private_files import private_file, private_folder
from ops.runbook.redaction import Redactor

SCHEMA = 1
RECORD_FILE = "record.json"

RUNNING = "running"
SUCCEEDED = "succeeded"
FAILED = "failed"
INTERRUPTED = "interrupted"
SKIPPED = "skipped"

_STAMP = "%Y%m%dT%H%M%SZ"
_FOLDER = re.compile(r"[0-9]{8}T[0-9]{6}Z-.+")


@dataclass(slots=True)
class StepRecord:
    """One step of a notebook: its heading, the cells of the executed notebook that belong to it, and how it went."""

    title: str
    cells: list[int]
    outcome: str = SKIPPED
    seconds: float = 0.0


@dataclass(slots=True)
class NotebookRecord:
    """One notebook of a run; *executed* and *report* are names of files in the record's folder, empty until written."""

    name: str
    title: str
    parameters: Mapping[str, Any]
    outcome: str = SKIPPED
    seconds: float = 0.0
    executed: str = ""
    report: str = ""
    steps: list[StepRecord] = field(default_factory=list)


@dataclass(slots=True)
class Failure:
    """Why a run did not succeed: what, why, what to do, and where in the notebook."""

    what: str
    why: str = ""
    todo: str = ""
    notebook: str = ""
    step: str = ""
    cell: int | None = None
    exception: str = ""


@dataclass(slots=True)
class Record:
    """One run, as ``record.json`` in *folder* has it. Times are UTC, in ISO 8601; durations are seconds."""

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
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, records: Path, name: str, *, now: datetime | None = None) -> Self:
        """Make a folder for a new run, readable by its owner only.

        Parameters:
            records: the folder of all records.
            name: of the run, ``01_provision`` or ``up``.
            now: the time that it starts at.

        Raises:
            RunbookError: the folder cannot be made.
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
                return cls(folder, name, started=_iso(moment), process=os.getpid(), versions=_versions())
        except OSError as error:
            raise RunbookError(
                f"the record of the run cannot be kept in {records}",
                why=error.strerror or str(error),
                todo="name a folder that this user can write to in PYPI_RUNBOOK_HOME",
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
            if stored.pop("schema") != SCHEMA:
                raise ValueError(f"its schema is another than {SCHEMA}")
            stored.pop("report", None)
            notebooks = [
                NotebookRecord(**{**item, "steps": [StepRecord(**step) for step in item["steps"]]})
                for item in stored.pop("notebooks")
            ]
            error = stored.pop("error")
            record = cls(folder, **stored, notebooks=notebooks, error=Failure(**error) if error else None)
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

    @property
    def succeeded(self) -> bool:
        """Whether every notebook of the run did."""
        return self.outcome == SUCCEEDED

    def to_json(self) -> dict[str, Any]:
        """What ``record.json`` holds."""
        stored = dataclasses.asdict(self)
        del stored["folder"]
        return {"schema": SCHEMA, **stored, "report": self.report.name}

    def save(self, redactor: Redactor) -> None:
        """Write ``record.json``, masked: the one before or the whole new one is there, at any moment."""
        text = json.dumps(redactor.tree(self.to_json()), indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.folder / RECORD_FILE, text)

    def end(self, outcome: str, seconds: float) -> None:
        """Note how the run ended, and after how many seconds."""
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


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "pypi-runbook": __version__}
    for distribution in ("papermill", "nbclient", "ipykernel"):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "unknown"
    return found


def write_atomically(path: Path, text: str, *, sync: bool = True) -> None:
    """Write *text* to *path*, mode 0600, by a new file that takes its place.

    Parameters:
        path: the file.
        text: all that it shall hold.
        sync: whether to wait until it is on the disk, so that it also outlives a loss of power.
    """
    temporary = path.with_name(f".{path.name}.new")
    descriptor = private_file(temporary, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        if sync:
            os.fsync(stream.fileno())
    temporary.replace(path)


def scan(folder: Path, redactor: Redactor) -> tuple[Path, ...]:
    """Look through a finished record for every secret that is known by now, and take out what is found.

    What should never find anything: a secret that became known after the last masking, a file that a notebook wrote
    there itself. A notebook or a text is masked where it lies, any other file is removed.

    Parameters:
        folder: the record.
        redactor: what knows the secrets; its sources are asked once more.

    Returns:
        the files in which a secret stood.
    """
    redactor.refresh()
    spoiled = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("utf-8", "surrogateescape")
            if redactor.finds(text):
                spoiled.append(path)
                path.unlink()
            continue
        masked = _masked_file(path, text, redactor)
        if masked is not None:
            spoiled.append(path)
            write_atomically(path, masked)
    return tuple(spoiled)


def _masked_file(path: Path, text: str, redactor: Redactor) -> str | None:
    """The text without its secrets, or None when there are none."""
    if path.suffix in {".ipynb", ".json"}:
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if document is not None:
            if redactor.is_clean(document):
                return None
            masked = _lines_joined(document, redactor)
            return None if masked == document else json.dumps(masked, indent=1, ensure_ascii=False) + "\n"
    masked_text = redactor.text(text)
    return None if masked_text == text else masked_text


def _lines_joined(value: Any, redactor: Redactor) -> Any:
    """Mask a stored notebook, in which a text is a list of lines, as the one text that it is."""
    if isinstance(value, dict):
        return {redactor.tree(key): _lines_joined(item, redactor) for key, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            whole = "".join(value)
            masked = redactor.text(whole)
            return value if masked == whole and redactor.tree(value) == value else masked.splitlines(keepends=True)
        return [_lines_joined(item, redactor) for item in value]
    return redactor.tree(value)


def list_records(records: Path) -> tuple[Record, ...]:
    """The records in the folder of all records, the newest first; folders that hold none are passed over."""
    found = []
    for folder in sorted(records.iterdir(), reverse=True) if records.is_dir() else ():
        if _FOLDER.fullmatch(folder.name) and (folder / RECORD_FILE).is_file():
            try:
                found.append(Record.read(folder))
            except RunbookError:
                continue
    return tuple(found)


def prune(records: Path, *, keep: int) -> tuple[Path, ...]:
    """Remove all but the newest *keep* records; one that still runs stays.

    Returns:
        the folders that were removed.
    """
    gone = tuple(record.folder for record in list_records(records)[keep:] if record.outcome != RUNNING)
    for folder in gone:
        shutil.rmtree(folder)
    return gone
