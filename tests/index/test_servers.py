"""Several servers on one Volume: what one took is seen by the others, never undone, and never twice."""

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
from tests.index.conftest import House, Person, Town, volume_of
from tests.index.serving import eventually
from tests.index.volume import MemoryNameLocks

NAME = wheel_name("foo", "1.0")
CONTENT = wheel("foo", "1.0", payload=b"first")
OTHER = wheel("foo", "1.0", payload=b"other")


def publish(house: House, name: str = NAME, content: bytes = CONTENT) -> UploadResult:
    return house.publish(name, io.BytesIO(content), identity=Person())


def seen(house: House) -> set[str]:
    house.repository.reload()
    return house.listed()


def together(*actions: Callable[[], Any]) -> list[Any]:
    """Results and exceptions of actions that begin at once."""
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
def refreshing(town: Town) -> Iterator[None]:
    """Let each server refresh, as it does every refresh_seconds."""
    stop = threading.Event()

    def refresh(house: House) -> None:
        while not stop.wait(town.options.refresh_seconds):
            house.repository.refresh()

    threads = [threading.Thread(target=refresh, args=(house,)) for house in town.houses]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_upload_is_committed_when_it_is_confirmed_and_others_see_it_after_a_refresh(town: Town) -> None:
    one, two = town.open(), town.open()
    assert not two.listed()
    assert publish(one) is UploadResult.CREATED
    assert town.remote.names() == {NAME}
    assert (town.remote.directory / NAME).read_bytes() == CONTENT
    assert one.listed() == {NAME}
    assert not two.listed()
    assert seen(two) == {NAME}
    assert two.repository.project("foo") == one.repository.project("foo")
    assert two.repository.metadata(NAME) == one.repository.metadata(NAME)


def test_a_killed_server_loses_nothing_that_it_confirmed(town: Town) -> None:
    one = town.open()
    publish(one)
    volume_of(one).kill()
    three = town.open()
    assert three.listed() == {NAME}
    assert (three.directory / NAME).read_bytes() == CONTENT


def test_a_server_that_has_not_seen_a_file_yet_still_refuses_other_bytes(town: Town) -> None:
    one, two = town.open(), town.open()
    publish(one)
    with pytest.raises(FileTaken):
        publish(two, content=OTHER)
    with pytest.raises(FileTaken):
        publish(two, "Foo-1.0.0-py3-none-any.whl")
    assert publish(two) is UploadResult.SAME
    assert two.listed() == {NAME}


def test_of_uploads_of_one_name_through_three_servers_one_wins(town: Town) -> None:
    houses = [town.open(background_seconds=0.01) for _ in range(3)]
    for number in range(8):
        version = f"1.{number}"
        contents = [wheel("foo", version, payload=b"%d" % writer) for writer in range(3)]
        results = together(
            *(partial(publish, house, wheel_name("foo", version), content) for house, content in zip(houses, contents))
        )
        assert results.count(UploadResult.CREATED) == 1
        assert sum(isinstance(result, FileTaken) for result in results) == 2
        winner = contents[results.index(UploadResult.CREATED)]
        for house in houses:
            assert wheel_name("foo", version) in seen(house)
            assert (house.directory / wheel_name("foo", version)).read_bytes() == winner


