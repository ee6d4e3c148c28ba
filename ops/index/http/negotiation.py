"""Content negotiation by Accept and Accept-Encoding (RFC 9110, section 12)."""

from __future__ import annotations

import re
from collections.abc import Iterator

JSON_V1 = "application/vnd.pypi.simple.v1+json"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
HTML = "text/html"

_FORMS = {
    JSON_V1: JSON_V1,
    "application/vnd.pypi.simple.latest+json": JSON_V1,
    HTML_V1: HTML_V1,
    "application/vnd.pypi.simple.latest+html": HTML_V1,
    HTML: HTML,
}
"""Media types that a client may request, and the form that it gets; ``latest`` maps to a version (PEP 691)."""

_PREFERRED_WHEN_NAMED = (JSON_V1, HTML_V1, HTML)
_PREFERRED_WHEN_ANY = (HTML, JSON_V1, HTML_V1)
"""Order for a client that accepts ``*/*``, which may predate PEP 691: the HTML of PEP 503 first."""

_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_LONGEST = 4096
"""Characters of a header that are read, more than any client sends; the rest would only cost time."""


def simple_form(accept: str | None) -> str | None:
    """The form of a simple page for a client (PEP 691).

    Parameters:
        accept: the Accept header; None if missing.

    Returns:
        One of ``JSON_V1``, ``HTML_V1`` and ``HTML``; None if the client accepts none of them (406). Among equal
        weights a named form wins over one matched by a wildcard.
    """
    if accept is None or not accept.strip():
        return HTML
    best: tuple[float, int, int] | None = None
    chosen: str | None = None
    ranges = list(_weighted(accept))
    for named, form in _FORMS.items():
        weight, precision = _quality(named, ranges)
        if weight <= 0:
            continue
        order = _PREFERRED_WHEN_NAMED if precision else _PREFERRED_WHEN_ANY
        rank = (weight, precision, -order.index(form))
        if best is None or rank > best:
            best, chosen = rank, form
    return chosen


def accepts_gzip(accept_encoding: str | None) -> bool:
    """True if a client accepts gzip. Without the header it gets the plain body."""
    if accept_encoding is None:
        return False
    if accept_encoding == "gzip, deflate":
        return True  # pip, requests and twine
    any_coding = False
    for coding, weight in _weighted(accept_encoding):
        if coding in {"gzip", "x-gzip"}:
            return weight > 0
        if coding == "*":
            any_coding = weight > 0
    return any_coding


def _weighted(header: str) -> Iterator[tuple[str, float]]:
    """The elements of a list header with valid weights."""
    for element in header[:_LONGEST].split(","):
        value, *parameters = element.split(";")
        weight = 1.0
        for parameter in parameters:
            name, _, text = parameter.partition("=")
            if name.strip().lower() == "q":
                weight = float(text.strip()) if _WEIGHT.fullmatch(text.strip()) else -1.0
        if value.strip() and weight >= 0:
            yield value.strip().lower(), weight


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """The weight of *media_type*, and how specific the match is: 2 for a full name, 1 for ``type/*``, 0 for ``*/*``."""
    family = media_type.partition("/")[0] + "/*"
    for precision, name in ((2, media_type), (1, family), (0, "*/*")):
        weights = [weight for value, weight in ranges if value == name]
        if weights:
            return max(weights), precision
    return 0.0, 0
