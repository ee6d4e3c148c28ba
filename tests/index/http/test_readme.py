"""Core metadata of any version and encoding is read in limited time, whatever it contains."""

from __future__ import annotations

import email.parser
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.readme import parse_description

WORDS = "Über — naïve 日本"


@pytest.mark.parametrize("fold", [None, "       |", "        "], ids=["body", "header", "distutils"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_non_ascii_text_is_read_in_header_and_body(fold: str | None, line_end: str) -> None:
    readme = f"**{WORDS}**\n\nMore of it.\n"
    header = f"Metadata-Version: 2.1\nSummary: {WORDS}\nDescription-Content-Type: text/markdown; charset=UTF-8\n"
    if fold is None:
        metadata = f"{header}\n{readme}"
    else:
        metadata = f"{header}Description: {readme.rstrip().replace(chr(10), chr(10) + fold)}\nLicense: MIT\n\n"
    found = parse_description(metadata.replace("\n", line_end).encode())
    assert found.summary == WORDS
    assert found.text == readme.rstrip()
    assert found.kind == "text/markdown"


def test_latin_1_is_read_as_such_and_the_rest_as_utf_8() -> None:
    metadata = b"Summary: Z\xfcrich\nDescription-Content-Type: text/plain\n\ncaf\xe9 " + "— 日本\n".encode()
    found = parse_description(metadata)
    assert found.summary == "Zürich"
    assert found.text == "café — 日本"


@pytest.mark.parametrize("text", ["", "UNKNOWN", "\n \n"])
def test_a_readme_is_optional(text: str) -> None:
    assert parse_description(f"Summary: x\n\n{text}".encode()).plain


@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from(
            [
                *("Summary: a", "summary:b", "Summary : e", "Not-Summary: f", "Description: c", "        d", " folded"),
                *("\tfolded", "", "text", ":", "Content-Type: multipart/mixed; boundary=x", "--x"),
                "Description-Content-Type: text/plain",
            ]
        )
    ).map(lambda lines: "\n".join(lines).encode())
)
def test_the_result_agrees_with_the_standard_library_s_parser(metadata: bytes) -> None:
    found = parse_description(b"Metadata-Version: 2.1\n" + metadata)
    assert "\n" not in found.summary
    try:
        text = metadata.decode("ascii")
    except UnicodeDecodeError:
        return
    # That parser is for mailboxes, and accepts more kinds of line endings.
    if "From " in text or not text.replace("\n", "").isprintable():
        return
    message = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(f"Metadata-Version: 2.1\n{text}")
    assert found.summary == " ".join(message.get("Summary", "").split())
    assert found.content_type == " ".join(message.get("Description-Content-Type", "").split())
    if not message.get("Description"):
        payload = message.get_payload()
        assert isinstance(payload, str)
        assert found.text == ("" if payload.strip() == "UNKNOWN" else payload.strip())


@pytest.mark.parametrize(
    "metadata",
    [
        b"Summary: x\n" + b" y\n" * 2_000_000,
        b"a:\n" * 2_000_000 + b"\ntext",
        b"Description: x\n" + b" y\n" * 2_000_000,
        b"Summary: x\n" + b"!" * 8_000_000,
        b"\r" * 8_000_000,
        b"Summary:" * 1_000_000,
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(100_000)),
        b"Summary: x\n\n" + b"\xff" * 8_000_000,
    ],
    ids=["folded", "headers", "description", "no colon", "returns", "colons", "nested", "bytes"],
)
def test_megabytes_designed_to_be_slow_are_read(metadata: bytes) -> None:
    found = parse_description(metadata)
    assert len(found.summary) <= 512
    assert len(found.text) <= 512 * 1024


def test_a_readme_of_a_type_that_is_not_rendered_says_so() -> None:
    def note(content_type: str) -> str:
        return parse_description(f"Description-Content-Type: {content_type}\n\n<b>".encode()).unrendered().note

    assert "text/markdown" in note("text/html")
    assert note("text/plain; charset=UTF-8") == note("") == ""
    assert parse_description(b"Description-Content-Type: text/html\n\n").unrendered().note == ""


def test_the_beginning_of_a_long_unrendered_readme_is_shown() -> None:
    about = parse_description(b"Summary: x\n\n" + b"y" * 200_000).unrendered("Why.")
    assert about.text == "y" * 100_000
    assert about.note == "Why. Only the first 100,000 characters are shown."
    assert parse_description(b"Summary: x\n\nshort").unrendered().note == ""
