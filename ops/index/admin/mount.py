"""The admin application below ``/admin/`` of the index, imported when it is first needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from ops.index.admin.token import OPEN_PATHS, TokenCheck
from ops.index.config import Options
from ops.index.errors import Unauthorized
from ops.index.http.request import ASGIApp, Request
from ops.index.http.request_auth import RequestAuth


class AdminMount:
    """Passes requests on to the admin application, and nobody's without credentials.

    Parameters:
        create: imports and makes the admin application, which takes half a second. Runs in a thread, once.
        token_check: the one that the admin application has too, so that a guess counts wherever it is made.
        door: knows the users of the index, who may read the admin application's documentation.
        options: the realm.
        prefix: the path that it is mounted at.
    """

    def __init__(
        self,
        create: Callable[[], ASGIApp],
        *,
        token_check: TokenCheck,
        request_auth: RequestAuth,
        options: Options,
        prefix: str = "/admin",
    ) -> None:
        self._create = create
        self._token_check = token_check
        self._request_auth = request_auth
        self._realm = options.realm
        self._prefix = prefix
        self._making = threading.Lock()
        self._app: ASGIApp | None = None

    def warm_up(self) -> None:
        """Make it now. Blocks."""
        with self._making:
            if self._app is None:
                self._app = self._create()

    async def pass_on(self, exchange: Request) -> None:
        """Have the admin application answer.

        Raises:
            Unauthorized: there are no credentials, or ones that open nothing here.
            TooManyAttempts: too many wrong ones.
        """
        inner = exchange.path.removeprefix(self._prefix) or "/"
        # What it shows to everybody where it stands alone takes the token here, or a user of the index. Everything else
        # asks for the token by itself.
        authorization = exchange.headers.get(b"authorization", b"")
        if authorization[:7].lower() != b"bearer ":
            await self._request_auth.identify(exchange)
        elif inner in OPEN_PATHS and not self._token_check.accepts(authorization, exchange.address):
            raise Unauthorized("the admin token is wrong", realm=self._realm)
        if self._app is None:
            await asyncio.to_thread(self.warm_up)
        assert self._app is not None  # noqa: S101 - for the type checker
        scope = dict(exchange.scope)
        scope["root_path"] = (scope.get("root_path") or "") + self._prefix
        scope["client"] = (exchange.address, (scope.get("client") or ("", 0))[1])
        exchange.started = True
        await self._app(scope, exchange.receive, exchange.send)
