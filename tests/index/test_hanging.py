"""A hanging commit, of a Volume or a disk: known content is served, and no one waits forever."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from ops.index import Options, create_index
from ops.index.storage import transaction
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import wheel, wheel_name
from tests.index.serving import PASSWORD, ThreadServer, eventually
from tests.index.test_sharing import Container, log_in, opened, publish, register, upload
from tests.index.volume import MemoryNameLocks

SPAM = wheel_name("spam", "1.0")
KNOWN = ("/simple/spam/", "/simple/", f"/packages/{SPAM}", f"/packages/{SPAM}.metadata", "/projects/spam/", "/")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all waits."""
    for module in ("ops.index.app", "ops.index.http.simple_api", "ops.index.http.files"):
        monkeypatch.setattr(f"{module}.READ_SECONDS", 0.3)
    monkeypatch.setattr("ops.index.storage.volume.LAST_SECONDS", 0.5)
    monkeypatch.setattr("ops.index.packages.repository.RELOAD_SECONDS", 0.5)
    monkeypatch.setattr(transaction, "LAST_SECONDS", 0.5)
    monkeypatch.setattr("ops.index.server._GRACE", 1)


@pytest.fixture
def containers(tmp_path: Path, soon: None, request: pytest.FixtureRequest) -> Iterator[list[Container]]:
    """Servers of one Volume that wait half a second for commits, and know all content."""
    names = ["first", "second", "third"][: getattr(request, "param", 1)]
    with opened(tmp_path, names, 0.2, commit_seconds=0.5, reload_seconds=0.5) as found:
        for container in found:
            for path in KNOWN:  # on a busy machine a reload may take longer than the limit
                eventually(lambda container=container, path=path: container.get(path).status == 200)
        yield found
        for container in found:
            container.packages.going_on.set()
            container.credentials.going_on.set()


def begun(volume: Any, work: Callable[[], Any]) -> Future[Any]:
    """A change whose commit is hanging."""
    volume.going_on.clear()
    commits = volume.commits
    pool = ThreadPoolExecutor(1)
    result = pool.submit(work)
    pool.shutdown(wait=False)
    eventually(lambda: volume.commits > commits)
    return result


def has_copy(server: Container, filename: str) -> bool:
    try:
        return server.packages.copied(server.packages.directory / filename) is not None
    except FileNotFoundError:  # it has not seen the file yet
        return False


@pytest.mark.parametrize("containers", [1, 3], indirect=True)
def test_every_server_serves_known_content_while_a_commit_hangs(containers: list[Container]) -> None:
    first = containers[0]
    upload_that_hangs = begun(first.packages, lambda: upload(first, "new", "1.0"))
    eventually(lambda: all(container.packages.closed for container in containers))
    for _ in range(2):
        for container in containers:
            for path in KNOWN:
                assert (container.get(path).status, path) == (200, path)
            assert container.get(f"/packages/{SPAM}", Range="bytes=0-9").body == wheel("spam", "1.0")[:10]
            assert container.get("/health", user=None).status == 200
        assert not first.packages.going_on.is_set()
        upload_that_hangs.result()


def test_a_request_that_waits_for_a_hanging_commit_gets_retry_after(containers: list[Container]) -> None:
    (server,) = containers
    response = begun(server.packages, lambda: upload(server, "new", "1.0")).result()
    assert (response.status, response["retry-after"]) == (503, "10")
    assert "try again in 10 s" in response.text
    threads = threading.active_count()
    for number in range(20):
        assert publish(server, f"more-{number}", "1.0") == 503
    assert threading.active_count() <= threads + Options().upload_threads
    assert server.get("/simple/new/").status != 200


def test_an_upload_not_committed_in_time_is_undone_and_can_be_repeated(containers: list[Container]) -> None:
    (server,) = containers
    assert begun(server.packages, lambda: publish(server, "new", "1.0")).result() == 503
    server.packages.going_on.set()
    eventually(lambda: publish(server, "new", "1.0", payload=b"other") == 200)
    assert server.get(f"/packages/{wheel_name('new', '1.0')}").body == wheel("new", "1.0", payload=b"other")


def test_unknown_content_is_never_404_while_that_cannot_be_checked(containers: list[Container]) -> None:
    (server,) = containers
    begun(server.packages, lambda: upload(server, "new", "1.0"))
    for path in ("/simple/ham/", "/ham/", "/ham/json", "/projects/ham/", f"/packages/{wheel_name('ham', '1.0')}"):
        eventually(lambda path=path: server.get(path).status != 404)  # for a moment some are still known to be missing
        response = server.get(path)
        assert (response.status, path) == (503, path)
        assert response["retry-after"] == "10"
    server.packages.going_on.set()
    eventually(lambda: server.get("/simple/ham/").status == 404)


def test_a_just_uploaded_file_is_served_while_the_next_commit_hangs(containers: list[Container]) -> None:
    (server,) = containers
    eventually(lambda: publish(server, "egg", "1.0") == 200)
    begun(server.packages, lambda: upload(server, "new", "1.0"))
    name = wheel_name("egg", "1.0")
    assert server.get(f"/packages/{name}").body == wheel("egg", "1.0")
    assert server.get(f"/packages/{name}.metadata").status == 200
    assert name in server.get("/simple/egg/").text


