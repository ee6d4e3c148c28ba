"""Headers of a page, and requests that get 304."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.representation import (
    ByteRange,
    Representation,
    Response,
    UnsatisfiableRangeError,
    entity_tags,
    range_applies,
    range_of,
)

PAGE = Representation(b"spam " * 500, content_type="text/html; charset=utf-8")


def header(response: Response, name: bytes) -> str:
    (value,) = [value for field, value in response.headers if field == name]
    return value.decode()


def test_both_encodings_have_the_same_content_and_separate_tags() -> None:
    plain, packed = PAGE.plain(), PAGE.gzipped()
    assert gzip.decompress(packed.body) == plain.body == PAGE.body
    assert header(plain, b"etag") != header(packed, b"etag")
    assert header(packed, b"content-encoding") == "gzip"
    assert [int(header(response, b"content-length")) for response in (plain, packed)] == [
        len(plain.body),
        len(packed.body),
    ]


def test_a_page_is_private_and_varies_by_user_and_encoding() -> None:
    for response in (PAGE.plain(), PAGE.gzipped()):
        assert "private" in header(response, b"cache-control")
        assert header(response, b"vary") == "Authorization, Accept-Encoding"


def test_a_small_page_is_not_compressed() -> None:
    small = Representation(b"spam", content_type="text/plain")
    assert small.gzipped() is small.plain()


def test_a_client_with_either_encoding_gets_304() -> None:
    for response in (PAGE.plain(), PAGE.gzipped()):
        etag = header(response, b"etag")
        for named in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            unchanged = PAGE.not_modified(named)
            assert unchanged is not None
            assert unchanged.status == 304
            assert unchanged.body == b""
            assert header(unchanged, b"etag") == (etag if named != "*" else header(PAGE.plain(), b"etag"))


def test_a_client_with_another_version_gets_this_one() -> None:
    other = Representation(PAGE.body, content_type="text/plain")
    for named in (header(other.plain(), b"etag"), "", "nonsense", '"'):
        assert PAGE.not_modified(named) is None


@given(st.text(max_size=200))
def test_no_if_none_match_header_raises_an_error(if_none_match: str) -> None:
    assert entity_tags(if_none_match, ('"a"', '"b"')) in ([], ['"a"'], ['"b"'], ['"a"', '"b"'])


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
def test_ranges_outside_the_file_cannot_be_satisfied(header: str, size: int) -> None:
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


def test_a_range_is_only_valid_for_the_same_version() -> None:
    def applies(if_range: str | None) -> bool:
        return range_applies(if_range, etag='"abc"', last_modified="Fri, 02 Jan 2026 03:04:05 GMT")

    assert applies(None)
    assert applies('"abc"')
    assert applies("Fri, 02 Jan 2026 03:04:05 GMT")
    assert not applies('"other"')
    assert not applies('W/"abc"')
    assert not applies("Fri, 02 Jan 2026 03:04:06 GMT")
