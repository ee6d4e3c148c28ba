"""Relay that counts requests to a server."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.benchmark.servers import HOST

_REQUEST = re.compile(rb"^(?:GET|HEAD) \S+ HTTP/1\.1\r$", re.MULTILINE)


class Relay:
    """Forwards connections to a port unchanged; *requests* counts the requests without a body.

    Parameters:
        port: of the server on loopback.
    """

    def __init__(self, port: int) -> None:
        self.requests = 0
        self._port = port
        self._lock = threading.Lock()
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection((HOST, self._port)) as server:
            back = threading.Thread(target=_pass, args=(server, client), daemon=True)
            back.start()
            _pass(client, server, self._count)
            back.join()

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.requests += len(_REQUEST.findall(data))


def _pass(source: socket.socket, sink: socket.socket, count: Callable[[bytes], None] = lambda _: None) -> None:
    with contextlib.suppress(OSError):  # either side has closed
        while data := source.recv(65536):
            count(data)
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
