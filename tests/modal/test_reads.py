"""Reads from one and three containers while a commit of the packages Volume hangs or fails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from grpclib import Status

from ops.settings import PACKAGES_VOLUME
from tests.index.archives import wheel_name
from tests.modal.conftest import create_secret, deploy
from tests.modal.traffic import PASSWORD, eventually, register, upload, url
from tests.standin.control_plane import ControlPlane

pytestmark = pytest.mark.slow

NAME = wheel_name("known", "1.0")
PATHS = ("/simple/known/", f"/packages/{NAME}", f"/packages/{NAME}.metadata", "/simple/", "/projects/known/", "/health")


def get(plane: ControlPlane, path: str) -> int:
    """The status of a response, which must arrive long before Modal would time out."""
    return requests.get(f"{url(plane)}{path}", auth=("alice", PASSWORD), timeout=60, allow_redirects=False).status_code


@pytest.fixture(params=[1, 3], ids=["one", "three"])
def index(request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """Containers that have all loaded the user, and a file uploaded to one of them."""
    with ControlPlane() as plane:
        create_secret(plane)
        deploy(plane, PYPI_MAX_CONTAINERS=str(request.param), PYPI_MIN_CONTAINERS=str(request.param))
        assert register(plane, "alice").status_code == 201
        plane.scale("server", request.param, 200)
        eventually(lambda: all(get(plane, "/simple/") == 200 for _ in range(9)))
        assert upload(plane, "known", "1.0").status_code == 200
        eventually(lambda: all(get(plane, path) == 200 for path in PATHS for _ in range(6)))
        yield plane


@pytest.mark.parametrize("how", ["hangs", "fails"])
def test_loaded_data_is_served_while_a_commit_does_not_succeed(index: ControlPlane, how: str) -> None:
    """The client library retries a commit that fails with INTERNAL for longer than a request can take."""
    if how == "hangs":
        index.volumes.commit_seconds[PACKAGES_VOLUME] = math.inf
    else:
        index.fail("VolumeCommit", Status.INTERNAL, "the storage is broken", times=10_000)
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(upload, index, "new", "1.0", seconds=140)
        while not hung.done():
            assert [(path, get(index, path)) for path in PATHS] == [(path, 200) for path in PATHS]
        response = hung.result()
        assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert [(path, get(index, path)) for path in PATHS] == [(path, 200) for path in PATHS]
    index.volumes.commit_seconds.clear()
    index._failures.clear()
    eventually(lambda: upload(index, "new", "1.0").status_code == 200, 120)
