"""Summaries of a run on the console, in GitHub's log and on a job's page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ops.runbook.record import Failure, NotebookRecord, Record
from ops.runbook.summary import change_lines, markdown, plan_lines, recap, tell, workflow_commands

PLAN = {
    "caption": "Provision",
    "pending": 2,
    "sha256": "0" * 64,
    "changes": [
        {"sign": "+", "thing": "server", "now": "does not run", "then": "start it"},
        {"sign": "", "thing": "volume", "now": "in place", "then": ""},
        {"sign": "~", "thing": "hosting cpu", "now": "1", "then": "1 -> 2", "refused": "not allowed"},
    ],
}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A run of three notebooks, the second of which failed."""
    record = Record.create(tmp_path, "up")
    changes = [{"thing": "server", "done": "started"}]
    record.notebooks = [
        NotebookRecord("01_provision", "P", {}, "succeeded", 3.2, plan=PLAN, changes=changes, target="local"),
        NotebookRecord("02_onboard_user", "O", {}, "failed", 1.5, plan=PLAN),
        NotebookRecord("03_smoke_test", "S", {}),
    ]
    record.error = Failure("it broke | badly", "100% full", "make room\nnow", "02_onboard_user", "Change it")
    record.end("failed", 5)
    return record


def test_a_plan_is_one_line_per_change_and_their_number(record: Record) -> None:
    assert plan_lines(record.notebooks[0]) == (
        "+ server  start it",
        "~ hosting cpu  1 -> 2; refused: not allowed",
        "2 to make",
    )
    assert change_lines(record.notebooks[0]) == ("server: started", "Done: 1 changed")
    assert plan_lines(record.notebooks[2]) == change_lines(record.notebooks[2]) == ()


def test_a_plan_that_waits_for_a_confirmation_is_shown_with_the_reason(record: Record) -> None:
    entry = record.notebooks[0]
    entry.plan, entry.changes = {**PLAN, "held": "Confirm it."}, []
    lines = ("+ server  start it", "~ hosting cpu  1 -> 2; refused: not allowed", "Confirm it.")
    assert plan_lines(entry) == lines
    assert "\n".join(lines) in markdown([record])


def test_the_recap_counts_what_is_ok_changed_failed_and_skipped(record: Record) -> None:
    assert recap(record).splitlines() == [
        "01_provision     ok       1 changed  3.2 s",
        "02_onboard_user  failed   2 to make  1.5 s",
        "03_smoke_test    skipped",
        "1 ok, 1 changed, 1 failed, 1 skipped",
    ]


def test_github_s_log_gets_a_notice_for_changes_and_an_error_on_one_line(record: Record) -> None:
    assert workflow_commands(record).splitlines() == [
        "::notice title=01_provision::1 changed",
        "::error title=02_onboard_user::it broke | badly: 100%25 full. make room%0Anow.",
    ]


def test_a_job_s_page_shows_outcome_reason_plan_and_changes(record: Record) -> None:
    text = markdown([record])
    assert "### Run up: failed" in text
    assert "**02_onboard_user failed in the step *Change it*.** it broke \\| badly: 100% full. make room now." in text
    assert "| 01_provision | local | succeeded | 1 changed | 3.2 s |" in text
    assert "+ server  start it" in text
    assert "server: started" in text


def test_only_a_github_job_gets_commands_and_a_page(record: Record, tmp_path: Path) -> None:
    stream, page = io.StringIO(), tmp_path / "page.md"
    tell(record, stream, {})
    assert "::" not in stream.getvalue()
    tell(record, stream, {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(page)})
    assert "::error title=02_onboard_user::" in stream.getvalue()
    assert page.read_text(encoding="utf-8") == markdown([record])
