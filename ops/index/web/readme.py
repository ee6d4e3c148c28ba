"""What the core metadata of a version tells a person: its summary and its README, as HTML that is safe to show."""

from __future__ import annotations

import email.parser
import email.policy
from dataclasses import dataclass
from typing import Any

_README_LIMIT = 512 * 1024
"""Characters of a README that are rendered; what follows is left out."""


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
    """Read core metadata, and render its description as the public index does."""
    from markupsafe import Markup

    message = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(metadata)
    description = message.get("Description") or message.get_payload()
    text = description if isinstance(description, str) else ""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:_README_LIMIT].strip()
    summary = " ".join(str(message.get("Summary") or "").split())
    if text in {"", "UNKNOWN"}:
        return About(summary)
    html = render_readme(text, str(message.get("Description-Content-Type") or ""))
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
