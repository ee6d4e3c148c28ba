"""What is shown of a version's core metadata: in any letters, of any age, and never as more than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.web.readme import about, render_readme

WORDS = "Über — naïve 日本"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/markdown", f"<strong>{WORDS}</strong>"),
        ("text/x-rst", f"<strong>{WORDS}</strong>"),
        ("text/plain", f"**{WORDS}**<br>"),
    ],
)
@pytest.mark.parametrize("fold", [None, "       |", "        "], ids=["body", "header", "distutils"])
def test_words_of_any_language_are_shown_wherever_they_stand(
    content_type: str, expected: str, fold: str | None
) -> None:
    readme = f"**{WORDS}**\n\nMore of it.\n"
    header = f"Metadata-Version: 2.1\nSummary: {WORDS}\nDescription-Content-Type: {content_type}\n"
    if fold is None:
        metadata = f"{header}\n{readme}"
    else:
        metadata = f"{header}Description: {readme.rstrip().replace(chr(10), chr(10) + fold)}\nLicense: MIT\n\n"
    found = about(metadata.encode())
    assert found.summary == WORDS
    assert expected in str(found.readme)
    assert "More of it." in str(found.readme)
    assert "blockquote" not in str(found.readme)
    assert "License" not in str(found.readme)


def test_what_was_written_in_latin_1_is_read_as_that_and_the_rest_as_utf_8() -> None:
    metadata = b"Summary: Z\xfcrich\nDescription-Content-Type: text/plain\n\ncaf\xe9 " + "— 日本\n".encode()
    found = about(metadata)
    assert found.summary == "Zürich"
    assert str(found.readme) == "café — 日本"


@pytest.mark.parametrize(
    ("content_type", "text", "expected"),
    [
        ("text/markdown", "# Title", "<h1"),
        ("text/markdown; variant=CommonMark", "*word*", "<em>word</em>"),
        ("text/x-rst", "Title\n=====\n\n*word*", "<em>word</em>"),
        ("", "*word*", "<em>word</em>"),
        ("text/plain", "<b>*word*", "&lt;b&gt;*word*"),
        ("text/x-rst", "broken `text <\n=", "broken"),
        ("text/html", "<b>word", "&lt;b&gt;word"),
    ],
)
def test_a_readme_is_rendered_by_its_type(content_type: str, text: str, expected: str) -> None:
    assert expected in render_readme(text, content_type)


@given(st.binary(max_size=300))
def test_no_metadata_makes_the_page_fail(metadata: bytes) -> None:
    for head in (b"", b"Metadata-Version: 2.1\nDescription-Content-Type: text/markdown\nSummary: "):
        found = about(head + metadata)
        assert "\n" not in found.summary
        assert "<script" not in str(found.readme).lower()
