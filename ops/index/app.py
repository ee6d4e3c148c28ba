"""The ASGI application: authentication, routing and refusals."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ops.index.activity import Activity
from ops.index.admin.mount import AdminMount
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.roles import Identity
from ops.index.errors import LoginDelayed, NotFound, PackageIndexError, StorageBusy, Unauthorized
from ops.index.http.fast_path import FastPath
from ops.index.http.forwarded import TrustedProxies
from ops.index.http.html_pages import HtmlPages
from ops.index.http.legacy_api import LegacyApi
from ops.index.http.manage_api import ACTIONS, ManageApi
from ops.index.http.metrics import Metrics
from ops.index.http.namespaces import NAMESPACE, Namespaces
from ops.index.http.oidc_api import DISCOVERY, PREFIX, OidcApi
from ops.index.http.representation import Response
from ops.index.http.request import Request, refusal_response
from ops.index.http.simple_api import SimpleApi, is_download
from ops.index.http.upload import UploadApi
from ops.index.http.user_pages import GUIDE, UserPages
from ops.index.lifespan import Lifespan
from ops.index.storage.storage import Storage
from ops.index.storage.waiting import READ_SECONDS, waiting_until

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_LONGEST_PATH = 4096
_MAY_BE_PUBLIC = re.compile(rf"(?!/)|/(health|admin)|{PREFIX}|{re.escape(DISCOVERY)}|.*%", re.DOTALL)
"""Paths left to normal processing: those that may need no credentials, and those with characters to decode."""

_RETRY_SECONDS = 0.02
"""Pause between two attempts to read a storage."""

_logger = logging.getLogger(__name__)


class Index:
    """The index as an ASGI application.

    Every path but ``/health`` and the exchange of ID tokens needs credentials, which are verified before anything else
    is read, the body included.

    Parameters:
        authenticator: verifies credentials.
        proxies: whose ``X-Forwarded-*`` headers are believed.
        simple_api: serves installers.
        html_pages: serves people.
        legacy_api: serves the other endpoints of stock pypiserver.
        uploads: receives uploads.
        manage_api: yanks files and sets the status of projects.
        oidc_api: exchanges ID tokens of CI jobs.
        admin: the admin application; None when there is no token for it.
        metrics: serves monitoring systems.
        namespaces: serves reserved prefixes; None if they are not shown.
        user_pages: show users who they are and how to use the index.
        activity: counts downloads.
        lifespan: background work.
        packages: the volume of packages.
    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        proxies: TrustedProxies,
        simple_api: SimpleApi,
        html_pages: HtmlPages,
        legacy_api: LegacyApi,
        uploads: UploadApi,
        manage_api: ManageApi,
        oidc_api: OidcApi,
        admin: AdminMount | None,
        metrics: Metrics,
        namespaces: Namespaces | None,
        user_pages: UserPages,
        activity: Activity,
        lifespan: Lifespan,
        packages: Storage,
    ) -> None:
        self._authenticator = authenticator
        self._proxies = proxies
        self._simple_api = simple_api
        self._html_pages = html_pages
        self._legacy_api = legacy_api
        self._uploads = uploads
        self._manage_api = manage_api
        self._oidc_api = oidc_api
        self._admin = admin
        self._of_the_user: Mapping[str, Callable[[Request, Identity], Awaitable[None]]] = {
            "/metrics": metrics.handle,
            "/whoami": user_pages.whoami,
            GUIDE: user_pages.guide,
            **({} if namespaces is None else {"/namespaces": namespaces.list, NAMESPACE: namespaces.detail}),
        }
        self._activity = activity
        self._lifespan = lifespan
        self._shared = packages.shared
        self._remembered = authenticator.remembered
        self._digest = authenticator.digest
        self._holder = authenticator.holder
        self._ready = simple_api.ready
        self._refusal: Response | None = None
        self.fast_path = FastPath(authenticator, simple_api, self._count, self.challenge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request, or run the server's lifespan (ASGI 3)."""
        if scope["type"] == "http":
            headers = _by_name(scope["headers"])
            client: tuple[str, int] | None = scope.get("client")
            peer = client[0] if client else ""
            if scope["method"] == "GET" and not scope["query_string"]:
                response = self.at_once(scope["path"], headers, peer)
                if response is not None:
                    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
                    await send({"type": "http.response.body", "body": response.body})
                    return
            address, hops = self._proxies.route(peer, headers.get(b"x-forwarded-for"))
            await self._respond(Request(scope, receive, send, headers, address, hops=hops))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:  # a web socket: this server has none
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    def at_once(self, path: str, headers: dict[bytes, bytes], peer: str) -> Response | None:
        """The response to a known user's GET for a cached page, within microseconds; None if it takes longer.

        Nearly all requests take this path.

        Parameters:
            path: of the request, which has no query.
            headers: of the request, by name.
            peer: the address at the other end of the connection.
        """
        authorization = headers.get(b"authorization")
        if authorization is None:
            return None
        login = self._digest(authorization)
        user = self._holder(login)
        if user is None:
            address, _ = self._proxies.route(peer, headers.get(b"x-forwarded-for"))
            user = self._authenticator.known_token(login, authorization, address)
            if user is None:
                return None
        response = self._ready(path, headers)
        if response is not None and is_download(path):
            self._count(path, user.username, peer, headers)
        return response

    def challenge(self, path: str, headers: Mapping[bytes, bytes], peer: str) -> Response | None:
        """The refusal of a GET without user name and password, within microseconds; None if it takes longer.

        Parameters:
            path: of the request as it was sent, with its query.
            headers: of the request, by name.
            peer: the address at the other end of the connection.
        """
        authorization = headers.get(b"authorization")
        basic = authorization is not None and authorization.lstrip()[:5].lower() == b"basic"
        if basic or b"expect" in headers or _MAY_BE_PUBLIC.match(path) is not None:
            return None
        address, _ = self._proxies.route(peer, headers.get(b"x-forwarded-for"))
        try:
            self._authenticator.parse(authorization, address)
        except Unauthorized as error:
            if self._refusal is None:
                self._refusal = refusal_response(error)
            return self._refusal
        return None

    def stop(self) -> None:
        """Cut long requests short because the server is stopping. Does not block."""
        self._html_pages.stop()
        self._uploads.stop()

    def _count(self, path: str, username: str, peer: str, headers: Mapping[bytes, bytes]) -> None:
        """Count a download on the fast path."""
        address, _ = self._proxies.route(peer, headers.get(b"x-forwarded-for"))
        agent = headers.get(b"user-agent", b"")
        self._activity.count(path.removeprefix("/packages/"), user=username, address=address, agent=agent)

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

    async def _respond(self, request: Request) -> None:
        """Route a request, and turn a refusal into its status and one line of text."""
        try:
            if not self._lifespan.running:  # a server without lifespan
                self._lifespan.begin()
            await self._route(request)
        except PackageIndexError as error:
            if request.started:
                raise
            if error.status >= 500 and not isinstance(error, LoginDelayed | StorageBusy):  # those come in bursts
                _logger.error("%s %s: %s", request.method, request.path, error)
            # An announced body that never came must not be mistaken for the next request.
            close = [(b"connection", b"close")] if b"expect" in request.headers else []
            await request.refuse(error, *close)

    async def _route(self, request: Request) -> None:
        path = request.path
        if path == "/health" and request.method in {"GET", "HEAD"}:
            await request.text(200, "ok")
        elif path == "/admin" or path.startswith("/admin/"):
            await self._administer(request)
        elif path.startswith((PREFIX, DISCOVERY)):
            await self._oidc_api.handle(request)
        else:
            identity = await self._identify(request)
            if len(path) > _LONGEST_PATH or not path.startswith("/") or "\0" in path:
                raise NotFound("there is nothing under this path; the index is at simple/")
            request.username = identity.username
            page = NAMESPACE if path.startswith(NAMESPACE) else path
            if request.method in {"GET", "HEAD"} and page in self._of_the_user:
                await self._of_the_user[page](request, identity)
            elif request.method in {"GET", "HEAD"}:
                await (self._read_shared if self._shared else self._read)(request, path)
            elif request.method == "POST":
                request.check_same_origin()
                await self._change(request, path, identity)
            else:
                await _not_allowed(request, "GET, HEAD, POST")

    async def _identify(self, request: Request) -> Identity:
        """The user who sends a request.

        Raises:
            Unauthorized: it has no credentials, or wrong ones.
            TooManyAttempts: too many wrong ones came from its address.
            LoginDelayed: they could not be verified in time.
        """
        authorization = request.headers.get(b"authorization")
        identity = None if authorization is None else self._remembered(authorization)
        if identity is None:
            identity = await self._authenticator.authenticate(authorization, request.address, proxied=request.proxied)
        request.logged_in()
        return identity

    async def _still_allowed(self, authorization: bytes, address: str) -> bool:
        """True if the user of an earlier request could send it again. Takes microseconds unless something changed."""
        if self._remembered(authorization) is None:
            try:
                await self._authenticator.authenticate(authorization, address)
            except LoginDelayed:  # nothing is known yet
                return True
            except PackageIndexError:
                return False
        return True

    async def _administer(self, request: Request) -> None:
        if self._admin is None:
            await self._identify(request)
            raise NotFound(
                "this server has no admin application: it was started without a token; its operator sets AUTH_TOKEN"
            )
        if request.method not in {"GET", "HEAD"}:
            request.check_same_origin()
        if not self._admin.authenticates(request):
            await self._identify(request)
        await self._admin.handle(request)

    async def _read_shared(self, request: Request, path: str) -> None:
        """Respond from the cache; only if that is not enough, wait for busy storage.

        Raises:
            StorageBusy: it was busy for too long.
        """
        deadline = time.monotonic() + READ_SECONDS
        moment = 0.0  # without waiting
        while True:
            try:
                with waiting_until(moment):
                    await self._read(request, path)
                return
            except StorageBusy:
                if request.started or time.monotonic() > deadline:
                    raise
            moment = deadline
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self, request: Request, path: str) -> None:
        head, slash, rest = path[1:].partition("/")
        match head:
            case "" if not slash:
                await self._html_pages.projects(request)
            case "simple" | "packages" if not slash:
                await request.redirect(f"{head}/")
            case "simple" if not rest:
                await self._simple_api.projects(request)
            case "simple":
                await self._simple_api.project(request, rest.removesuffix("/"), slash=rest.endswith("/"))
            case "packages" if not rest:
                await self._legacy_api.files(request)
            case "packages":
                request.still_allowed = partial(
                    self._still_allowed, request.headers.get(b"authorization", b""), request.address
                )
                await self._simple_api.file(request, rest)
            case "projects" if rest:
                await self._html_pages.project(request, rest.removesuffix("/"), slash=rest.endswith("/"))
            case "projects":
                await request.redirect("../" if slash else "./")
            case "pypi" if "/json" in rest:
                await self._legacy_api.below_pypi(request, rest)
            case _ if rest == "json":
                await self._legacy_api.project(request, head)
            case _ if not rest:
                await self._simple_api.redirect(request, head, up="../" if slash else "")
            case _:
                raise NotFound("there is nothing under this path; the index is at simple/")

    async def _change(self, request: Request, path: str, identity: Identity) -> None:
        parts = path.strip("/").split("/")
        if path in {"/", "/legacy", "/legacy/"}:
            await self._uploads.handle(request, identity)
        elif path == "/RPC2":
            await self._legacy_api.search(request)
        elif len(parts) == 3 and parts[0] == "projects" and parts[2] in ACTIONS:
            await self._manage_api.handle(request, self._simple_api.normalized(parts[1]), parts[2])
        else:
            await _not_allowed(request, "GET, HEAD", "; upload to the root of the index, POST /")


async def _not_allowed(request: Request, methods: str, more: str = "") -> None:
    allow = (b"allow", methods.encode())
    await request.text(405, f"only {methods} is allowed here{more}", allow)


def _by_name(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name; those that came more than once are joined with commas (RFC 9110, section 5.3)."""
    headers = dict(fields)
    if len(headers) != len(fields):
        headers = {}
        for name, value in fields:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers
