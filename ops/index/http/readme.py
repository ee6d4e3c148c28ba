"""Summary and README of a version, read from its core metadata as safe HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_README_LIMIT = 512 * 1024
"""Characters of a README that are rendered; what follows is left out."""

_TEXT_LIMIT = 100_000
"""Characters of a README that are shown when it is not rendered."""

_SUMMARY_LIMIT = 512
"""Characters of a summary, as on the public index."""

_TYPE_LIMIT = 200

_END_OF_HEADERS = re.compile(rb"^(?![!-9;-~]*:|[ \t])", re.MULTILINE)
"""The first line that is neither a header nor continues one (RFC 5322, section 2.2)."""

_FIELD = re.compile(rb"^(summary|description(?:-content-type)?):", re.MULTILINE | re.IGNORECASE)
_END_OF_FIELD = re.compile(rb"\n(?![ \t])")

_FOLD = re.compile(rb"\n(?: {7}\|| {8})")
"""How a line of a description begins that stands in the header: by the specification, and as distutils wrote it."""

_LATIN_1 = {0xDC00 + byte: byte for byte in range(0x80, 0x100)}
"""Bytes that are no UTF-8, as Python escapes them, and what they are in Latin-1."""

RENDERED = frozenset({"text/markdown", "text/x-rst", ""})
"""The types of descriptions that are rendered; no type means reStructuredText."""


_OTHER_TYPE = (
    "This description is not rendered: its type is neither text/markdown, text/x-rst nor text/plain. "
    "Its text is shown as it is."
)


@dataclass(frozen=True, slots=True)
class About:
    """What the page of a project shows of a version's metadata.

    Parameters:
        summary: one line of plain text.
        readme: HTML that has been sanitised, as a string that templates do not escape; None when there is none.
        text: the README itself, when there is no HTML of it.
        note: why there is none, in sentences.
        final: whether to render it again would give the same.
    """

    summary: str = ""
    readme: Any = None
    text: str = ""
    note: str = ""
    final: bool = True


@dataclass(frozen=True, slots=True)
class Description:
    """The metadata that the page of a project shows, not rendered yet.

    Parameters:
        summary: one line of plain text.
        text: the README.
        content_type: of the README, as its author wrote it.
    """

    summary: str
    text: str
    content_type: str

    @property
    def kind(self) -> str:
        """The media type, without parameters."""
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def plain(self) -> bool:
        """Whether there is nothing to render."""
        return not self.text or self.kind not in RENDERED

    def unrendered(self, note: str = "", *, final: bool = True) -> About:
        """What is shown while, or because, the README is not rendered.

        Parameters:
            note: why, in sentences.
            final: see :class:`About`.
        """
        text = self.text[:_TEXT_LIMIT]
        if text and self.kind not in RENDERED | {"text/plain"}:
            note = _OTHER_TYPE
        if len(text) < len(self.text):
            note = f"{note} Only the first {_TEXT_LIMIT:,} characters are shown.".strip()
        return About(self.summary, text=text, note=note, final=final)


def describe(metadata: bytes) -> Description:
    """Read what the page needs of core metadata, in linear time whatever it contains.

    Parameters:
        metadata: in UTF-8, as its specification says; a byte that is none, of a tool from before, is taken for Latin-1.
    """
    source = metadata.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    end = _END_OF_HEADERS.search(source)
    headers = source[: end.start()] if end else source
    fields: dict[bytes, bytes] = {}
    for found in _FIELD.finditer(headers):
        last = _END_OF_FIELD.search(headers, found.end())
        value = headers[found.end() : min(last.start() if last else len(headers), found.end() + 4 * _README_LIMIT)]
        fields.setdefault(found[1].lower(), value)
        if len(fields) == 3:
            break
    folded = fields.get(b"description", b"").lstrip(b" \t")
    body = _FOLD.sub(b"\n", folded) or source[len(headers) :][: 4 * _README_LIMIT]
    text = _decoded(body)[:_README_LIMIT].strip()
    return Description(
        summary=" ".join(_decoded(fields.get(b"summary", b"")).split())[:_SUMMARY_LIMIT],
        text="" if text == "UNKNOWN" else text,
        content_type=" ".join(_decoded(fields.get(b"description-content-type", b"")[:_TYPE_LIMIT]).split()),
    )


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("utf-8", "surrogateescape").translate(_LATIN_1)
