"""Tables and charts say the same as plain text and as HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from ops.table import Table, Text, Timings

TABLE = Table.of(
    "Fruit <today>", ("what", "how many"), [("apple & <b>pear", 2), ("a much longer name", 13)], note="Eat up."
)


class Outline(HTMLParser):
    """The text of each element that matters, and every tag in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.labels: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append(tag + "".join(f"[{name}={value}]" for name, value in attrs if name in {"scope", "role"}))
        self.labels += [value or "" for name, value in attrs if name == "aria-label"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "the elements are not nested"

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1], []).append(data)


def test_a_date_is_not_broken_at_its_hyphens() -> None:
    cells = ("set 2026-11-26 17:12:43 UTC", "12026-11-26")
    page = Table.of("Times", ("when", "no date"), [cells])._repr_html_()
    assert '>set <span style="white-space:nowrap">2026-11-26</span> 17:12:43 UTC<' in page
    assert ">12026-11-26<" in page


def test_a_table_reads_as_aligned_plain_text() -> None:
    assert repr(TABLE).splitlines() == [
        "Fruit <today>",
        "",
        "what                how many",
        "──────────────────  ────────",
        "apple & <b>pear     2",
        "a much longer name  13",
        "",
        "Eat up.",
    ]


def test_a_table_in_html_has_a_caption_and_headers_and_escapes_what_it_shows() -> None:
    outline = Outline(TABLE._repr_html_())
    assert outline.texts["caption"] == ["Fruit <today>"]
    assert outline.tags.count("th[scope=col]") == 2
    assert outline.tags.count("th[scope=row]") == 2
    assert outline.texts["th"] == ["what", "how many", "apple & <b>pear", "a much longer name"]
    assert outline.texts["td"] == ["2", "13"]
    assert outline.texts["p"] == ["Eat up."]


def test_a_row_with_a_wrong_number_of_cells_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Table.of("Fruit", ("what", "how many"), [("apple",)])


def test_a_table_without_rows_still_shows_its_headers() -> None:
    assert repr(Table.of("Fruit", ("what",), [])).splitlines() == ["Fruit", "", "what", "────"]


def test_the_bars_of_a_chart_are_proportional_to_the_times() -> None:
    chart = Timings("Times", (("quick", 0.5), ("slow", 2.0), ("none", 0.0)))
    bars = {line.split()[0]: line.count("█") for line in repr(chart).splitlines()[2:]}
    assert bars == {"quick": 10, "slow": 40, "none": 1, "in": 0}
    assert re.search(r"in all +2\.50 s", repr(chart))


def test_the_bars_of_a_chart_are_visible_without_styles() -> None:
    page = Timings("Times", (("quick", 1.0), ("slow", 4.0)))._repr_html_()
    stripped = re.sub(r' (style|class)="[^"]*"', "", page)
    assert [len(found) for found in re.findall("█+", stripped)] == [6, 24]


def test_a_chart_in_html_describes_its_bars_in_words() -> None:
    outline = Outline(Timings("Times", (("quick", 0.5), ("slow", 2.0)))._repr_html_())
    assert outline.texts["td"] == ["0.50 s", "2.00 s", "2.50 s"]
    assert outline.labels == ["25% of the longest", "100% of the longest"]


def test_an_empty_chart_shows_a_total_of_zero() -> None:
    assert repr(Timings("Times", ())).splitlines() == ["Times", "", "in all  0.00 s"]


def test_a_text_is_displayed_unchanged() -> None:
    assert repr(Text("one\ntwo")) == "one\ntwo"
