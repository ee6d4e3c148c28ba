"""Recognition of requests repeated byte for byte, which need not be parsed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from ops.index.auth.authenticator import Authenticator
from ops.index.bounded_dict import BoundedDict
from ops.index.errors import PackageIndexError
from ops.index.http.per_iteration import PerIteration
from ops.index.http.representation import Response
from ops.index.http.simple_api import DECISIVE, SimpleApi, is_download

LONGEST = 2048
"""Longest request worth remembering, in bytes; those of installers are half as long."""

COUNTED = (b"user-agent", b"x-forwarded-for")
"""The request headers that download counts depend on."""

_KEPT = 4096

_STATE_SECONDS = 0.05
"""Longest lifetime of a state: active users and pages in use must still be noticed."""

_STRANGERS = 256
"""Requests without credentials, in a separate table so that they cannot evict users'."""


@dataclass(frozen=True, slots=True)
class _Request:
    """Everything that a response depends on.

    Parameters:
        login: the digest of its Authorization header.
        path: as the server decoded it.
        headers: those that the response and the download count depend on; never a secret.
        counted: true for the download of a file.
    """

    login: bytes
    path: str
    headers: Mapping[bytes, bytes]
    counted: bool


class FastPath:
    """Recent requests for cached pages, and without credentials, by a digest of their bytes.

    Installers and CI jobs send the same requests all day, and parsing takes longer than responding. The parsed request
    is remembered, not the response: the user and the page are looked up each time. Only a connection may repeat its
    last response, to the same request in the same *state*.

    Parameters:
        authenticator: finds users by the digest of their header.
        simple_api: has the cached pages.
        count: counts a download, by path, user, peer and headers.
        challenge: creates the response to a request without credentials, by path, headers and peer.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        simple_api: SimpleApi,
        count: Callable[[str, str, str, Mapping[bytes, bytes]], None],
        challenge: Callable[[str, Mapping[bytes, bytes], str], Response | None],
    ) -> None:
        self._digest = authenticator.digest
        self._holder = authenticator.holder
        self._users_stamp = authenticator.stamp
        self._ready = simple_api.ready
        self._pages_stamp = simple_api.stamp
        self._count = count
        self._challenge = challenge
        self._strangers: BoundedDict[bytes, str] = BoundedDict(_STRANGERS)
        self._requests: BoundedDict[bytes, _Request] = BoundedDict(_KEPT)
        self._known = self._requests.get
        self._stamps: Hashable = None
        self._state = 0
        self._state_until = 0.0
        self.state = PerIteration(self._current_state)
        """A number: while it stays the same, the same request gets the same response."""

    def _current_state(self) -> int:
        now = time.monotonic()
        try:
            stamps: Hashable = (self._users_stamp(), self._pages_stamp())
        except (PackageIndexError, OSError):  # the normal path reports what is wrong
            stamps = None
        if stamps is None or stamps != self._stamps or now > self._state_until:
            self._stamps = stamps
            self._state_until = now + _STATE_SECONDS
            self._state += 1
        return self._state

    def response(self, message: bytes, peer: str) -> Response | None:
        """The response to a repeated request; None if it is new, or takes longer.

        Parameters:
            message: as it was received.
            peer: the address at the other end of the connection.
        """
        digest = self._digest(message)
        request = self._known(digest)
        if request is None:
            path = self._strangers.get(digest)
            return None if path is None else self._challenge(path, {}, peer)
        user = self._holder(request.login)
        if user is None:
            return None
        response = self._ready(request.path, request.headers)
        if request.counted and response is not None:
            self._count(request.path, user.username, peer, request.headers)
        return response

    def keep(self, message: bytes, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Remember a message that was exactly one GET request.

        Parameters:
            message: as it was received.
            path: of the request, as the server decoded it.
            headers: of the request, by name.
        """
        if len(message) > LONGEST:
            return
        if b"authorization" not in headers:
            if b"x-forwarded-for" not in headers:
                self._strangers[self._digest(message)] = path
            return
        login = self._digest(headers[b"authorization"])
        if self._holder(login) is None:
            return
        kept = {name: headers[name] for name in (*DECISIVE, *COUNTED) if name in headers}
        self._requests[self._digest(message)] = _Request(login, path, kept, is_download(path))
