"""HTML pages for people: the projects of the index, and one project with its files and its README."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from ops.index.bounded_dict import BoundedDict
from ops.index.config import Options
from ops.index.errors import NotFound
from ops.index.http import html_templates
from ops.index.http.project_details import Details
from ops.index.http.project_search import Hits, ProjectSearch
from ops.index.http.readme import About, NotRendered, Readmes, parse_description
from ops.index.http.representation import Representation
from ops.index.http.request import Request
from ops.index.http.response_cache import ResponseCache
from ops.index.http.simple_api import SimpleApi
from ops.index.http.simple_pages import offered
from ops.index.packages.filenames import is_project
from ops.index.packages.models import File, Project, Release, latest_of, releases_of
from ops.index.packages.repository import Repository

_MEMORY = 16 * 1024**2
"""Bytes of cached pages."""

ROWS = 50
"""Projects on one page of the list."""

_ROWS_KEPT = 20 * ROWS

_THREADS = 2
"""Threads for rendering pages, whatever Host headers and searches come in; uploads and installers have their own."""

_LONGEST_QUERY = 200

_NUMBER = re.compile(r"[0-9]{1,7}")

_MEANINGS = {
    "archived": "It is no longer maintained and accepts no uploads; existing files stay.",
    "deprecated": "It is superseded; see what its maintainers recommend instead.",
    "quarantined": "It is under suspicion: nothing of it can be downloaded or uploaded.",
}


class HtmlPages:
    """Handler of GET and HEAD for ``/`` and ``projects/``.

    Parameters:
        repository: has the projects.
        readmes: renders READMEs.
        simple_api: finds what other servers have added, and chooses the encoding that a client accepts.
        options: how often files are checked for a change made in place.
    """

    def __init__(self, repository: Repository, readmes: Readmes, simple_api: SimpleApi, options: Options) -> None:
        self._search = ProjectSearch(repository)
        self._renderer = HtmlRenderer(repository, readmes, self._search)
        self._readmes = readmes
        self._repository = repository
        self._simple_api = simple_api
        self._response_cache: ResponseCache[tuple[str, str, str]] = ResponseCache(
            repository.stamp,
            capacity=_MEMORY,
            lifetime=options.refresh_seconds,
            near=False,
            executor=ThreadPoolExecutor(_THREADS, "pages"),
        )

    @staticmethod
    def warm_up() -> None:
        """Import and compile what the first page needs."""
        for template in ("home.html", "project.html"):
            html_templates.environment().get_template(template)

    def stop(self) -> None:
        """Send pages that are waiting for a README without it, because the server is stopping. Does not block."""
        self._readmes.close()
        self._search.close()

    async def projects(self, request: Request) -> None:
        """A page of the list of projects, chosen by ``?page=``, or of the matches of ``?q=``."""
        text = request.scope.get("query_string", b"")[:4096].decode("latin-1")
        asked = parse_qs(text, encoding="utf-8", errors="replace")
        query = " ".join(asked.get("q", [""])[0][:_LONGEST_QUERY].split())
        number = asked.get("page", [""])[0]
        place = int(number) if _NUMBER.fullmatch(number) else 1
        base = request.index_url

        def mark() -> Hashable:
            return None if query else self._repository.stamp()  # not all summaries may have been read yet

        page = await self._response_cache.fetch(
            (f"?{place}", query, base), mark, lambda: self._renderer.home(base, query, place)
        )
        assert page is not None  # noqa: S101 - there is always a list
        await request.respond_with(self._simple_api.variant(page, request.headers))

    async def project(self, request: Request, name: str, *, slash: bool) -> None:
        """The page of one project; a redirect from another spelling of its name.

        Raises:
            NotFound: there is no such project.
        """
        normalized = self._simple_api.normalized(name)
        if normalized != name or not slash:
            await request.redirect(("../" if slash else "") + normalized + "/")
            return
        base = request.index_url

        def mark() -> Hashable:
            return self._repository.project_stamp(normalized)

        async def look() -> Representation | None:
            abouts: dict[str, About] = {}
            final = True
            while True:
                # A page without its README is shared by current requests, and not cached.
                key = (normalized, "" if final else "unrendered", base)
                render = partial(self._renderer.project, normalized, base, abouts)
                try:
                    return await self._response_cache.fetch(key, mark if final else _not_cached, render)
                except NotRendered as missing:
                    about = await self._readmes.about(missing.digest, missing.description)
                    abouts = {missing.digest: about}
                    final = about.final

        page = await self._simple_api.retry_if_missing(look)
        if page is None:
            raise NotFound(f"there is no project {normalized!r} in this index; see simple/ for its projects")
        await request.respond_with(self._simple_api.variant(page, request.headers))


@dataclass(frozen=True, slots=True)
class Row:
    """One project in the list."""

    name: str
    summary: str
    latest: str | None
    files: int
    uploaded: datetime | None
    status: str


class HtmlRenderer:
    """Renders the pages. Slow enough to need a thread.

    Parameters:
        repository: has the projects.
        readmes: rendered READMEs.
        search: finds projects.
    """

    def __init__(self, repository: Repository, readmes: Readmes, search: ProjectSearch) -> None:
        self._repository = repository
        self._readmes = readmes
        self._search = search
        self._rows: BoundedDict[str, tuple[Hashable, Row]] = BoundedDict(_ROWS_KEPT)

    def home(self, base: str, query: str = "", place: int = 1) -> Representation:
        """A page of the list of all projects, or of those with *query* in their name or summary.

        Parameters:
            base: the index's own address, ending in a slash.
            query: the text to search for; empty for everything.
            place: of the page, from 1; the last page if there are fewer.
        """
        names = self._repository.projects()
        hits = self._search.find(query) if query else Hits(names, 0)
        pages = max(1, -(-len(hits.names) // ROWS))
        place = min(max(1, place), pages)
        counted = html_templates.pluralize(len(names), "project")
        return _page(
            "home.html",
            up="",
            base=base,
            heading="Packages",
            total=len(names),
            rows=self._table(hits.names[(place - 1) * ROWS : place * ROWS]),
            query=query,
            counted=f"{len(hits.names):,} of {counted}" if query else counted,
            unread=hits.unread,
            place=place,
            pages=pages,
        )

    def project(self, name: str, base: str, abouts: Mapping[str, About] | None = None) -> Representation | None:
        """The page of one project; None if there is no such project.

        Parameters:
            name: normalized.
            base: the index's own address, ending in a slash.
            abouts: READMEs to show, by the SHA-256 of their files, besides those in the cache.

        Raises:
            NotRendered: its README is in neither.
        """
        project = self._repository.project(name)
        if project is None:
            return None
        releases = releases_of(project)
        latest = latest_of(releases)
        about = self._about(latest, abouts or {}) if latest is not None and offered(project) else About()
        return _page(
            "project.html",
            up="../../",
            base=base,
            project=project,
            releases=releases,
            latest=latest.version if latest else None,
            requires_python=latest.requires_python if latest else None,
            installable=is_project(name),
            downloadable=bool(offered(project)),
            meaning=_MEANINGS.get(project.status, ""),
            about=about,
            details=self._details(latest) if latest is not None and offered(project) else Details(),
            here=self._repository.has,
        )

    def _table(self, names: Iterable[str]) -> list[Row]:
        rows = []
        for name in names:
            stamp = self._repository.project_stamp(name)
            known = self._rows.get(name)
            if known is None or known[0] != stamp:
                project = self._repository.project(name)
                if project is None:
                    continue
                self._rows[name] = known = (stamp, self._row(project))
            rows.append(known[1])
        return rows

    def _metadata(self, release: Release) -> bytes:
        """The most informative core metadata; empty if there is none."""
        found = (self._repository.metadata(file.path, unserved=True) for file in _by_rank(release))
        return next(filter(None, found), b"")

    def _details(self, release: Release) -> Details:
        return Details.of(self._metadata(release))

    def _row(self, project: Project) -> Row:
        latest = latest_of(releases_of(project))
        metadata = b"" if latest is None else self._metadata(latest)
        return Row(
            name=project.name,
            summary=parse_description(metadata).summary,
            latest=latest.version if latest else None,
            files=len(project.files),
            uploaded=max((file.upload_time for file in project.files), default=None),
            status=project.status,
        )

    def _about(self, release: Release, abouts: Mapping[str, About]) -> About:
        """Summary and README of a release."""
        for file in _by_rank(release):
            about = abouts.get(file.sha256) or self._readmes.known(file.sha256)
            if about is not None:
                return about
            metadata = self._repository.metadata(file.path, unserved=True)
            if metadata is None:
                continue
            description = parse_description(metadata)
            if not description.plain:
                raise NotRendered(file.sha256, description)
            about = description.unrendered()
            self._readmes.keep(file.sha256, about)
            return about
        return About()


def _by_rank(release: Release) -> Iterable[File]:
    """Its files, most informative metadata first: wheels, then sdists with metadata for installers."""
    return sorted(release.files, key=lambda file: (not file.filename.endswith(".whl"), file.metadata_sha256 is None))


def _page(template: str, **context: Any) -> Representation:
    body = html_templates.render_template(template, **context)
    return Representation(body, content_type="text/html; charset=utf-8", policy=html_templates.policy())


def _not_cached() -> None:
    """The mark of a page that is not cached."""
