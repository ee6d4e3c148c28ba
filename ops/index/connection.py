"""uvicorn's HTTP connection, with limits on what a stranger may send and a short way for what is ready."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ops.index.web.repeats import LONGEST
from ops.index.web.representation import Answer

HEAD_BYTES = 64 * 1024
"""The longest request line with headers. With this parser uvicorn takes any length."""

IDLE_SECONDS = 75.0
"""For how long a connection is kept for its next request: no shorter than clients keep theirs, lest one sends a request
into a connection that is just being closed."""

# How long a client may take for what it is at: uvicorn waits for ever.
_HEAD = 30.0
_BODY = 600.0  # of a request that has been refused already; most clients read no answer before they have sent it
_IDLE = IDLE_SECONDS
_UNREAD = 600.0  # for the next piece of an answer


class _Answered:
    """What uvicorn takes for the last request of a connection, when that was answered at once."""

    response_complete = True
    disconnected = False

    def __init__(self) -> None:
        self.message_event = self

    def set(self) -> None:
        """Nobody waits for it."""


_ANSWERED: Any = _Answered()


class Connection(HttpToolsProtocol):
    """One client's connection.

    A GET that the application can answer at once is answered before a scope, a task and an event are made for it, which
    would take longer than the answer. When the same bytes come again they are not even parsed. Everything else goes its
    usual way.
    """

    _date: tuple[Any, bytes] = (None, b"")

    def connection_made(self, transport: Any) -> None:
        """A client has come.

        All that the base class does, except that the transport itself is asked for the addresses. A socket object,
        which the base class makes twice to ask it, takes longer than all the rest.
        """
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server = _address(transport.get_extra_info("sockname"))
        self.client = _address(transport.get_extra_info("peername"))
        self.scheme = "http"  # this server holds no certificate
        self._at_once = self.config.loaded_app.at_once
        self._repeats = self.config.loaded_app.repeats
        self._requests = 0
        self._asked: tuple[str, dict[bytes, bytes]] | None = None
        self._phase = _IDLE
        self._head = 0
        self._since = self.loop.time()
        self._stuck_since: float | None = None

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self._phase is _IDLE:
            self._begin(data)
            return
        if self._phase is _HEAD:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.send_400_response("The request line and the headers are longer than 64 KiB.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._requests += 1
        self._asked = None
        self._phase = _HEAD
        self._head = 0
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """All but the body of it is here."""
        self._phase = _BODY
        if not self._answered():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._phase = _IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It has been answered the usual way."""
        self._since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read what was sent."""
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._stuck_since = None
        super().resume_writing()

    def sweep(self, now: float) -> None:
        """End the connection if the client was waited for long enough. Called now and then by the server."""
        if self._stuck_since is not None and now - self._stuck_since > _UNREAD:
            self.transport.abort()
        elif (self.cycle is None or self.cycle.response_complete) and now - self._since > self._phase:
            self.transport.close()

    def _begin(self, data: bytes) -> None:
        """Between two requests the parser has nothing in hand: what it would make of a message, it makes again."""
        if len(data) <= LONGEST and self._free():
            answer = self._repeats.answer(data)
            if answer is not None:
                self._unset_keepalive_if_required()
                self._write(answer)
                return
        before = self._requests
        super().data_received(data)
        if self._requests == before + 1 and self._asked is not None:
            self._repeats.keep(data, *self._asked)

    def _free(self) -> bool:
        """Whether an answer may be written now: none before it is awaited, and the client reads."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.flow.write_paused

    def _answered(self) -> bool:
        """Answer now, if it is a request that can be."""
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
        path = self.url.decode("latin-1")
        answer = self._at_once(path, headers, self.client)
        if answer is None:
            return False
        self._asked = (path, headers)
        self._write(answer)
        return True

    def _write(self, answer: Answer) -> None:
        self.cycle = _ANSWERED
        self.server_state.total_requests += 1
        self.transport.write(b"".join((STATUS_LINE[answer.status], self._date_line(), answer.wire)))
        self._since = self.loop.time()

    def _date_line(self) -> bytes:
        """The headers that uvicorn adds to every answer; it renews them every second."""
        current = self.server_state.default_headers
        known, line = Connection._date
        if known is not current:
            line = b"".join(b"%b: %b\r\n" % header for header in current)
            Connection._date = (current, line)
        return line


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port of a TCP address; None for what has none, such as a peer that is gone already."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
