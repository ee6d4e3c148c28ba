"""Summary and README of a version: read from its core metadata, and rendered in a sandbox as safe HTML."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ops.index.errors import SandboxError, WorkCancelled, WorkFailed
from ops.index.sandbox.sandbox import Limits, Sandbox

LIMITS = Limits(cpu_seconds=4, wall_seconds=8, memory_bytes=512 * 1024**2, result_bytes=1024**2)
"""A README of 100 KiB takes a tenth of this time."""

_QUEUE = 16
"""READMEs that may wait while one is being rendered."""

_PAGE_WAIT = 3.0
"""Seconds for which a page waits for its README."""

_MEMORY = 16 * 1024**2
"""Bytes of cached READMEs."""

_RETRY_SECONDS = 30.0
"""Time until the next attempt after no process was available to render a README."""

_FAILED = "This description could not be rendered: {reason}. The source is shown instead."
_INVALID = "This description could not be rendered: it is not valid {language}. The source is shown instead."
_PENDING = "This description is still being rendered. The source is shown for now; reload the page in a moment."
_BUSY = "This description cannot be rendered now. The source is shown for now; reload the page later."

_README_LIMIT = 512 * 1024
"""Characters of a README that are rendered; the rest is omitted."""

_TEXT_LIMIT = 100_000
"""Characters of a README that are shown if it is not rendered."""

_SUMMARY_LIMIT = 512
"""Characters of a summary, as on the public index."""

_TYPE_LIMIT = 200

_END_OF_HEADERS = re.compile(rb"^(?![!-9;-~]*:|[ \t])", re.MULTILINE)
"""The first line that is neither a header nor continues one (RFC 5322, section 2.2)."""

_FIELD = re.compile(rb"^(summary|description(?:-content-type)?):", re.MULTILINE | re.IGNORECASE)
_END_OF_FIELD = re.compile(rb"\n(?![ \t])")

_FOLD = re.compile(rb"\n(?: {7}\|| {8})")
"""Start of a description's continuation line: per the specification, and as written by distutils."""

_LATIN_1 = {0xDC00 + byte: byte for byte in range(0x80, 0x100)}
"""Bytes that are not UTF-8, as escaped by Python, in Latin-1."""

RENDERED = frozenset({"text/markdown", "text/x-rst", ""})
"""Types of descriptions that are rendered; no type means reStructuredText."""

_OTHER_TYPE = (
    "This description is not rendered: its type is neither text/markdown, text/x-rst nor text/plain. "
    "The source is shown instead."
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class About:
    """Summary and README of a version for its project's page.

    Parameters:
        summary: one line of plain text.
        readme: sanitised HTML, marked safe for templates; None if there is none.
        text: the README itself if there is no HTML.
        note: the reason, in full sentences.
        final: false if rendering it again may have another result.
    """

    summary: str = ""
    readme: Any = None
    text: str = ""
    note: str = ""
    final: bool = True


@dataclass(frozen=True, slots=True)
class Description:
    """Summary and README of a version, not yet rendered.

    Parameters:
        summary: one line of plain text.
        text: the README.
        content_type: of the README, as in the metadata.
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
        """True if there is nothing to render."""
        return not self.text or self.kind not in RENDERED

    def unrendered(self, note: str = "", *, final: bool = True) -> About:
        """The README as text, for when it is not rendered, or not yet.

        Parameters:
            note: the reason, in full sentences.
            final: see :class:`About`.
        """
        text = self.text[:_TEXT_LIMIT]
        if text and self.kind not in RENDERED | {"text/plain"}:
            note = _OTHER_TYPE
        if len(text) < len(self.text):
            note = f"{note} Only the first {_TEXT_LIMIT:,} characters are shown.".strip()
        return About(self.summary, text=text, note=note, final=final)


class NotRendered(Exception):  # noqa: N818 - not an error
    """A page needs a README that is not yet rendered.

    Parameters:
        digest: SHA-256 of its file.
        description: from the file's metadata.
    """

    def __init__(self, digest: str, description: Description) -> None:
        self.digest = digest
        self.description = description
        super().__init__(digest)


@dataclass(frozen=True, slots=True)
class _Kept:
    about: About
    size: int
    until: float


class Readmes:
    """Renders READMEs, one at a time, and caches the results, failures included, by the digest of their file.

    Parameters:
        sandbox: runs :func:`ops.index.http.markup.render_readme`; None for one with the usual limits.
        page_wait: seconds that a page waits for its README.
    """

    def __init__(self, sandbox: Sandbox | None = None, *, page_wait: float = _PAGE_WAIT) -> None:
        self._sandbox = sandbox or Sandbox(
            "ops.index.http.markup:render_readme", LIMITS, preload="ops.index.http.markup:preload"
        )
        self._page_wait = page_wait
        self._thread = ThreadPoolExecutor(1, "readme")
        self._running: dict[str, asyncio.Future[About]] = {}
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0

    def known(self, digest: str) -> About | None:
        """The cached result for the file with this SHA-256; None if not cached."""
        with self._lock:
            kept = self._kept.get(digest)
            if kept is None or kept.until < time.monotonic():
                return None
            self._kept.move_to_end(digest)
            return kept.about

    async def about(self, digest: str, description: Description) -> About:
        """The README of a page: HTML if it is rendered within a few seconds, else text.

        Pages that need the same README share the rendering, which continues even if none of them is waiting any more.

        Parameters:
            digest: SHA-256 of its file.
            description: from the file's metadata.
        """
        known = self.known(digest)
        if known is not None:
            return known
        running = self._running.get(digest)
        if running is None:
            if len(self._running) > _QUEUE:
                return description.unrendered(_BUSY, final=False)
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._thread, self._render, digest, description)
            self._running[digest] = running
            running.add_done_callback(lambda _: self._running.pop(digest, None))
        done, _ = await asyncio.wait([running], timeout=self._page_wait)
        return running.result() if done else description.unrendered(_PENDING, final=False)

    def keep(self, digest: str, about: About) -> None:
        """Cache a result for the file with this SHA-256."""
        size = 4 * (len(about.readme or "") + len(about.text)) + 2000  # up to four bytes per character
        until = float("inf") if about.final else time.monotonic() + _RETRY_SECONDS
        with self._lock:
            before = self._kept.pop(digest, None)
            if before is not None:
                self._size -= before.size
            self._kept[digest] = _Kept(about, size, until)
            self._size += size
            while self._size > _MEMORY and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].size

    def close(self) -> None:
        """Stop rendering. Returns at once."""
        self._sandbox.close()

    def _render(self, digest: str, description: Description) -> About:
        try:
            about = self._rendered(description)
        except WorkFailed as error:
            about = description.unrendered(_FAILED.format(reason=error.reason))
        except WorkCancelled:
            return description.unrendered(_BUSY, final=False)
        except SandboxError as error:
            _logger.warning("READMEs are shown as text: %s", error)
            about = description.unrendered(_BUSY, final=False)
        self.keep(digest, about)
        return about

    def _rendered(self, description: Description) -> About:
        from markupsafe import Markup

        html = self._sandbox.run(f"{description.content_type}\n{description.text}".encode("utf-8", "replace"))
        if not html:
            language = "Markdown" if description.kind == "text/markdown" else "reStructuredText"
            return description.unrendered(_INVALID.format(language=language))
        return About(description.summary, Markup(html.decode("utf-8", "replace")))  # noqa: S704 - nh3 sanitised it


def parse_description(metadata: bytes) -> Description:
    """Parse the core metadata that the page needs, in linear time whatever it contains.

    Parameters:
        metadata: in UTF-8 by specification; other bytes, from older tools, are read as Latin-1.
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
