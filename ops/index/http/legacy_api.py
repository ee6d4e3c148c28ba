"""Legacy endpoints of stock pypiserver: the list of all files, JSON of a project, and XML-RPC search.

They are answered here and not by pypiserver, which would look at every file for the first and the last, tell no client
that it has the page already, and offer the files of a project under quarantine.
"""

from __future__ import annotations

import os
import time
import xmlrpc.client
from collections.abc import Awaitable, Callable, Hashable, Iterable
from functools import partial
from html import escape
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

from ops.index.config import Options
from ops.index.errors import BadRequest, NotFound
from ops.index.http.html_pages_handler import address_of
from ops.index.http.project_json import project_json, release_json
from ops.index.http.representation import Representation
from ops.index.http.request import Request
from ops.index.http.response_cache import ResponseCache
from ops.index.http.security_headers import NOTHING, security_headers
from ops.index.http.simple_api import SimpleApi
from ops.index.http.simple_pages import offered
from ops.index.packages.filenames import normalize, project_of
from ops.index.packages.repository import Repository
from ops.index.storage.waiting import READ_SECONDS, in_thread, waiting_until

MOST_HITS = 100
"""Releases that a search finds, as many as the public index found while it had one."""

_MEMORY = 16 * 1024**2
_LONGEST_CALL = 16 * 1024
_LONGEST_VERSION = 200

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Index of packages</title></head><body>
<h1>Index of packages</h1>
"""


class LegacyApi:
    """Answers ``packages/``, ``<project>/json`` and ``pypi/`` to GET and HEAD, and ``RPC2`` to POST.

    Parameters:
        catalogue: what there is.
        reading: finds what other servers have added, and chooses the form that a client takes.
        options: how often files are looked at for a change made in place.
    """

    def __init__(self, repository: Repository, reading: SimpleApi, options: Options) -> None:
        self._repository = repository
        self._reading = reading
        self._response_cache: ResponseCache[str] = ResponseCache(
            repository.stamp, capacity=_MEMORY, lifetime=options.refresh_seconds, near=False
        )

    async def files(self, exchange: Request) -> None:
        """Links to all files, for ``pip --find-links``. Hashes stand on the pages of the projects."""
        page = await self._response_cache.fetch("packages", self._repository.stamp, self._list)
        assert page is not None  # noqa: S101 - there is always a list
        await exchange.ready(self._reading.variant(page, exchange.headers))

    async def project(self, exchange: Request, name: str) -> None:
        """All releases of a project as JSON.

        Raises:
            NotFound: there is no such project.
        """
        await self._describe(exchange, name, None)

    async def bots(self, exchange: Request, rest: str) -> None:
        """What dependency bots ask for: ``<project>/json`` and ``<project>/<version>/json``.

        Parameters:
            rest: the path below ``pypi/``.

        Raises:
            NotFound: there is no such project, release or page.
        """
        if rest.endswith("/json/"):
            await exchange.redirect("../json")
            return
        match rest.split("/"):
            case [name, "json"]:
                await self._describe(exchange, name, None)
            case [name, version, "json"] if len(version) <= _LONGEST_VERSION:
                await self._describe(exchange, name, version)
            case _:
                raise NotFound("there are pypi/<project>/json and pypi/<project>/<version>/json, and nothing else")

    async def search(self, exchange: Request, *, confirm: Callable[[Request], Awaitable[object]]) -> None:
        """The releases of projects whose names contain a text: what ``pip search`` asks for, over XML-RPC.

        Parameters:
            exchange: the request.
            confirm: raises once its user is there no more. Called when the body has come.

        Raises:
            BadRequest: it is no XML, or asks for anything else.
            TooLarge: nobody searches for so much.
        """
        text = _sought(await exchange.body(_LONGEST_CALL))
        await confirm(exchange)
        with waiting_until(time.monotonic() + READ_SECONDS):
            hits = await in_thread(partial(self._hits, text))
        body = xmlrpc.client.dumps((hits,), methodresponse=True).encode()
        headers = [
            (b"content-type", b"text/xml; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            *security_headers(),
            (b"cache-control", b"private, no-store"),
        ]
        await exchange.answer(200, headers, body)

    def _list(self) -> Representation:
        lines = [f'<a href="{quote(path)}">{escape(path)}</a><br>\n' for path in sorted(self._offered())]
        body = "".join([_HEAD, *lines, "</body></html>\n"]).encode("utf-8", "replace")
        return Representation(body, content_type="text/html; charset=utf-8", policy=NOTHING)

    def _offered(self) -> Iterable[str]:
        closed: dict[str, bool] = {}
        for path in self._repository.paths():
            project = project_of(path.rpartition("/")[2]) or ""
            if project not in closed:
                closed[project] = self._repository.status(project)[0] == "quarantined"
            if not closed[project]:
                yield path

    async def _describe(self, exchange: Request, name: str, version: str | None) -> None:
        normalized = self._reading.normalized(name)
        if normalized != name:
            up, rest = ("../", "") if version is None else ("../../", f"/{quote(os.fsencode(version), safe='')}")
            await exchange.redirect(f"{up}{quote(normalized)}{rest}/json")
            return
        base = address_of(exchange)

        def mark() -> Hashable:
            return self._repository.project_stamp(normalized)

        def render() -> Representation | None:
            project = self._repository.project(normalized)
            if project is None:
                return None
            body = project_json(project, base) if version is None else release_json(project, version, base)
            if body is None:
                return None
            return Representation(body, content_type="application/json", vary="Authorization, Host")

        async def look() -> Representation | None:
            return await self._response_cache.fetch(f"{normalized} {version or ''} {base}", mark, render)

        page = await self._reading.found(look)
        if page is None:
            release = f" {version}" if version else ""
            raise NotFound(f"there is no {normalized}{release} in this index")
        await exchange.ready(self._reading.variant(page, exchange.headers))

    def _hits(self, text: str) -> list[dict[str, str | int]]:
        wanted = normalize(text)
        hits: list[dict[str, str | int]] = []
        for project in self._repository.projects():
            if wanted not in project:
                continue
            found = self._repository.project(project)
            for version in dict.fromkeys(file.version for file in offered(found)) if found is not None else ():
                hits.append({"name": project, "version": version, "summary": version, "_pypi_ordering": len(hits)})
                if len(hits) == MOST_HITS:
                    return hits
        return hits


def _sought(call: bytes) -> str:
    """The text that an XML-RPC call of ``search`` is about."""
    try:
        root: Element = fromstring(call, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):  # the last: an unknown encoding
        raise BadRequest("the call cannot be read: it is not XML-RPC; pip search sends what is right") from None
    if root.tag != "methodCall" or (root.findtext("methodName") or "").strip() != "search":
        raise BadRequest("the only XML-RPC method here is search; packages are uploaded to the root of the index")
    text = next((found.text for found in root.iter("string") if found.text and found.text.strip()), None)
    if text is None:
        raise BadRequest("the search does not say for what: send the text as a string")
    return text.strip()