def test_many_uploads_share_commits(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    house = town.open(empty_seconds=0.2)
    written = threading.Barrier(16)
    commit = house.storage.commit

    def commit_together() -> None:
        written.wait(20)  # the machine may be busy: what is measured is how they share, not when they come
        commit()

    monkeypatch.setattr(house.storage, "commit", commit_together)
    names = [f"p{number}" for number in range(16)]
    results = together(*(partial(publish, house, wheel_name(name, "1.0"), wheel(name, "1.0")) for name in names))
    assert results == [UploadResult.CREATED] * 16
    assert volume_of(house).commits <= 4
    assert len(town.remote.names()) == 16


@pytest.mark.parametrize("fault", ["not committed", "committed all the same"])
def test_when_a_commit_fails_nobody_ever_sees_the_file(town: Town, fault: Any) -> None:
    one, two = town.open(), town.open()
    two.listed()
    stop = threading.Event()
    sights: set[str] = set()

    def watch(house: House) -> None:
        while not stop.is_set():
            sights.update(seen(house))

    watchers = [threading.Thread(target=watch, args=(house,)) for house in (one, two)]
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
    assert not town.remote.names()
    assert [event["event"] for event in one.audit.events] == ["upload", "upload.undone"] * 5
    assert publish(two, content=OTHER) is UploadResult.CREATED
    assert seen(one) == {NAME}
    assert (one.directory / NAME).read_bytes() == OTHER


def test_a_removal_that_cannot_be_committed_either_is_tried_until_it_can_while_the_file_stays_hidden(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (0.02,))
    town.options = replace(town.options, claim_seconds=0.1)
    one, two = town.open(), town.open()
    volume_of(one).faults.append("committed all the same")
    volume_of(one).faults += ["not committed"] * 10_000
    with pytest.raises(StorageError):
        publish(one)
    assert town.remote.names() == {NAME}, "it became visible to others without being confirmed"
    assert not seen(two)
    assert two.repository.locate(NAME) is None
    with pytest.raises(Busy):
        publish(two)
    volume_of(one).faults.clear()
    deadline = time.monotonic() + 30
    while (town.name_locks.held() or town.remote.names()) and time.monotonic() < deadline:
        assert not seen(two)
        time.sleep(0.02)
    assert not town.remote.names()
    assert publish(two) is UploadResult.CREATED


def test_a_reload_that_fails_refuses_the_upload_and_leaves_the_pages_as_they_were(town: Town) -> None:
    one, two = town.open(), town.open()
    publish(one)
    assert seen(two) == {NAME}
    volume_of(two).reload_faults = 1
    with pytest.raises(StorageError):
        publish(two, wheel_name("bar", "1.0"), wheel("bar", "1.0"))
    time.sleep(0.3)  # refreshes that come too soon are left out
    volume_of(two).reload_faults = 1
    two.repository.refresh()
    assert not volume_of(two).reload_faults
    assert two.listed() == {NAME}
    assert not two.name_locks.held()
    assert publish(two, wheel_name("bar", "1.0"), wheel("bar", "1.0")) is UploadResult.CREATED


def test_when_locks_cannot_be_reached_uploads_are_refused_and_pages_stay(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NetworkError(Exception):
        pass

    def fail(*_: object) -> None:
        raise NetworkError("the network is away")

    house = town.open()
    publish(house)
    for broken in ("acquire", "held"):
        with monkeypatch.context() as patch:
            patch.setattr(house.name_locks, broken, fail)
            with pytest.raises(StorageError):
                publish(house, wheel_name("bar", "1.0"), wheel("bar", "1.0"))
            time.sleep(0.3)
            house.repository.refresh()
            assert house.listed() == {NAME}
    with monkeypatch.context() as patch:
        patch.setattr(house.name_locks, "release", fail)
        assert publish(house, wheel_name("bar", "1.0"), wheel("bar", "1.0")) is UploadResult.CREATED
    assert house.listed() == {NAME, wheel_name("bar", "1.0")}


def test_a_dead_servers_unconfirmed_file_is_whole_when_it_is_shown_and_its_name_is_free_when_it_is_not(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its background commit may have come before its end."""
    monkeypatch.setattr(transaction, "RETRY_SECONDS", (60,))
    one, two = town.open(), town.open()
    volume = volume_of(one)
    volume.faults += ["not committed"] * 50
    with pytest.raises(StorageError):
        publish(one)
    (one.directory / NAME).write_bytes(CONTENT)
    volume.commit_in_background()
    assert not seen(two)
    one.publisher.close()
    volume.kill()
    town.name_locks.release("foo-1-py3-none-any.whl")
    assert seen(two) == {NAME}
    assert publish(two) is UploadResult.SAME
    with pytest.raises(FileTaken):
        publish(two, content=OTHER)


def test_background_commits_never_publish_a_part_of_a_file(town: Town) -> None:
    """They come at any moment, also in the middle of a write."""
    one = town.open(background_seconds=0.001)
    torn: list[str] = []
    contents = {
        wheel_name("foo", f"1.{number}"): wheel("foo", f"1.{number}", payload=random.Random(number).randbytes(200_000))
        for number in range(25)
    }

    two = town.open()
    for name, content in contents.items():
        publish(one, name, content)
        torn += [visible for visible in seen(two) if (two.directory / visible).read_bytes() != contents[visible]]
    assert not torn
    assert seen(two) == set(contents)


def test_yanks_and_statuses_set_through_one_server_are_seen_through_the_others(town: Town) -> None:
    one, two = town.open(), town.open()
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
    assert one.repository.file(NAME).yanked is None  # type: ignore[union-attr] # it is there


def test_a_removal_through_one_server_is_seen_through_the_others_and_remembered(town: Town) -> None:
    one, two = town.open(), town.open()
    publish(one)
    assert seen(two) == {NAME}
    two.releases.remove("foo", version="1.0", identity=Person("adam", may_administer=True))
    assert not town.remote.names()
    assert not seen(one)
    with pytest.raises(FileTaken, match="removed"):
        publish(one, content=OTHER)


def test_removals_through_two_servers_at_once_are_both_remembered(town: Town) -> None:
    one, two = town.open(), town.open()
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
    for house in (one, two, town.open()):
        assert seen(house) == set()
        for name in (first, second):
            with pytest.raises(FileTaken, match="removed"):
                publish(house, name, wheel("foo", name.split("-")[1], lines="Requires-Python: >=3.9\n"))


def test_a_removal_that_was_not_committed_holds_its_locks_a_little_longer(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server's next commit may carry the list of what was removed: nobody may have written it anew by then."""
    one = town.open()
    monkeypatch.setattr(one.transactions, "_rest_seconds", 60.0)
    publish(one)
    volume_of(one).faults.append("not committed")
    with pytest.raises(StorageError):
        one.releases.remove("foo", filename=NAME, identity=Person("adam", may_administer=True))
    assert any(name.startswith("removed/") for name in town.name_locks.held())
    one.transactions.close()
    eventually(lambda: not town.name_locks.held())


def test_with_three_servers_every_upload_is_seen_everywhere_soon_and_never_undone(town: Town) -> None:
    """Commits, reloads and background commits go on; readers find what they know, always."""
    houses = [town.open(background_seconds=0.03) for _ in range(3)]
    known: dict[str, bytes] = {}
    stop = threading.Event()
    false_answers: list[str] = []
    looks = Counter[str]()
    slow: list[float] = []

    def read(house: House) -> None:
        own_known: set[str] = set()
        generator = random.Random(1)
        while not stop.is_set():
            own_known |= house.listed()
            name = generator.choice(sorted(own_known)) if own_known else None
            if name is not None:
                found = house.repository.locate(name)
                if found is None:
                    false_answers.append(name)
                else:
                    with house.storage.detached(found[0]) as path:
                        if path.read_bytes() != known[name]:
                            false_answers.append(name)
                if house.repository.metadata(name) is None:
                    false_answers.append(name)
                looks["reads"] += 1
            time.sleep(0.001)

    def write(house: House, writer: int) -> None:
        for number in range(12):
            name = wheel_name(f"p{writer}", f"1.{number}")
            content = wheel(f"p{writer}", f"1.{number}", payload=b"%d" % number)
            known[name] = content
            publish(house, name, content)
            confirmed = time.monotonic()
            for other in houses:
                while name not in other.listed():
                    time.sleep(0.005)
                    if time.monotonic() - confirmed > 60:
                        break
            slow.append(time.monotonic() - confirmed)

    readers = [threading.Thread(target=read, args=(house,)) for house in houses]
    with refreshing(town):
        for reader in readers:
            reader.start()
        together(*(partial(write, house, number) for number, house in enumerate(houses)))
        eventually(lambda: looks["reads"] > 100)
        stop.set()
        for reader in readers:
            reader.join()
    assert not false_answers
    assert max(slow) < 60
    assert town.remote.names() == set(known)
    for house in houses:
        assert seen(house) == set(known)


def test_no_file_of_the_volume_stays_open(town: Town) -> None:
    house = town.open()
    publish(house)
    house.listed()
    with house.storage.detached(house.directory / NAME) as path, path.open("rb") as file:
        house.releases.yank("foo", version="1.0", identity=Person())
        assert not volume_of(house).open_files()
        house.storage.reload()
        assert file.read() == CONTENT


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_servers_of_one_machine_may_share_locks_as_files(town: Town, tmp_path: Path, kind: str) -> None:
    if kind == "files":
        town.name_locks = FileNameLocks(tmp_path / "claims")
    one = town.open()
    town.name_locks = FileNameLocks(tmp_path / "claims") if kind == "files" else MemoryNameLocks()
    two = town.open()
    two.listed()
    one.name_locks.acquire("foo-1-py3-none-any.whl")
    (two.directory / NAME).write_bytes(CONTENT)
    volume_of(two).commit()
    assert seen(two) == (set() if kind == "files" else {NAME})
