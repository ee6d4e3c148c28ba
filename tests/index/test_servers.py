"""Several servers on one Volume: an upload to one is seen by the others, never undone, and never doubled."""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ops.index.errors import Busy, FileTaken, PackageIndexError, StorageError
from ops.index.packages.filenames import parse
from ops.index.packages.uploads import UploadResult
from ops.index.storage import transaction
from ops.index.storage.name_locks import FileNameLocks
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Cluster, Node, Person, volume_of
from tests.index.serving import eventually
from tests.index.volume import MemoryNameLocks

NAME = wheel_name("foo", "1.0")
CONTENT = wheel("foo", "1.0", payload=b"first")
OTHER = wheel("foo", "1.0", payload=b"other")


def publish(node: Node, name: str = NAME, content: bytes = CONTENT) -> UploadResult:
    return node.publish(name, io.BytesIO(content), identity=Person())


def seen(node: Node) -> set[str]:
    node.repository.reload()
    return node.listed()


def together(*actions: Callable[[], Any]) -> list[Any]:
    """Results and exceptions of actions started at once."""
    results: list[Any] = [None] * len(actions)
    barrier = threading.Barrier(len(actions))

    def run(number: int, action: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[number] = action()
        except PackageIndexError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    return results


@contextmanager
def refreshing(cluster: Cluster) -> Iterator[None]:
    """Let each server refresh, as it does every refresh_seconds."""
    stop = threading.Event()

    def refresh(node: Node) -> None:
        while not stop.wait(cluster.options.refresh_seconds):
            node.repository.refresh()

    threads = [threading.Thread(target=refresh, args=(node,)) for node in cluster.nodes]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_confirmed_upload_is_committed_and_others_see_it_after_a_refresh(cluster: Cluster) -> None:
    one, two = cluster.open(), cluster.open()
    assert not two.listed()
    assert publish(one) is UploadResult.CREATED
    assert cluster.remote.names() == {NAME}
    assert (cluster.remote.directory / NAME).read_bytes() == CONTENT
    assert one.listed() == {NAME}
    assert not two.listed()
    assert seen(two) == {NAME}
    assert two.repository.project("foo") == one.repository.project("foo")
    assert two.repository.metadata(NAME) == one.repository.metadata(NAME)


def test_a_killed_server_loses_nothing_it_confirmed(cluster: Cluster) -> None:
    one = cluster.open()
    publish(one)
    volume_of(one).kill()
    three = cluster.open()
    assert three.listed() == {NAME}
    assert (three.directory / NAME).read_bytes() == CONTENT


def test_a_server_that_has_not_seen_a_file_yet_still_refuses_different_bytes(cluster: Cluster) -> None:
    one, two = cluster.open(), cluster.open()
    publish(one)
    with pytest.raises(FileTaken):
        publish(two, content=OTHER)
    with pytest.raises(FileTaken):
        publish(two, "Foo-1.0.0-py3-none-any.whl")
    assert publish(two) is UploadResult.SAME
    assert two.listed() == {NAME}


def test_one_of_several_uploads_of_a_name_through_three_servers_wins(cluster: Cluster) -> None:
    nodes = [cluster.open(background_seconds=0.01) for _ in range(3)]
    for number in range(8):
        version = f"1.{number}"
        contents = [wheel("foo", version, payload=b"%d" % writer) for writer in range(3)]
        results = together(
            *(partial(publish, node, wheel_name("foo", version), content) for node, content in zip(nodes, contents))
        )
        assert results.count(UploadResult.CREATED) == 1
        assert sum(isinstance(result, FileTaken) for result in results) == 2
        winner = contents[results.index(UploadResult.CREATED)]
        for node in nodes:
            assert wheel_name("foo", version) in seen(node)
            assert (node.directory / wheel_name("foo", version)).read_bytes() == winner


def test_many_uploads_share_commits(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    node = cluster.open(empty_seconds=0.2)
    written = threading.Barrier(16)
    commit = node.storage.commit

    def commit_together() -> None:
        written.wait(60)  # the machine may be busy: this tests sharing, not timing
        commit()

    monkeypatch.setattr(node.storage, "commit", commit_together)
    names = [f"p{number}" for number in range(16)]
    results = together(*(partial(publish, node, wheel_name(name, "1.0"), wheel(name, "1.0")) for name in names))
    assert results == [UploadResult.CREATED] * 16
    assert volume_of(node).commits <= 4
    assert len(cluster.remote.names()) == 16


@pytest.mark.parametrize("fault", ["not committed", "committed all the same"])
def test_after_a_failed_commit_the_file_is_never_visible(cluster: Cluster, fault: Any) -> None:
    one, two = cluster.open(), cluster.open()
    two.listed()
    stop = threading.Event()
    sights: set[str] = set()

    def watch(node: Node) -> None:
        while not stop.is_set():
            sights.update(seen(node))

    watchers = [threading.Thread(target=watch, args=(node,)) for node in (one, two)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(5):
            volume_of(one).faults.append(fault)
            with pytest.raises(StorageError) as refused:
                publish(one)
            assert refused.value.status == 500
            time.sleep(0.05)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()
    assert not sights
    assert not cluster.remote.names()
    assert [event["event"] for event in one.audit.events] == ["upload", "upload.undone"] * 5
    assert publish(two, content=OTHER) is UploadResult.CREATED
    assert seen(one) == {NAME}
    assert (one.directory / NAME).read_bytes() == OTHER


def test_a_removal_that_cannot_be_committed_is_retried_while_the_file_stays_hidden(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (0.02,))
    cluster.options = replace(cluster.options, claim_seconds=0.1)
    one, two = cluster.open(), cluster.open()
    volume_of(one).faults.append("committed all the same")
    volume_of(one).faults += ["not committed"] * 10_000
    with pytest.raises(StorageError):
        publish(one)
    assert cluster.remote.names() == {NAME}, "it became visible to others without being confirmed"
    assert not seen(two)
    assert two.repository.locate(NAME) is None
    with pytest.raises(Busy):
        publish(two)
    volume_of(one).faults.clear()
    deadline = time.monotonic() + 30
    while (cluster.name_locks.held() or cluster.remote.names()) and time.monotonic() < deadline:
        assert not seen(two)
        time.sleep(0.02)
    assert not cluster.remote.names()
    assert publish(two) is UploadResult.CREATED


def test_a_failed_reload_refuses_the_upload_and_does_not_change_the_pages(cluster: Cluster) -> None:
    one, two = cluster.open(), cluster.open()
    publish(one)
    assert seen(two) == {NAME}
    volume_of(two).reload_faults = 1
    with pytest.raises(StorageError):
        publish(two, wheel_name("bar", "1.0"), wheel("bar", "1.0"))
    time.sleep(0.3)  # refreshes that come too soon are skipped
    volume_of(two).reload_faults = 1
    two.repository.refresh()
    assert not volume_of(two).reload_faults
    assert two.listed() == {NAME}
    assert not two.name_locks.held()
    assert publish(two, wheel_name("bar", "1.0"), wheel("bar", "1.0")) is UploadResult.CREATED


def test_without_access_to_locks_uploads_are_refused_and_pages_stay(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NetworkError(Exception):
        pass

    def fail(*_: object) -> None:
        raise NetworkError("the network is down")

    node = cluster.open()
    publish(node)
    for broken in ("acquire", "held"):
        with monkeypatch.context() as patch:
            patch.setattr(node.name_locks, broken, fail)
            with pytest.raises(StorageError):
                publish(node, wheel_name("bar", "1.0"), wheel("bar", "1.0"))
            time.sleep(0.3)
            node.repository.refresh()
            assert node.listed() == {NAME}
    with monkeypatch.context() as patch:
        patch.setattr(node.name_locks, "release", fail)
        assert publish(node, wheel_name("bar", "1.0"), wheel("bar", "1.0")) is UploadResult.CREATED
    assert node.listed() == {NAME, wheel_name("bar", "1.0")}


def test_a_dead_server_s_unconfirmed_file_is_either_listed_whole_or_its_name_is_free(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have committed in the background before it died."""
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (60,))
    one, two = cluster.open(), cluster.open()
    volume = volume_of(one)
    volume.faults += ["not committed"] * 50
    with pytest.raises(StorageError):
        publish(one)
    (one.directory / NAME).write_bytes(CONTENT)
    volume.commit_in_background()
    assert not seen(two)
    one.publisher.close()
    volume.kill()
    cluster.name_locks.release("foo-1-py3-none-any.whl")
    assert seen(two) == {NAME}
    assert publish(two) is UploadResult.SAME
    with pytest.raises(FileTaken):
        publish(two, content=OTHER)


def test_background_commits_never_publish_a_partial_file(cluster: Cluster) -> None:
    """They happen at any moment, even in the middle of a write."""
    one = cluster.open(background_seconds=0.001)
    torn: list[str] = []
    contents = {
        wheel_name("foo", f"1.{number}"): wheel("foo", f"1.{number}", payload=random.Random(number).randbytes(200_000))
        for number in range(25)
    }

    two = cluster.open()
    for name, content in contents.items():
        publish(one, name, content)
        torn += [visible for visible in seen(two) if (two.directory / visible).read_bytes() != contents[visible]]
    assert not torn
    assert seen(two) == set(contents)


def test_yanks_and_statuses_set_on_one_server_are_seen_on_the_others(cluster: Cluster) -> None:
    one, two = cluster.open(), cluster.open()
    publish(one)
    seen(two)
    stamp = two.repository.project_stamp("foo")
    one.releases.yank("foo", version="1.0", reason="bad", identity=Person())
    one.releases.set_status("foo", "archived", identity=Person())
    seen(two)
    found = two.repository.project("foo")
    assert found is not None
    assert (found.files[0].yanked, found.status) == ("bad", "archived")
    assert two.repository.project_stamp("foo") != stamp
    with pytest.raises(PackageIndexError, match="archived"):
        publish(two, wheel_name("foo", "2.0"), wheel("foo", "2.0"))
    two.releases.unyank("foo", version="1.0", identity=Person())
    seen(one)
    assert one.repository.file(NAME).yanked is None  # type: ignore[union-attr] # it exists


def test_a_removal_on_one_server_is_seen_on_the_others_and_remembered(cluster: Cluster) -> None:
    one, two = cluster.open(), cluster.open()
    publish(one)
    assert seen(two) == {NAME}
    two.releases.remove("foo", version="1.0", identity=Person("adam", may_administer=True))
    assert not cluster.remote.names()
    assert not seen(one)
    with pytest.raises(FileTaken, match="removed"):
        publish(one, content=OTHER)


def test_concurrent_removals_on_two_servers_are_both_remembered(cluster: Cluster) -> None:
    one, two = cluster.open(), cluster.open()
    names = [wheel_name("foo", f"1.{number}") for number in range(2000)]

    def claim(name: str) -> str:
        parsed = parse(name)
        assert parsed is not None
        return one.repository.tombstones.lock_name(parsed.key)

    first, second = [name for name in names if claim(name) == claim(names[0])][:2]
    adam = Person("adam", may_administer=True)
    for name in (first, second):
        publish(one, name, wheel("foo", name.split("-")[1]))
    assert seen(two) == {first, second}
    results = together(
        lambda: one.releases.remove("foo", filename=first, identity=adam),
        lambda: two.releases.remove("foo", filename=second, identity=adam),
    )
    assert results == [[first], [second]]
    for node in (one, two, cluster.open()):
        assert seen(node) == set()
        for name in (first, second):
            with pytest.raises(FileTaken, match="removed"):
                publish(node, name, wheel("foo", name.split("-")[1], lines="Requires-Python: >=3.9\n"))


def test_an_uncommitted_removal_holds_its_locks_a_little_longer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server's next commit may include the list of removed files: no one may rewrite it before that."""
    one = cluster.open()
    monkeypatch.setattr(one.transactions, "_rest_seconds", 60.0)
    publish(one)
    volume_of(one).faults.append("not committed")
    with pytest.raises(StorageError):
        one.releases.remove("foo", filename=NAME, identity=Person("adam", may_administer=True))
    assert any(name.startswith("removed/") for name in cluster.name_locks.held())
    one.transactions.close()
    eventually(lambda: not cluster.name_locks.held())


def test_with_three_servers_every_upload_is_soon_seen_everywhere_and_never_undone(cluster: Cluster) -> None:
    """During commits, reloads and background commits readers always find known files."""
    nodes = [cluster.open(background_seconds=0.03) for _ in range(3)]
    known: dict[str, bytes] = {}
    stop = threading.Event()
    wrong_responses: list[str] = []
    looks = Counter[str]()
    slow: list[float] = []

    def read(node: Node) -> None:
        own_known: set[str] = set()
        generator = random.Random(1)
        while not stop.is_set():
            own_known |= node.listed()
            name = generator.choice(sorted(own_known)) if own_known else None
            if name is not None:
                found = node.repository.locate(name)
                if found is None:
                    wrong_responses.append(name)
                else:
                    with node.storage.detached(found[0]) as path:
                        if path.read_bytes() != known[name]:
                            wrong_responses.append(name)
                if node.repository.metadata(name) is None:
                    wrong_responses.append(name)
                looks["reads"] += 1
            time.sleep(0.001)

    def write(node: Node, writer: int) -> None:
        for number in range(12):
            name = wheel_name(f"p{writer}", f"1.{number}")
            content = wheel(f"p{writer}", f"1.{number}", payload=b"%d" % number)
            known[name] = content
            publish(node, name, content)
            confirmed = time.monotonic()
            for other in nodes:
                while name not in other.listed():
                    time.sleep(0.005)
                    if time.monotonic() - confirmed > 60:
                        break
            slow.append(time.monotonic() - confirmed)

    readers = [threading.Thread(target=read, args=(node,)) for node in nodes]
    with refreshing(cluster):
        for reader in readers:
            reader.start()
        together(*(partial(write, node, number) for number, node in enumerate(nodes)))
        eventually(lambda: looks["reads"] > 100)
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong_responses
    assert max(slow) < 60
    assert cluster.remote.names() == set(known)
    for node in nodes:
        assert seen(node) == set(known)


def test_no_file_of_the_volume_stays_open(cluster: Cluster) -> None:
    node = cluster.open()
    publish(node)
    node.listed()
    with node.storage.detached(node.directory / NAME) as path, path.open("rb") as file:
        node.releases.yank("foo", version="1.0", identity=Person())
        assert not volume_of(node).open_files()
        node.storage.reload()
        assert file.read() == CONTENT


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_servers_on_one_machine_can_share_lock_files(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    if kind == "files":
        cluster.name_locks = FileNameLocks(tmp_path / "claims")
    one = cluster.open()
    cluster.name_locks = FileNameLocks(tmp_path / "claims") if kind == "files" else MemoryNameLocks()
    two = cluster.open()
    two.listed()
    one.name_locks.acquire("foo-1-py3-none-any.whl")
    (two.directory / NAME).write_bytes(CONTENT)
    volume_of(two).commit()
    assert seen(two) == (set() if kind == "files" else {NAME})
