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
"""What a client may name, and what it is then given: ``latest`` is answered under its version (PEP 691)."""

_PREFERRED_WHEN_NAMED = (JSON_V1, HTML_V1, HTML)
_PREFERRED_WHEN_ANY = (HTML, JSON_V1, HTML_V1)
"""A client that says ``*/*`` may be older than PEP 691: it gets the HTML of PEP 503."""

_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_LONGEST = 4096
"""More characters than any client sends; beyond it a header is cut, so that nobody can buy time with a long one."""


def simple_form(accept: str | None) -> str | None:
    """The form of a simple page that a client wants (PEP 691).

    Parameters:
        accept: the header Accept, or None when there is none.

    Returns:
        One of ``JSON_V1``, ``HTML_V1`` and ``HTML``; None when the client takes none of them (406). Among equal weights
        a form that is named beats one that is only covered by a wildcard.
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
    """Whether a client takes a gzipped answer. Without the header it gets the plain one, which everybody can read."""
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
    """Each element of a list header with its weight; one whose weight cannot be read is left out."""
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
    """The weight of *media_type*, and how precisely it was named: 2 by itself, 1 by ``type/*``, 0 by ``*/*``."""
    family = media_type.partition("/")[0] + "/*"
    for precision, name in ((2, media_type), (1, family), (0, "*/*")):
        weights = [weight for value, weight in ranges if value == name]
        if weights:
            return max(weights), precision
    return 0.0, 0
