"""Rendering of Markdown and reStructuredText as safe HTML. Runs in a sandbox: both renderers can be made to hang."""

from __future__ import annotations

import os

_EXAMPLES = (
    b"text/markdown\n# A *title*\n\n| a |\n|---|\n| b |\n\n```python\nimport this\n```\n",
    b"text/x-rst\nTitle\n=====\n\n*word* ``code``\n\n- item\n\n.. code-block:: python\n\n   import this\n",
)


def preload() -> None:
    """Import the renderers, including what they import lazily."""
    os.environ["DOCUTILSCONFIG"] = ""  # no settings from files of this machine
    for example in _EXAMPLES:
        render_readme(example)


def render_readme(payload: bytes) -> bytes:
    """Render a README as the public index does, sanitised; empty if it is invalid.

    reStructuredText can include neither files nor raw HTML.

    Parameters:
        payload: a line with the content type, then the text.
    """
    from readme_renderer import markdown, rst

    content_type, _, text = payload.decode().partition("\n")
    html: str | None
    if content_type.lower().startswith("text/markdown"):
        variant = "CommonMark" if "commonmark" in content_type.lower() else "GFM"
        html = markdown.render(text, variant=variant)
    else:
        html = rst.render(text)
    return (html or "").encode()
