"""The one ASGI application: who is asking, what they want, and which part answers."""

from __future__ import annotations

import asyncio
import logging
import time

from ops.index.admin.mount import AdminMount
from ops.index.auth.roles import Identity
from ops.index.errors import LoginDelayed, NotFound, PackageIndexError, StorageBusy
from ops.index.http.fast_path import FastPath
from ops.index.http.html_pages_handler import HtmlPagesHandler
from ops.index.http.legacy_api import LegacyApi
from ops.index.http.manage_api import ACTIONS, ManageApi
from ops.index.http.representation import Answer
from ops.index.http.request import Receive, Request, Scope, Send
from ops.index.http.request_auth import RequestAuth, refuse_other_sites
from ops.index.http.simple_api import SimpleApi
from ops.index.http.upload_handler import UploadHandler
from ops.index.lifespan import Lifespan
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import READ_SECONDS, waiting_until

_LONGEST_PATH = 4096
_GLANCE = 0.02
"""Seconds between two attempts to read a storage."""

_logger = logging.getLogger(__name__)


class Index:
    """The index as an ASGI application.

    Every path but ``/health`` wants credentials, which are looked at before anything else, the body included.

    Parameters:
        door: knows who is asking.
        reading: answers installers.
        browsing: answers people.
        inventory: answers what stock pypiserver answers besides.
        upstream: pypiserver, for uploads.
        changes: yanks, and sets the status of projects.
        admin: the admin application; None when there is no token for it.
        housekeeping: what goes on beside the requests.
        packages: the volume of packages.
    """

    def __init__(
        self,
        *,
        request_auth: RequestAuth,
        reading: SimpleApi,
        browsing: HtmlPagesHandler,
        legacy_api: LegacyApi,
        upstream: UploadHandler,
        changes: ManageApi,
        admin: AdminMount | None,
        lifespan: Lifespan,
        packages: Storage,
    ) -> None:
        self._request_auth = request_auth
        self._reading = reading
        self._browsing = browsing
        self._legacy_api = legacy_api
        self._upstream = upstream
        self._changes = changes
        self._admin = admin
        self._lifespan = lifespan
        self._shared = packages.shared
        self._remembered = request_auth.remembered
        self._ready = reading.ready
        self.fast_path = FastPath(request_auth, reading)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or go through the life of the server (ASGI 3)."""
        if scope["type"] == "http":
            headers = _by_name(scope["headers"])
            if scope["method"] == "GET" and not scope["query_string"]:
                answer = self.at_once(scope["path"], headers)
                if answer is not None:
                    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
                    await send({"type": "http.response.body", "body": answer.body})
                    return
            address, hops = self._request_auth.route(scope.get("client"), headers)
            await self._respond(Request(scope, receive, send, headers, address, hops=hops))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:  # a web socket: this server has none
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    def at_once(self, path: str, headers: dict[bytes, bytes]) -> Answer | None:
        """The answer to a GET by a user who is known for a page that has been made: nothing has to be waited for.

        This is what an index does nearly all of its time. It takes a few microseconds.

        Parameters:
            path: of the request, which has no query.
            headers: of the request, by name.
        """
        authorization = headers.get(b"authorization")
        if authorization is None or self._remembered(authorization) is None:
            return None
        return self._ready(path, headers)

    def stop(self) -> None:
        """End what a request would go on with for long: the server is stopping. Does not block."""
        self._browsing.stop()
        self._upstream.stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._lifespan.begin()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._lifespan.end()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, exchange: Request) -> None:
        """Answer at length, and turn every refusal into its status and one line of text."""
        try:
            if not self._lifespan.running:  # a server that knows no lifespan
                self._lifespan.begin()
            await self._route(exchange)
        except PackageIndexError as error:
            if exchange.started:
                raise
            headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
            if b"expect" in exchange.headers:
                headers.append((b"connection", b"close"))  # the body that was announced must not be taken for a request
            status = error.status_for(exchange.header(b"user-agent") or "")
            if status >= 500 and not isinstance(
                error, LoginDelayed | StorageBusy
            ):  # many come at once, and all come again
                _logger.error("%s %s: %s", exchange.method, exchange.path, error)
            await exchange.sentence(status, error.message, *headers)

    async def _route(self, exchange: Request) -> None:
        path = exchange.path
        if path == "/health" and exchange.method in {"GET", "HEAD"}:
            await exchange.sentence(200, "ok")
        elif path == "/admin" or path.startswith("/admin/"):
            await self._administer(exchange)
        else:
            identity = await self._request_auth.identify(exchange)
            if len(path) > _LONGEST_PATH or not path.startswith("/") or "\0" in path:
                raise NotFound("there is nothing under such a path; the index is at simple/")
            if exchange.method in {"GET", "HEAD"}:
                await (self._read_shared if self._shared else self._read)(exchange, path)
            elif exchange.method == "POST":
                refuse_other_sites(exchange)
                await self._change(exchange, path, identity)
            else:
                await _not_allowed(exchange, "GET, HEAD, POST")

    async def _administer(self, exchange: Request) -> None:
        if self._admin is None:
            await self._request_auth.identify(exchange)
            raise NotFound(
                "this server has no admin application: it was started without a token; its operator sets AUTH_TOKEN"
            )
        if exchange.method not in {"GET", "HEAD"}:
            refuse_other_sites(exchange)
        await self._admin.pass_on(exchange)

    async def _read_shared(self, exchange: Request, path: str) -> None:
        """Answer from what is at hand; only when that is not enough, wait for a storage that shows no files now.

        Raises:
            StorageBusy: it is for too long.
        """
        deadline = time.monotonic() + READ_SECONDS
        moment = 0.0  # not at all
        while True:
            try:
                with waiting_until(moment):
                    await self._read(exchange, path)
                return
            except StorageBusy:
                if exchange.started or time.monotonic() > deadline:
                    raise
            moment = deadline
            await asyncio.sleep(_GLANCE)

    async def _read(self, exchange: Request, path: str) -> None:
        head, slash, rest = path[1:].partition("/")
        match head:
            case "" if not slash:
                await self._browsing.projects(exchange)
            case "simple" | "packages" if not slash:
                await exchange.redirect(f"{head}/")
            case "simple" if not rest:
                await self._reading.projects(exchange)
            case "simple":
                await self._reading.project(exchange, rest.removesuffix("/"), slash=rest.endswith("/"))
            case "packages" if not rest:
                await self._legacy_api.files(exchange)
            case "packages":
                await self._reading.file(exchange, rest)
            case "projects" if rest:
                await self._browsing.project(exchange, rest.removesuffix("/"), slash=rest.endswith("/"))
            case "projects":
                await exchange.redirect("../" if slash else "./")
            case "pypi" if "/json" in rest:
                await self._legacy_api.bots(exchange, rest)
            case _ if rest == "json":
                await self._legacy_api.project(exchange, head)
            case _ if not rest:
                await self._reading.elsewhere(exchange, head, up="../" if slash else "")
            case _:
                raise NotFound("there is nothing under this path; the index is at simple/")

    async def _change(self, exchange: Request, path: str, identity: Identity) -> None:
        parts = path.strip("/").split("/")
        if path in {"/", "/legacy", "/legacy/"}:
            await self._upstream.pass_on(exchange, identity)
        elif path == "/RPC2":
            await self._legacy_api.search(exchange, confirm=self._request_auth.confirm)
        elif len(parts) == 3 and parts[0] == "projects" and parts[2] in ACTIONS:
            await self._changes.apply(exchange, self._reading.normalized(parts[1]), parts[2])
        else:
            await _not_allowed(exchange, "GET, HEAD", "; upload to the root of the index, POST /")


async def _not_allowed(exchange: Request, methods: str, more: str = "") -> None:
    allow = (b"allow", methods.encode())
    await exchange.sentence(405, f"this takes {methods} and nothing else{more}", allow)


def _by_name(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name; those that came more than once are joined with commas (RFC 9110, section 5.3)."""
    headers = dict(fields)
    if len(headers) != len(fields):
        headers = {}
        for name, value in fields:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers
