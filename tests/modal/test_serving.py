"""The deployed index in the real container runtime, without the failures of the system it replaces."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import modal
import pytest
import requests

from ops.index.auth.credential_files import PASSWORDS
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, Settings
from ops.targets.container import DictNameLocks
from tests.index.archives import wheel, wheel_name
from tests.index.test_attestations import about
from tests.modal.conftest import TOKEN, create_secret, deploy, forget_client
from tests.modal.traffic import JSON, PASSWORD, digests, eventually, register, upload, url, versions
from tests.standin.control_plane import ControlPlane


@pytest.fixture(scope="module")
def fresh() -> Iterator[ControlPlane]:
    """A newly deployed index: empty volumes, no user."""
    with ControlPlane() as plane:
        create_secret(plane)
        deploy(plane)
        yield plane
        assert not plane.problems, plane.problems


@pytest.fixture
def served(fresh: ControlPlane) -> Iterator[ControlPlane]:
    """The same with one user and one container, and no injected failures."""
    if not fresh.live():
        requests.get(f"{url(fresh)}/health", timeout=60).raise_for_status()
    if register(fresh, "alice").status_code == 201:
        eventually(lambda: can_log_in(fresh, "alice"))
    yield fresh
    pool = fresh.pool(fresh.function("server").function_id)
    pool.scaled_to = 0
    for container in fresh.live()[1:]:
        fresh.run(container.drain())
    fresh.volumes.failing.clear()


def can_log_in(plane: ControlPlane, user: str, password: str = PASSWORD) -> bool:
    return requests.get(f"{url(plane)}/simple/", auth=(user, password), timeout=60).status_code == 200


def test_the_first_deployment_serves_with_empty_volumes_and_asks_for_a_login(fresh: ControlPlane) -> None:
    assert requests.get(f"{url(fresh)}/health", timeout=60).status_code == 200
    for path in ("/", "/simple/", "/simple/x/", "/packages/x.whl", "/nothing"):
        for credentials in (None, ("alice", "wrong")):
            response = requests.get(f"{url(fresh)}{path}", auth=credentials, timeout=60)
            assert response.status_code == 401, path
            assert response.headers["WWW-Authenticate"].startswith("Basic realm=")


def test_the_admin_application_requires_its_token_in_a_header_and_the_password_in_the_body(fresh: ControlPlane) -> None:
    admin = f"{url(fresh, 'register_user')}/register_user"
    body = {"username": "mallory", "password": PASSWORD}
    assert requests.post(admin, json=body, timeout=60).status_code == 401
    assert requests.post(admin, json=body, headers={"Authorization": "Bearer x"}, timeout=60).status_code == 401
    assert requests.get(admin, params=body | {"token": TOKEN}, timeout=60).status_code in {401, 404, 405}
    response = requests.options(admin, headers={"Origin": "https://evil.example"}, timeout=60)
    assert "Access-Control-Allow-Origin" not in response.headers


def test_pages_link_to_provenances_by_absolute_url(served: ControlPlane) -> None:
    name, content = wheel_name("attested", "1.0"), wheel("attested", "1.0")
    attestations = about(name, hashlib.sha256(content).hexdigest())
    fields = {":action": "file_upload", "name": "attested", "version": "1.0", "attestations": attestations}
    files = {"content": (name, content)}
    response = requests.post(f"{url(served)}/", data=fields, files=files, auth=("alice", PASSWORD), timeout=60)
    assert response.status_code == 200, response.text
    page = requests.get(f"{url(served)}/simple/attested/", headers=JSON, auth=("alice", PASSWORD), timeout=60).json()
    address = page["files"][0]["provenance"]
    assert address == f"{url(served)}/packages/{name}.provenance"
    assert requests.get(address, auth=("alice", PASSWORD), timeout=60).json()["version"] == 1


def test_the_guide_links_to_the_account_page_where_users_change_their_password(served: ControlPlane) -> None:
    assert register(served, "hilda").status_code == 201
    eventually(lambda: can_log_in(served, "hilda"))
    guide = requests.get(f"{url(served)}/-/help/", auth=("hilda", PASSWORD), timeout=60)
    page = f"{url(served, 'register_user')}/account"
    assert f'href="{page}"' in guide.text
    login, wanted = ("hilda", PASSWORD), {"new_password": "words of her own"}
    assert requests.post(f"{page}/password", auth=login, json=wanted, timeout=60).status_code == 200
    eventually(lambda: can_log_in(served, "hilda", "words of her own") and not can_log_in(served, "hilda"))


def test_the_warm_container_accepts_a_second_user_at_once(served: ControlPlane) -> None:
    container = served.live()[0]
    assert register(served, "bob").status_code == 201
    eventually(lambda: can_log_in(served, "bob"))
    assert served.live() == [container], "it must not restart"


def test_an_old_password_and_a_removed_user_are_rejected(served: ControlPlane) -> None:
    register(served, "carol")
    eventually(lambda: can_log_in(served, "carol"))
    assert register(served, "carol", password="quite another password").status_code == 200
    eventually(lambda: not can_log_in(served, "carol"))
    assert can_log_in(served, "carol", "quite another password")
    removed = requests.delete(
        f"{url(served, 'register_user')}/users/carol", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    assert removed.status_code == 204
    eventually(lambda: not can_log_in(served, "carol", "quite another password"))


def test_one_container_at_a_time_changes_users(served: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in served.variables.items():
        monkeypatch.setenv(name, value)
    forget_client()
    another = DictNameLocks(modal.Dict.from_name(Settings().claims_dict))
    assert another.acquire(PASSWORDS)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(register, served, "dora")
        time.sleep(2)
        assert not waiting.done(), "another container holds the lock"
        another.release(PASSWORDS)
        assert waiting.result(60).status_code == 201
    forget_client()


def test_an_acknowledged_upload_survives_a_kill_of_the_container(served: ControlPlane) -> None:
    for number in range(3):
        assert upload(served, "durable", f"1.{number}").status_code == 200
        served.kill(served.live()[0])
        assert f"1.{number}" in versions(served, "durable")


def test_an_acknowledged_upload_survives_a_preemption(served: ControlPlane) -> None:
    assert upload(served, "preempted", "1.0").status_code == 200
    served.preempt(served.live()[0])
    assert versions(served, "preempted") == ["1.0"]


def test_every_warm_container_lists_a_new_upload_within_seconds(served: ControlPlane) -> None:
    served.scale("server", 3)
    assert upload(served, "everywhere", "1.0").status_code == 200

    def listed_by_all() -> bool:
        served.requests.clear()
        listed = all(versions(served, "everywhere") for _ in range(12))
        return listed and len({request.task_id for request in list(served.requests)}) == 3

    eventually(listed_by_all)


def test_one_container_serves_requests_concurrently(served: ControlPlane) -> None:
    upload(served, "parallel", "1.0")
    with ThreadPoolExecutor(24) as pool:
        responses = list(pool.map(lambda _: versions(served, "parallel"), range(120)))
    assert responses == [["1.0"]] * 120
    assert len(served.live()) == 1


def test_of_concurrent_uploads_of_one_name_through_three_containers_one_wins(served: ControlPlane) -> None:
    served.scale("server", 3)

    def contend(version: str, number: int) -> requests.Response:
        while (response := upload(served, "contested", version, payload=b"%d" % number)).status_code == 503:
            pass  # one at a time: on a busy machine the last would exceed the server's timeout
        return response

    for round_number in range(3):
        version = f"1.{round_number}"
        with ThreadPoolExecutor(6) as pool:
            responses = list(pool.map(partial(contend, version), range(6)))
        codes = sorted(response.status_code for response in responses)
        assert codes[0] == 200, [response.text for response in responses]
        assert all(code in {400, 409} for code in codes[1:]), codes
    eventually(lambda: versions(served, "contested") == ["1.0", "1.1", "1.2"])
    page = digests(served, "contested")
    for name, digest in page.items():
        for _ in range(6):
            response = requests.get(f"{url(served)}/packages/{name}", auth=("alice", PASSWORD), timeout=60)
            assert requests_digest(response) == digest


def requests_digest(response: requests.Response) -> str:
    response.raise_for_status()
    return hashlib.sha256(response.content).hexdigest()


@pytest.mark.parametrize("committed", [False, True])
def test_an_upload_whose_commit_fails_is_refused_and_never_listed(served: ControlPlane, committed: bool) -> None:
    served.scale("server", 2)
    name = f"unlucky-{committed}".lower()
    served.fail_commits(PACKAGES_VOLUME, committed=committed)
    response = upload(served, name, "1.0")
    assert response.status_code >= 500
    for _ in range(10):
        assert versions(served, name) == []
    assert upload(served, name, "1.0").status_code == 200
    eventually(lambda: all(versions(served, name) == ["1.0"] for _ in range(6)))


def large_file(plane: ControlPlane) -> tuple[str, str]:
    """Name and digest of a file that takes several seconds, uploaded by the first test that needs it."""
    if not versions(plane, "large"):
        payload = os.urandom(60 * 1024 * 1024)
        assert upload(plane, "large", "1.0", payload=payload, seconds=120).status_code == 200
    ((name, digest),) = digests(plane, "large").items()
    return name, digest


def test_a_large_file_passes_through_the_runtime_intact(served: ControlPlane) -> None:
    name, digest = large_file(served)
    response = requests.get(f"{url(served)}/packages/{name}", auth=("alice", PASSWORD), timeout=120)
    assert requests_digest(response) == digest


def test_no_container_ever_reloads_with_a_file_open(served: ControlPlane) -> None:
    """Downloads can take as long as the client likes, and reloads work meanwhile."""
    with requests.get(
        f"{url(served)}/packages/{large_file(served)[0]}",
        auth=("alice", PASSWORD),
        timeout=60,
        stream=True,
    ) as slow:
        next(slow.iter_content(1000))
        register(served, "dave")
        eventually(lambda: can_log_in(served, "dave"))
        assert upload(served, "meanwhile", "1.0").status_code == 200
    assert [held for container in served.containers() for held in container.open_file_failures] == []


def test_readmes_are_rendered_in_the_container_and_cannot_crash_it(served: ControlPlane) -> None:
    hostile = "|" + "a|" * 1000 + "\n|" + "-|" * 1000 + "\n" + "a\n" * 100_000
    for name, readme in (("good-readme", "some *words*"), ("bad-readme", hostile)):
        assert upload(served, name, "1.0", readme=readme).status_code == 200
    container = served.live()[0]

    def page(name: str) -> str:
        return requests.get(f"{url(served)}/projects/{name}/", auth=("alice", PASSWORD), timeout=60).text

    eventually(lambda: "some <em>words</em>" in page("good-readme"))
    eventually(lambda: "could not be rendered" in page("bad-readme"))
    register(served, "erin")
    eventually(lambda: can_log_in(served, "erin"))
    assert served.live()[0] == container
    assert [held for each in served.containers() for held in each.open_file_failures] == []


def test_pages_are_not_cached_by_proxies_and_are_cheap_to_revalidate(served: ControlPlane) -> None:
    upload(served, "cached", "1.0")
    first = requests.get(f"{url(served)}/simple/cached/", headers=JSON, auth=("alice", PASSWORD), timeout=60)
    assert "private" in first.headers["Cache-Control"]
    again = requests.get(
        f"{url(served)}/simple/cached/",
        headers={**JSON, "If-None-Match": first.headers["ETag"]},
        auth=("alice", PASSWORD),
        timeout=60,
    )
    assert again.status_code == 304


def test_pip_installs_what_twine_published(served: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("dist")
    file = folder / wheel_name("through-clients", "1.0")
    file.write_bytes(wheel("through-clients", "1.0"))
    common = {"capture_output": True, "text": True, "timeout": 120}
    login = url(served).replace("http://", f"http://alice:{PASSWORD.replace(' ', '%20')}@")
    twine = [sys.executable, "-m", "twine", "upload", "--non-interactive", "--disable-progress-bar"]
    twine += ["--repository-url", f"{url(served)}/", "-u", "alice", "-p", PASSWORD, str(file)]
    published = subprocess.run(twine, check=False, **common)  # type: ignore[call-overload]
    assert published.returncode == 0, published.stdout + published.stderr
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--no-cache-dir"]
    pip += ["--target", str(folder / "site"), "--index-url", f"{login}/simple/", "through-clients"]
    installed = subprocess.run(pip, check=False, **common)  # type: ignore[call-overload]
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert (folder / "site" / "through_clients" / "__init__.py").exists()


def test_no_url_log_or_package_file_contains_a_password_or_token(served: ControlPlane) -> None:
    basic = b64encode(f"alice:{PASSWORD}".encode()).decode()
    assert upload(served, "audited", "1.0").status_code == 200
    assert any(request.target.startswith("/register_user") for request in served.requests)
    seen = " ".join(request.target for request in served.requests) + served.log() + repr(served.secrets.by_id)
    for name in (PACKAGES_VOLUME, CREDENTIALS_VOLUME):
        volume = served.volumes.named(name, "main")
        assert volume is not None
        for path in list(volume.revisions):  # the containers go on committing
            with contextlib.suppress(FileNotFoundError):
                seen += (volume.directory / path).read_text(errors="replace")
    assert "audit" in " ".join(list(served.volumes.named(PACKAGES_VOLUME, "main").revisions))  # type: ignore[union-attr]
    for secret in (TOKEN, PASSWORD, basic):
        assert secret not in seen
