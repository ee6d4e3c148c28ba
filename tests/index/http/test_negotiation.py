"""Negotiation of a page's form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.negotiation import HTML, HTML_V1, JSON_V1, accepts_gzip, simple_form

PIP = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
UV = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, HTML),
        ("", HTML),
        ("*/*", HTML),
        (PIP, JSON_V1),
        (UV, JSON_V1),
        (FIREFOX, HTML),
        ("application/vnd.pypi.simple.latest+json", JSON_V1),
        ("application/vnd.pypi.simple.latest+html", HTML_V1),
        ("APPLICATION/VND.PyPI.Simple.v1+JSON", JSON_V1),
        ("text/html;level=1;q=0.4, application/vnd.pypi.simple.v1+html;q=0.5", HTML_V1),
        ("text/*", HTML),
        ("application/*", JSON_V1),
        ("*/*;q=0.1, text/html;q=0", JSON_V1),
        ("application/vnd.pypi.simple.v1+json;q=0, */*", HTML),
        ("application/json", None),
        ("text/html;q=0", None),
        ("text/html;q=nonsense", None),
        ("image/png", None),
    ],
)
def test_the_form_with_the_greatest_weight_is_chosen(accept: str | None, form: str | None) -> None:
    assert simple_form(accept) == form


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("gzip, deflate", True),
        ("gzip, deflate, br, zstd", True),
        ("GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("identity", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
    ],
)
def test_gzip_is_sent_to_clients_that_accept_it(accept_encoding: str | None, expected: bool) -> None:
    assert accepts_gzip(accept_encoding) is expected


@given(st.text(max_size=300))
def test_no_header_raises_an_error(header: str) -> None:
    assert simple_form(header) in {None, HTML, HTML_V1, JSON_V1}
    assert accepts_gzip(header) in {True, False}


def test_a_long_header_takes_no_time() -> None:
    assert simple_form("a/b;q=0.1," * 100_000 + "text/html") is None
