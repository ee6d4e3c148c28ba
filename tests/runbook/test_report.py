"""The pages of a record: self-contained, with the most important part at the top."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ops.redaction import Redactor
from ops.runbook.record import Failure, NotebookRecord, Record, StepRecord
from ops.runbook.report import duration, write_reports
from tests.runbook.assets import external_assets

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

HOSTILE = '<script src="https://evil.example/x.js"></script><img src="https://evil.example/x.png"><i>shown</i>'
HTML = {"01_provision": "<table><tr>" + "<td>wide cell</td>" * 60 + "</tr></table>", "02_onboard": HOSTILE}
SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A run of three notebooks: one succeeded, one failed in its second step, one not run."""
    made = Record.create(tmp_path, "up")
    for name, title in (("01_provision", "Provision <the> index"), ("02_onboard", "Onboard a user")):
        node = new_notebook(
            cells=[
                new_markdown_cell(f"# {title}\n\nSee [next](02_onboard.ipynb#How) and [last](99_gone.ipynb)."),
                new_markdown_cell("## Steps\n\n### Plan"),
                new_code_cell("plan(target)", execution_count=1, outputs=[
                    new_output("display_data", data={"text/html": HTML[name], "text/plain": "t"}),
                    new_output("display_data", data={"image/svg+xml": SVG, "text/plain": "upload 0.4 s"}),
                    new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m <b>"),
                ]),
                new_markdown_cell("### Apply"),
                new_code_cell("apply(target)", execution_count=2, outputs=[
                    new_output("error", ename="TargetError", evalue="it <failed>", traceback=["TargetError: it"]),
                ]),
                new_code_cell("verify(target)"),
            ],
            metadata={"language_info": {"name": "python"}},
        )  # fmt: skip
        nbformat.write(node, made.folder / f"{name}.ipynb")
        made.notebooks.append(
            NotebookRecord(
                name,
                title,
                {"target": "local", "who": "<x>"},
                "succeeded",
                3.21,
                f"{name}.ipynb",
                steps=[StepRecord("Plan", [2], "succeeded", 0.4), StepRecord("Apply", [4, 5], "succeeded", 61)],
            )
        )
    made.notebooks[1].outcome = made.notebooks[1].steps[1].outcome = "failed"
    made.notebooks.append(NotebookRecord("03_smoke_test", "Smoke test", {}, steps=[StepRecord("S", [1])]))
    made.error = Failure("it <failed>", "the port is taken", "free it", "02_onboard", "Apply", 4, "TargetError")
    made.end("failed", 64.2)
    write_reports(made, Redactor())
    return made


def page(record: Record, name: str) -> BeautifulSoup:
    return BeautifulSoup((record.folder / name).read_text(), "html.parser")


def test_a_report_starts_with_the_outcome_of_each_step(record: Record) -> None:
    summary = page(record, "01_provision.html").select_one("header.summary")
    assert summary is not None
    assert summary.select_one("h1").get_text() == "Provision <the> index"  # type: ignore[union-attr]  # it exists
    text = summary.get_text(" ", strip=True)
    assert "succeeded in 3.2 s" in text
    rows = [row.get_text("|", strip=True) for row in summary.select("tbody tr")]
    assert rows == ["Plan|succeeded|0.4 s", "Apply|succeeded|1 min 1 s", 'target|"local"', 'who|"<x>"']
    assert [link["href"] for link in summary.select("td a")] == ["#cell-1", "#cell-3"]
    assert summary.select_one(".failure") is None


def test_the_report_of_a_failure_says_what_why_and_what_to_do_and_links_to_the_cell(record: Record) -> None:
    failure = page(record, "02_onboard.html").select_one(".failure")
    assert failure is not None
    text = failure.get_text(" ", strip=True)
    assert text == "Step Apply What it <failed> Why the port is taken What to do free it"
    assert failure.select_one("a")["href"] == "#cell-4"  # type: ignore[index]  # it exists
    whole = page(record, "02_onboard.html")
    # The guard leaves at most three lines: nothing to fold.
    assert whole.select_one("#cell-4 .error").get_text().strip() == "TargetError: it"  # type: ignore[union-attr]
    assert whole.select_one("#cell-4 details") is None
    assert whole.select_one("#cell-5")["class"] == ["not-run"]  # type: ignore[index]  # it exists


