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
from collections.abc import Hashable
from typing import Final

from ops.index.http import simple_pages
from ops.index.http.blocks import LONG, RenderedPage
from ops.index.http.files import OPENING, read_at_once
from ops.index.http.negotiation import JSON_V1
from ops.index.packages.models import Project
from ops.index.packages.repository import Repository, state_of
from ops.index.packages.sidecars import FORMAT as FACTS_FORMAT
from ops.index.storage.directory import INDEX_FOLDER
from ops.index.storage.slow_disk import SlowDisk
from ops.index.storage.storage import Storage

FORMAT: Final = 1
"""Version of the rendered pages: raise it when the same project gets other bytes."""

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
        disk: that the pages are read from.
    """

    def __init__(self, repository: Repository, storage: Storage, public_url: str, disk: SlowDisk) -> None:
        self._repository = repository
        self._staging = storage.staging
        self._folder = f"{storage.directory}/{INDEX_FOLDER}/pages"
        self._disk = disk
        self._version = ascii((FORMAT, FACTS_FORMAT, simple_pages.API_VERSION, public_url)).encode()

    def read(self, project: str, form: str) -> bytes | None:
        """The stored bytes of a page, valid or not; None if it is not stored, or not in memory, or the disk is slow.

        Parameters:
            project: normalized name, from a request.
            form: of the page.
        """
        began = self._disk.begin()
        if began is None:
            return None
        if not self._repository.package_directory.scanned or not self._repository.listing.has(project):
            return None  # no other name becomes a path
        try:
            descriptor = os.open(self._path(project, form), OPENING)
            try:
                size = os.fstat(descriptor).st_size
                return read_at_once(descriptor, size, 0) if size < _LONGEST else None
            finally:
                os.close(descriptor)
        except OSError:
            return None
        finally:
            self._disk.end(began)

    def state(self, project: str) -> bytes | None:
        """The state of a project on the disk; None if it cannot be looked up quickly."""
        began = self._disk.begin()
        if began is None:
            return None
        try:
            return self._repository.state(project)
        finally:
            self._disk.end(began)

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
        revoked = self._repository.annotations.revoked_digests
        if revoked and any(digest.encode() in body for digest in revoked):
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
