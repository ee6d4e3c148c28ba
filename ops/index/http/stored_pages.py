"""Short project pages kept on the disk, in ``.index/pages``, so that a restarted server need not render them again.

Nothing is invalidated: a page is sealed with a digest of its bytes and of everything that it depends on. A page of
another state, or one that a crash has damaged, has another seal, and is rendered anew. Whoever knows the state could
seal any page, but it contains times that only this machine's kernel sets: pages in a folder that somebody hands over
are not valid. The folder may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Hashable, Iterator
from typing import Final

from ops.index.http import simple_pages
from ops.index.http.blocks import LONG, RenderedPage
from ops.index.http.files import OPENING, read_at_once
from ops.index.http.negotiation import JSON_V1
from ops.index.packages.models import Project
from ops.index.packages.repository import Repository, state_of
from ops.index.packages.sidecars import FORMAT as FACTS_FORMAT
from ops.index.storage.directory import INDEX_FOLDER
from ops.index.storage.storage import Storage

FORMAT: Final = 1
"""Version of the rendered pages: raise it when the same project gets other bytes."""

_SLOW: Final = 0.01
"""Seconds on the event loop that are too many: the disk is slow, or another thread keeps the interpreter busy."""

_PAUSE: Final = 5.0
"""Seconds for which pages are then rendered in threads instead."""

_LONGEST: Final = 4 * LONG
"""Bytes: more than a page that is not long, and its compressed form."""

_SEAL: Final = hashlib.sha256().digest_size
_LENGTH: Final = 4


class StoredPages:
    """The stored pages of one local directory.

    Parameters:
        repository: has the projects.
        storage: of the files; not shared.
        public_url: the index's own address, which pages may contain.
    """

    def __init__(self, repository: Repository, storage: Storage, public_url: str) -> None:
        self._repository = repository
        self._staging = storage.staging
        self._folder = f"{storage.directory}/{INDEX_FOLDER}/pages"
        self._paused_until = 0.0
        self._version = ascii((FORMAT, FACTS_FORMAT, simple_pages.API_VERSION, public_url)).encode()

    def read(self, project: str, form: str) -> bytes | None:
        """The stored bytes of a page, valid or not; None if it is not stored, or not in memory, or the disk is slow.

        Parameters:
            project: normalized name, from a request.
            form: of the page.
        """
        if not self._repository.package_directory.scanned or not self._repository.listing.paths(project):
            return None  # no other name becomes a path
        if time.monotonic() < self._paused_until:
            return None
        with self._timed():
            try:
                descriptor = os.open(self._path(project, form), OPENING)
            except OSError:
                return None
            try:
                size = os.fstat(descriptor).st_size
                return read_at_once(descriptor, size, 0) if size < _LONGEST else None
            finally:
                os.close(descriptor)

    def state(self, project: str) -> bytes | None:
        """The state of a project on the disk; None if it cannot be looked up quickly."""
        if time.monotonic() < self._paused_until:
            return None
        with self._timed():
            return self._repository.state(project)

    def opened(self, stored: bytes, state: bytes | None, form: str) -> RenderedPage | None:
        """The page in stored bytes; None if it is not valid.

        Parameters:
            stored: from :meth:`read`.
            state: of the project on the disk, read after them.
            form: of the page.
        """
        if state is None or self._seal(form, state, memoryview(stored)[_SEAL:]) != stored[:_SEAL]:
            return None
        start = _SEAL + _LENGTH
        end = start + int.from_bytes(stored[_SEAL:start])
        body = stored[start:end]
        # A file with revoked bytes is not shown, wherever it is.
        if any(digest.encode() in body for digest in self._repository.annotations.revoked_digests):
            return None
        return RenderedPage(body, stored[end:] or None)

    def write(self, project: Project, form: str, body: bytes, packed: bytes) -> None:
        """Store a page. It need not be durable, and nothing happens if it cannot be written.

        Parameters:
            project: that it was rendered from.
            form: of the page.
            body: the page.
            packed: the same as gzip; empty if not at hand.
        """
        state = state_of(project)
        if state is not None:
            content = b"".join((len(body).to_bytes(_LENGTH), body, packed))
            with contextlib.suppress(OSError):
                self._staging.replace(
                    self._path(project.name, form), self._seal(form, state, memoryview(content)), content
                )

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Pause if this takes too long."""
        began = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            if now - began > _SLOW:
                self._paused_until = now + _PAUSE

    def _path(self, project: str, form: str) -> str:
        return f"{self._folder}/{project}.{'json' if form == JSON_V1 else 'html'}"

    def _seal(self, form: str, state: bytes, content: memoryview) -> bytes:
        seal = hashlib.sha256(b"%b %b %b " % (self._version, b"json" if form == JSON_V1 else b"html", state))
        seal.update(content)
        return seal.digest()


class StoredPageMark:
    """The mark of a page that was read from the disk.

    The repository has not read the project's files, and does not notice if one is written in place. So they are
    compared with the disk here.

    Parameters:
        repository: has the project.
        pages: where the page comes from.
        name: of the project.
        seconds: between two comparisons.
    """

    __slots__ = ("_name", "_pages", "_repository", "_seconds", "_until", "state")

    def __init__(self, repository: Repository, pages: StoredPages, name: str, seconds: float) -> None:
        self._repository = repository
        self._pages = pages
        self._name = name
        self._seconds = seconds
        self._until = 0.0
        self.state: bytes | None = None
        """Of the project when it was last compared."""

    def __call__(self) -> Hashable:
        """The mark: the project's version, read first, and its state."""
        version = self._repository.project_stamp(self._name)
        now = time.monotonic()
        if now >= self._until:
            self._until = now + self._seconds
            self.state = self._pages.state(self._name)
        return version, self.state
