"""Tokens on Modal: minted by containers that cannot write credentials, accepted and revoked on all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.index.archives import wheel, wheel_name
from tests.index.issuer import FakeIssuer
from tests.index.tls import TlsFront
from tests.modal.conftest import TOKEN, create_secret, deploy
from tests.modal.traffic import PASSWORD, eventually, register, url, versions
from tests.standin.control_plane import ControlPlane

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
CONTAINERS = 3
LIMIT = 10.0
"""Seconds for what is promised within five."""
OUT = {401, 429}
"""Statuses of a refused login; 429 after the same wrong token many times from one address."""


@pytest.fixture(scope="module")
def served() -> Iterator[ControlPlane]:
    """An index in three containers, with one user."""
    with ControlPlane() as plane:
        create_secret(plane)
        deploy(plane, PYPI_MIN_CONTAINERS=f"{CONTAINERS}", PYPI_MAX_CONTAINERS=f"{CONTAINERS}")
        eventually(lambda: len(plane.live()) >= CONTAINERS)
        assert register(plane, "alice").status_code == 201
        yield plane
        assert not plane.problems, plane.problems


def admin(plane: ControlPlane, method: str, path: str, **options: object) -> requests.Response:
    address = f"{url(plane, 'register_user')}/{path}"
    return requests.request(method, address, headers=ADMIN, timeout=60, **options)  # type: ignore[arg-type]


def statuses(plane: ControlPlane, token: str) -> set[int]:
    """The statuses of many concurrent requests, which reach all containers."""

    def status(_: int) -> int:
        return requests.get(f"{url(plane)}/simple/", auth=("__token__", token), timeout=60).status_code

    with ThreadPoolExecutor(4 * CONTAINERS) as pool:
        return set(pool.map(status, range(8 * CONTAINERS)))


def test_a_token_is_accepted_by_every_container_and_rejected_within_five_seconds(served: ControlPlane) -> None:
    made = admin(served, "POST", "create_token", json={"owner": "alice"}).json()
    eventually(lambda: statuses(served, made["token"]) == {200})
    eventually(lambda: admin(served, "GET", "tokens").json()[0]["last_used"])
    assert admin(served, "DELETE", f"tokens/{made['id']}").status_code == 204
    eventually(lambda: statuses(served, made["token"]) <= OUT, LIMIT)
    assert requests.get(f"{url(served)}/simple/", auth=("alice", PASSWORD), timeout=60).status_code == 200


def test_three_containers_accept_an_id_token_once_and_all_reject_a_burnt_token(served: ControlPlane) -> None:
    with FakeIssuer() as issuer:
        assert admin(served, "POST", "replace_trust", json={"version": 0, **issuer.trust()}).status_code == 200
        mint = f"{url(served)}/_/oidc/mint-token"
        audience = f"{url(served)}/_/oidc/audience"
        eventually(lambda: requests.get(audience, timeout=60).status_code == 200, 15)
        for _ in range(10):
            body = {"token": issuer.id_token()}
            with ThreadPoolExecutor(CONTAINERS) as pool:
                asked = [pool.submit(requests.post, mint, json=body, timeout=60) for _ in range(CONTAINERS)]
            responses = [request.result() for request in asked]
            codes = [response.status_code for response in responses]
            assert codes.count(200) == 1, [response.text for response in responses]
            assert set(codes) == {200, 422}
        (token,) = [response.json()["token"] for response in responses if response.ok]
        assert statuses(served, token) == {200}
        assert requests.post(f"{url(served)}/_/oidc/burn-token", json={"token": token}, timeout=60).status_code == 202
        eventually(lambda: statuses(served, token) <= OUT, LIMIT)


def test_uv_publishes_to_three_containers_and_burns_its_token(served: ControlPlane, tmp_path: Path) -> None:
    with FakeIssuer() as issuer, TlsFront(tmp_path, urlsplit(url(served)).port or 0) as front:
        version = admin(served, "GET", "trust").json()["version"]
        trusted = admin(served, "POST", "replace_trust", json={"version": version, **issuer.trust()})
        assert trusted.status_code == 200
        time.sleep(5)  # until all containers have loaded the trusted publisher
        path = tmp_path / wheel_name("spam", "1.0")
        path.write_bytes(wheel("spam", "1.0"))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "SSL_CERT_FILE": str(front.authority),
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/id-token?api-version=2",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-secret-of-the-runner",
        }
        uv = Path(sys.executable).with_name("uv")
        command = [str(uv), "publish", "--publish-url", front.url, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert front.requests.count("POST /_/oidc/burn-token") == 1
        eventually(lambda: versions(served, "spam") == ["1.0"])  # in each container
