"""Legacy endpoints of stock pypiserver: the list of all files, JSON of a project, and XML-RPC search.

pypiserver itself does not serve them: it would read every file for the first and the last, send no 304, and offer the
files of quarantined projects.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Hashable, Iterable
from datetime import UTC
from functools import partial
from html import escape
from typing import Any
from urllib.parse import quote

from ops.index.config import Options
from ops.index.errors import BadRequest, NotFound
from ops.index.http.representation import Representation
from ops.index.http.request import Confirm, Request
from ops.index.http.response_cache import ResponseCache
from ops.index.http.security_headers import NOTHING
from ops.index.http.simple_api import SimpleApi
from ops.index.http.simple_pages import file_address, format_upload_time, offered
from ops.index.packages.filenames import normalize, parse, project_of, same_version
from ops.index.packages.models import File, Project, latest_of, releases_of
from ops.index.packages.repository import Repository
from ops.index.storage.waiting import READ_SECONDS, in_thread, waiting_until

MOST_HITS = 100
"""Maximum number of releases in a search result, as on the public index while it had a search."""

_MEMORY = 16 * 1024**2
_LONGEST_CALL = 16 * 1024
_LONGEST_VERSION = 200

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Index of packages</title></head><body>
<h1>Index of packages</h1>
"""


class LegacyApi:
    """Handler of GET and HEAD for ``packages/``, ``<project>/json`` and ``pypi/``, and of POST for ``RPC2``.

    Parameters:
        repository: has the projects.
        simple_api: finds what other servers have added, and chooses the encoding that a client accepts.
        confirm: finds the current user of an Authorization header and an address.
        options: how often files are checked for a change made in place.
    """

    def __init__(
        self,
        repository: Repository,
        simple_api: SimpleApi,
        confirm: Confirm,
        options: Options,
    ) -> None:
        self._repository = repository
        self._simple_api = simple_api
        self._confirm = confirm
        self._response_cache: ResponseCache[str] = ResponseCache(
            repository.stamp, capacity=_MEMORY, lifetime=options.refresh_seconds, near=False
        )

    async def files(self, request: Request) -> None:
        """Links to all files, for ``pip --find-links``, without hashes, which are on the project pages."""
        page = await self._response_cache.fetch("packages", self._repository.stamp, self._list)
        assert page is not None  # noqa: S101 - there is always a list
        await request.respond_with(self._simple_api.variant(page, request.headers))

    async def project(self, request: Request, name: str) -> None:
        """All releases of a project as JSON.

        Raises:
            NotFound: there is no such project.
        """
        await self._describe(request, name, None)

    async def below_pypi(self, request: Request, rest: str) -> None:
        """``<project>/json`` and ``<project>/<version>/json``, which dependency bots read.

        Parameters:
            rest: the path below ``pypi/``.

        Raises:
            NotFound: there is no such project, release or page.
        """
        if rest.endswith("/json/"):
            await request.redirect("../json")
            return
        match rest.split("/"):
            case [name, "json"]:
                await self._describe(request, name, None)
            case [name, version, "json"] if len(version) <= _LONGEST_VERSION:
                await self._describe(request, name, version)
            case _:
                raise NotFound("only pypi/<project>/json and pypi/<project>/<version>/json exist here")

    async def search(self, request: Request) -> None:
        """The releases of projects whose names contain a text, for ``pip search``, over XML-RPC.

        Raises:
            BadRequest: it is not XML, or calls another method.
            TooLarge: the body is too long for a search.
            Unauthorized: the user was removed while the body arrived.
        """
        text = _searched(await request.body(_LONGEST_CALL))
        await asyncio.to_thread(self._confirm, request.headers.get(b"authorization"), request.address)
        with waiting_until(time.monotonic() + READ_SECONDS):
            hits = await in_thread(partial(self._hits, text))
        from xmlrpc.client import dumps

        body = dumps((hits,), methodresponse=True).encode()
        await request.content(200, b"text/xml; charset=utf-8", body)

    def _list(self) -> Representation:
        lines = [f'<a href="{quote(os.fsencode(path))}">{escape(path)}</a><br>\n' for path in sorted(self._offered())]
        body = "".join([_HEAD, *lines, "</body></html>\n"]).encode("utf-8", "replace")
        return Representation(body, content_type="text/html; charset=utf-8", policy=NOTHING)

    def _offered(self) -> Iterable[str]:
        closed: dict[str, bool] = {}
        for path in self._repository.paths():
            project = project_of(path.rpartition("/")[2]) or ""
            if project not in closed:
                closed[project] = self._repository.status(project)[0] == "quarantined"
            if not closed[project] and self._repository.annotations.revocation(path) is None:
                yield path

    async def _describe(self, request: Request, name: str, version: str | None) -> None:
        normalized = self._simple_api.normalized(name)
        if normalized != name:
            up, rest = ("../", "") if version is None else ("../../", f"/{quote(os.fsencode(version), safe='')}")
            await request.redirect(f"{up}{quote(normalized)}{rest}/json")
            return
        base = request.index_url

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

        page = await self._simple_api.retry_if_missing(look)
        if page is None:
            release = f" {version}" if version else ""
            raise NotFound(f"there is no {normalized}{release} in this index")
        await request.respond_with(self._simple_api.variant(page, request.headers))

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


