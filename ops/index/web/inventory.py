"""What stock pypiserver answers besides the simple pages: a list of all files, JSON of a project, and a search.

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

from ops.index.disk.waiting import READ_SECONDS, in_thread, waiting_until
from ops.index.errors import BadRequest, NotFound
from ops.index.options import Options
from ops.index.packages.catalogue import Catalogue
from ops.index.packages.names import normalize, project_of
from ops.index.web.browsing import address_of
from ops.index.web.exchange import Exchange
from ops.index.web.pages import offered
from ops.index.web.project_json import project_json, release_json
from ops.index.web.reading import Reading
from ops.index.web.representation import Representation
from ops.index.web.security_headers import NOTHING, security_headers
from ops.index.web.shelf import Shelf

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


class Inventory:
    """Answers ``packages/``, ``<project>/json`` and ``pypi/`` to GET and HEAD, and ``RPC2`` to POST.

    Parameters:
        catalogue: what there is.
        reading: finds what other servers have added, and chooses the form that a client takes.
        options: how often files are looked at for a change made in place.
    """

    def __init__(self, catalogue: Catalogue, reading: Reading, options: Options) -> None:
        self._catalogue = catalogue
        self._reading = reading
        self._shelf: Shelf[str] = Shelf(catalogue.stamp, capacity=_MEMORY, lifetime=options.refresh_seconds, near=False)

    async def files(self, exchange: Exchange) -> None:
        """Links to all files, for ``pip --find-links``. Hashes stand on the pages of the projects."""
        page = await self._shelf.fetch("packages", self._catalogue.stamp, self._list)
        assert page is not None  # noqa: S101 - there is always a list
        await exchange.ready(self._reading.variant(page, exchange.headers))

    async def project(self, exchange: Exchange, name: str) -> None:
        """All releases of a project as JSON.

        Raises:
            NotFound: there is no such project.
        """
        await self._describe(exchange, name, None)

    async def bots(self, exchange: Exchange, rest: str) -> None:
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

    async def search(self, exchange: Exchange, *, confirm: Callable[[Exchange], Awaitable[object]]) -> None:
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
        for path in self._catalogue.paths():
            project = project_of(path.rpartition("/")[2]) or ""
            if project not in closed:
                closed[project] = self._catalogue.status(project)[0] == "quarantined"
            if not closed[project]:
                yield path

    async def _describe(self, exchange: Exchange, name: str, version: str | None) -> None:
        normalized = self._reading.normalized(name)
        if normalized != name:
            up, rest = ("../", "") if version is None else ("../../", f"/{quote(os.fsencode(version), safe='')}")
            await exchange.redirect(f"{up}{quote(normalized)}{rest}/json")
            return
        base = address_of(exchange)

        def mark() -> Hashable:
            return self._catalogue.project_stamp(normalized)

        def render() -> Representation | None:
            project = self._catalogue.project(normalized)
            if project is None:
                return None
            body = project_json(project, base) if version is None else release_json(project, version, base)
            if body is None:
                return None
            return Representation(body, content_type="application/json", vary="Authorization, Host")

        async def look() -> Representation | None:
            return await self._shelf.fetch(f"{normalized} {version or ''} {base}", mark, render)

        page = await self._reading.found(look)
        if page is None:
            release = f" {version}" if version else ""
            raise NotFound(f"there is no {normalized}{release} in this index")
        await exchange.ready(self._reading.variant(page, exchange.headers))

    def _hits(self, text: str) -> list[dict[str, str | int]]:
        wanted = normalize(text)
        hits: list[dict[str, str | int]] = []
        for project in self._catalogue.projects():
            if wanted not in project:
                continue
            found = self._catalogue.project(project)
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
