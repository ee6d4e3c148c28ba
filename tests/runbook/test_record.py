"""The record of a run."""

from __future__ import annotations

import base64
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from ops.errors import RunbookError
from ops.redaction import Redactor
from ops.runbook import record as record_module
from ops.runbook.record import Failure, NotebookRecord, Record, StepRecord, list_records, prune
from ops.runbook.workspace_secrets import scan
from ops.table import KEY

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRET = "correct-horse-battery"


def test_a_record_has_its_own_folder_named_by_utc_time_and_run(tmp_path: Path) -> None:
    record = Record.create(tmp_path / "records", "01_provision", now=NOW)
    assert record.folder == tmp_path / "records" / "20260102T030405Z-01_provision"
    assert record.started == "2026-01-02T03:04:05Z"
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700


def test_runs_of_the_same_second_get_different_folders(tmp_path: Path) -> None:
    names = [Record.create(tmp_path, "up", now=NOW).folder.name for _ in range(3)]
    assert names == ["20260102T030405Z-up", "20260102T030405Z-up-2", "20260102T030405Z-up-3"]


def test_a_folder_that_cannot_be_created_is_explained(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file")
    with pytest.raises(RunbookError, match="cannot be stored in") as caught:
        Record.create(tmp_path / "records", "x")
    assert "PYPI_RUNBOOK_HOME" in caught.value.todo


def test_a_record_is_read_as_it_was_saved(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "x")
    record.notebooks = [NotebookRecord("01_x", "X", {"a": 1}, steps=[StepRecord("S", [1, 2], "failed", 0.5)])]
    record.error = Failure("what", why="why", notebook="01_x", step="S", cell=1)
    record.end("failed", 1.23456)
    record.save(Redactor())
    assert Record.read(record.folder) == record
    assert record.seconds == 1.235
    assert stat.S_IMODE((record.folder / "record.json").stat().st_mode) == 0o600


def test_a_running_record_is_interrupted_once_its_process_is_gone(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "x")
    record.save(Redactor())
    assert Record.read(record.folder).outcome == "running"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    record.process = child
    record.save(Redactor())
    assert Record.read(record.folder).outcome == "interrupted"


def test_a_folder_without_a_record_of_this_schema_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="holds no record"):
        Record.read(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(RunbookError, match="holds no record"):
        Record.read(tmp_path)


def test_a_scan_masks_secrets_in_texts_and_notebooks_and_deletes_other_files(tmp_path: Path) -> None:
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "source": ["a = 1\n", "b\n"],
                "outputs": [{"text": ["first corr", "ect-horse-battery\n"]}],
            }
        ]
    }
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "b.html").write_text(f"<p>{SECRET}</p>")
    (tmp_path / "c.log").write_text("Basic " + base64.b64encode(f"u:{SECRET}".encode()).decode())
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.bin").write_bytes(b"\xff\x00" + SECRET.encode())
    (tmp_path / "clean.ipynb").write_text(json.dumps({"cells": [], "metadata": {"tags": ["a", "b"]}}))
    (tmp_path / "clean.bin").write_bytes(b"\xff\x00")
    spoiled = scan(tmp_path, Redactor([SECRET]))
    assert [path.name for path in spoiled] == ["a.ipynb", "b.html", "c.log", "e.bin"]
    assert not (tmp_path / "d" / "e.bin").exists()
    masked = json.loads((tmp_path / "a.ipynb").read_text())
    assert masked["cells"][0]["outputs"][0]["text"] == ["first ********", "********\n"]
    assert masked["cells"][0]["source"] == ["a = 1\n", "b\n"]
    assert (tmp_path / "b.html").read_text() == "<p>********</p>"
    assert (tmp_path / "c.log").read_text() == "Basic ********"
    assert scan(tmp_path, Redactor([SECRET])) == ()


