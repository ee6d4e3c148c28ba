"""Each row of the table of forms in SECURITY is true, in a text, in a notebook and in the scan of a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from ops.redaction import Redactor
from ops.runbook.workspace_secrets import scan
from tests.runbook.forms import BEGIN, END, GENERATED, ROWS, SECURITY, WORDS, Row, table

CASES = [
    pytest.param(row, secret, id=f"{row.form}-{'generated' if secret == GENERATED else 'words'}")
    for row in ROWS
    for secret in row.secrets
]


def longest_rest(masked: str, secret: str) -> int:
    """Length of the longest unmasked part of the secret."""
    sizes = range(len(secret) + 1)
    return max(size for size in sizes for at in range(len(secret) - size + 1) if secret[at : at + size] in masked)


@pytest.mark.parametrize(("row", "secret"), CASES)
def test_a_form_is_masked_or_not_as_stated_in_security(row: Row, secret: str, tmp_path: Path) -> None:
    shown = f"before\n{row.show(secret)}\nafter"
    redactor = Redactor([secret])
    masked = redactor.text(shown)
    assert masked.startswith("before")
    assert masked.endswith("after")
    assert redactor.finds(shown) == row.masked
    assert not redactor.finds(masked)
    if row.masked:
        assert longest_rest(masked, secret) < 6, masked
    node = new_notebook(cells=[new_code_cell("pass", outputs=[new_output("stream", name="stdout", text=shown)])])
    assert redactor.notebook(node).cells[0].outputs[0].text == masked
    (tmp_path / "a.ipynb").write_text(json.dumps(node))
    (tmp_path / "a.html").write_text(shown)
    (tmp_path / "a.json").write_text(json.dumps({"lines": shown.splitlines(keepends=True)}))
    assert [path.name for path in scan(tmp_path, redactor)] == ["a.html", "a.ipynb", "a.json"] * row.masked
    assert scan(tmp_path, redactor) == ()


@pytest.mark.parametrize("secret", [GENERATED, WORDS])
@pytest.mark.parametrize("names", [("stdout", "stderr"), ("stderr", "stdout")])
@pytest.mark.parametrize("size", [1, 9, 15])
def test_the_halves_of_a_secret_in_two_streams_and_an_image_are_masked(
    secret: str, names: tuple[str, str], size: int, tmp_path: Path
) -> None:
    first, second = secret[:size], secret[size:]
    outputs = [
        new_output("stream", name=names[0], text=f"a {first}"),
        new_output("display_data", data={"text/plain": "a picture"}),
        new_output("stream", name=names[1], text=f"{second} z"),
    ]
    node = new_notebook(cells=[new_code_cell("pass", outputs=outputs)])
    redactor = Redactor([secret])
    texts = [output.get("text", "") for output in redactor.notebook(node).cells[0].outputs]
    assert [text.replace("*" * 8, "") for text in texts] == ["a ", "", " z"]
    (tmp_path / "a.ipynb").write_text(json.dumps(node))
    assert len(scan(tmp_path, redactor)) == 1


def test_a_word_that_begins_like_a_password_is_not_masked() -> None:
    redactor = Redactor(["pypi-runbook-production", "correct-horse-battery-staple"])
    for text in ("pypi-runbook-prod", "correct-horse-battery", "…battery-staple", "correct…staple"):
        assert not redactor.finds(text)


def test_security_has_the_table_tested_here() -> None:
    text = SECURITY.read_text()
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == table(), "run: python -m tests.runbook.forms"
