"""Masking: every form of a secret, everywhere in a notebook, and nothing else."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import textwrap
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ops.redaction import MASK, Redactor

SECRETS = [
    "correct-horse-battery",
    "p@ss/word+with=signs&more",
    "quo\"tes'and\\back\\slashes",
    "päßwörd-ünïcode-☃",
    "with spaces and %25 percent",
    "<b>angle & amp</b>",
    'ümlaut-and-"quote"',
    "line one of a key\nline two of a key",
]

FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda s: s,
    "in a sentence": lambda s: f"the password is {s}, really",
    "repr": repr,
    "ascii": ascii,
    "repr of bytes": lambda s: repr(s.encode()),
    "repr of a dict": lambda s: repr({"password": s}),
    "repr of a repr": lambda s: repr(repr(s)),
    "JSON": json.dumps,
    "JSON, not escaped": lambda s: json.dumps({"a": [s]}, ensure_ascii=False),
    "JSON in JSON": lambda s: json.dumps(json.dumps(s)),
    "JSON of a repr": lambda s: json.dumps(repr({"a": s})),
    "a path in a URL": urllib.parse.quote,
    "all of a URL": lambda s: urllib.parse.quote(s, safe=""),
    "a form": lambda s: urllib.parse.urlencode({"password": s}),
    "lowercase percents": lambda s: re.sub("%..", lambda match: match[0].lower(), urllib.parse.quote(s, safe="")),
    "userinfo": lambda s: f"https://alice:{urllib.parse.quote(s, safe='')}@index.example/simple/",
    "all percents": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()),
    "HTML": html.escape,
    "HTML, text only": lambda s: html.escape(s, quote=False),
    "markupsafe": lambda s: html.escape(s).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
    "a shell": shlex.quote,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "urlsafe base64": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "Basic a": lambda s: "Basic " + base64.b64encode(f"a:{s}".encode()).decode(),
    "Basic ab": lambda s: "Basic " + base64.b64encode(f"ab:{s}".encode()).decode(),
    "Basic abc": lambda s: "Basic " + base64.b64encode(f"abc:{s}".encode()).decode(),
    "base64 with more behind": lambda s: base64.b64encode(f"x{s}yz".encode()).decode(),
    "wrapped base64": lambda s: "\n".join(textwrap.wrap(base64.b64encode(f"ab:{s}".encode() * 3).decode(), 20)),
    "coloured": lambda s: s[:4] + "\x1b[0;32m" + s[4:9] + "\x1b[0m" + s[9:],
    "wrapped": lambda s: s[:9] + "\n    " + s[9:],
}  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_every_form_that_programs_show(secret: str, form: str) -> None:
    shown = FORMS[form](secret)
    masked = Redactor([secret]).text(f"before {shown} after")
    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    # No eight consecutive characters are left.
    rest = masked.replace("before ", "").replace(" after", "")
    for start in range(len(shown) - 7):
        piece = shown[start : start + 8]
        if piece.strip() and piece in FORMS["base64"](secret):
            assert piece not in rest
    for start in range(len(secret) - 7):
        assert secret[start : start + 8] not in rest


@settings(max_examples=200, deadline=None)
@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=40).filter(
        lambda s: len(s.strip()) >= 8 and MASK not in s
    ),
    before=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    form=st.sampled_from(
        ["repr", "repr of bytes", "JSON", "all of a URL", "HTML", "hex", "Basic a", "Basic ab", "Basic abc"]
    ),
)
def test_any_text_at_all_is_masked(secret: str, before: str, form: str) -> None:
    shown = before + FORMS[form](secret)
    assert Redactor([secret]).finds(shown)
    assert not Redactor([secret]).finds(Redactor([secret]).text(shown))


def test_other_text_is_unchanged() -> None:
    redactor = Redactor(["correct-horse-battery"])
    for text in ("correct-horse", "Basic YWxpY2U6d3Jvbmc=", "https://alice@index.example/", "", "a\n" * 50):
        assert redactor.text(text) == text


def test_the_longer_of_two_secrets_is_masked_completely() -> None:
    assert Redactor(["hunter", "hunter-and-more"]).text("x hunter-and-more y") == f"x {MASK} y"


def test_a_secret_of_fewer_than_six_characters_is_not_masked() -> None:
    assert Redactor(["abcde"]).text("abcde") == "abcde"
    assert Redactor(["abcdef"]).text("abcdef") == MASK


def test_a_secret_with_a_line_end_is_also_masked_without_it() -> None:
    assert Redactor(["from-a-file\n"]).text("is from-a-file.") == f"is {MASK}."


def test_a_source_is_read_again_before_each_masking() -> None:
    known: list[str] = []
    redactor = Redactor(sources=[lambda: known])
    assert redactor.text("late-secret") == "late-secret"
    known.append("late-secret")
    assert redactor.text("late-secret") == MASK


def _notebook(*outputs: Any, source: str = "pass") -> Any:
    return new_notebook(cells=[new_code_cell(source, outputs=list(outputs))])


def test_a_secret_is_masked_everywhere_in_a_notebook() -> None:
    secret = "correct-horse-battery"
    node = _notebook(
        new_output("stream", name="stdout", text=f"a {secret}"),
        new_output("error", ename="E", evalue=f"https://u:{secret}@h", traceback=[f"line {secret}", "other"]),
        new_output("display_data", data={"text/html": f"<b>{secret}</b>", "application/json": {secret: [secret]}}),
        source=f"x = '{secret}'",
    )
    node.cells.append(new_markdown_cell(f"{secret}", attachments={"a.txt": {"text/plain": secret}}))
    node.metadata["papermill"] = {"parameters": {"url": f"https://u:{secret}@h"}}
    node.cells[0].metadata["note"] = secret
    masked = Redactor([secret]).notebook(node)
    assert secret not in json.dumps(masked)
    assert secret in json.dumps(node), "the running notebook was changed"
    assert masked.cells[0].outputs[0].text == f"a {MASK}"
    assert masked.metadata.papermill.parameters.url == f"https://u:{MASK}@h"


def test_a_secret_flushed_in_pieces_is_masked() -> None:
    secret = "correct-horse-battery"
    node = _notebook(*(new_output("stream", name="stdout", text=letter) for letter in f"is {secret}!"))
    assert Redactor([secret]).notebook(node).cells[0].outputs == [
        {"output_type": "stream", "name": "stdout", "text": f"is {MASK}!"}
    ]


def test_a_secret_split_around_another_stream_is_masked() -> None:
    node = _notebook(
        new_output("stream", name="stdout", text="not hunter-hunter but correct-horse"),
        new_output("stream", name="stderr", text="warning"),
        new_output("stream", name="stdout", text="-battery!"),
    )
    masked = Redactor(["correct-horse-battery", "hunter-hunter"]).notebook(node)
    assert [output.text for output in masked.cells[0].outputs] == [f"not {MASK} but {MASK}", "warning", f"{MASK}!"]


def test_streams_without_a_secret_keep_their_order() -> None:
    texts = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    node = _notebook(*(new_output("stream", name=name, text=text) for name, text in texts))
    masked = Redactor(["correct-horse-battery"]).notebook(node)
    joined = [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]
    assert [(output.name, output.text) for output in masked.cells[0].outputs] == joined


def test_an_image_with_a_secret_is_removed_and_any_other_stays() -> None:
    clean = base64.b64encode(b"\x89PNG clean").decode()
    spoiled = base64.b64encode(b"\x89PNG tEXt correct-horse-battery").decode()
    node = _notebook(
        new_output("display_data", data={"image/png": clean}), new_output("display_data", data={"image/png": spoiled})
    )
    first, second = Redactor(["correct-horse-battery"]).notebook(node).cells[0].outputs
    assert first.data == {"image/png": clean}
    assert "image/png" not in second.data
    assert "image/png contained a secret" in second.data["text/plain"]


@pytest.mark.parametrize("word", ["stream", "stdout", "completed", "python", "python3", "display_data", "markdown"])
def test_a_secret_that_is_a_word_of_the_format_does_not_break_the_notebook(word: str) -> None:
    node = _notebook(new_output("stream", name="stdout", text=f"the password is {word}"))
    masked = Redactor([word]).notebook(node)
    assert masked.cells[0].outputs[0] == {"output_type": "stream", "name": "stdout", "text": f"the password is {MASK}"}
    assert masked.cells[0].cell_type == "code"
