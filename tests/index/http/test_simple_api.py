"""Caching of simple pages by clients: headers and requests that get 304. Metadata that takes no thread."""

from __future__ import annotations

import asyncio
import io
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.index import DirectoryStorage, create_index
from ops.index.activity import Activity
from ops.index.config import Options
from ops.index.http.simple_api import SimpleApi
from ops.index.packages.file_info import FileInfoStore
from ops.index.storage import slow_disk
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Cluster, Node, Person
from tests.index.serving import PASSWORD, Server, ThreadServer

UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv") or ""


@pytest.fixture(params=[0, 600])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ThreadServer]:
    """An index of one project; its parameter is the maximum age of pages in seconds."""
    files = Server(tmp_path)  # not started: for its users
    (files.packages / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    index = create_index(
        packages=DirectoryStorage(files.packages),
        credentials=DirectoryStorage(files.credentials),
        options=Options(page_max_age_seconds=request.param),
    )
    with ThreadServer(index) as server:
        yield server


@pytest.mark.parametrize("server", [0], indirect=True)
def test_a_client_revalidates_each_page(server: ThreadServer) -> None:
    for path in ("/simple/", "/simple/spam/", "/", "/projects/spam/"):
        assert server.get(path)["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("server", [600], indirect=True)
def test_with_a_maximum_age_simple_pages_need_no_revalidation(server: ThreadServer) -> None:
    for path in ("/simple/", "/simple/spam/"):
        for _ in ("rendered", "cached"):
            page = server.get(path)
            assert page["cache-control"] == "private, max-age=600"
        unchanged = server.get(path, **{"If-None-Match": page["etag"]})
        assert unchanged.status == 304
        assert unchanged["cache-control"] == "private, max-age=600"
    for path in ("/", "/projects/spam/"):
        assert server.get(path)["cache-control"] == "private, no-cache"


@pytest.mark.skipif(not UV, reason="uv is not installed")
@pytest.mark.parametrize(("server", "asked"), [(0, True), (600, False)], indirect=["server"])
def test_uv_with_a_warm_cache_sends_requests_only_if_needed(server: ThreadServer, asked: bool, tmp_path: Path) -> None:
    def resolve() -> None:
        address = f"http://alice:{PASSWORD}@{server.host}:{server.port}/simple/"
        subprocess.run(
            [UV, "pip", "compile", "-", "--cache-dir", tmp_path / "cache", "--default-index", address, "--no-config"],
            input=b"spam",
            check=True,
            capture_output=True,
        )

    resolve()
    requests = server.server.server_state.total_requests
    resolve()
    assert (server.server.server_state.total_requests > requests) is asked


ADMIN = Person("adam", may_administer=True)
METADATA = f"/packages/{wheel_name('foo', '1.0')}.metadata"


def at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bytes | None]:
    """Publish a file. The result asks for its metadata, which is None if that takes a thread."""
    monkeypatch.setattr(slow_disk, "_SLOW", math.inf)
    node.publish(wheel_name("foo", "1.0"), io.BytesIO(wheel("foo", "1.0")), identity=ADMIN)
    node.repository.projects()
    activity = Activity(node.storage, node.options, active_users=set)
    api = SimpleApi(node.repository, node.storage, node.options, activity)

    async def ask() -> bytes | None:
        response = api.ready(METADATA, {})
        return None if response is None else response.body

    return lambda: asyncio.run(ask())


def test_short_metadata_takes_no_thread(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = at_once(node, monkeypatch)
    assert ask() == ask() == node.repository.metadata(wheel_name("foo", "1.0"))


REFUSED: dict[str, Callable[[Node], object]] = {
    "quarantined": lambda node: node.releases.set_status("foo", "quarantined", identity=ADMIN),
    "revoked": lambda node: node.releases.revoke("foo", version="1.0", identity=ADMIN),
    "removed": lambda node: node.releases.remove("foo", version="1.0", identity=ADMIN),
    "without file info": lambda node: (node.directory / ".index/facts" / wheel_name("foo", "1.0")).unlink(),
    "damaged": lambda node: (node.directory / ".index/facts" / wheel_name("foo", "1.0")).write_bytes(b"{}"),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("change", ["quarantined", "revoked", "removed"])
def test_metadata_that_must_not_be_shown_is_not_shown_at_once(
    node: Node, monkeypatch: pytest.MonkeyPatch, change: str, cached: bool
) -> None:
    ask = at_once(node, monkeypatch)
    assert not cached or ask() is not None
    REFUSED[change](node)
    assert ask() is None


@pytest.mark.parametrize("change", ["without file info", "damaged"])
def test_metadata_that_has_to_be_computed_is_not_shown_at_once(
    node: Node, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    ask = at_once(node, monkeypatch)
    REFUSED[change](node)
    assert ask() is None


def test_long_metadata_is_read_in_a_thread(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = at_once(node, monkeypatch)
    monkeypatch.setattr("ops.index.packages.file_info._SHORT", 10)
    assert ask() is None


def test_metadata_on_a_volume_is_read_in_a_thread(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = at_once(cluster.open(), monkeypatch)
    read: list[object] = []
    monkeypatch.setattr(FileInfoStore, "recorded", lambda *arguments: read.append(arguments))
    assert ask() is None
    assert not read
