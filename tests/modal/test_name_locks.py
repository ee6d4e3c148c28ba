"""Name locks in a Modal Dict: one holder at a time, and never a dead one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import modal
import pytest

from ops.targets import container
from ops.targets.container import DictNameLocks

NAME = "package-1.0-py3-none-any.whl"


class Clock:
    """A fake ``time`` module that advances when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


RENEW = DictNameLocks._renew


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which leases expire. They are renewed only where a test says so."""
    clock = Clock()
    monkeypatch.setattr(container, "time", clock)
    monkeypatch.setattr(DictNameLocks, "_renew", lambda _: None)
    return clock


@pytest.fixture
def entries(client: Mapping[str, str], clock: Clock) -> Iterator[modal.Dict]:
    del client, clock
    entries = modal.Dict.from_name("claims", create_if_missing=True)
    yield entries
    entries.clear()


def dead(entries: modal.Dict, name: str = NAME) -> DictNameLocks:
    """A dead holder, which neither renews nor releases its lock: after a minute others can take it."""
    name_locks = DictNameLocks(entries)
    assert name_locks.acquire(name)
    return name_locks


def test_of_many_concurrent_callers_one_gets_the_lock(entries: modal.Dict) -> None:
    containers = [DictNameLocks(entries) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda n: containers[n % 4].acquire(NAME), range(16)))
    assert responses.count(True) == 1


def test_a_lock_is_seen_by_all_until_released(entries: modal.Dict) -> None:
    one, two = DictNameLocks(entries), DictNameLocks(entries)
    assert one.acquire(NAME)
    assert one.held() == two.held() == {NAME}
    assert not two.acquire(NAME)
    assert not one.acquire(NAME)
    one.release(NAME)
    assert two.held() == set()
    assert two.acquire(NAME)


def test_another_holders_lock_is_left_alone(entries: modal.Dict) -> None:
    one, two = DictNameLocks(entries), DictNameLocks(entries)
    assert one.acquire(NAME)
    two.release(NAME)
    assert one.held() == {NAME}


def test_a_dead_holders_lock_expires_with_the_lease(entries: modal.Dict, clock: Clock) -> None:
    dead(entries)
    living = DictNameLocks(entries)
    assert not living.acquire(NAME)
    clock.now += 60
    assert living.held() == set()
    assert living.acquire(NAME)
    assert living.held() == {NAME}
    assert len(list(entries.keys())) == 1, "the lock on the succession is gone"


def test_of_many_that_try_to_replace_a_dead_holder_one_does(entries: modal.Dict, clock: Clock) -> None:
    for _ in range(5):
        entries.clear()
        dead(entries)
        clock.now += 60
        containers = [DictNameLocks(entries) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda n, them=containers: them[n % 4].acquire(NAME), range(16)))
        assert responses.count(True) == 1


def test_a_successor_that_died_meanwhile_can_be_replaced_too(entries: modal.Dict, clock: Clock) -> None:
    dead(entries)
    token, _ = entries[NAME]
    dead(entries, f"{container.SUCCESSION}{token}")
    clock.now += 60
    assert DictNameLocks(entries).acquire(NAME)


def test_a_late_successor_finds_the_new_holder(
    entries: modal.Dict, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saw the dead holder, but before it could replace it another had done so and cleaned up."""
    dead(entries)
    clock.now += 60
    slow, quick = DictNameLocks(entries), DictNameLocks(entries)
    take = slow._take

    def late(key: str) -> object:
        if key.startswith(container.SUCCESSION):
            assert quick.acquire(NAME)
        return take(key)

    monkeypatch.setattr(slow, "_take", late)
    assert not DictNameLocks._take(slow, NAME)
    assert quick.held() == {NAME}
    assert not slow.acquire(NAME)


def test_a_lock_held_for_longer_than_the_lease_is_renewed(
    entries: modal.Dict, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = DictNameLocks(entries), DictNameLocks(entries)
    later = threading.Event()

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > begun + 10 * container.LEASE_SECONDS:
            raise TimeoutError

    def renew_for_long(name_locks: DictNameLocks) -> None:
        with pytest.raises(TimeoutError):
            RENEW(name_locks)
        later.set()

    begun = clock.now
    monkeypatch.setattr(clock, "sleep", sleep, raising=False)
    monkeypatch.setattr(DictNameLocks, "_renew", renew_for_long)
    assert one.acquire(NAME)
    assert later.wait(60)
    assert two.held() == {NAME}
    assert not two.acquire(NAME)
    one.release(NAME)
    assert two.acquire(NAME)


def test_a_lost_lock_is_not_retaken_and_not_released_under_its_new_holder(entries: modal.Dict, clock: Clock) -> None:
    lost = dead(entries)
    clock.now += 60
    new = DictNameLocks(entries)
    assert new.acquire(NAME)
    lost.release(NAME)
    assert new.held() == {NAME}
