"""Simple repository API: project pages, files and metadata for installers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote

from ops.index.activity import Activity
from ops.index.config import Options
from ops.index.errors import NotAcceptable, NotFound, PackageIndexError, Quarantined, Revoked, StorageBusy, StorageError
from ops.index.http import simple_pages
from ops.index.http.blocks import Page, RenderedPage, rendered
from ops.index.http.files import Delivery
from ops.index.http.namespaces import API_VERSION as NAMESPACES_VERSION
from ops.index.http.namespaces import Namespaces
from ops.index.http.negotiation import HTML_V1, JSON_V1, accepts_gzip, simple_form
from ops.index.http.per_iteration import PerIteration
from ops.index.http.representation import FILE_CACHING, Representation, Response, page_caching
from ops.index.http.request import Request
from ops.index.http.response_cache import ResponseCache
from ops.index.http.security_headers import NOTHING
from ops.index.http.stored_pages import StoredPageMark, StoredPages
from ops.index.packages.attestations import SUFFIX
from ops.index.packages.filenames import can_be_listed, normalize, project_of
from ops.index.packages.models import Project
from ops.index.packages.repository import Repository
from ops.index.storage.slow_disk import SlowDisk
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import READ_SECONDS, in_thread

_MEMORY = 32 * 1024**2
"""Bytes of cached pages: some 6,000 projects with ten files each, or six with 10,000."""

_CONDITIONS = frozenset(
    {b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since"}
)

DECISIVE = (b"accept", b"accept-encoding", *_CONDITIONS)
"""The request headers that :meth:`SimpleApi.ready` depends on."""

PROVENANCE_TYPE = "application/vnd.pypi.integrity.v1+json"
"""The media type of a provenance object, as the public index names it."""

Header = TypeVar("Header")


@dataclass(frozen=True, slots=True)
class _Located:
    """The path of a file, and its SHA-256 where needed."""

    path: Path
    digest: str | None


class Memo(dict[bytes | None, Header]):
    """Parsed header values, of which a server sees few."""

    def __init__(self, meaning: Callable[[str | None], Header]) -> None:
        self._meaning = meaning
        super().__init__()

    def __missing__(self, value: bytes | None) -> Header:
        if len(self) >= 500:
            self.clear()
        meaning = self[value] = self._meaning(None if value is None else value.decode("latin-1"))
        return meaning


class SimpleApi:
    """Handler of GET and HEAD for ``simple/`` and ``packages/``.

    Parameters:
        repository: has the projects and files.
        storage: of the files.
        options: how often files are checked for a change made in place, and how long clients may reuse a page.
        activity: counts downloads.
        namespaces: shown on project pages in JSON, whose version they raise; None for neither.
    """

    def __init__(
        self,
        repository: Repository,
        storage: Storage,
        options: Options,
        activity: Activity,
        namespaces: Namespaces | None = None,
    ) -> None:
        self._repository = repository
        self._namespaces = namespaces
        self._version = simple_pages.API_VERSION if namespaces is None else NAMESPACES_VERSION
        self._activity = activity
        self._delivery = Delivery(storage)
        self._shared = storage.shared
        self._stored: StoredPages | None = None
        if not self._shared and namespaces is None:  # a container's disk does not outlast it
            self._stored = StoredPages(repository, storage, options.public_url)
        self._disk = SlowDisk()
        self._refresh_seconds = options.refresh_seconds
        self.stamp = repository.stamp
        """A value that changes with everything visible."""
        self._response_cache: ResponseCache[tuple[str, str | None]] = ResponseCache(
            PerIteration(self.stamp), capacity=_MEMORY, lifetime=options.refresh_seconds, near=not self._shared
        )
        self._caching = page_caching(options.page_max_age_seconds)
        self._form = Memo(simple_form)
        self._gzip = Memo(accepts_gzip)

    def ready(self, path: str, headers: Mapping[bytes, bytes]) -> Response | None:
        """The response to a request for a cached page or a small file, for the fast path.

        Parameters:
            path: as the server decoded it.
            headers: of the request; those in DECISIVE suffice.
        """
        try:
            if path.endswith(".metadata"):
                page = self._response_cache.ready((path, None)) or self._quick_metadata(path)
            elif path.startswith("/packages/"):
                return self._small_file(path.removeprefix("/packages/"), headers)
            else:
                form = self._form[headers.get(b"accept")]
                page = self._response_cache.ready((path, form)) or self._quick(path, form)
        except (PackageIndexError, OSError):  # the normal path reports what is wrong
            return None
        return None if page is None else self.variant(page, headers)

    def variant(self, page: Representation, headers: Mapping[bytes, bytes]) -> Response:
        """*page* for one client: 304 if the client already has it, gzipped if the client accepts that."""
        if b"if-none-match" in headers:
            unchanged = page.not_modified(headers[b"if-none-match"].decode("latin-1"))
            if unchanged is not None:
                return unchanged
        return page.gzipped() if self._gzip[headers.get(b"accept-encoding")] else page.plain()

    def save(self) -> None:
        """Store pages that were rendered since the last call, and delete those of removed projects. Blocks."""
        if self._stored is not None:
            self._stored.save()

    def sweep(self) -> None:
        """Delete stored pages that are no longer needed. Blocks."""
        if self._stored is not None:
            self._stored.sweep()

    async def projects(self, request: Request) -> None:
        """The list of all projects (PEP 503, PEP 691)."""
        form = self._wanted_form(request)
        key = ("/simple/", form)

        def render() -> Representation:
            names = self._repository.projects()
            return self._rendered(key, simple_pages.project_list(names, form, self._version), form)

        page = await self._response_cache.fetch(key, self._repository.projects_stamp, render)
        assert page is not None  # noqa: S101 - there is always a list
        await request.respond_with(self.variant(page, request.headers))

    async def project(self, request: Request, name: str, *, slash: bool) -> None:
        """The page of one project; a redirect from another spelling of its name (PEP 503).

        Raises:
            NotAcceptable: the client accepts neither HTML nor JSON.
            NotFound: there is no such project. No other index is suggested: it may have a stranger's project.
        """
        normalized = self.normalized(name)
        if normalized != name or not slash:
            await request.redirect(("../" if slash else "") + normalized + "/" + _query(request))
            return
        form = self._wanted_form(request)
        key = (f"/simple/{normalized}/", form)

        def mark() -> Hashable:
            stamp = self._repository.project_stamp(normalized)
            return stamp if self._namespaces is None else (stamp, self._namespaces.grants())

        def render() -> Representation | None:
            project = self._repository.project(normalized)
            return None if project is None else self._project_page(project, key)

        async def look() -> Representation | None:
            return await self._response_cache.fetch(key, mark, render, gzip=gzip)

        gzip = self._gzip[request.headers.get(b"accept-encoding")]
        page = await self.retry_if_missing(look)
        if page is None:
            raise NotFound(f"there is no project {normalized!r} in this index; see simple/ for its projects")
        await request.respond_with(self.variant(page, request.headers))

    async def redirect(self, request: Request, name: str, *, up: str) -> None:
        """Redirect ``/<project>/`` to its simple page, as stock pypiserver does, if it exists.

        Raises:
            NotFound: there is no such project.
        """
        normalized = self.normalized(name)

        async def look() -> bool | None:
            return await in_thread(partial(self._repository.has, normalized)) or None

        if not await self.retry_if_missing(look):
            raise NotFound(f"there is no project {normalized!r} in this index; see simple/ for its projects")
        await request.redirect(f"{up}simple/{normalized}/")

    async def file(self, request: Request, path: str) -> None:
        """A file, or with the suffix ``.metadata`` its core metadata (PEP 658).

        Raises:
            NotFound: there is no such file.
            Quarantined: its project must not be offered (PEP 792).
            Revoked: an admin has revoked its bytes.
        """
        filename = path.removesuffix(".metadata").removesuffix(SUFFIX)
        await self._check_revocation(filename)
        if path.endswith(SUFFIX):
            await self._provenance(request, filename)
            return
        if filename != path:
            page = await self.retry_if_missing(lambda: self._metadata(path))
            if page is not None:
                await request.respond_with(self.variant(page, request.headers))
                return
        else:
            located = await self.retry_if_missing(lambda: self._located(path))
            if located is not None:
                self._check_quarantine(filename)
                if await self._delivery.deliver(request, located.path, digest=located.digest):
                    if request.status == 200 and request.method == "GET":
                        agent = request.headers.get(b"user-agent", b"")
                        self._activity.count(path, user=request.username, address=request.address, agent=agent)
                    return
        raise NotFound(
            f"there is no file {path[:300]!r} in this index; its project's page below simple/ lists the files"
        )

    async def retry_if_missing(self, look: Callable[[], Any]) -> Any:
        """The result of *look*; if None, again after reading other servers' changes.

        Raises:
            StorageBusy: that fails or takes too long. Something that may exist is never "not found".
        """
        seen = await look()
        if seen is None and self._shared:
            await self._see_others()
            seen = await look()
        return seen

    async def _see_others(self) -> None:
        try:
            run = self._repository.refreshing()
            if run is not None:  # shared by several requests: not cancelled with this one
                await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(run)), READ_SECONDS)
        except (StorageError, TimeoutError, OSError) as error:
            raise StorageBusy("the index cannot check now whether another server has added this") from error

    @staticmethod
    def normalized(name: str) -> str:
        """The normalized form of a project's name, including names that only pypiserver accepts.

        Raises:
            NotFound: no project can have this name.
        """
        if not can_be_listed(name):
            raise NotFound("no project can have this name; use letters, digits, and . _ - between them")
        return normalize(name)

    async def _check_revocation(self, path: str) -> None:
        if self._repository.annotations.revoked_digests:
            reason = await in_thread(partial(self._repository.revocation, path))
            if reason is not None:
                raise Revoked(path.rpartition("/")[2], reason)

    def _check_quarantine(self, path: str) -> None:
        project = project_of(path.rpartition("/")[2].removesuffix(".asc"))
        if project is not None and self._repository.status(project)[0] == "quarantined":
            raise Quarantined("the project of this file is quarantined: it cannot be downloaded for now")

    async def _located(self, path: str) -> _Located | None:
        return await in_thread(partial(self._locate, path)) if self._shared else self._locate(path)

    def _locate(self, path: str) -> _Located | None:
        located = self._repository.locate(path)
        if located is None:
            return None
        # Copies of a shared file have their own times, so only its hash identifies it.
        file = self._repository.file(path) if self._shared else None
        return _Located(located[0], None if file is None else file.sha256)

    def _small_file(self, path: str, headers: Mapping[bytes, bytes]) -> Response | None:
        if self._shared or not _CONDITIONS.isdisjoint(headers) or not self._repository.offers(path):
            return None
        return self._delivery.at_once(path)

    async def _provenance(self, request: Request, filename: str) -> None:
        """Respond with the provenance of a file (PEP 740).

        Raises:
            NotFound: there is no such file, or it has none.
        """
        self._check_quarantine(filename)
        content = await self.retry_if_missing(lambda: in_thread(partial(self._repository.provenance, filename)))
        if content is None:
            raise NotFound(f"there is no provenance of {filename[:300]!r}; it was uploaded without attestations")
        page = Representation(content, content_type=PROVENANCE_TYPE, caching=FILE_CACHING)
        await request.respond_with(self.variant(page, request.headers))

    async def _metadata(self, path: str) -> Representation | None:
        filename = path.removesuffix(".metadata")

        def render() -> Representation | None:
            self._check_quarantine(filename)
            return _metadata_page(self._repository.metadata(filename))

        mark = partial(self._metadata_mark, filename)
        return await self._response_cache.fetch((f"/packages/{path}", None), mark, render)

    def _metadata_mark(self, filename: str) -> Hashable:
        return self._repository.written(filename) if self._repository.offers(filename) else None

    def _quick_metadata(self, path: str) -> Representation | None:
        """Short metadata of a local file, unless the disk is slow."""
        filename = path.removeprefix("/packages/").removesuffix(".metadata")
        if self._shared or not path.startswith("/packages/") or not self._repository.package_directory.scanned:
            return None
        began = self._disk.begin() if self._repository.offers(filename) else None
        if began is None:
            return None
        try:
            return self._response_cache.load(
                (path, None),
                partial(self._metadata_mark, filename),
                lambda: _metadata_page(self._repository.metadata_at_once(filename)),
            )
        finally:
            self._disk.end(began)

    def _quick(self, path: str, form: str | None) -> Representation | None:
        """The page of a small project, unless it takes long: from the disk, or rendered here.

        Another thread would take turns with the event loop, and so take more of its time.
        """
        root, name = path[:8], path[8:-1]
        if self._stored is None or form is None or root != "/simple/" or path[-1] != "/":
            return None
        began = self._disk.begin() if self._repository.knows(name) else None
        if began is None:
            return None
        try:
            return self._stored_page(name, (path, form)) or self._small_page(name, (path, form))
        finally:
            self._disk.end(began)

    def _stored_page(self, name: str, key: tuple[str, str]) -> Representation | None:
        pages, form = self._stored, key[1]
        # A page in memory is newer.
        stored = None if pages is None or self._response_cache.last(key) is not None else pages.read(name, form)
        if pages is None or stored is None:
            return None
        mark = StoredPageMark(self._repository, self._disk, name, self._refresh_seconds)

        def load() -> Representation | None:
            page = pages.opened(stored, mark.state, form)
            return None if page is None else self._representation(page, form)

        return self._response_cache.load(key, mark, load)

    def _small_page(self, name: str, key: tuple[str, str]) -> Representation | None:
        last = self._response_cache.last(key)
        if last is not None and last.page is not None and last.page.blocks:
            return None

        def render() -> Representation | None:
            project = self._repository.project_at_once(name)
            return None if project is None else self._project_page(project, key)

        return self._response_cache.load(key, partial(self._repository.project_stamp, name), render)

    def _project_page(self, project: Project, key: tuple[str, str]) -> Representation:
        form = key[1]
        more = simple_pages.NO_KEYS if self._namespaces is None else {"namespaces": self._namespaces.of(project)}
        new = self._response_cache.last(key) is None
        page = self._rendered(key, simple_pages.project_page(project, form, more, self._version), form)
        if new and self._stored is not None and page.page is not None and not page.page.blocks:
            self._stored.add(project, form, page)
        return page

    def _rendered(self, key: tuple[str, str], page: Page, form: str) -> Representation:
        last = self._response_cache.last(key)
        return self._representation(rendered(page, None if last is None else last.page), form)

    def _representation(self, made: RenderedPage, form: str) -> Representation:
        policy = None if form == JSON_V1 else NOTHING
        return Representation(
            made.body,
            content_type=simple_pages.content_type(form),
            caching=self._caching,
            vary="Accept, Authorization",
            policy=policy,
            page=made,
        )

    def _wanted_form(self, request: Request) -> str:
        """The requested form, by Accept or, from a browser, by ``?format=`` (PEP 691)."""
        # A plus sign in a query may mean a space, but no media type has one: it is taken literally.
        query = request.scope.get("query_string", b"").decode("latin-1").replace("+", "%2B")
        named = parse_qs(query).get("format")
        form = simple_form(named[0]) if named else self._form[request.headers.get(b"accept")]
        if form is None:
            raise NotAcceptable(f"simple pages are available as {JSON_V1}, {HTML_V1} and text/html; accept one of them")
        return form


def _metadata_page(metadata: bytes | None) -> Representation | None:
    if metadata is None:
        return None
    return Representation(metadata, content_type="text/plain; charset=utf-8", caching=FILE_CACHING)


def is_download(path: str) -> bool:
    """True for the path of a file, but not of its metadata."""
    return path.startswith("/packages/") and not path.endswith(".metadata")


def _query(request: Request) -> str:
    query: bytes = request.scope.get("query_string", b"")
    return "?" + quote(query, safe="=&%/+.,;-_~") if query else ""
