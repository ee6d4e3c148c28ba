"""A server process is killed while clients upload, and restarted: confirmed files are there, and all are whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ops.index.auth.audit import SERVER_FOLDER
from tests.index.serving import JSON, Response, Server
from tests.index.test_app import form
from tests.index.test_crash import WRITERS, distribution

KILLS = int(os.environ.get("CRASH_TEST_KILLS", "8"))
"""Number of kills; 200 before a release."""

SEED = int(os.environ.get("CRASH_TEST_SEED", "0")) or random.randrange(1, 10**6)
"""Seconds from the first confirmed upload to each kill; random unless given."""


class Clients:
    """Uploaders that continue until their server is gone, and remember its responses.

    Parameters:
        server: to start and kill.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sent: dict[str, bytes] = {}
        self.confirmed: set[str] = set()
        self.again = 0
        self.refused: list[tuple[str, int, str]] = []
        self._threads: list[threading.Thread] = []
        self._first = threading.Event()

    def start(self, round_: int) -> None:
        """Start uploading files new in this round."""
        self._first.clear()
        self._threads = [threading.Thread(target=self._work, args=(round_, writer)) for writer in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def wait_for_one(self) -> None:
        """Wait for a confirmed upload of this round."""
        assert self._first.wait(60), "nothing was confirmed"

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client still waits for a server that is gone"

    def send(self, filename: str) -> Response:
        """Upload a file like twine."""
        project, _, rest = filename.partition("-")
        version = rest.removesuffix(".tar.gz").partition("-")[0]
        content = self.sent[filename]
        digest = hashlib.sha256(content).hexdigest()
        file = (filename, content)
        body = form(action="file_upload", name=project, version=version, sha256_digest=digest, content=file)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        return self.server.request("POST", "/", headers=headers, body=body)

    def _work(self, round_: int, writer: int) -> None:
        for number in range(10_000):
            name, content = distribution(round_, writer, number)
            self.sent[name] = content
            try:
                response = self.send(name)
            except (OSError, http.client.HTTPException):
                return
            if response.status == 200:
                self.confirmed.add(name)
            else:
                self.refused.append((name, response.status, response.text))
            self._first.set()


def offered(server: Server) -> dict[str, dict[str, Any]]:
    """Every listed file, with its details on the page."""
    found = {}
    for project in json.loads(server.get("/simple/", Accept=JSON).body)["projects"]:
        for file in json.loads(server.get(f"/simple/{project['name']}/", Accept=JSON).body)["files"]:
            assert file["filename"] not in found
            found[file["filename"]] = file
    return found


def check(server: Server, clients: Clients) -> None:
    """Every confirmed file is on its page and complete on disk; any other is in both places or in neither."""
    on_disk = {path.name: path for path in server.packages.iterdir() if not path.name.startswith(".")}
    pages = offered(server)
    assert clients.confirmed <= pages.keys() <= clients.sent.keys()
    assert pages.keys() == on_disk.keys()
    for name, file in pages.items():
        content = clients.sent[name]
        assert (file["hashes"]["sha256"], file["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert on_disk[name].read_bytes() == content


def check_downloads(server: Server, clients: Clients) -> None:
    """Every listed file can be downloaded, with its metadata."""

    def get(url: str) -> Response:
        return server.get(url.removeprefix("../.."))

    for name, file in offered(server).items():
        assert get(file["url"]).body == clients.sent[name]
        metadata = get(file["url"] + ".metadata")
        assert metadata.body.startswith(b"Metadata-Version")
        assert hashlib.sha256(metadata.body).hexdigest() == file["core-metadata"]["sha256"]


def check_audit(server: Server, clients: Clients) -> None:
    """Every line is complete, and each listed file has one."""
    uploads = Counter[str]()
    for path in (server.packages / SERVER_FOLDER).iterdir():
        content = path.read_bytes()
        assert content.endswith(b"\n"), path.name
        for line in content.splitlines():
            entry = json.loads(line)
            assert (entry["event"], entry["user"], entry["address"]) == ("upload", "alice", "127.0.0.1")
            assert entry["sha256"] == hashlib.sha256(clients.sent[entry["filename"]]).hexdigest()
            uploads[entry["filename"]] += 1
    assert clients.confirmed | offered(server).keys() <= uploads.keys()
    assert uploads.total() <= len(clients.sent) + clients.again, "one line for each upload"


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * KILLS)
def test_after_kills_of_a_server_all_confirmed_files_are_there_and_all_are_whole(tmp_path: Path) -> None:
    print(f"{KILLS} kills, CRASH_TEST_SEED={SEED}")  # noqa: T201 - shown when it fails
    moments = random.Random(SEED)
    server = Server(tmp_path)
    clients = Clients(server)
    for round_ in range(KILLS):
        server.start()
        check(server, clients)
        clients.start(round_)
        if round_ % 4 != 3:  # else while its first uploads arrive
            clients.wait_for_one()
        time.sleep(moments.uniform(0, 0.3))
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL, "it ended by itself"
        clients.join()
    assert clients.refused == []
    assert len(clients.confirmed) >= KILLS // 2, "the kills came too early to mean anything"

    with server:
        check(server, clients)
        check_downloads(server, clients)
        check_audit(server, clients)
        for name in clients.sent.keys() - clients.confirmed:  # an interrupted client retries
            assert clients.send(name).status == 200
            clients.confirmed.add(name)
            clients.again += 1
        check(server, clients)
        check_audit(server, clients)
