"""Forms in which programs show a secret: quoted, escaped, encoded, or cut short.

Some are searched for as text (:func:`forms`); those that encode single characters are decoded first
(:mod:`ops.decoded_text`).
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

from ops.decoded_text import without_encodings

MINIMUM_LENGTH = 6
"""Shorter secrets are not masked: they would be found everywhere, and the masks would reveal them. The index itself
requires passwords of 12 characters."""

GENERATED_LENGTH = 16
"""Minimum length of a secret that counts as generated, and is masked even if only half of it is left."""

_SHORTEST_PART = 12
_RUN_BEFORE = re.compile(r"[A-Za-z0-9+/_-]+\Z")
_RUN_AFTER = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_ELLIPSIS = re.compile(r"[\[<(]?(?:…|\.{2,})[\])>]?")
_PERCENT = re.compile(r"%[0-9A-F]{2}")


@dataclass(frozen=True)
class Form:
    """One form of a secret.

    Parameters:
        whole: the complete form.
        head: its start, which is masked if the rest was cut off; *whole* if parts are not masked.
        tail: its end, which is masked likewise, as are a start and an end with an ellipsis between them; or empty.
        in_base64: whether it is base64, so that the surrounding base64 is masked as well: its first
            and last characters hold a few bits of the secret.
    """

    whole: str
    head: str
    tail: str = ""
    in_base64: bool = False

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Each span of the complete form in *text*."""
        return self._starts(text, self.whole)

    def partial_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Each span of the complete form, or of enough of it."""
        yield from self._starts(text, self.head)
        if self.tail:
            yield from self._tails(text)
            if "…" in text or ".." in text:
                yield from self._shortened(text)

    def _starts(self, text: str, head: str) -> Iterator[tuple[int, int]]:
        start = text.find(head)
        while start >= 0:
            first, last = start, start + len(head)
            while last - first < len(self.whole) and text[last : last + 1] == self.whole[last - first]:
                last += 1
            if self.in_base64:
                complete = last - first == len(self.whole)
                first -= (
                    len(first_run[0]) if (first_run := _RUN_BEFORE.search(text[max(0, first - 200) : first])) else 0
                )
                last = _RUN_AFTER.match(text, last).end() if complete else last  # type: ignore[union-attr]
            yield first, last
            start = text.find(head, start + 1)

    def _tails(self, text: str) -> Iterator[tuple[int, int]]:
        start = text.find(self.tail)
        while start >= 0:
            first, last = start, start + len(self.tail)
            while first > 0 and last - first < len(self.whole) and text[first - 1] == self.whole[first - last - 1]:
                first -= 1
            yield first, last
            start = text.find(self.tail, start + 1)

    def _shortened(self, text: str) -> Iterator[tuple[int, int]]:
        """Spans with the middle replaced by an ellipsis, as by :mod:`reprlib`."""
        sizes = range(len(self.whole) - 1, 0, -1)
        for match in _ELLIPSIS.finditer(text):
            start, end = match.span()
            before = next((size for size in sizes if text.startswith(self.whole[:size], max(start - size, 0))), 0)
            after = next((size for size in sizes if text.startswith(self.whole[-size:], end)), 0)
            if before + after >= len(self.tail):
                yield start - before, end + after


def forms(secret: str) -> Iterator[Form]:
    """All forms of *secret* in program output; for a generated one also with up to half of it cut off."""
    part = _part_of(secret)
    share = part / len(secret) if part else 1.0
    data = secret.encode("utf-8", "surrogatepass")
    spelled = set(_escaped(secret))
    for form in tuple(spelled):
        # Quoted twice: JSON in a Python string, a Python string in JSON.
        spelled.update(_escaped(form))
    spelled |= {encoded for data in _encodings(secret) for encoded in (data.hex(), data.hex().upper())}
    spelled |= {data.hex(" "), data.hex(":")}
    if len(plain := without_encodings(secret)) >= MINIMUM_LENGTH:
        spelled.add(plain)  # a secret that itself contains an encoding
    for whole in spelled:
        yield Form(whole, whole[: max(_SHORTEST_PART, round(len(whole) * share))])
    if part is not None:
        yield Form(secret, secret[:part], tail=secret[-part:])
    for text in {secret, *lines_of(secret)}:
        for data in _encodings(text):
            for core in _cores(data):
                yield Form(core, core[: max(_SHORTEST_PART, round(len(core) * share))], in_base64=True)


def lines_of(secret: str) -> list[str]:
    """The long lines of a multi-line secret, such as a key: they may be shown one by one, indented or numbered."""
    if "\n" not in secret:
        return []
    return [line.strip() for line in secret.splitlines() if len(line.strip()) >= 2 * MINIMUM_LENGTH]


def _part_of(secret: str) -> int | None:
    """Number of characters that identify a generated secret; None for one that may consist of words."""
    part = max(_SHORTEST_PART, (len(secret) + 1) // 2)
    if len(secret) < GENERATED_LENGTH or any(sign.isspace() for sign in secret):
        return None
    for piece in (secret[:part], secret[-part:]):
        kinds = (str.isupper, str.islower, str.isdigit)
        if sum(any(is_kind(sign) for sign in piece) for is_kind in kinds) < 2:
            return None
    return part


def _encodings(text: str) -> list[bytes]:
    """UTF-8, and Latin-1 where it differs: HTTP clients send such passwords in it."""
    found = [text.encode("utf-8", "surrogatepass")]
    try:
        latin = text.encode("latin-1")
    except UnicodeEncodeError:
        return found
    return found if latin in found else [*found, latin]


def _escaped(text: str) -> list[str]:
    data = text.encode("utf-8", "surrogatepass")
    found = [
        text,
        repr(text)[1:-1],
        ascii(text)[1:-1],
        repr(data)[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1].replace("/", "\\/"),
        shlex.quote(text).removeprefix("'").removesuffix("'"),
    ]
    for quoted in (
        urllib.parse.quote(data),
        urllib.parse.quote(data, safe=""),
        urllib.parse.quote_plus(data),
        urllib.parse.quote(data, safe="!$&'()*+,;="),  # RFC 3986, section 3.2.1: allowed in userinfo
    ):
        found += [quoted, _PERCENT.sub(lambda match: match[0].lower(), quoted)]
    for quoted in (html.escape(text), html.escape(text, quote=False)):
        found += [quoted, quoted.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")]
    return found


def _cores(data: bytes) -> Iterator[str]:
    """The base64 characters (RFC 4648) that depend on *data* alone, at each of the three byte offsets.

    ``Authorization: Basic`` is ``user:password``, so a password may start at any of them.
    """
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data).decode("ascii")
        # The sextets without bits of what precedes or follows.
        core = encoded[-(-8 * offset // 6) : 8 * (offset + len(data)) // 6]
        yield from {core, core.replace("+", "-").replace("/", "_")}
