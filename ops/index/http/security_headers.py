"""Headers that limit what a browser does with an answer.

Content-Security-Policy        CSP level 3: what a page may load, and who may frame it
X-Content-Type-Options         Fetch: the media type is believed as it stands
Referrer-Policy                no address of this index is told to other sites
X-Frame-Options                RFC 7034, for browsers that do not know frame-ancestors
Cross-Origin-Opener-Policy,
Cross-Origin-Resource-Policy   HTML, Fetch: no other site holds a window on a page, or embeds it
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

NOTHING: Final = b"default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
"""The policy of a page of text and links."""

NOSNIFF: Final = (b"x-content-type-options", b"nosniff")


def security_headers(policy: bytes = NOTHING) -> list[tuple[bytes, bytes]]:
    """All of them, for a page or an error.

    Parameters:
        policy: what the page may load.
    """
    return [
        NOSNIFF,
        (b"content-security-policy", policy),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


def secured(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that another application made, and those of these that it does not have.

    What it does not say may be kept, no cache keeps.
    """
    headers = list(headers)
    present = {name.lower() for name, _ in headers}
    wanted = [*security_headers(), (b"cache-control", b"no-store")]
    return [*headers, *(header for header in wanted if header[0] not in present)]


def source_hash(text: str) -> str:
    """An inline script or style as a policy allows it, by its hash."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
