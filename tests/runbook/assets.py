"""Assets of an HTML page that a browser would run, or load from elsewhere."""

from __future__ import annotations

import re

_ASSET = re.compile(
    r"<(?:script|iframe|object|embed|video|audio|source|track)\b"
    r"|<link\b[^>]*\bhref"
    r"|<(?:img|image|input|use)\b[^>]*\b(?:src|srcset|href|xlink:href)\s*=\s*[\"']?(?!data:|[\"'#])"
    r"|@import\b"
    r"|url\(\s*[\"']?(?!data:|#)",
    re.IGNORECASE,
)


def external_assets(page: str) -> tuple[str, ...]:
    """Parts of an HTML page that would be run, or loaded from elsewhere; a report has none."""
    return tuple(match[0] for match in _ASSET.finditer(page))
