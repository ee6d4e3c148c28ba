"""Short project pages kept on the disk, in ``.index/pages``, so that a restarted server need not render them again.

Nothing is invalidated: a page is sealed with a digest of its bytes and of everything that it depends on. A page of
another state, or one that a crash has damaged, has another seal, and is rendered anew. Whoever knows the state could
seal any page, but it contains times that only this machine's kernel sets: pages in a folder that somebody hands over
are not valid. The folder may be deleted.

Pages are written some time after they were rendered, in a thread: a burst of requests does not wait for the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Hashable
from typing import Final

from ops.index.bounded_dict import BoundedDict
from ops.index.http import simple_pages
from ops.index.http.blocks import LONG, RenderedPage
from ops.index.http.files import OPENING, read_at_once
from ops.index.http.negotiation import HTML, JSON_V1
from ops.index.http.representation import TAG_LENGTH, Representation
from ops.index.packages.models import Project
from ops.index.packages.repository import Repository, state_of
from ops.index.packages.sidecars import FORMAT as SIDECAR_FORMAT
from ops.index.storage.directory import INDEX_FOLDER, remove
from ops.index.storage.slow_disk import SlowDisk
from ops.index.storage.storage import Storage

FORMAT: Final = 2
"""Version of the rendered pages: raise it when the same project gets other bytes, or they are stored otherwise."""

_LONGEST: Final = 4 * LONG
"""Bytes: more than a page that is not long, and its compressed form."""

_WAITING: Final = 8 * 1024**2
"""Bytes of pages that wait to be written; further ones replace the oldest."""

_MOST: Final = 256 * 1024**2
"""Bytes of stored pages: some 60,000 with ten files each."""

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
        self._new: BoundedDict[tuple[str, str], tuple[Project, Representation]] = BoundedDict(
            _WAITING, weigh=lambda new: new[1].size
        )
        self._gone: set[str] = set()
        repository.listing.project_gone = self._gone.add
        self._bytes = 0  # at most so many: a page that replaces another counts too, until the next sweep
        self._version = ascii((FORMAT, SIDECAR_FORMAT, simple_pages.API_VERSION, public_url)).encode()

    def read(self, project: str, form: str) -> bytes | None:
        """The stored bytes of a page, valid or not; None if it is not stored, or not in memory.

        Parameters:
            project: a listed one: no other name becomes a path.
            form: of the page.
        """
        try:
            descriptor = os.open(self._path(project, form), OPENING)
        except OSError:
            return None
        try:
            size = os.fstat(descriptor).st_size
            return read_at_once(descriptor, size, 0) if size < _LONGEST else None
        finally:
            os.close(descriptor)

    def opened(self, stored: bytes, state: bytes | None, form: str) -> RenderedPage | None:
        """The page in stored bytes; None if it is not valid.

        Parameters:
            stored: from :meth:`read`.
            state: of the project on the disk, read after them.
            form: of the page.
        """
        if state is None or self._seal(form, state, memoryview(stored)[_SEAL:]) != stored[:_SEAL]:
            return None
        start = _SEAL + _LENGTH + TAG_LENGTH
        end = start + int.from_bytes(stored[_SEAL : _SEAL + _LENGTH])
        body = stored[start:end]
        # A file with revoked bytes is not shown, wherever it is.
        revoked = self._repository.annotations.revoked_digests
        if revoked and any(digest.encode() in body for digest in revoked):
            return None
        # HTML has two media types, and so two tags.
        tag = stored[start - TAG_LENGTH : start].decode("ascii") if form == JSON_V1 else ""
        return RenderedPage(body, stored[end:] or None, tag=tag)

    def add(self, project: Project, form: str, page: Representation) -> None:
        """Let the next :meth:`save` store a page.

        Parameters:
            project: that it was rendered from.
            form: of the page.
            page: the page.
        """
        self._new[project.name, form] = project, page

    def save(self) -> None:
        """Store new pages, and delete those of projects that no longer exist. Blocks."""
        if self._bytes > _MOST:
            self.sweep()
        for key in list(self._new):  # pages are added meanwhile
            new = self._new.pop(key, None)
            if new is not None and self._repository.listing.has(key[0]):
                project, page = new
                self.write(project, key[1], page)
        for name in list(self._gone):
            self._gone.discard(name)
            for form in (JSON_V1, HTML) if not self._repository.listing.has(name) else ():
                with contextlib.suppress(OSError):
                    remove(self._path(name, form))

    def sweep(self) -> None:
        """Delete the pages of projects that another program has removed, and the oldest ones if there are too many.

        Blocks; called after the start, and when there may be too many.
        """
        found: list[tuple[int, int, str]] = []
        self._repository.projects()
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if self._repository.listing.has(entry.name.rpartition(".")[0]):
                        status = entry.stat(follow_symlinks=False)
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
                    else:
                        remove(entry.path)
        self._bytes = sum(size for _, size, _ in found)
        if self._bytes > _MOST:
            for _, size, path in sorted(found):
                if self._bytes <= _MOST // 2:
                    break
                with contextlib.suppress(OSError):
                    remove(path)
                    self._bytes -= size

    def write(self, project: Project, form: str, page: Representation) -> None:
        """Store a page. It need not be durable, and nothing happens if it cannot be written.

        Parameters:
            project: that it was rendered from.
            form: of the page.
            page: the page.
        """
        state = state_of(project)
        if state is not None and self._bytes <= _MOST:
            content = b"".join((len(page.body).to_bytes(_LENGTH), page.tag.encode("ascii"), page.body, page.packed))
            with contextlib.suppress(OSError):
                self._staging.replace(
                    self._path(project.name, form), self._seal(form, state, memoryview(content)), content
                )
                self._bytes += len(content)

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
        disk: that has the files.
        name: of the project.
        seconds: between two comparisons.
    """

    __slots__ = ("_disk", "_name", "_repository", "_seconds", "_until", "state")

    def __init__(self, repository: Repository, disk: SlowDisk, name: str, seconds: float) -> None:
        self._repository = repository
        self._disk = disk
        self._name = name
        self._seconds = seconds
        self._until = 0.0
        self.state: bytes | None = None
        """Of the project when it was last compared; None if the disk was slow."""

    def __call__(self) -> Hashable:
        """The mark: the project's version, read first, and its state. The cache asks for its own stamp just before."""
        version = self._repository.project_stamp(self._name, looked=True)
        now = time.monotonic()
        if now >= self._until:
            self._until = now + self._seconds
            began = self._disk.begin()
            self.state = None if began is None else self._repository.state(self._name)
            if began is not None:
                self._disk.end(began)
        return version, self.state
