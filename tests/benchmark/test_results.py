"""Results in a notebook and in a file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmark.machine import Machine, own_versions
from tests.benchmark.measurement import Entry, Row, Verdict
from tests.benchmark.results import Report, Results

ROW = Row(
    title="Project page",
    unit="requests/s",
    better="higher",
    entries=(
        Entry(name="nginx", values=(200.0, 100.0, 300.0)),
        Entry(name="ours", values=(100.0,)),
        Entry(name="old <b>", note="it was left out"),
        Entry(name="broken", failed=True, note="it broke"),
    ),
    verdicts=(Verdict(goal="at least 50% of nginx", found="0.5 times nginx", met=True),),
    method="Eight clients.",
)


def report(tmp_path: Path, scale: str = "full") -> Report:
    return Report(scale=scale, machine=Machine.here(tmp_path), versions=own_versions(), rows=(ROW,))


def test_the_text_has_every_figure_a_bar_and_the_verdict() -> None:
    text = repr(Results([ROW]))
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "Project page: requests/s, higher is better" in text
    assert "200 (100 to 300)" in lines["nginx"]
    assert lines["nginx"].count("█") == 2 * lines["ours"].count("█") > 0
    assert "not measured" in lines["old <b>"]
    assert "it was left out" in lines["old <b>"]
    assert "failed" in lines["broken"]
    assert "Goal: at least 50% of nginx. Found: 0.5 times nginx. Verdict: met." in text


def test_the_html_has_the_same_content_with_headers_and_escapes_it() -> None:
    html = Results([ROW])._repr_html_()
    assert html.count('scope="col"') == 4
    assert html.count('scope="row"') == 4
    assert "old &lt;b&gt;" in html
    assert "200 (100 to 300)" in html
    assert 'aria-label="50% of the longest"' in html
    assert "<strong>met</strong>" in html


def test_the_goals_say_that_a_small_scale_is_an_indication_only(tmp_path: Path) -> None:
    assert report(tmp_path).goals().rows == (("Project page", "at least 50% of nginx", "0.5 times nginx", "met"),)
    assert not report(tmp_path).goals().note
    assert "indication" in report(tmp_path, "quick").goals().note


def test_results_are_stored_as_json_with_machine_and_versions(tmp_path: Path) -> None:
    path = report(tmp_path).save(tmp_path / "results")
    kept = json.loads(path.read_text())
    assert kept["rows"][0]["entries"][0]["values"] == [200, 100, 300]
    assert kept["machine"]["cores"] >= 1
    assert kept["machine"]["memory"] > 0
    assert kept["versions"]["uvicorn"]
    assert ":" not in path.name


def test_the_setting_names_the_machine_and_the_date(tmp_path: Path) -> None:
    shown = {row[0]: row[1] for row in report(tmp_path).setting().rows}
    assert "cores" in shown["CPU"]
    assert shown["Date"].endswith("+00:00")
    assert shown["Scale"] == "full"
