"""The relay counts requests and forwards them unchanged."""

from __future__ import annotations

import http.client
import http.server
import threading

from tests.benchmark.relay import Relay


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_: object) -> None:
        pass


def test_each_request_is_counted_and_gets_its_response() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Relay(server.server_port) as relay:
            for clients in (1, 2):
                connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=60)
                for number in range(3):
                    connection.request("GET", f"/{number}")
                    assert connection.getresponse().read() == f"/{number}".encode()
                connection.close()
                assert relay.requests == 3 * clients
        server.shutdown()
