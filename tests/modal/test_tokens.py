"""Tokens on Modal: minted by containers that cannot write credentials, accepted and revoked on all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from tests.index.archives import wheel, wheel_name
from tests.index.issuer import FakeIssuer
from tests.index.tls import TlsFront
from tests.modal.conftest import TOKEN, create_secret, deploy
from tests.modal.traffic import PASSWORD, eventually, register, reloaded, url, versions
from tests.standin.control_plane import ControlPlane

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
CONTAINERS = 3
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


def statuses(plane: ControlPlane, secret: str, *, user: str = "__token__", post: bool = False) -> set[int]:
    """The statuses of many concurrent requests, which reach all containers: for a page, or to upload nothing."""
    method, path = ("POST", "") if post else ("GET", "simple/")

    def status(_: int) -> int:
        return requests.request(method, f"{url(plane)}/{path}", auth=(user, secret), timeout=60).status_code

    with ThreadPoolExecutor(4 * CONTAINERS) as pool:
        return set(pool.map(status, range(8 * CONTAINERS)))


def test_a_token_is_accepted_by_every_container_at_once_and_rejected_after_one_reload(served: ControlPlane) -> None:
    made = admin(served, "POST", "create_token", json={"owner": "alice"}).json()
    assert statuses(served, made["token"]) == {200}
    eventually(lambda: admin(served, "GET", "tokens").json()[0]["last_used"])
    assert admin(served, "DELETE", f"tokens/{made['id']}").status_code == 204
    reloaded(served, CREDENTIALS_VOLUME)
    assert statuses(served, made["token"]) <= OUT
    assert requests.get(f"{url(served)}/simple/", auth=("alice", PASSWORD), timeout=60).status_code == 200


@pytest.mark.slow
def test_an_owner_demoted_or_removed_is_out_of_every_container_after_one_reload(served: ControlPlane) -> None:
    assert register(served, "carol").status_code == 201
    logins = [
        ("carol", PASSWORD),
        ("__token__", admin(served, "POST", "create_token", json={"owner": "carol"}).json()["token"]),
    ]
    assert [statuses(served, secret, user=user, post=True) for user, secret in logins] == [{400}, {400}]
    assert admin(served, "POST", "register_user", json={"username": "carol", "role": "reader"}).status_code == 200
    reloaded(served, CREDENTIALS_VOLUME)
    assert [statuses(served, secret, user=user, post=True) for user, secret in logins] == [{403}, {403}]
    assert [statuses(served, secret, user=user) for user, secret in logins] == [{200}, {200}]
    assert admin(served, "DELETE", "users/carol").status_code == 204
    reloaded(served, CREDENTIALS_VOLUME)
    assert all(statuses(served, secret, user=user) <= OUT for user, secret in logins)


@pytest.mark.slow
def test_three_containers_accept_an_id_token_once_and_all_reject_a_burnt_token(served: ControlPlane) -> None:
    with FakeIssuer() as issuer:
        assert admin(served, "POST", "replace_trust", json={"version": 0, **issuer.trust()}).status_code == 200
        mint = f"{url(served)}/_/oidc/mint-token"
        audience = f"{url(served)}/_/oidc/audience"
        reloaded(served, CREDENTIALS_VOLUME)
        assert requests.get(audience, timeout=60).status_code == 200
        for _ in range(100):
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
        eventually(lambda: statuses(served, token) <= OUT)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "project"), [("github", "spam"), ("gitlab", "eggs")])
def test_a_ci_job_publishes_to_and_installs_from_three_containers_without_a_stored_secret(
    served: ControlPlane, tmp_path: Path, kind: str, project: str
) -> None:
    def run(*command: str | Path, **variables: str) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_NO_CACHE": "1", "PIP_NO_CACHE_DIR": "1"}
        environment |= {name: str(front.authority) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT")}
        words = [sys.executable, "-m", *(str(part) for part in command)]
        done = subprocess.run(
            words, env=environment | variables, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def everywhere(*expected: str) -> None:
        reloaded(served, PACKAGES_VOLUME)
        with ThreadPoolExecutor(4 * CONTAINERS) as pool:  # reaches all containers
            pages = list(pool.map(lambda _: versions(served, project), range(8 * CONTAINERS)))
        assert pages == [list(expected)] * len(pages)

    built = [tmp_path / wheel_name(project, version) for version in ("1.0", "2.0")]
    for path, version in zip(built, ("1.0", "2.0"), strict=True):
        path.write_bytes(wheel(project, version))
    with FakeIssuer(kind) as issuer, TlsFront(tmp_path, urlsplit(url(served)).port or 0) as front:
        version = admin(served, "GET", "trust").json()["version"]
        trusted = admin(served, "POST", "replace_trust", json={"version": version, **issuer.trust()})
        assert trusted.status_code == 200
        reloaded(served, CREDENTIALS_VOLUME)
        job = {"GITLAB_CI": "true", "PYPI_TEST_ID_TOKEN": issuer.id_token()}
        if kind == "github":
            job = {
                "GITHUB_ACTIONS": "true",
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/id-token?api-version=2",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-secret-of-the-runner",
            }
        run("uv", "publish", "--publish-url", front.url, built[0], **job)
        assert front.requests.count("POST /_/oidc/burn-token") == 1
        everywhere("1.0")
        mint = requests.post(f"{url(served)}/_/oidc/mint-token", json={"token": issuer.id_token()}, timeout=60)
        token = mint.json()["token"]
        login = {"TWINE_USERNAME": "__token__", "TWINE_PASSWORD": token}
        run("twine", "upload", "--non-interactive", "--repository-url", front.url, built[1], **login)
        everywhere("1.0", "2.0")
        pages = f"{front.url.replace('://', f'://__token__:{token}@')}simple/"
        run("pip", "download", "--no-deps", "--dest", "pip", project, PIP_INDEX_URL=pages)
        run("uv", "pip", "install", "--target", "uv", project, UV_DEFAULT_INDEX=pages)
    assert [path.name for path in (tmp_path / "pip").iterdir()] == [built[1].name]
    assert (tmp_path / "uv" / f"{project}-2.0.dist-info").is_dir()
