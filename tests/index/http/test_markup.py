"""READMEs are rendered by their type, and include nothing from this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.index.http.markup import preload, render_readme


@pytest.mark.parametrize(
    ("content_type", "text", "expected"),
    [
        ("text/markdown", "# Title", "<h1"),
        ("text/markdown", "**日本**", "<strong>日本</strong>"),
        ("Text/Markdown; variant=CommonMark", "*word*", "<em>word</em>"),
        ("text/markdown; variant=CommonMark", "~~word~~", "~~word~~"),
        ("text/x-rst", "Title\n=====\n\n*word*", "<em>word</em>"),
        ("", "**日本**", "<strong>日本</strong>"),
    ],
)
def test_a_readme_is_rendered_by_its_type(content_type: str, text: str, expected: str) -> None:
    assert expected in render_readme(f"{content_type}\n{text}".encode()).decode()


def test_invalid_restructuredtext_is_not_rendered() -> None:
    assert render_readme(b"text/x-rst\nbroken `text <\n=") == b""


@pytest.mark.parametrize(
    "directive",
    [
        ".. include:: {path}",
        ".. literalinclude:: {path}",
        ".. raw:: html\n   :file: {path}",
        ".. raw:: html\n   :url: file://{path}",
        ".. raw:: html\n\n   <b>a secret of this machine</b>",
        ".. csv-table::\n   :file: {path}",
        ".. code-block:: text\n   :include: {path}",
        ".. math::\n   :file: {path}",
    ],
)
def test_neither_files_nor_raw_html_are_included(tmp_path: Path, directive: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of this machine")
    html = render_readme(f"text/x-rst\nTitle\n=====\n\n{directive.format(path=secret)}\n".encode())
    assert b"secret of this machine" not in html
    assert b"<b>" not in html


def test_settings_of_this_machine_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".docutils").write_text("[general]\nraw_enabled: yes\ndoctitle_xform: yes\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCUTILSCONFIG", str(tmp_path / ".docutils"))
    preload()
    assert b"<h1" in render_readme(b"text/x-rst\nTitle\n=====\n\nword")
    assert b"bold" not in render_readme(b"text/x-rst\nword\n\n.. raw:: html\n\n   <b>bold</b>")
