"""HTTP connection of uvicorn, with limits for untrusted clients and a fast path for cached responses."""

from __future__ import annotations

import enum
from functools import partial
from typing import Any

import httptools

from ops.index.connection_limits import ConnectionLimits
from ops.index.http.fast_path import LONGEST
from ops.index.http.representation import Response
from ops.index.http.request import LOGGED_IN
from ops.index.reason_phrase import status_line, with_reasons
from ops.index.request_limits import (
    FRAMING_RATIO,
    HEAD_BYTES,
    HEADERS,
    SHORT_HEAD_BYTES,
    RefusedRequest,
    Trailers,
    check_headers,
    has_body,
    head_size,
    head_too_long,
    is_host,
)
from ops.index.uvicorn_core import STATUS_LINE, FlowControl, HttpToolsProtocol

FIRST_REQUEST_SECONDS = 10.0
"""Time from connecting until the head of the first request has arrived."""

IDLE_SECONDS = 75.0
"""Time between two requests: no shorter than that of clients, lest one send a request into a connection that is being
closed."""

_LARGE = 64 * 1024
"""Size in bytes from which a body is written without being copied."""

_SHORT = 16 * 1024
"""Bytes of a body that an idle connection may hold, for a client that asks for it again."""

_DOWNLOAD = b"GET /packages/"
"""Start of requests that may have to be counted."""

_UNREAD_SECONDS = 600.0
"""Time for a client to read the next piece of a response."""


class Phase(enum.Enum):
    """Next thing that the client sends; the value is its time limit in seconds. uvicorn would wait forever."""

    IDLE = IDLE_SECONDS
    """The next request."""
    HEAD = 30.0
    """The rest of a request line with headers."""
    BODY = 600.0
    """The rest of a body after the response: most clients read no response before they have sent everything."""


# Read for every piece that arrives; twice as fast as through the class.
_IDLE, _HEAD, _BODY = Phase


class _Responded:
    """Replaces uvicorn's request cycle after a request on the fast path."""

    response_complete = True
    disconnected = False

    def __init__(self) -> None:
        self.message_event = self

    def set(self) -> None:
        """Do nothing: no task is waiting."""


_RESPONDED: Any = _Responded()
_REFUSED: Any = _Responded()

_NOT_HTTP = "this is not an HTTP/1.1 request; use http:// instead of https:// for this port, or ask its operator"
_TOO_MUCH_FRAMING = RefusedRequest(
    f"the body's chunks come with more than {HEAD_BYTES} bytes of extensions or trailers; send larger chunks without"
)
_UPGRADE_WITH_BODY = RefusedRequest(
    "the request has a body and asks for an upgrade of the connection; send it without the Upgrade header"
)
"""The parser mistakes the body of such a request for the next request."""
_PLAIN = b"content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n"


