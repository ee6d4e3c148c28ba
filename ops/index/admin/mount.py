"""The admin application below ``/admin/`` of the index, imported when it is first needed."""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Callable

from ops.index.access.audit import Audit
from ops.index.access.throttle import Throttle
from ops.index.errors import TooManyAttempts, Unauthorized
from ops.index.options import Options
from ops.index.web.door import Door
from ops.index.web.exchange import ASGIApp, Exchange

_OPEN = frozenset({"/docs", "/openapi.json", "/health"})
"""What the admin application itself shows to everybody. Here it takes the token, or a user of the index."""


class AdminMount:
    """Passes requests on to the admin application, and nobody's without credentials.

    Parameters:
        create: imports and makes the admin application, which takes half a second. Runs in a thread, once.
        token: what opens it.
        door: knows the users of the index, who may read the admin application's documentation.
        options: the realm, and the number of wrong tokens that are free.
        audit: where wrong tokens are noted that the admin application itself does not see.
        prefix: the path that it is mounted at.
    """

    def __init__(
        self,
        create: Callable[[], ASGIApp],
        *,
        token: str,
        door: Door,
        options: Options,
        audit: Audit,
        prefix: str = "/admin",
    ) -> None:
        self._create = create
        self._token = token.encode()
        self._door = door
        self._audit = audit
        self._realm = options.realm
        self._throttle = Throttle(options.login_failures, options.login_window_seconds)
        self._prefix = prefix
        self._making = threading.Lock()
        self._app: ASGIApp | None = None

    def warm_up(self) -> None:
        """Make it now. Blocks."""
        with self._making:
            if self._app is None:
                self._app = self._create()

    async def pass_on(self, exchange: Exchange) -> None:
        """Have the admin application answer.

        Raises:
            Unauthorized: there are no credentials, or ones that open nothing here.
            TooManyAttempts: too many wrong ones.
        """
        inner = exchange.path.removeprefix(self._prefix) or "/"
        # A user of the index may read the documentation; everything else asks for the token by itself.
        if not self._bearer(exchange):
            await self._door.identify(exchange)
        elif inner in _OPEN:
            self._require_token(exchange)
        if self._app is None:
            await asyncio.to_thread(self.warm_up)
        assert self._app is not None  # noqa: S101 - for the type checker
        scope = dict(exchange.scope)
        scope["root_path"] = (scope.get("root_path") or "") + self._prefix
        scope["client"] = (exchange.address, (scope.get("client") or ("", 0))[1])
        exchange.started = True
        await self._app(scope, exchange.receive, exchange.send)

    @staticmethod
    def _bearer(exchange: Exchange) -> bool:
        return exchange.headers.get(b"authorization", b"")[:7].lower() == b"bearer "

    def _require_token(self, exchange: Exchange) -> None:
        if hmac.compare_digest(exchange.headers.get(b"authorization", b"")[7:].strip(), self._token):
            return
        try:
            self._throttle.check("", exchange.address)
        except TooManyAttempts:
            self._audit.record("admin.throttled", user="", address=exchange.address)
            raise
        self._throttle.wrong("", exchange.address)
        self._audit.record("admin.refused", user="", address=exchange.address)
        raise Unauthorized("the admin token is wrong", realm=self._realm)
