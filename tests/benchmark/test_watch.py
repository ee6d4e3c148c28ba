"""What a server does is seen from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.benchmark.servers import Server, free_port
from ops.benchmark.watch import MemoryWatch, await_rest

FAKE = """
import http.server, pathlib, subprocess, sys
work = "import pathlib, sys, time\\nwhile not pathlib.Path(sys.argv[1]).exists(): pass\\ntime.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", work, sys.argv[2]])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def enough(tmp_path: Path) -> Path:
    """Once this file is there, the server's child stops working."""
    return tmp_path / "enough"


@pytest.fixture
def busy(tmp_path: Path, enough: Path) -> Iterator[Server]:
    """A server with a child that works on its own account."""
    port = free_port()
    command = [sys.executable, "-c", FAKE, str(port), str(enough)]
    with Server("fake", command, folder=tmp_path / "run", port=port) as server:
        yield server


def test_servers_are_at_rest_when_none_of_their_processes_works(busy: Server, enough: Path) -> None:
    assert not await_rest([busy], most_seconds=1, every_seconds=0.1)
    enough.touch()
    assert await_rest([busy], most_seconds=30, every_seconds=0.1)


def test_the_peak_of_memory_is_seen(busy: Server) -> None:
    with MemoryWatch(busy, every_seconds=0.01) as watch:
        busy.get("/simple/")
    assert watch.peak > 2**20
