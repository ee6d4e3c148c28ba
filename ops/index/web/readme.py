"""What the core metadata of a version tells a person: its summary and its README, as HTML that is safe to show."""

from __future__ import annotations

import email.parser
import email.policy
import re
from dataclasses import dataclass
from typing import Any

_README_LIMIT = 512 * 1024
"""Characters of a README that are rendered; what follows is left out."""

_FOLD = re.compile(r"\n(?: {7}\|| {8})")
"""How a line of a description begins that stands in the header: by the specification, and as distutils wrote it."""

_LATIN_1 = {0xDC00 + byte: byte for byte in range(0x80, 0x100)}
"""Bytes that are no UTF-8, as Python escapes them, and what they are in Latin-1."""


@dataclass(frozen=True, slots=True)
class About:
    """What a person wants to know of a version.

    Parameters:
        summary: one line of plain text.
        readme: HTML that has been sanitised, as a string that templates do not escape; None when there is none.
    """

    summary: str = ""
    readme: Any = None


def about(metadata: bytes) -> About:
    """Read core metadata, and render its description as the public index does.

    Parameters:
        metadata: in UTF-8, as its specification says; a byte that is none, of a tool from before, is taken for Latin-1.
    """
    from markupsafe import Markup

    # Decoded before it is parsed: a parser of bytes takes all that is not ASCII for damage.
    source = metadata.decode("utf-8", "surrogateescape").translate(_LATIN_1)
    message = email.parser.Parser(policy=email.policy.compat32).parsestr(source)
    description = _FOLD.sub("\n", message.get("Description", "")) or message.get_payload()
    text = description[:_README_LIMIT].strip() if isinstance(description, str) else ""
    summary = " ".join(message.get("Summary", "").split())
    if text in {"", "UNKNOWN"}:
        return About(summary)
    html = render_readme(text, message.get("Description-Content-Type", ""))
    return About(summary, Markup(html))  # noqa: S704 - nh3 sanitised it


def render_readme(text: str, content_type: str) -> str:
    """HTML that is safe to show, from Markdown, reStructuredText or plain text.

    What cannot be rendered in its own format is shown as plain text.
    """
    from readme_renderer import markdown, rst, txt

    kind = content_type.partition(";")[0].strip().lower()
    html: str | None = None
    if kind == "text/markdown":
        variant = "CommonMark" if "commonmark" in content_type.lower() else "GFM"
        html = markdown.render(text, variant=variant)
    elif kind in {"text/x-rst", ""}:
        html = rst.render(text)
    return html if html is not None else txt.render(text) or ""
