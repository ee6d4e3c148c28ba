"""A recording proxy on loopback, which keeps the requests of clients."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import socketserver
import ssl
import threading
from typing import Self

_KNOWN = re.compile(
    r"GET /_/oidc/audience|POST /_/oidc/(mint|burn)-token|POST /(legacy/)?"
    r"|GET /simple/|(GET|HEAD) /simple/[a-zA-Z0-9._-]+/?|(GET|HEAD) /packages/[^/]+(\.whl|\.tar\.gz|\.zip)(\.metadata)?"
    r"|GET /%2Bsimple/[a-z0-9-]+/"  # hatch, before it publishes; a 404 means that nothing exists yet
)


class RecordingFront:
    """Forwards connections to a port, and keeps the request lines.

    Parameters:
        port: on loopback.
        context: for TLS; None for plain connections.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        front = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                    client = self.request
                    if context is not None:
                        client = stack.enter_context(context.wrap_socket(client, server_side=True))
                    backend = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                    front._pass(client, backend)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.port = int(self._server.server_address[1])
        self.url = f"http{'' if context is None else 's'}://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # after the last connection

    def unknown(self) -> list[str]:
        """Requests that no client has made before. Check what it wants, and whether the index should offer it."""
        return sorted({line for line in self.requests if not _KNOWN.fullmatch(line.partition("?")[0])})

    def _pass(self, client: socket.socket, backend: socket.socket) -> None:
        while True:
            pending = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if pending else select.select([client, backend], [], [], 30)[0]
            if not ready:
                return
            for source in ready:
                piece = source.recv(65536)
                if not piece:
                    return
                if source is client:
                    line = piece.partition(b"\r\n")[0].decode("latin-1")
                    if line.endswith(" HTTP/1.1"):
                        self.requests.append(line.removesuffix(" HTTP/1.1"))
                (backend if source is client else client).sendall(piece)
