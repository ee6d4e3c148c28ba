"""Clients of a deployed index: users, uploads, listings, over HTTP as pip and twine send them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import requests

from tests.index.archives import wheel, wheel_name
from tests.modal.conftest import TOKEN
from tests.standin.control_plane import ControlPlane

PASSWORD = "correct horse battery staple"
JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


def url(plane: ControlPlane, function: str = "server") -> str:
    return plane.function(function).web_url


def register(plane: ControlPlane, username: str, password: str = PASSWORD, **more: object) -> requests.Response:
    return requests.post(
        f"{url(plane, 'register_user')}/register_user",
        json={"username": username, "password": password, **more},
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=60,
    )


def upload(
    plane: ControlPlane,
    name: str,
    version: str,
    *,
    payload: bytes = b"",
    readme: str = "",
    user: str = "alice",
    seconds: float = 60,
) -> requests.Response:
    lines = "Description-Content-Type: text/markdown\n" if readme else ""
    content = wheel(name, version, payload=payload, lines=lines, body=f"\n{readme}" if readme else "")
    return requests.post(
        f"{url(plane)}/",
        data={
            ":action": "file_upload",
            "protocol_version": "1",
            "metadata_version": "2.4",
            "name": name,
            "version": version,
            "filetype": "bdist_wheel",
            "pyversion": "py3",
            "sha256_digest": hashlib.sha256(content).hexdigest(),
        },
        files={"content": (wheel_name(name, version), content)},
        auth=(user, PASSWORD),
        timeout=seconds,
    )


def versions(plane: ControlPlane, name: str, *, user: str = "alice") -> list[str]:
    response = requests.get(f"{url(plane)}/simple/{name}/", headers=JSON, auth=(user, PASSWORD), timeout=60)
    if response.status_code == 404:
        return []
    response.raise_for_status()
    return [str(version) for version in response.json()["versions"]]


def digests(plane: ControlPlane, name: str) -> dict[str, str]:
    """SHA-256 by file name, as listed on the page."""
    response = requests.get(f"{url(plane)}/simple/{name}/", headers=JSON, auth=("alice", PASSWORD), timeout=60)
    response.raise_for_status()
    return {file["filename"]: file["hashes"]["sha256"] for file in response.json()["files"]}


def reloaded(plane: ControlPlane, volume: str) -> None:
    """Wait until each container of the index has reloaded a volume, and acted on it.

    It has when it begins another reload. A container reloads each volume every two seconds by itself.
    """
    before = {container.task_id: container.reloads[volume] for container in plane.live()}
    eventually(lambda: all(c.reloads[volume] >= before.get(c.task_id, 0) + 2 for c in plane.live()), 600)


def eventually(holds: Callable[[], object], seconds: float = 60) -> float:
    """Wait until a condition holds; returns the seconds it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, "the condition did not hold in time"
        time.sleep(0.05)
    return time.monotonic() - started
