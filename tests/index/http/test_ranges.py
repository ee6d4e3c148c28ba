"""Parsing of Range and If-Range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.ranges import ByteRange, UnsatisfiableRangeError, range_applies, range_of


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=10-", (10, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=90-1000", (90, 100)),
        ("Bytes = 1-2", (1, 3)),
        ("bytes=,0-1, ,", (0, 2)),
    ],
)
def test_a_header_names_a_range(header: str, found: tuple[int, int]) -> None:
    assert range_of(header, 100) == ByteRange(*found)


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
        "bytes=0-1, 50-51",
    ],
)
def test_anything_but_one_range_of_bytes_is_ignored(header: str | None) -> None:
    assert range_of(header, 100) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_ranges_outside_of_the_file_cannot_be_satisfied(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        range_of(header, size)


@given(st.text(max_size=100))
def test_no_header_makes_the_parser_fail(header: str) -> None:
    for text in (header, "bytes=" + header):
        try:
            found = range_of(text, 100)
        except UnsatisfiableRangeError:
            continue
        assert found is None or 0 <= found.start < found.stop <= 100


def test_a_part_fits_only_to_the_same_file() -> None:
    def applies(if_range: str | None) -> bool:
        return range_applies(if_range, etag='"abc"', last_modified="Fri, 02 Jan 2026 03:04:05 GMT")

    assert applies(None)
    assert applies('"abc"')
    assert applies("Fri, 02 Jan 2026 03:04:05 GMT")
    assert not applies('"other"')
    assert not applies('W/"abc"')
    assert not applies("Fri, 02 Jan 2026 03:04:06 GMT")
