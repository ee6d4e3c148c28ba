"""Answering people: the pages of :mod:`ops.index.http.html_pages`, kept while nothing changes."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import parse_qs

from ops.index.config import Options
from ops.index.errors import NotFound
from ops.index.http.html_pages import HtmlPages
from ops.index.http.readme import About
from ops.index.http.readmes import NotRendered, Readmes
from ops.index.http.representation import Representation
from ops.index.http.request import Request
from ops.index.http.response_cache import ResponseCache
from ops.index.http.simple_api import SimpleApi
from ops.index.packages.repository import Repository

_MEMORY = 16 * 1024**2
"""Bytes for rendered pages: a list of 10,000 projects is one of 2.5 MiB."""

_THREADS = 2
"""For rendering pages, whatever Host headers and searches they come with; uploads and installers have others."""

_LONGEST_QUERY = 200


class HtmlPagesHandler:
    """Answers GET and HEAD for ``/`` and ``projects/``.

    Parameters:
        browser: makes the pages.
        readmes: renders READMEs.
        catalogue: what there is.
        reading: finds what other servers have added, and chooses the form that a client takes.
        options: how often files are looked at for a change made in place.
    """

    def __init__(
        self, browser: HtmlPages, readmes: Readmes, repository: Repository, reading: SimpleApi, options: Options
    ) -> None:
        self._browser = browser
        self._readmes = readmes
        self._repository = repository
        self._reading = reading
        self._response_cache: ResponseCache[tuple[str, str, str]] = ResponseCache(
            repository.stamp,
            capacity=_MEMORY,
            lifetime=options.refresh_seconds,
            near=False,
            executor=ThreadPoolExecutor(_THREADS, "pages"),
        )

    def stop(self) -> None:
        """Answer pages that wait for a README without it: the server is stopping. Does not block."""
        self._readmes.close()

    async def projects(self, exchange: Request) -> None:
        """The list of projects, or of those that fit to ``?q=``."""
        text = exchange.scope.get("query_string", b"")[:4096].decode("latin-1")
        query = parse_qs(text, encoding="utf-8", errors="replace").get("q", [""])[0][:_LONGEST_QUERY]
        base = address_of(exchange)
        page = await self._response_cache.fetch(
            ("", query, base), self._repository.stamp, lambda: self._browser.home(base, query)
        )
        assert page is not None  # noqa: S101 - there is always a list
        await exchange.ready(self._reading.variant(page, exchange.headers))

    async def project(self, exchange: Request, name: str, *, slash: bool) -> None:
        """The page of one project; under another spelling of its name, the way to it.

        Raises:
            NotFound: there is no such project.
        """
        normalized = self._reading.normalized(name)
        if normalized != name or not slash:
            await exchange.redirect(("../" if slash else "") + normalized + "/")
            return
        base = address_of(exchange)

        def mark() -> Hashable:
            return self._repository.project_stamp(normalized)

        async def look() -> Representation | None:
            abouts: dict[str, About] = {}
            final = True
            while True:
                # A page without its README is shared by those who ask for it now, and not kept.
                key = (normalized, "" if final else "unrendered", base)
                render = partial(self._browser.project, normalized, base, abouts)
                try:
                    return await self._response_cache.fetch(key, mark if final else _nothing, render)
                except NotRendered as missing:
                    about = await self._readmes.about(missing.digest, missing.description)
                    abouts = {missing.digest: about}
                    final = about.final

        page = await self._reading.found(look)
        if page is None:
            raise NotFound(f"there is no project {normalized!r} in this index; those that there are stand at simple/")
        await exchange.ready(self._reading.variant(page, exchange.headers))


def _nothing() -> None:
    """The mark of a page that is not kept."""


def address_of(exchange: Request) -> str:
    """The index's address as the client wrote it, for addresses that leave the page: of files, and in commands.

    Behind a proxy that changes it and is not trusted, a page's script puts in what the browser sees.
    """
    return f"{exchange.scheme}://{exchange.host or 'localhost'}{exchange.root}/"
