"""Headers that limit what a browser does with a response.

Content-Security-Policy        CSP level 3: what a page may load, and who may frame it
X-Content-Type-Options         Fetch: no guessing of the media type
Referrer-Policy                other sites see no address of this index
X-Frame-Options                RFC 7034, for browsers that do not know frame-ancestors
Cross-Origin-Opener-Policy,
Cross-Origin-Resource-Policy   HTML, Fetch: no other site opens or embeds a page
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Final

NOTHING: Final = b"default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
"""The policy for a page of text and links."""

NOSNIFF: Final = (b"x-content-type-options", b"nosniff")


def security_headers(policy: bytes = NOTHING) -> list[tuple[bytes, bytes]]:
    """All security headers.

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


SECURITY_HEADERS: Final = tuple(security_headers())
"""The security headers of a text or an error."""


def secured(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of another application's response, with missing security headers added.

    Unless it allows caching, it is not cached.
    """
    headers = list(headers)
    present = {name.lower() for name, _ in headers}
    wanted = [*SECURITY_HEADERS, (b"cache-control", b"no-store")]
    return [*headers, *(header for header in wanted if header[0] not in present)]


def source_hash(text: str) -> str:
    """The source expression, a hash, that allows an inline script or style."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
