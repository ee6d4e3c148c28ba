"""Several complete servers on one Volume: changes on one show on the others, and no one is refused meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bcrypt
import pytest

from ops.index import Options, create_index
from ops.index.packages.filenames import parse
from ops.index.packages.releases import annotations_lock
from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, PASSWORD, TOKEN, Http, Response, ThreadServer, authorization, eventually
from tests.index.test_app import form
from tests.index.volume import MemoryNameLocks, Remote, Volume

BIG = "big-1.0.tar.gz"
BIG_CONTENT = os.urandom(1024) * 8 * 1024


class Container(ThreadServer):
    """A server with its own snapshots of the two Volumes."""

    def __init__(
        self,
        folder: Path,
        packages: Remote,
        credentials: Remote,
        name_locks: MemoryNameLocks,
        refresh_seconds: float,
        **seconds: float,
    ) -> None:
        folder.mkdir()
        self.name_locks = name_locks
        self.packages = Volume(packages, folder / "packages", **seconds)
        self.credentials = Volume(credentials, folder / "credentials", **seconds)
        self.index = create_index(
            packages=self.packages,
            credentials=self.credentials,
            name_locks=name_locks,
            options=Options(refresh_seconds=refresh_seconds, bcrypt_rounds=10, instance=folder.name),
            admin_token=TOKEN,
        )
        super().__init__(self.index)

    def refresh(self) -> None:
        """Do once what the server does every two seconds."""
        for action in self.index._lifespan._repeat:
            action()


@contextmanager
def opened(folder: Path, names: list[str], refresh_seconds: float, **seconds: float) -> Iterator[list[Container]]:
    """Servers with these names on one pair of Volumes, with these time limits."""
    packages, credentials = Remote(folder / "packages"), Remote(folder / "credentials")
    entry = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (credentials.directory / ".htpasswd").write_text(f"alice:{entry}\n")
    (packages.directory / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    (packages.directory / BIG).write_bytes(BIG_CONTENT)
    name_locks = MemoryNameLocks()
    found = [Container(folder / name, packages, credentials, name_locks, refresh_seconds, **seconds) for name in names]
    with ExitStack() as stack:
        for container in found:
            stack.enter_context(container)
        yield found
    for container in found:
        container.packages.kill()
        container.credentials.kill()


@pytest.fixture
def containers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Container]]:
    with opened(tmp_path, ["first", "second"], getattr(request, "param", 0.5)) as found:
        yield found


def publish(
    server: Http, name: str, version: str, *, payload: bytes = b"", login: tuple[str, str] = ("alice", PASSWORD)
) -> int:
    """Upload a wheel, and return the status of the response."""
    return upload(server, name, version, payload=payload, login=login).status


def upload(
    server: Http, name: str, version: str, *, payload: bytes = b"", login: tuple[str, str] = ("alice", PASSWORD)
) -> Response:
    content = (wheel_name(name, version), wheel(name, version, payload=payload))
    body = form(action="file_upload", name=name, version=version, content=content)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return server.request("POST", "/", user=login[0], password=login[1], headers=headers, body=body)


def administer(server: Http, method: str, path: str, **fields: str) -> int:
    return administered(server, method, path, **fields).status


def administered(server: Http, method: str, path: str, **fields: str) -> Response:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    body = json.dumps(fields).encode() if fields else None
    return server.request(method, f"/admin/{path}", user=None, headers=headers, body=body)


def register(server: Http, **fields: str) -> int:
    """Create or change a user."""
    return administer(server, "POST", "register_user", **fields)


def log_in(server: Http, user: str, password: str) -> int:
    return server.request("GET", "/simple/", user=user, password=password).status


@pytest.mark.parametrize("containers", [60.0], indirect=True)
def test_a_file_uploaded_to_one_server_is_served_by_the_other_at_once(containers: list[Container]) -> None:
    """An unknown project or file is looked up on the Volume before a 404."""
    first, second = containers
    for number, path in enumerate(("/simple/new-{}/", "/packages/new_{}-1.0-py3-none-any.whl", "/projects/new-{}/")):
        assert second.get("/simple/nothing/").status == 404
        assert publish(first, f"new-{number}", "1.0") == 200
        assert first.get(path.format(number)).status == 200
        eventually(lambda path=path, number=number: second.get(path.format(number)).status == 200)


def test_a_new_version_of_a_known_project_soon_shows_on_other_servers(containers: list[Container]) -> None:
    first, second = containers
    assert "1.0" in second.get("/simple/spam/").text
    assert publish(first, "spam", "2.0") == 200
    assert "2.0" in first.get("/simple/spam/").text
    eventually(lambda: "2.0" in second.get("/simple/spam/").text)
    assert publish(second, "spam", "2.0", payload=b"other") == 409


def test_a_yank_on_one_server_is_seen_on_the_other(containers: list[Container]) -> None:
    first, second = containers
    body, headers = b'{"version": "1.0", "reason": "bad"}', {"Content-Type": "application/json"}
    assert first.request("POST", "/projects/spam/yank", headers=headers, body=body).status == 200
    eventually(lambda: b'"yanked":"bad"' in second.get("/simple/spam/", Accept=JSON).body)


def test_a_user_registered_on_one_server_can_log_in_on_the_other(containers: list[Container]) -> None:
    first, second = containers
    assert second.get("/simple/").status == 200

    assert register(first, username="carol", password="the first password") == 201
    assert log_in(second, "carol", "the first password") == 200
    assert register(first, username="carol", password="the second password") == 200
    assert log_in(second, "carol", "the second password") == 200
    eventually(lambda: log_in(second, "carol", "the first password") == 401)


def test_a_user_s_change_on_one_of_three_servers_applies_on_the_others_after_one_refresh(
    tmp_path: Path,
) -> None:
    """Each server knows the user before, by the old password, and by a token. It refreshes every two seconds."""

    def everywhere(check: Callable[[Container], bool]) -> None:
        for other in others:
            other.refresh()
            assert check(other)

    with opened(tmp_path, ["first", "second", "third"], Options().refresh_seconds) as (first, *others):
        assert register(first, username="carol", password="the first password") == 201
        assert [log_in(other, "carol", "the first password") for other in others] == [200, 200]

        assert register(first, username="carol", password="the second password") == 200
        everywhere(lambda other: log_in(other, "carol", "the first password") == 401)
        assert [publish(other, "hers", "1.0", login=("carol", "the second password")) for other in others] == [200, 200]

        token = json.loads(administered(first, "POST", "create_token", owner="carol").body)["token"]
        assert [publish(other, "hers", "1.0", login=("__token__", token)) for other in others] == [200, 200]

        logins = [("carol", "the second password"), ("__token__", token)]
        assert register(first, username="carol", role="reader") == 200
        everywhere(lambda other: [publish(other, "hers", "1.0", login=login) for login in logins] == [403, 403])
        assert [log_in(other, *login) for other in others for login in logins] == [200] * 4

        assert administer(first, "DELETE", "users/carol") == 204
        everywhere(lambda other: [log_in(other, *login) for login in logins] == [401, 401])


def test_a_file_has_the_same_etag_everywhere_so_a_download_can_be_resumed_elsewhere(
    containers: list[Container],
) -> None:
    first, second = containers
    begun = first.get(f"/packages/{BIG}", Range="bytes=0-999999")
    rest = second.get(f"/packages/{BIG}", Range="bytes=1000000-", If_Range=begun["etag"])
    assert (begun.status, rest.status) == (206, 206)
    assert begun.body + rest.body == BIG_CONTENT
    assert begun["etag"] == f'"{hashlib.sha256(BIG_CONTENT).hexdigest()}"'


def test_the_volume_can_be_reloaded_and_committed_while_a_client_downloads(containers: list[Container]) -> None:
    """Modal refuses both as long as any file of the Volume is open."""
    server = containers[0]
    connection = server.connect()
    connection.request("GET", f"/packages/{BIG}", headers={"Authorization": authorization("alice")})
    response = connection.getresponse()
    received = response.read(1000)
    eventually(lambda: not server.packages.open_files())  # except, for a moment, those of another thread
    server.packages.reload()
    server.packages.commit()
    assert received + response.read() == BIG_CONTENT
    connection.close()


def test_no_one_is_refused_during_commits_reloads_and_changes_of_users(containers: list[Container]) -> None:
    """No false 401 or 404 in over a thousand requests, and no failure."""
    ending = threading.Event()
    seen: list[tuple[int, str]] = []
    changed: list[int] = []

    def read(server: Container) -> None:
        paths = ["/simple/spam/", f"/packages/{wheel_name('spam', '1.0')}", "/simple/", "/projects/spam/", "/"]
        paths += [f"/packages/{wheel_name('spam', '1.0')}.metadata"]
        number = 0
        while not ending.is_set():
            path = paths[number % len(paths)]
            seen.append((server.get(path).status, path))
            number += 1

    def disturb(server: Container) -> None:
        while not ending.is_set():
            server.packages.reload()
            server.credentials.reload()
            server.packages.commit()
            time.sleep(0.01)

    def change_a_user(server: Container, other: Container, name: str) -> None:
        while not ending.is_set():
            password = f"password number {len(changed)}"
            changed.append(register(server, username=name, password=password))
            seen.append((log_in(other, name, password), f"/simple/ as {name}"))

    first, second = containers
    for server in containers:  # FastAPI may not make two applications of one process at once: it sets warning filters
        assert register(server, username="carol", password="the first password") in {200, 201}
    threads = [threading.Thread(target=work, args=(server,)) for server in containers for work in (read, read, disturb)]
    threads.append(threading.Thread(target=change_a_user, args=(first, second, "carol")))
    threads.append(threading.Thread(target=change_a_user, args=(second, first, "dave")))
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            assert publish(containers[number % 2], f"while-{number}", "1.0") == 200
        while len(seen) < 1000 or len(changed) < 20:
            assert all(thread.is_alive() for thread in threads), "a client or a server failed"
            time.sleep(0.05)
    finally:
        ending.set()
        for thread in threads:
            thread.join(60)
    assert [one for one in seen if one[0] != 200] == []
    assert set(changed) <= {200, 201}
    for server in containers:
        for number in range(6):
            eventually(lambda server=server, number=number: server.get(f"/simple/while-{number}/").status == 200)


@contextmanager
def held(server: Container, lock: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold a name lock; yields what is set once a request waits for it."""
    waits = threading.Event()
    acquire = MemoryNameLocks.acquire

    def noted(locks: MemoryNameLocks, name: str) -> bool:
        taken = acquire(locks, name)
        if name == lock and not taken:
            waits.set()
        return taken

    assert server.name_locks.acquire(lock)
    with monkeypatch.context() as patched:
        patched.setattr(MemoryNameLocks, "acquire", noted)
        yield waits
    server.name_locks.release(lock)


