"""READMEs as HTML, rendered in a sandbox, one at a time, and kept by the digest of their file."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ops.index.errors import SandboxError, WorkCancelled, WorkFailed
from ops.index.http.readme import About, Description
from ops.index.sandbox.sandbox import Limits, Sandbox

LIMITS = Limits(cpu_seconds=4, wall_seconds=8, memory_bytes=512 * 1024**2, result_bytes=1024**2)
"""A README of 100 KiB takes a tenth of that time."""

_QUEUE = 16
"""READMEs that may wait while one is rendered."""

_PATIENCE = 3.0
"""Seconds for which a page waits for its README."""

_MEMORY = 16 * 1024**2
"""Bytes for what was rendered."""

_RETRY_SECONDS = 30.0
"""After which a README is tried again that could not be rendered for want of a process."""

_FAILED = "This description could not be rendered: {reason}. Its text is shown as it is."
_INVALID = "This description could not be rendered: it is not valid {language}. Its text is shown as it is."
_PENDING = "This description is still being rendered. Its text is shown as it is; reload the page in a moment."
_BUSY = "This description cannot be rendered now. Its text is shown as it is; reload the page later."

_logger = logging.getLogger(__name__)


class NotRendered(Exception):  # noqa: N818 - not an error
    """A README that a page needs is not rendered yet.

    Parameters:
        digest: SHA-256 of the file that it comes from.
        description: what the file's metadata says.
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
    """Renders READMEs, and keeps the results, failures included, as long as there is room.

    Parameters:
        sandbox: runs :func:`ops.index.http.markup.render`; None for one with the usual limits.
        patience: seconds for which a page waits for its README.
    """

    def __init__(self, sandbox: Sandbox | None = None, *, patience: float = _PATIENCE) -> None:
        self._sandbox = sandbox or Sandbox(
            "ops.index.http.markup:render", LIMITS, prepare="ops.index.http.markup:prepare"
        )
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, "readme")
        self._running: dict[str, asyncio.Future[About]] = {}
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0

    def known(self, digest: str) -> About | None:
        """What was made of the README in the file with this SHA-256; None when that is not known."""
        with self._lock:
            kept = self._kept.get(digest)
            if kept is None or kept.until < time.monotonic():
                return None
            self._kept.move_to_end(digest)
            return kept.about

    async def about(self, digest: str, description: Description) -> About:
        """What a page shows of a README: its HTML if it is there in a few seconds, else its text.

        Pages that need the same README at once share the rendering, which goes on when all of them have given up.

        Parameters:
            digest: SHA-256 of the file that it comes from.
            description: what the file's metadata says.
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
        done, _ = await asyncio.wait([running], timeout=self._patience)
        return running.result() if done else description.unrendered(_PENDING, final=False)

    def keep(self, digest: str, about: About) -> None:
        """Remember what a page shows of the README in the file with this SHA-256."""
        size = 4 * (len(about.readme or "") + len(about.text)) + 2000  # some are four bytes a character
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
        """End what is being rendered, and render no more. Returns at once."""
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