class Connection(HttpToolsProtocol):
    """One client's connection.

    The response to a cached GET is written before a scope, a task and an event are created, which would take longer
    than everything else. When the same bytes come again they are not even parsed, and when they come again on the same
    connection not even looked up. All other requests go uvicorn's usual way.
    """

    _date: tuple[Any, bytes] = (None, b"")

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits

    @property
    def address(self) -> str:
        """The peer's IP address; empty if disconnected."""
        return self.client[0] if self.client else ""

    @property
    def logged_in(self) -> bool:
        """True once a request on this connection had valid credentials."""
        return self._logged_in or self.cycle is _RESPONDED

    @property
    def busy(self) -> bool:
        """True while a request is being handled, or the client has not read all of the response."""
        return not self._complete() or self.transport.get_write_buffer_size() > 0

    @property
    def since(self) -> float:
        """Time of its last use, on the event loop's clock."""
        return self._since

    def end(self) -> None:
        """Close it at once, even in the middle of a request."""
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Handle a new client.

        As in the base class, except that the addresses come from the transport. The base class creates a socket object
        for each, which takes longer than everything else.
        """
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.scheme = "http"  # this server has no certificate
        self._at_once = self.config.loaded_app.at_once
        self._challenge = self.config.loaded_app.challenge
        self._fast_path = self.config.loaded_app.fast_path
        self._requests = 0
        self._asked: tuple[str, dict[bytes, bytes]] | None = None
        self._last: tuple[Any, Response | None] = (None, None)  # message and state of the fast path, and the response
        self._phase = _IDLE
        self._framing = 0  # bytes of the current message that are not its body
        self._piece = 0  # bytes that arrived between messages
        self._host: bytes | None = None  # the last valid one
        self._logged_in = False
        self._since = self._came = self.loop.time()
        self._stuck_since: float | None = None
        if not self._limits.admit(self):
            self._refuse(503, "all connections of this index are taken by users; try again in a few seconds")

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after a disconnect."""
        self._limits.release(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle arriving bytes."""
        if self._phase is _IDLE:
            self._begin(data)
        else:
            self._framing += len(data)
            self._feed(data)

    def on_message_begin(self) -> None:
        """Handle the start of a request."""
        super().on_message_begin()
        self._requests += 1
        self._asked = None
        self._phase = _HEAD
        self._framing = self._piece
        self._piece = 0
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Handle the complete head of a request."""
        if self._respond_at_once():
            self._phase = _BODY
            return
        if self._framing > SHORT_HEAD_BYTES or len(self.headers) > HEADERS:
            self._framing = max(0, self._framing - head_size(self.url, self.headers))
        chunked = check_headers(self.headers, self.parser.get_http_version())
        if self.parser.should_upgrade() and has_body(self.headers):
            raise _UPGRADE_WITH_BODY
        self._phase = _BODY
        if self.cycle is _RESPONDED:
            self._logged_in = True
        super().on_headers_complete()
        if chunked:
            self.headers = Trailers()

    def on_body(self, body: bytes) -> None:
        """Handle a part of the body."""
        self._framing = max(0, self._framing - FRAMING_RATIO * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Handle the end of the request."""
        self._phase = _IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Handle the end of a response sent by uvicorn."""
        self._since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Handle a client that stops reading."""
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Handle a client that reads again."""
        self._stuck_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """Close the connection if its client has timed out. Called regularly by the server.

        Parameters:
            now: on the event loop's clock.
        """
        if self._stuck_since is not None:
            expired = now - self._stuck_since > _UNREAD_SECONDS
        elif self._complete():
            silent = now - self._since > self._phase.value
            expired = now - self._came > FIRST_REQUEST_SECONDS if self.cycle is None else silent
        else:
            expired = False
        if not expired:
            return
        if self._stuck_since is not None or self.transport.is_closing():  # it does not read
            self.transport.abort()
        else:
            self.transport.close()

    def _begin(self, data: bytes) -> None:
        """Try the fast path between two requests, when the parser has no state: equal bytes mean an equal request."""
        if len(data) <= LONGEST and self._free():
            message = data, self._fast_path.state()
            known, response = self._last
            if message != known:
                response = self._fast_path.response(data, self.address)
                if response is not None and len(response.body) <= _SHORT and not data.startswith(_DOWNLOAD):
                    self._last = message, response
            if response is not None:
                self._unset_keepalive_if_required()
                self._write(response)
                return
        before = self._requests
        self._piece = len(data)
        self._feed(data)
        if self._requests == before + 1 and self._asked is not None:
            self._fast_path.keep(data, *self._asked)

    def _feed(self, data: bytes) -> None:
        """Parse some bytes, and refuse what cannot be parsed.

        As in the base class, but without logging: strangers could fill the log.
        """
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
            if self._framing > HEAD_BYTES and self._phase is not _IDLE:
                raise head_too_long() if self._phase is _HEAD else _TOO_MUCH_FRAMING
        except (httptools.HttpParserError, RefusedRequest) as error:
            refused = error if isinstance(error, RefusedRequest) else error.__context__
            self._refuse(400, refused.sentence if isinstance(refused, RefusedRequest) else _NOT_HTTP)

    def _parse(self, data: bytes) -> None:
        """Parse all bytes, ignoring upgrades: such a request is treated like any other."""
        left = memoryview(data)
        while left:
            try:
                self.parser.feed_data(left)
                return
            except httptools.HttpParserUpgrade as upgrade:  # where the parser stopped
                left = left[upgrade.args[0] :]

    def _refuse(self, status: int, sentence: str) -> None:
        """Refuse an invalid request after all earlier responses, and close the connection."""
        if self.transport.is_closing():
            return
        if not self._complete():
            if self._phase is not _BODY:  # the requests before it get their responses first
                self.cycle.keep_alive = False
                return
            if self.pipeline or self.cycle.response_started:
                self.transport.close()
                return
        body = f"{sentence}\n".encode("ascii")
        head = [status_line(status, sentence), self._date_line(), _PLAIN, b"content-length: %d\r\n" % len(body)]
        if status == 503:
            head.append(b"retry-after: 5\r\n")
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", body]))
        self.transport.close()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Pass the request to the application."""
        cycle.scope["extensions"] = {LOGGED_IN: self._log_in}
        super()._start_asgi_task(cycle, partial(with_reasons, cycle, app))

    def _log_in(self) -> None:
        """Record that the application has verified a request's credentials."""
        self._logged_in = True

    def _complete(self) -> bool:
        """True if every request has got its response."""
        return self.cycle is None or self.cycle.response_complete

    def _free(self) -> bool:
        """True if a response may be written now: earlier ones are sent, and the client is reading."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.flow.write_paused

    def _respond_at_once(self) -> bool:
        """Respond on the fast path, if possible."""
        if (
            self.parser.get_method() != b"GET"
            or not self._free()
            or not self.parser.should_keep_alive()
            or self.parser.get_http_version() != "1.1"
            or self.parser.should_upgrade()
        ):
            return False
        headers = dict(self.headers)
        if len(headers) != len(self.headers) or b"content-length" in headers or b"transfer-encoding" in headers:
            return False
        host = headers.get(b"host")
        if host != self._host or host is None:
            if host is None or not is_host(host):
                return False
            self._host = host
        if len(headers) > HEADERS or self._framing > HEAD_BYTES:
            return False
        path = self.url.decode("latin-1")
        response = self._at_once(path, headers, self.address) or self._challenge(path, headers, self.address)
        if response is None:
            return False
        self._asked = (path, headers)
        self._write(response)
        return True

    def _write(self, response: Response) -> None:
        if response.reason:
            self._logged_in = self.logged_in
            self.cycle = _REFUSED
            line = status_line(response.status, response.reason)
        else:
            self.cycle = _RESPONDED
            line = STATUS_LINE[response.status]
        self.server_state.total_requests += 1
        if len(response.body) < _LARGE:
            self.transport.write(b"".join((line, self._date_line(), response.head, response.body)))
        else:
            self.transport.writelines((b"".join((line, self._date_line(), response.head)), response.body))
        self._since = self.loop.time()

    def _date_line(self) -> bytes:
        """The headers that uvicorn adds to every response; it renews them every second."""
        current = self.server_state.default_headers
        known, line = Connection._date
        if known is not current:
            line = b"".join(b"%b: %b\r\n" % header for header in current)
            Connection._date = (current, line)
        return line


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port of a TCP address; None if there is none, as for a disconnected peer."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