@pytest.mark.parametrize("containers", [3], indirect=True)
def test_others_uploads_are_cached_before_they_are_requested(containers: list[Container]) -> None:
    first, *others = containers
    name = wheel_name("egg", "1.0")
    eventually(lambda: publish(first, "egg", "1.0") == 200)
    for other in others:
        eventually(lambda other=other: has_copy(other, name))
    begun(first.packages, lambda: upload(first, "new", "1.0"))
    eventually(lambda: all(other.packages.closed for other in others))
    for other in others:
        assert other.get(f"/packages/{name}").body == wheel("egg", "1.0")
        assert name in other.get("/simple/egg/").text


def test_requests_for_unknown_content_take_no_threads_from_others(containers: list[Container]) -> None:
    (server,) = containers
    begun(server.packages, lambda: upload(server, "new", "1.0"))
    with ThreadPoolExecutor(60) as pool:
        unknown = [pool.submit(server.get, f"/simple/nothing-{number}/") for number in range(60)]
        while not all(done.done() for done in unknown):
            assert server.get("/projects/spam/").status == 200
        assert {done.result().status for done in unknown} <= {404, 503}


def test_known_users_can_log_in_while_the_commit_of_another_user_hangs(containers: list[Container]) -> None:
    (server,) = containers
    registration = begun(server.credentials, lambda: register(server, username="carol", password="the first password"))
    for _ in range(5):
        assert server.get("/simple/spam/").status == 200
    assert log_in(server, "nobody", "knows her password") == 503, "the user may have been registered elsewhere"
    assert registration.result() == 503
    eventually(lambda: publish(server, "meanwhile", "1.0") == 200)  # the packages are on another Volume
    server.credentials.going_on.set()
    eventually(lambda: register(server, username="carol", password="the first password") in {200, 201})
    eventually(lambda: log_in(server, "carol", "the first password") == 200)


def test_a_server_that_starts_during_another_s_commit_sends_retry_after(
    containers: list[Container], tmp_path: Path
) -> None:
    (first,) = containers
    remotes = first.packages.remote, first.credentials.remote
    second = Container(tmp_path / "second", *remotes, MemoryNameLocks(), 0.2, commit_seconds=0.5, reload_seconds=0.5)
    begun(first.packages, lambda: upload(first, "new", "1.0"))
    eventually(first.packages.remote.lock.locked)
    with second:
        assert second.get("/health", user=None).status == 200
        assert second.get("/simple/spam/").status == 503
        first.packages.going_on.set()
        eventually(lambda: second.get("/simple/spam/").status == 200)


def test_a_server_stops_though_a_commit_hangs(tmp_path: Path, soon: None) -> None:
    with opened(tmp_path, ["first"], 0.2) as (server,):
        assert server.get("/simple/spam/").status == 200
        hung = begun(server.packages, lambda: upload(server, "new", "1.0"))
        server.server.should_exit = True
        server._thread.join(120)  # far less than the commit takes
        assert not server._thread.is_alive()
        assert not server.packages.going_on.is_set()
        server.packages.going_on.set()
        hung.exception()


# A disk


@pytest.fixture
def local(tmp_path: Path) -> Iterator[ThreadServer]:
    gc.collect()  # else what earlier tests left may remove its files in the thread of the event loop, and hang there
    packages, credentials = DirectoryStorage(tmp_path / "packages"), DirectoryStorage(tmp_path / "credentials")
    entry = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (credentials.directory / ".htpasswd").write_text(f"alice:{entry}\nbob:{entry}\n")
    (packages.directory / SPAM).write_bytes(wheel("spam", "1.0"))
    with ThreadServer(create_index(packages=packages, credentials=credentials)) as server:
        for path in KNOWN:
            assert server.get(path).status == 200
        assert publish(server, "spam", "2.0") == 200  # one-time work of the first change is done
        yield server


@pytest.mark.parametrize("call", ["fsync", "link", "unlink", "rename"])
def test_a_disk_that_hangs_on_a_change_does_not_block_readers(
    local: ThreadServer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Eight uploads and as many yanks hang in the kernel, as far as the server can tell."""
    work, go_on, inside = getattr(os, call), threading.Event(), []

    def hang(*arguments: Any, **more: Any) -> Any:
        if "/claims/" not in str(arguments):  # those come first
            inside.append(call)
            assert go_on.wait(60)
        return work(*arguments, **more)

    monkeypatch.setattr(os, call, hang)
    with ThreadPoolExecutor(16) as pool:
        try:
            changes = [pool.submit(publish, local, f"new-{number}", "1.0") for number in range(8)]
            changes += [pool.submit(_yank, local) for _ in range(8)]
            eventually(lambda: inside)
            for _ in range(10):
                for path in KNOWN:
                    assert local.get(path).status == 200
            assert local.get("/health", user=None).status == 200
            assert local.get("/simple/spam/", user="bob").status == 200
            assert local.get("/simple/ham/").status == 404
        finally:
            go_on.set()
        assert {change.result() for change in changes} == {200}


def _yank(server: ThreadServer) -> int:
    headers, body = {"Content-Type": "application/json"}, b'{"version": "1.0"}'
    return server.request("POST", "/projects/spam/yank", headers=headers, body=body).status