def test_records_are_listed_newest_first_and_pruned_from_the_oldest(tmp_path: Path) -> None:
    for day in (1, 3, 2):
        record = Record.create(tmp_path, "x", now=datetime(2026, 1, day, tzinfo=UTC))
        record.end("succeeded", 1)
        record.save(Redactor())
    running = Record.create(tmp_path, "x", now=datetime(2025, 1, 1, tzinfo=UTC))
    running.save(Redactor())
    (tmp_path / "20260101T000000Z-empty").mkdir()
    (tmp_path / "notes").mkdir()
    assert [record.started[:10] for record in list_records(tmp_path)] == [
        "2026-01-03", "2026-01-02", "2026-01-01", "2025-01-01",
    ]  # fmt: skip
    gone = prune(tmp_path, keep=1)
    assert [folder.name[:8] for folder in gone] == ["20260102", "20260101"]
    assert running.folder.is_dir(), "a running run lost its record"
    assert (tmp_path / "notes").is_dir()
    assert list_records(tmp_path / "none") == ()


SCHEMA = json.loads(Path(record_module.__file__).with_name("record.schema.json").read_text(encoding="utf-8"))


def test_a_record_matches_its_schema(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    record = Record.create(tmp_path, "x")
    record.notebooks = [NotebookRecord("01_x", "X", {"a": 1}, steps=[StepRecord("S", [1, 2], "failed", 0.5)])]
    jsonschema.validate(record.to_json(), SCHEMA)
    record.notebooks[0].learn([{"metadata": {KEY: {
        "place": "modal.main", "address": "https://x/",
        "plan": {"caption": "c", "pending": 1, "sha256": "0" * 64, "changes": [
            {"sign": "+", "thing": "server", "now": "does not run", "then": "start it"}]},
        "outcome": {"changes": [{"thing": "server", "done": "started"}], "note": ""},
    }}}])  # fmt: skip
    record.error = Failure("what")
    record.end("failed", 1)
    jsonschema.validate(record.to_json(), SCHEMA)
    entry = record.notebooks[0]
    assert (entry.target, entry.environment, entry.address) == ("modal", "main", "https://x/")
    assert [change["thing"] for change in entry.pending] == ["server"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record.to_json() | {"unknown": 1}, SCHEMA)


def test_a_record_has_user_revision_and_ci_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example")
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/index")
    monkeypatch.setenv("GITHUB_RUN_ID", "77")
    stored = Record.create(tmp_path, "x").to_json()
    assert set(stored["who"]) == {"user", "host"}
    assert set(stored["revision"]) in ({"commit", "dirty"}, set())
    assert stored["ci"]["url"] == "https://git.example/team/index/actions/runs/77"
    jsonschema.validate(stored, SCHEMA)


OLD = {
    "schema": 1, "name": "01_x", "started": "2026-01-02T03:04:05Z", "parameters": {}, "outcome": "succeeded",
    "ended": "2026-01-02T03:04:06Z", "seconds": 1.0, "error": None, "process": 1, "versions": {"python": "3.12.1"},
    "notebooks": [{"name": "01_x", "title": "X", "parameters": {}, "outcome": "succeeded", "seconds": 1.0,
                   "executed": "01_x.ipynb", "report": "01_x.html",
                   "steps": [{"title": "S", "cells": [1], "outcome": "succeeded", "seconds": 1.0}]}],
    "report": "01_x.html",
}  # fmt: skip


def test_a_record_of_the_first_schema_can_still_be_read(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(OLD))
    record = Record.read(tmp_path)
    assert (record.name, record.outcome, record.provenance.versions) == ("01_x", "succeeded", {"python": "3.12.1"})
    assert record.notebooks[0].changes is None
    (tmp_path / "record.json").write_text(json.dumps(OLD | {"schema": 3}))
    with pytest.raises(RunbookError, match="holds no record") as caught:
        Record.read(tmp_path)
    assert "its schema is 3" in caught.value.why
