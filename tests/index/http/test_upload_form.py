"""Forms are parsed as they arrive, however they are split into pieces."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_toolbelt import MultipartEncoder  # type: ignore[import-untyped] # it has none
from urllib3.filepost import encode_multipart_formdata

from ops.index.errors import BadRequest, PackageIndexError, TooLarge
from ops.index.http.upload_form import FormParser, boundary_of

CRLF = b"\r\n"


class Files:
    """Receives the files of a form."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str | None, io.BytesIO]] = []

    def sink_for(self, part: Any) -> io.BytesIO:
        sink = io.BytesIO()
        self.found.append((part.name, part.filename, sink))
        return sink


def parsed(body: bytes, boundary: bytes, *, sizes: int = 10_000, limit: int = 10_000_000) -> tuple[FormParser, Files]:
    files = Files()
    parser = FormParser(boundary, files.sink_for, max_form_bytes=limit)
    for start in range(0, len(body), sizes):
        parser.feed(body[start : start + sizes])
    parser.finish()
    return parser, files


def form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + CRLF + part + CRLF for part in parts) + b"--" + boundary + b"--" + CRLF


def field(name: str, value: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"'.encode() + CRLF + CRLF + value


@settings(max_examples=200, deadline=None)
@given(
    fields=st.lists(st.tuples(st.sampled_from(["name", "version", "é", "x"]), st.text(max_size=30)), max_size=5),
    content=st.binary(max_size=200) | st.sampled_from([b"", CRLF, b"\r\n--", b"\r\n--boundary-ish", b"--\r\n" * 5]),
    size=st.integers(1, 40),
)
def test_a_form_is_parsed_in_any_pieces(fields: list[tuple[str, str]], content: bytes, size: int) -> None:
    body, content_type = encode_multipart_formdata([*fields, ("content", ("a.whl", content))])
    boundary = boundary_of(content_type)
    assert boundary is not None
    parser, files = parsed(body, boundary, sizes=size)
    assert [(name, value.encode("utf-8", "replace")) for name, value in parser.fields] == [
        (name, value.encode("utf-8", "replace")) for name, value in fields
    ]
    ((name, filename, sink),) = files.found
    assert (name, filename, sink.getvalue()) == ("content", "a.whl", content)


def test_twine_s_form_is_parsed() -> None:
    encoder = MultipartEncoder([("name", "foo"), ("classifiers", "A"), ("content", ("f.whl", b"\r\nx\r\n", "a/b"))])
    boundary = boundary_of(encoder.content_type)
    assert boundary is not None
    parser, files = parsed(encoder.to_string(), boundary)
    assert parser.fields == [("name", "foo"), ("classifiers", "A")]
    assert files.found[0][2].getvalue() == b"\r\nx\r\n"


def test_preamble_and_epilogue_are_ignored() -> None:
    body = b"preamble" + CRLF + b"--b" + CRLF + field("a", b"1") + CRLF + b"--b--" + CRLF + b"epilogue" * 1000
    for size in (1, 3, 10_000):
        parser, _ = parsed(body, b"b", sizes=size)
        assert parser.fields == [("a", "1")]


def test_headers_are_read_in_any_case_with_quotes_and_escapes() -> None:
    part = b'X: y\r\nCONTENT-disposition: Form-Data; Name=a; filename="a\\"b;c.whl"' + CRLF + CRLF + b"x"
    _, files = parsed(form(part), b"b")
    assert files.found[0][:2] == ("a", 'a"b;c.whl')


def test_an_unwanted_file_is_dropped() -> None:
    parser = FormParser(b"b", lambda part: None, max_form_bytes=10)
    parser.feed(form(b'Content-Disposition: form-data; name="x"; filename="y"\r\n\r\n' + b"z" * 1000, field("a", b"1")))
    parser.finish()
    assert parser.fields == [("a", "1")]


def test_at_most_one_piece_is_in_memory() -> None:
    class Longest:
        seen = 0
        total = 0

        def write(self, piece: bytes) -> None:
            self.seen = max(self.seen, len(piece))
            self.total += len(piece)

    longest = Longest()
    parser = FormParser(b"b", lambda part: longest, max_form_bytes=10)
    parser.feed(b'--b\r\nContent-Disposition: form-data; name="content"; filename="y"\r\n\r\n')
    for _ in range(1000):
        parser.feed(b"\r\n--" * 250)
    parser.feed(b"\r\n--b--")
    parser.finish()
    assert longest.seen < 2000
    assert longest.total == 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"--b",
        form(field("a", b"1"))[:-6],
        form(b"No: name" + CRLF + CRLF),
        form(CRLF + b"no header"),
        form(b'Content-Disposition: attachment; name="a"' + CRLF + CRLF),
        form(b"Content-Disposition: form-data" + CRLF + CRLF),
        b"--bother" + CRLF + field("a", b"1") + CRLF + b"--b--",
        b"--b" + CRLF + b"x" * 20_000,
        b"--b" + CRLF + b"x" * 20_000 + CRLF + CRLF + b"--b--",
    ],
)
def test_an_invalid_form_is_refused(body: bytes) -> None:
    for size in (1, 10_000):
        with pytest.raises(BadRequest):
            parsed(body, b"b", sizes=size)


def test_the_total_size_of_fields_and_the_number_of_parts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge):
        parsed(form(field("a", b"x" * 60), field("b", b"x" * 60)), b"b", limit=100)
    monkeypatch.setattr("ops.index.http.upload_form.MAX_PARTS", 3)
    with pytest.raises(BadRequest, match="too many"):
        parsed(form(*[field("a", b"")] * 4), b"b")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("application/json", None),
        ("", None),
        ("application/x-www-form-urlencoded; boundary=abc", None),
    ],
)
def test_the_boundary_is_found(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/mixed; boundary=b",
        "multipart/x",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 300,
    ],
)
def test_an_unusable_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest):
        boundary_of(content_type)


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(
            [b"--b", CRLF, b"--", field("a", b"1"), b'Content-Disposition: form-data; name="f"; filename="x"']
        )
        | st.binary(max_size=10),
        max_size=12,
    )
)
def test_no_body_raises_an_unexpected_error(pieces: list[bytes]) -> None:
    parser = FormParser(b"b", Files().sink_for, max_form_bytes=100)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.finish()
    except PackageIndexError as error:
        refused = error.status
        assert refused in (400, 413)
