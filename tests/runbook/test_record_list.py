"""Selecting, finding and comparing records, and the page about all of them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from ops.cli.parser import make_parser
from ops.errors import RunbookError
from ops.redaction import Redactor
from ops.runbook.record import BY_HAND, RUN, Failure, NotebookRecord, Record, list_records
from ops.runbook.record_list import choose, differences, find_record, format_records
from ops.runbook.report import write_overview
from ops.workspace import Workspace
from tests.runbook.assets import external_assets


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Three records: an older, failed one on Modal, and two on this machine."""
    for day, name, outcome, target in (
        (1, "01_provision", "failed", "modal"),
        (2, "01_provision", "succeeded", "local"),
        (3, "02_onboard_user", "succeeded", "local"),
    ):
        record = Record.create(tmp_path, name, now=datetime(2026, 1, day, tzinfo=UTC))
        environment = "staging" if target == "modal" else ""
        entry = NotebookRecord(name, "T", {"day": day}, outcome, day, target=target, environment=environment)
        record.notebooks = [entry]
        record.error = Failure("it <broke>", "why") if outcome == "failed" else None
        record.end(outcome, day * 2)
        record.save(Redactor())
    return tmp_path


def test_records_are_selected_by_notebook_outcome_target_and_time(records: Path) -> None:
    found = list_records(records)
    assert [r.started[8:10] for r in choose(found)] == ["03", "02", "01"]
    assert [r.started[8:10] for r in choose(found, notebook="01_prov")] == ["02", "01"]
    assert [r.started[8:10] for r in choose(found, outcome="failed")] == ["01"]
    assert [r.started[8:10] for r in choose(found, target="local", since="2026-01-03")] == ["03"]
    for target in ("modal", "modal.staging"):
        assert [r.started[8:10] for r in choose(found, target=target)] == ["01"]
    assert choose(found, target="modal.main") == []


def test_each_listed_record_has_a_line_with_its_number_among_all(records: Path) -> None:
    found = list_records(records)
    lines = format_records(choose(found, notebook="01"), found).splitlines()
    assert [re.split("  +", line.strip()) for line in lines] == [
        ["started (UTC)", "outcome", "time", "notebooks", "recap", "record"],
        [
            "2",
            "2026-01-02 00:00:00",
            "succeeded",
            "4.0 s",
            "run 01_provision",
            "1 ok, 0 changed, 0 failed, 0 skipped",
            "20260102T000000Z-01_provision",
        ],
        [
            "3",
            "2026-01-01 00:00:00",
            "failed",
            "2.0 s",
            "run 01_provision",
            "0 ok, 0 changed, 1 failed, 0 skipped",
            "20260101T000000Z-01_provision",
        ],
    ]


def test_the_command_lists_what_is_asked_for(
    records: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        options = make_parser().parse_args(["records", *arguments])
        assert options.call(options) == 0
        return capsys.readouterr().out

    def days(*arguments: str) -> list[str]:
        return [Path(record["folder"]).name[6:8] for record in json.loads(said("--json", *arguments))]

    records.rename(workspace.create().records)
    assert days() == ["03", "02", "01"]
    assert days("--notebook", "01") == ["02", "01"]
    assert days("--outcome", "failed") == days("--target", "modal.staging") == ["01"]
    assert days("--since", "2026-01-02") == ["03", "02"]
    heading, line = said("--outcome", "failed").splitlines()
    assert "outcome" in heading
    assert line.startswith("3  2026-01-01 ")
    assert said("--outcome", "interrupted") == "There are no such records.\n"


def test_of_the_notebooks_open_in_jupyterlab_only_those_that_ran_are_listed(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "lab", now=datetime(2026, 1, 1, tzinfo=UTC))
    record.purpose = BY_HAND
    record.notebooks = [
        NotebookRecord("01_provision", "T", {}, "skipped", 0),
        NotebookRecord("06_back_up", "T", {}, "succeeded", 1),
    ]
    assert "  lab 06_back_up  " in format_records([record], [record])
    del record.notebooks[1]
    assert "  lab no notebook was run  " in format_records([record], [record])
    record.purpose = RUN
    assert "  run 01_provision  " in format_records([record], [record])


def test_a_record_is_found_by_its_number_folder_or_part_of_its_name(records: Path) -> None:
    assert find_record("1", records).name == "02_onboard_user"
    assert find_record("20260101", records).outcome == "failed"
    assert find_record("02_onboard_user", records).name == "02_onboard_user"
    assert find_record(str(records / "20260102T000000Z-01_provision"), records).outcome == "succeeded"
    for name, said in (("2026", "3 records"), ("9", "no records"), ("", "no records")):
        with pytest.raises(RunbookError, match=said):
            find_record(name, records)


def test_two_runs_are_compared_in_everything_but_their_times(records: Path) -> None:
    first, second = find_record("3", records), find_record("2", records)
    assert differences(first, first) == []
    assert differences(first, second) == [
        "- outcome: failed",
        "+ outcome: succeeded",
        "- 01_provision outcome: failed",
        "+ 01_provision outcome: succeeded",
        "- 01_provision where: modal.staging",
        "+ 01_provision where: local",
        "- 01_provision parameter day: 1",
        "+ 01_provision parameter day: 2",
        "- error: it <broke>: why",
    ]


def test_the_page_about_all_runs_has_a_bar_and_a_row_for_each_and_loads_nothing(records: Path) -> None:
    (records / "20260103T000000Z-02_onboard_user" / "index.html").write_text("a report")
    path = write_overview(records)
    assert path == records / "index.html"
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    assert external_assets(str(page)) == ()
    assert [bar["class"][1] for bar in page.select("a.column")] == ["failed", "succeeded", "succeeded"]
    assert page.select("a.column")[-1]["style"] == "height: 100.0%"
    rows = [row.get_text("|", strip=True) for row in page.select("tbody tr")]
    assert len(rows) == 3
    assert "failed|it <broke>" in rows[2]
    assert page.select_one("tbody a")["href"] == "20260103T000000Z-02_onboard_user/index.html"  # type: ignore[index]


def test_without_a_record_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match="nothing to report"):
        write_overview(tmp_path)
