"""Caching of simple pages by clients: headers and requests that get 304."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.index import DirectoryStorage, create_index
from ops.index.config import Options
from tests.index.archives import wheel, wheel_name
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
