"""Requests that have come before, byte for byte, and need not be read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ops.index.http.representation import Answer
from ops.index.http.request_auth import RequestAuth
from ops.index.http.simple_api import DECISIVE, SimpleApi

LONGEST = 2048
"""Bytes of a message that is worth keeping; what installers send is half as long."""

_KEPT = 4096


@dataclass(frozen=True, slots=True)
class _Request:
    """What an answer depends on.

    Parameters:
        login: the digest of its Authorization header.
        path: as the server decoded it.
        headers: those of its headers that decide about the answer; never a secret.
    """

    login: bytes
    path: str
    headers: Mapping[bytes, bytes]


class FastPath:
    """The requests for ready pages that came lately, by a digest of the whole message.

    A team's installers and CI jobs ask for the same pages in the same words all day, and reading those words takes
    longer than answering them. What is kept is the meaning of the words and not the answer: who is asking, and whether
    the page is still right, is looked at each time.

    Parameters:
        door: knows who is asking, and the digest that may stand for a password.
        reading: knows the pages that are ready.
    """

    def __init__(self, request_auth: RequestAuth, reading: SimpleApi) -> None:
        self._digest = request_auth.digest
        self._holder = request_auth.holder
        self._ready = reading.ready
        self._requests: dict[bytes, _Request] = {}

    def answer(self, message: bytes) -> Answer | None:
        """The answer to a message that came before; None when it is new, or has to be looked at at length."""
        request = self._requests.get(self._digest(message))
        if request is None or self._holder(request.login) is None:
            return None
        return self._ready(request.path, request.headers)

    def keep(self, message: bytes, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Note what a message means that was one whole GET, from its first byte to its last.

        Parameters:
            message: as it was received.
            path: of the request, as the server decoded it.
            headers: of the request, by name.
        """
        if len(message) > LONGEST or b"authorization" not in headers:
            return
        decisive = {name: headers[name] for name in DECISIVE if name in headers}
        self._requests[self._digest(message)] = _Request(self._digest(headers[b"authorization"]), path, decisive)
        while len(self._requests) > _KEPT:
            del self._requests[next(iter(self._requests))]