def test_the_index_of_a_run_links_to_the_existing_reports(record: Record) -> None:
    index = page(record, "index.html")
    rows = [row.get_text("|", strip=True) for row in index.select("table")[0].select("tbody tr")]
    assert rows == [
        "01_provision|Provision <the> index|succeeded|\N{EN DASH}|2 of 2|3.2 s",
        "02_onboard|Onboard a user|failed|\N{EN DASH}|1 of 2|3.2 s",
        "03_smoke_test|Smoke test|skipped|\N{EN DASH}|0 of 1|\N{EN DASH}",
    ]
    links = [link["href"] for link in index.select("a")]
    assert links == ["02_onboard.html#cell-4", "01_provision.html", "02_onboard.html"]
    assert record.report == record.folder / "index.html"


def test_links_between_notebooks_lead_to_reports_if_they_exist(record: Record) -> None:
    whole = page(record, "01_provision.html")
    prose = whole.select_one("#cell-0")
    assert prose is not None
    assert [link["href"] for link in prose.select("a")] == ["02_onboard.html"]
    assert "next and last." in prose.get_text()
    assert not (record.folder / "99_gone.html").exists()
    assert [link["href"] for link in whole.select("nav a")] == ["index.html", "02_onboard.html"]


def test_a_page_without_hostile_output_has_nothing_that_is_loaded_or_run(record: Record) -> None:
    text = (record.folder / "01_provision.html").read_text()
    assert external_assets(text) == ()
    assert external_assets((record.folder / "index.html").read_text()) == ()
    for name in ("01_provision.html", "02_onboard.html", "index.html"):
        policy = page(record, name).select_one('meta[http-equiv="Content-Security-Policy"]')
        assert policy is not None
        assert policy["content"].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")  # type: ignore[union-attr]  # a string


@pytest.mark.parametrize(
    "text",
    [
        '<script src="x.js">', "<script>1</script>", '<link rel="stylesheet" href="https://x/y.css">',
        '<iframe src="x">', "<style>@import 'x'", '<img src="https://x/y.png">', "<img alt='' src=//x/y.png>",
        '<image href="https://x/y.png">',
        "a { background: url(https://x) }",
    ],
)  # fmt: skip
def test_an_external_asset_is_found(text: str) -> None:
    assert external_assets(text)


@pytest.mark.parametrize(
    "text", ['<a href="https://x/">', '<img src="data:image/png;base64,AA">', "a { fill: url(#b) }", "the script"]
)
def test_a_link_or_an_inlined_image_is_not_an_external_asset(text: str) -> None:
    assert external_assets(text) == ()


def test_images_have_alternative_text_and_terminal_colours_become_classes(record: Record) -> None:
    whole = page(record, "01_provision.html")
    picture = whole.select_one("img[src^=data]")
    assert picture is not None
    assert picture["alt"] == "upload 0.4 s"
    assert whole.select_one(".ansi-red-fg").get_text() == "red"  # type: ignore[union-attr]  # it exists
    assert "\x1b" not in str(whole)


def test_a_page_is_masked_again_when_written(record: Record) -> None:
    write_reports(record, Redactor(["the port is taken", "<the> index"]))
    for name in ("01_provision.html", "02_onboard.html", "index.html"):
        text = (record.folder / name).read_text()
        assert "the port is taken" not in text
        assert "&lt;the&gt; index" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (59.7, "1 min 0 s"), (3723, "62 min 3 s")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _chromium(page: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}", *arguments, page.as_uri(),
        ],
        env={**os.environ, "HOME": str(folder)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_fits_its_window_and_loads_nothing(
    record: Record, tmp_path_factory: pytest.TempPathFactory, width: int
) -> None:
    folder = tmp_path_factory.mktemp("chromium")
    source = record.folder / "01_provision.html"
    # The policy of a page forbids scripts, so this measures a copy without it.
    copy = folder / "copy.html"
    measure = "<script>document.title = `${document.documentElement.scrollWidth} ${innerWidth}`</script>"
    free, replaced = re.subn("<meta [^>]*Content-Security-Policy[^>]*>", "", source.read_text())
    assert replaced == 1
    copy.write_text(free.replace("</body>", measure + "</body>"))
    title = _chromium(copy, folder, "--dump-dom", f"--window-size={width},900")
    title = title[title.index("<title>") + 7 : title.index("</title>")]
    content, window = map(int, title.split())
    assert content <= window
    picture = folder / "picture.png"
    _chromium(source, folder, f"--screenshot={picture}", f"--window-size={width},900")
    assert len(zlib.compress(picture.read_bytes())) > 10_000, "the page is blank"
