"""Headers of a page, and requests that get 304."""

from __future__ import annotations

import gzip

from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.representation import Representation, Response, entity_tags

PAGE = Representation(b"spam " * 500, content_type="text/html; charset=utf-8")


def header(response: Response, name: bytes) -> str:
    (value,) = [value for field, value in response.headers if field == name]
    return value.decode()


def test_both_codings_have_the_same_content_and_tags_of_their_own() -> None:
    plain, packed = PAGE.plain(), PAGE.gzipped()
    assert gzip.decompress(packed.body) == plain.body == PAGE.body
    assert header(plain, b"etag") != header(packed, b"etag")
    assert header(packed, b"content-encoding") == "gzip"
    assert [int(header(response, b"content-length")) for response in (plain, packed)] == [
        len(plain.body),
        len(packed.body),
    ]


def test_a_page_is_private_and_depends_on_who_asks_and_how() -> None:
    for response in (PAGE.plain(), PAGE.gzipped()):
        assert "private" in header(response, b"cache-control")
        assert header(response, b"vary") == "Authorization, Accept-Encoding"


def test_a_small_page_is_not_packed() -> None:
    small = Representation(b"spam", content_type="text/plain")
    assert small.gzipped() is small.plain()


def test_who_has_either_coding_is_not_sent_it_again() -> None:
    for response in (PAGE.plain(), PAGE.gzipped()):
        etag = header(response, b"etag")
        for named in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            unchanged = PAGE.not_modified(named)
            assert unchanged is not None
            assert unchanged.status == 304
            assert unchanged.body == b""
            assert header(unchanged, b"etag") == (etag if named != "*" else header(PAGE.plain(), b"etag"))


def test_who_has_another_page_is_sent_this_one() -> None:
    other = Representation(PAGE.body, content_type="text/plain")
    for named in (header(other.plain(), b"etag"), "", "nonsense", '"'):
        assert PAGE.not_modified(named) is None


@given(st.text(max_size=200))
def test_no_header_makes_the_comparison_fail(if_none_match: str) -> None:
    assert entity_tags(if_none_match, ('"a"', '"b"')) in ([], ['"a"'], ['"b"'], ['"a"', '"b"'])