@pytest.mark.parametrize("change", ["upload", "yank", "removal"])
@pytest.mark.parametrize("loss", ["removed", "demoted"])
def test_a_change_that_waited_for_another_one_is_refused_if_its_user_has_lost_the_right_meanwhile(
    containers: list[Container], change: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = containers
    role = "admin" if change == "removal" else "publisher"
    assert register(first, username="carol", password=PASSWORD, role=role) == 201
    assert log_in(second, "carol", PASSWORD) == 200
    name = parse(wheel_name("hers", "1.0"))
    assert name is not None

    lock = name.key if change == "upload" else annotations_lock("spam")

    def begin() -> int:
        if change == "upload":
            return publish(second, "hers", "1.0", login=("carol", PASSWORD))
        if change == "removal":
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            body = form(action="remove_pkg", name="spam", version="1.0")
            return second.request("POST", "/", user="carol", headers=headers, body=body).status
        headers, body = {"Content-Type": "application/json"}, b'{"version": "1.0"}'
        return second.request("POST", "/projects/spam/yank", user="carol", headers=headers, body=body).status

    with ThreadPoolExecutor(1) as pool:
        with held(second, lock, monkeypatch) as waits:
            response = pool.submit(begin)
            assert waits.wait(60)
            if loss == "removed":
                assert administer(first, "DELETE", "users/carol") == 204
            else:
                assert register(first, username="carol", role="reader") == 200
            second.refresh()
        assert response.result() == 401
    if loss == "demoted":
        assert begin() == 403
    assert "hers" not in second.get("/simple/").text
    assert b'"yanked"' not in second.get("/simple/spam/", Accept=JSON).body
    assert wheel_name("spam", "1.0") in second.get("/simple/spam/").text


def test_a_download_ends_after_its_user_was_removed_and_continues_for_a_user_who_was_demoted(
    containers: list[Container],
) -> None:
    first, second = containers
    for name in ("carol", "dora"):
        assert register(first, username=name, password=PASSWORD) == 201

    def begun(user: str) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)  # far less than the file
        connection.settimeout(60)
        connection.connect((second.host, second.port))
        request = f"GET /packages/{BIG} HTTP/1.1\r\nHost: index\r\nAuthorization: {authorization(user)}\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        return connection

    with begun("carol") as hers, begun("dora") as others:
        requests = second.server.server_state.tasks
        assert len(requests) == 2
        assert register(first, username="dora", role="reader") == 200
        assert administer(first, "DELETE", "users/carol") == 204
        eventually(lambda: len(requests) == 1)
        assert received(hers) < len(BIG_CONTENT)
        assert received(others, len(BIG_CONTENT)) >= len(BIG_CONTENT)


def received(connection: socket.socket, most: int = 2**40) -> int:
    """The number of bytes until the server closes the connection, or a bit more than *most*."""
    count = 0
    while count < most and (piece := connection.recv(65536)):
        count += len(piece)
    return count
