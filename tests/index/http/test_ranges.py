"""Which parts of a file a Range header names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.ranges import MOST_RANGES, Part, UnsatisfiableRangeError, parts_of, range_applies


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=10-", [(10, 100)]),
        ("bytes=-10", [(90, 100)]),
        ("bytes=-1000", [(0, 100)]),
        ("bytes=90-1000", [(90, 100)]),
        ("Bytes = 1-2", [(1, 3)]),
        ("bytes=0-1, 50-51", [(0, 2), (50, 52)]),
        ("bytes=50-51,0-1", [(50, 52), (0, 2)]),
        ("bytes=,0-1, ,", [(0, 2)]),
        ("bytes=0-1,500-600", [(0, 2)]),
        ("bytes=0-50,40-60,60-70", [(0, 71)]),
    ],
)
def test_a_header_names_parts(header: str, parts: list[tuple[int, int]]) -> None:
    assert parts_of(header, 100) == tuple(Part(*part) for part in parts)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-4",
        "lines=1-2",
        "bytes=1-2,x",
        "bytes=+1-2",
    ],
)
def test_what_is_no_range_of_bytes_is_ignored(header: str | None) -> None:
    assert parts_of(header, 100) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_ranges_outside_of_the_file_cannot_be_satisfied(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        parts_of(header, size)


def test_more_ranges_than_anybody_needs_are_ignored() -> None:
    def header(count: int) -> str:
        return "bytes=" + ",".join(f"{2 * index}-{2 * index}" for index in range(count))

    assert len(parts_of(header(MOST_RANGES), 1000) or ()) == MOST_RANGES
    assert parts_of(header(MOST_RANGES + 1), 1000) is None


@given(
    ranges=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=MOST_RANGES),
    size=st.integers(0, 250),
)
def test_no_byte_is_sent_twice(ranges: list[tuple[int, int]], size: int) -> None:
    header = "bytes=" + ",".join(f"{start}-{start + length}" for start, length in ranges)
    wanted = {index for start, length in ranges for index in range(start, start + length + 1) if index < size}
    try:
        parts = parts_of(header, size)
    except UnsatisfiableRangeError:
        assert not wanted
        return
    sent = [index for part in parts or () for index in range(part.start, part.stop)]
    assert len(sent) == len(set(sent))
    assert set(sent) == wanted


@given(st.text(max_size=100))
def test_no_header_makes_the_parser_fail(header: str) -> None:
    for text in (header, "bytes=" + header):
        try:
            parts = parts_of(text, 100)
        except UnsatisfiableRangeError:
            continue
        assert parts is None or all(0 <= part.start < part.stop <= 100 for part in parts)


def test_a_part_fits_only_to_the_same_file() -> None:
    def applies(if_range: str | None) -> bool:
        return range_applies(if_range, etag='"abc"', last_modified="Fri, 02 Jan 2026 03:04:05 GMT")

    assert applies(None)
    assert applies('"abc"')
    assert applies("Fri, 02 Jan 2026 03:04:05 GMT")
    assert not applies('"other"')
    assert not applies('W/"abc"')
    assert not applies("Fri, 02 Jan 2026 03:04:06 GMT")
