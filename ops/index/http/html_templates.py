"""Jinja templates of the pages for people. jinja2 is imported with the first page."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.index.http import simple_pages
from ops.index.http.security_headers import source_hash

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"


def render_template(template: str, **context: Any) -> bytes:
    """A page.

    Parameters:
        template: its file's name.
        context: variables.
    """
    return environment().get_template(template).render(**context).encode("utf-8", "replace")


@cache
def environment() -> jinja2.Environment:
    """The environment of all templates. Takes tens of milliseconds the first time."""
    import jinja2
    from markupsafe import Markup

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
    )
    made.globals["asset"] = lambda name: Markup(_asset(name))  # noqa: S704 - our own, and in the policy by its hash
    made.filters["address"] = simple_pages.file_address
    made.filters["iso"] = simple_pages.format_upload_time
    made.filters["day"] = lambda moment: f"{moment:%Y-%m-%d}"
    made.filters["minute"] = lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC"
    made.filters["size"] = human_size
    made.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    made.filters["code"] = lambda text: [(piece, place % 2 == 1) for place, piece in enumerate(text.split("`"))]
    return made


@cache
def policy(style: str = "style.css", script: str | None = "script.js") -> bytes:
    """The Content-Security-Policy of a page (CSP level 3): nothing from elsewhere, no style or script but these.

    Parameters:
        style: file of the page's inline style.
        script: file of its inline script.
    """
    sources = [f"style-src {source_hash(_asset(style))}"]
    if script is not None:
        sources += [f"script-src {source_hash(_asset(script))}", "img-src 'self' data:", "form-action 'self'"]
    else:
        sources.append("form-action 'none'")
    return "; ".join(["default-src 'none'", *sources, "base-uri 'none'", "frame-ancestors 'none'"]).encode()


def human_size(size: int) -> str:
    """Bytes in readable binary units."""
    if size < 1024:
        return pluralize(size, "byte")
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1000 or unit == "TiB":
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    raise AssertionError(size)


def pluralize(number: int, noun: str) -> str:
    """A number with its noun, in the plural if needed."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8").strip()
