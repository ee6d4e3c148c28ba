"""Loads a corpus into devpi through its REST API and uploads, because it has its own file store."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import requests

from ops.errors import IndexRequestError, StartError
from ops.secret import Secret
from tests.benchmark.corpus import Corpus, Wheel
from tests.benchmark.load import send, supply
from tests.benchmark.servers import Login, Server, free_port
from tests.benchmark.toolbox import Toolbox
from tests.benchmark.uploads import upload_request

INDEX = "bench"

ServerMaker = Callable[[Path, int], Server]


def prepare(folder: Path, corpus: Corpus, login: Login, toolbox: Toolbox, *, server: ServerMaker) -> None:
    """Create a server directory with one user, and one index with the corpus.

    Raises:
        StartError: ``devpi-init`` failed, or the server did not start.
        IndexRequestError: the server refused the user, the index or a file.
    """
    folder.mkdir(parents=True)
    # In a file, because every local user can read a command line.
    configuration = folder / "devpi-init.yml"
    configuration.touch(mode=0o600)
    configuration.write_text(f'devpi-server:\n  root-passwd: "{login.password.reveal()}"\n')
    command = [toolbox.program("devpi", "devpi-init"), "-c", str(configuration)]
    command += ["--serverdir", str(folder / "data"), "--no-root-pypi"]
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
    )
    if finished.returncode:
        raise StartError("devpi-init failed", why=(finished.stderr.strip() or "it said nothing").splitlines()[-1])
    running = server(folder, free_port())
    running.start(until="/+status")
    try:
        _put(running, login.username, ("root", login.password), {"password": login.password.reveal()})
        own = (login.username, login.password)
        _put(running, f"{login.username}/{INDEX}", own, {"type": "stage", "bases": [], "volatile": True})
        _upload(running, [(wheel, corpus.folder / wheel.filename) for wheel in corpus.wheels])
    finally:
        running.stop()


def add(folder: Path, wheel: Wheel, source: Path, login: Login, *, server: ServerMaker) -> None:
    """Upload one more file to a prepared directory."""
    del login
    with server(folder, free_port()) as running:
        _upload(running, [(wheel, source)])


def copy(prepared: Path, folder: Path) -> None:
    """Copy a prepared directory, so that a run may change it; a few megabytes."""
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("run"))


def _upload(server: Server, files: list[tuple[Wheel, Path]]) -> None:
    messages = (upload_request(server, wheel, path.read_bytes()) for wheel, path in files)
    tally = send(server.url, supply(messages), connections=4, seconds=3600)
    if tally.good != len(files):
        tally.rate(f"loading {len(files)} files into {server.name}")


def _put(server: Server, path: str, login: tuple[str, Secret], values: object) -> None:
    response = requests.put(
        f"{server.url}/{path}",
        data=json.dumps(values),
        headers={"Content-Type": "application/json", "Accept": "application/json"},
        auth=(login[0], login[1].reveal()),
        timeout=60,
    )
    if not response.ok:
        raise IndexRequestError(f"devpi refused to make {path}", status=response.status_code, why=response.text[:200])
