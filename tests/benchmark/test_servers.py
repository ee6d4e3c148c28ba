"""Servers are started, awaited, and stopped with all their processes."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from ops.errors import IndexRequestError, StartError
from tests.benchmark.servers import Login, Server, end_abandoned, free_port

FAKE = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        good = self.path == "/simple/"
        body = str(child.pid).encode()
        self.send_response(200 if good else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Server:
    port = free_port()
    return Server("fake", [sys.executable, "-c", FAKE, str(port)], folder=tmp_path / "run", port=port)


def test_a_started_server_responds_and_a_stopped_one_leaves_nothing(server: Server) -> None:
    with server:
        child = int(server.get("/simple/"))
        assert psutil.pid_exists(child)
        assert server.memory() > 2**20
        assert server.cpu_seconds() > 0
        assert server.cpu_seconds() * 100 % 1, "it counts whole ticks"
    assert server.memory() == 0
    assert server.cpu_seconds() == 0
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_processor_time_includes_all_processes_and_ended_threads(tmp_path: Path) -> None:
    port = free_port()
    thread = "import threading; t = threading.Thread(target=sum, args=(range(10**7),)); t.start(); t.join()"
    with Server("fake", [sys.executable, "-c", thread + FAKE, str(port)], folder=tmp_path / "run", port=port) as server:
        child = psutil.Process(int(server.get("/simple/")))

        def ticks() -> float:
            return sum(sum(process.cpu_times()[:2]) for process in [child, *child.parents()[:1]])

        before, seconds, after = ticks(), server.cpu_seconds(), ticks()
    assert before > 0.05
    assert before - 0.05 < seconds < after + 0.05


def test_a_refused_page_is_an_error(server: Server) -> None:
    with server, pytest.raises(IndexRequestError) as error:
        server.get("/simple/x/")
    assert error.value.status == 404


def test_a_server_that_exits_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    server = Server("bad", [sys.executable, "-c", "raise SystemExit('no such option')"], folder=tmp_path, port=1)
    with pytest.raises(StartError, match="no such option"):
        server.start()


def test_the_user_is_kept_for_the_next_run_and_the_password_is_private(tmp_path: Path) -> None:
    first, again = Login.kept(tmp_path), Login.kept(tmp_path)
    assert first == again
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    assert len(first.password.reveal()) >= 20


def test_the_servers_of_a_killed_run_are_ended_and_those_of_other_folders_are_not(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", FAKE, str(port), str(tmp_path / "run")]
    left = Server("fake", command, folder=tmp_path / "run", port=port)
    left.start()
    try:
        child = int(left.get("/simple/"))
        assert end_abandoned(tmp_path / "elsewhere") == []
        assert child in end_abandoned(tmp_path / "run")
        with pytest.raises(IndexRequestError):
            left.get("/simple/")
        assert end_abandoned(tmp_path / "run") == []
    finally:
        left.stop()
