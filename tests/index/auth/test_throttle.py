"""Guessing gets slower with each guess, and nobody else is held up by it for long."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.index.auth import throttle as module
from ops.index.auth.throttle import Throttle, network
from ops.index.auth.verification_queue import VerificationQueue
from ops.index.errors import LoginDelayed, PackageIndexError, TooManyAttempts

HERE, THERE = "192.0.2.1", "198.51.100.7"


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def throttle(clock: FakeClock) -> Throttle:
    return Throttle(5, 60.0, clock=clock)


def fail(throttle: Throttle, user: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        throttle.admit(user, address)
        throttle.failed(user, address)


def test_a_few_failures_are_free_and_then_the_wait_doubles_up_to_five_minutes(
    throttle: Throttle, clock: FakeClock
) -> None:
    fail(throttle, "alice", HERE, 4)
    throttle.check("alice", HERE)
    waits = []
    for _ in range(14):
        fail(throttle, "alice", HERE)
        with pytest.raises(TooManyAttempts) as caught:
            throttle.admit("alice", HERE)
        waits.append(caught.value.retry_after)
        clock.now += caught.value.retry_after
    assert waits[:3] == [2, 3, 6]
    assert all(1.5 < later / earlier < 2.1 for earlier, later in itertools.pairwise(waits[1:9]))
    assert waits[-3:] == [300, 300, 300]


def test_a_correct_password_passes_after_the_wait_and_ends_it(throttle: Throttle, clock: FakeClock) -> None:
    fail(throttle, "alice", HERE, 5)
    with pytest.raises(TooManyAttempts) as caught:
        throttle.admit("alice", HERE)
    clock.now += caught.value.retry_after
    throttle.admit("alice", HERE)
    throttle.succeeded("alice", HERE)
    fail(throttle, "alice", HERE, 4)
    throttle.check("alice", HERE)


def test_the_same_user_elsewhere_and_another_user_here_do_not_wait(throttle: Throttle) -> None:
    fail(throttle, "alice", HERE, 5)
    assert throttle.admit("alice", THERE) == (0, False)
    assert throttle.admit("bob", HERE) == (0, False)


def test_an_address_that_tries_many_names_gets_one_attempt_a_second(throttle: Throttle, clock: FakeClock) -> None:
    for number in range(15):
        fail(throttle, f"name{number}", HERE)
    # The next attempt, whoever's it is, takes its turn, the one after it waits for a second, and so on.
    assert [throttle.admit(f"more{number}", HERE) for number in range(5)] == [(delay, True) for delay in range(5)]
    with pytest.raises(TooManyAttempts) as caught:
        throttle.admit("another", HERE)
    assert caught.value.retry_after == 5
    assert throttle.admit("another", THERE) == (0, False)
    clock.now += 6
    assert throttle.admit("another", HERE) == (0, True)


def test_many_users_of_one_address_may_come_at_once_until_the_first_turn_out_to_be_guesses(throttle: Throttle) -> None:
    for number in range(200):
        assert throttle.admit(f"name{number}", HERE) == (0, False)
    for number in range(14):
        throttle.proceed(HERE)
        throttle.succeeded(f"name{number}", HERE)
    for number in range(14, 29):
        throttle.proceed(HERE)
        throttle.failed(f"name{number}", HERE)
    with pytest.raises(TooManyAttempts):
        throttle.proceed(HERE)
    throttle.proceed(THERE)


def test_one_address_never_has_all_the_attempts_that_can_be_under_way(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ADDRESS_PENDING", 3)
    for number in range(3):
        throttle.admit(f"name{number}", HERE)
    with pytest.raises(LoginDelayed) as delayed:
        throttle.admit("another", HERE)
    assert delayed.value.status == 503
    assert throttle.admit("another", THERE) == (0, False)
    throttle.failed("name0", HERE)
    throttle.admit("another", HERE)
    with pytest.raises(TooManyAttempts):
        throttle.admit("one more", HERE)


def test_guesses_that_are_made_at_the_same_time_count_before_they_have_failed(throttle: Throttle) -> None:
    for _ in range(5):
        throttle.admit("alice", HERE)
    with pytest.raises(TooManyAttempts):
        throttle.admit("alice", HERE)
    for _ in range(5):
        throttle.abandoned("alice", HERE)
    throttle.admit("alice", HERE)


def test_the_same_wrong_password_again_and_again_makes_nobody_wait_long(throttle: Throttle, clock: FakeClock) -> None:
    """A client with an old password in its configuration is no guesser: mended, it gets in within two seconds."""
    fail(throttle, "alice", HERE)
    for _ in range(50):
        throttle.repeated("alice", HERE)
    with pytest.raises(TooManyAttempts) as caught:
        throttle.check("alice", HERE)
    assert caught.value.retry_after == 2
    clock.now += 2
    throttle.check("alice", HERE)


def test_what_was_counted_fades(throttle: Throttle, clock: FakeClock) -> None:
    fail(throttle, "alice", HERE, 4)
    clock.now += 300
    fail(throttle, "alice", HERE, 4)
    throttle.check("alice", HERE)
    clock.now += 300
    assert throttle.suspicion(HERE) < 0.1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TABLE", 100)
    throttle = Throttle(5, 60.0)
    for number in range(1000):
        fail(throttle, f"u{number}", f"192.0.{number // 256}.{number % 256}")
    assert len(throttle._users) == len(throttle._addresses) == 100


def test_whoever_holds_an_ipv6_network_is_one() -> None:
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1")


@settings(deadline=None)
@given(st.text())
def test_any_address_will_do(address: str) -> None:
    assert isinstance(network(address), str)


# --- queue ------------------------------------------------------------------------------------------------------


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_has_not_failed_goes_before_who_has() -> None:
    verification_queue = VerificationQueue(lambda address: 3.0 if address == "guesser" else 0.0, turns=1)
    order: list[str] = []

    def take(address: str) -> None:
        with verification_queue.turn(address):
            order.append(address)

    with verification_queue.turn("first"):
        threads = []
        for address in ("guesser", "guesser", "alice", "bob"):
            threads.append(in_thread(lambda address=address: take(address)))  # type: ignore[misc]
            eventually(lambda: len(verification_queue._waiting) == len(threads))
    for thread in threads:
        thread.join()
    assert order == ["alice", "bob", "guesser", "guesser"]


def test_guessers_get_half_of_the_turns_at_most() -> None:
    verification_queue = VerificationQueue(lambda address: float(address == "guesser"), turns=2)
    waiting = threading.Event()

    def guess() -> None:
        with verification_queue.turn("guesser"):
            waiting.set()

    with verification_queue.turn("guesser"):
        thread = in_thread(guess)
        eventually(lambda: bool(verification_queue._waiting))
        with verification_queue.turn("alice"):  # would wait for ever if the second guesser had the other turn
            assert not waiting.is_set()
    thread.join()
    assert waiting.is_set()


def test_when_too_many_wait_the_most_suspicious_is_sent_away() -> None:
    verification_queue = VerificationQueue(lambda address: float(address == "guesser"), turns=1, max_waiting=2)
    ended: list[str] = []

    def take(address: str) -> None:
        try:
            with verification_queue.turn(address):
                ended.append(address)
        except PackageIndexError as refusal:
            ended.append(f"{address} sent away: {refusal.status}")

    with verification_queue.turn("first"):
        threads = []
        for address, size in (("alice", 1), ("guesser", 2), ("bob", 2), ("carol", 2)):
            threads.append(in_thread(lambda address=address: take(address)))  # type: ignore[misc]
            eventually(lambda: len(verification_queue._waiting) + len(ended) == len(threads))
            assert len(verification_queue._waiting) == size
    for thread in threads:
        thread.join()
    assert ended == ["guesser sent away: 429", "carol sent away: 503", "alice", "bob"]


def test_among_those_who_have_not_failed_the_address_that_has_most_of_them_gives_way() -> None:
    verification_queue = VerificationQueue(lambda address: 0.0, turns=1, max_waiting=3)
    ended: list[str] = []

    def take(address: str) -> None:
        try:
            with verification_queue.turn(address):
                ended.append(address)
        except LoginDelayed:
            ended.append(f"{address} sent away")

    with verification_queue.turn("first"):
        threads = []
        for address, size in (("crowd", 1), ("crowd", 2), ("crowd", 3), ("alice", 3), ("bob", 3)):
            threads.append(in_thread(lambda address=address: take(address)))  # type: ignore[misc]
            eventually(lambda: len(verification_queue._waiting) + len(ended) == len(threads))
            assert len(verification_queue._waiting) == size
    for thread in threads:
        thread.join()
    assert ended == ["crowd sent away", "crowd sent away", "crowd", "alice", "bob"]


def test_who_waits_when_the_server_stops_is_sent_away_at_once() -> None:
    verification_queue = VerificationQueue(lambda address: 0.0, turns=1)
    ended: list[int] = []

    def take() -> None:
        with pytest.raises(LoginDelayed) as delayed, verification_queue.turn("alice"):
            pass
        ended.append(delayed.value.status)

    with verification_queue.turn("first"):
        thread = in_thread(take)
        eventually(lambda: len(verification_queue._waiting) == 1)
        verification_queue.close()
        thread.join(10)
        take()
    assert ended == [503, 503]
