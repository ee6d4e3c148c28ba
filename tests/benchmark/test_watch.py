"""Servers are observed from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmark.servers import Server, free_port
from tests.benchmark.watch import MemoryWatch, await_rest
from tests.index.serving import eventually

FAKE = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Server]:
    """A server with a child process that uses CPU."""
    port = free_port()
    command = [sys.executable, "-c", FAKE, str(port)]
    with Server("fake", command, folder=tmp_path / "run", port=port) as server:
        yield server


def fake_server(cpu_seconds: Callable[[], float]) -> Any:
    return SimpleNamespace(cpu_seconds=cpu_seconds)


def test_servers_are_idle_once_none_of_them_works() -> None:
    works, rests = fake_server(time.monotonic), fake_server(lambda: 5.0)
    assert not await_rest([rests, works], most_seconds=1, every_seconds=0.1)
    assert await_rest([rests, rests], most_seconds=30, every_seconds=0.1)


def test_the_work_of_a_child_process_counts_as_the_server_s(busy: Server) -> None:
    before = busy.cpu_seconds()
    eventually(lambda: busy.cpu_seconds() > before + 0.5)


def test_the_peak_of_memory_is_recorded(busy: Server) -> None:
    with MemoryWatch(busy, every_seconds=0.01) as watch:
        busy.get("/simple/")
    assert watch.peak > 2**20
