"""The admin application below ``/admin/`` of the index, imported when it is first needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ops.index.admin.token import OPEN_PATHS, TokenCheck
from ops.index.config import Options
from ops.index.errors import Unauthorized
from ops.index.http.request import Request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

_PREFIX = "/admin"


class AdminMount:
    """Passes requests on to the admin application.

    Parameters:
        create: imports and creates the admin application, which takes half a second. Runs in a thread, once.
        token_check: that of the admin application, so that guesses count wherever they are made.
        options: the realm.
        see_changes: reads the application's changes before it responds, so that a replaced password is refused as soon
            as the client has the response. Runs in a thread.
    """

    def __init__(
        self,
        create: Callable[[], ASGIApp],
        *,
        token_check: TokenCheck,
        options: Options,
        see_changes: Callable[[], None],
    ) -> None:
        self._create = create
        self._see_changes = see_changes
        self._token_check = token_check
        self._realm = options.realm
        self._making = threading.Lock()
        self._app: ASGIApp | None = None

    def warm_up(self) -> None:
        """Create the application if needed. Blocks."""
        with self._making:
            if self._app is None:
                self._app = self._create()

    def authenticates(self, request: Request) -> bool:
        """False for a request without a bearer token or an invitation: it needs an index user.

        Pages that the application shows to anyone when it runs alone need the token here, or a user. It checks the
        token for everything else itself.

        Raises:
            Unauthorized: the token is wrong.
            TooManyAttempts: too many wrong ones came from there.
        """
        if _inner(request) == "/invitation":  # for those who have no password yet
            return True
        authorization = request.headers.get(b"authorization", b"")
        if authorization[:7].lower() != b"bearer ":
            return False
        if _inner(request) in OPEN_PATHS and not self._token_check.accepts(authorization, request.address):
            raise Unauthorized("the admin token is wrong", realm=self._realm)
        return True

    async def handle(self, request: Request) -> None:
        """Let the admin application respond."""
        if self._app is None:
            await asyncio.to_thread(self.warm_up)
        assert self._app is not None  # noqa: S101 - for the type checker
        scope = dict(request.scope)
        scope["root_path"] = (scope.get("root_path") or "") + _PREFIX
        scope["client"] = (request.address, (scope.get("client") or ("", 0))[1])
        request.status = -1  # unknown: the application sends its own

        async def send(message: Message) -> None:
            if request.method not in {"GET", "HEAD"} and message.get("status", 500) < 400:
                await asyncio.to_thread(self._see_changes)
            await request.send(message)

        await self._app(scope, request.receive, send)


def _inner(request: Request) -> str:
    return request.path.removeprefix(_PREFIX) or "/"