def _searched(call: bytes) -> str:
    """The text that an XML-RPC call of ``search`` searches for."""
    # Imported here, like the rest of XML and XML-RPC: few servers ever need it.
    from xml.etree.ElementTree import Element, ParseError

    from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped]
    from defusedxml.ElementTree import fromstring  # type: ignore[import-untyped]

    try:
        root: Element = fromstring(call, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):  # the last: an unknown encoding
        raise BadRequest("the call cannot be read: it is not XML-RPC such as pip search sends") from None
    if root.tag != "methodCall" or (root.findtext("methodName") or "").strip() != "search":
        raise BadRequest("the only XML-RPC method here is search; packages are uploaded to the root of the index")
    text = next((found.text for found in root.iter("string") if found.text and found.text.strip()), None)
    if text is None:
        raise BadRequest("the text to search for is missing: send it as a string")
    return text.strip()


_TYPES = {"wheel": "bdist_wheel", "sdist": "sdist", "egg": "bdist_egg"}


def project_json(project: Project, base: str) -> bytes:
    """All releases of a project, and the files of the one that installers would choose.

    Parameters:
        project: without files if it is quarantined.
        base: the address of the index, with a final slash.
    """
    releases: dict[str, list[dict[str, Any]]] = {}
    for file in reversed(offered(project)):
        releases.setdefault(file.version, []).append(_file(file, base))
    latest = latest_of(releases_of(project))
    assert latest is not None  # noqa: S101 - projects without files have a separate page
    newest = latest.version
    page = {"info": _info(project, newest, base), "releases": releases, "urls": releases.get(newest, [])}
    return json.dumps(page).encode()


def release_json(project: Project, version: str, base: str) -> bytes | None:
    """One release of a project; None when it has no such version.

    Parameters:
        project: without files if it is quarantined.
        version: in any spelling (PEP 440).
        base: the address of the index, with a final slash.
    """
    found = next((known for known in project.versions if same_version(known, version)), None)
    if found is None:
        return None
    urls = [_file(file, base) for file in reversed(offered(project)) if file.version == found]
    return json.dumps({"info": _info(project, found, base), "urls": urls}).encode()


def _info(project: Project, version: str, base: str) -> dict[str, Any]:
    files = [file for file in project.files if file.version == version]
    yanked = all(file.yanked is not None for file in files)
    return {
        "name": project.name,
        "version": version,
        "requires_python": next((file.requires_python for file in files if file.requires_python is not None), None),
        "yanked": yanked,
        "yanked_reason": next((file.yanked for file in files if file.yanked), None) if yanked else None,
        "project_url": f"{base}projects/{project.name}/",
    }


def _file(file: File, base: str) -> dict[str, Any]:
    name = parse(file.filename)
    form = "other" if name is None else name.form
    return {
        "filename": file.filename,
        "url": base + file_address(file),
        "packagetype": _TYPES.get(form, form),
        "python_version": file.filename.split("-")[-3] if form == "wheel" else "source",
        "digests": {"sha256": file.sha256},
        "size": file.size,
        "requires_python": file.requires_python,
        "upload_time": file.upload_time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds"),
        "upload_time_iso_8601": format_upload_time(file.upload_time),
        "yanked": file.yanked is not None,
        "yanked_reason": file.yanked or None,
    }
