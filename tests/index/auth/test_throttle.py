"""Each failed login throttles further guesses, and no one else for long."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.index.auth import throttle as module
from ops.index.auth.throttle import Throttle, network
from ops.index.errors import LoginDelayed, TooManyAttempts
from tests.index.conftest import FakeClock

HERE, THERE = "192.0.2.1", "198.51.100.7"


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


def test_a_correct_password_after_the_wait_resets_the_failures(throttle: Throttle, clock: FakeClock) -> None:
    fail(throttle, "alice", HERE, 5)
    with pytest.raises(TooManyAttempts) as caught:
        throttle.admit("alice", HERE)
    clock.now += caught.value.retry_after
    throttle.admit("alice", HERE)
    throttle.succeeded("alice", HERE)
    fail(throttle, "alice", HERE, 4)
    throttle.check("alice", HERE)


def test_the_same_user_elsewhere_and_another_user_here_need_not_wait(throttle: Throttle) -> None:
    fail(throttle, "alice", HERE, 5)
    assert throttle.admit("alice", THERE) == (0, False)
    assert throttle.admit("bob", HERE) == (0, False)


def test_an_address_that_tries_many_names_gets_one_attempt_a_second(throttle: Throttle, clock: FakeClock) -> None:
    for number in range(15):
        fail(throttle, f"name{number}", HERE)
    # For any user, the next attempt is immediate, the one after it a second later, and so on.
    assert [throttle.admit(f"more{number}", HERE) for number in range(5)] == [(delay, True) for delay in range(5)]
    with pytest.raises(TooManyAttempts) as caught:
        throttle.admit("another", HERE)
    assert caught.value.retry_after == 5
    assert throttle.admit("another", THERE) == (0, False)
    clock.now += 6
    assert throttle.admit("another", HERE) == (0, True)


def test_many_users_of_one_address_may_log_in_at_once_until_some_are_guesses(throttle: Throttle) -> None:
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


def test_one_address_cannot_take_all_pending_attempts(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 6)
    for number in range(3):
        throttle.admit(f"name{number}", HERE)
    with pytest.raises(LoginDelayed) as delayed:
        throttle.admit("another", HERE)
    assert delayed.value.status == 503
    assert throttle.admit("another", THERE) == (0, False)
    throttle.abandoned("another", THERE)
    throttle.failed("name0", HERE)
    throttle.admit("another", HERE)
    with pytest.raises(TooManyAttempts):
        throttle.admit("one more", HERE)


@pytest.mark.parametrize("rushing", [2, 3, 10])
def test_a_few_addresses_together_cannot_take_all_pending_attempts(throttle: Throttle, rushing: int) -> None:
    for number in range(module.MAX_PENDING):
        for last in range(rushing):
            with contextlib.suppress(LoginDelayed):
                throttle.admit(f"name{number}", f"192.0.2.{last}")
    for number in range(20):
        assert throttle.admit(f"colleague{number}", THERE) == (0, False)


def test_nothing_is_admitted_beyond_the_limit_and_each_end_makes_room(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 3)
    ends = [throttle.failed, throttle.succeeded, throttle.abandoned]
    for number in range(3):
        throttle.admit("alice", f"192.0.2.{number}")
    for number, end in enumerate(ends):
        with pytest.raises(LoginDelayed):
            throttle.admit("bob", THERE)
        end("alice", f"192.0.2.{number}")
        throttle.admit("bob", THERE)
        throttle.abandoned("bob", THERE)
        throttle.admit("carol", f"198.51.100.{number}")


def test_refused_attempts_evict_no_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost their sender nothing, so he could make the index forget how often he has guessed."""
    monkeypatch.setattr(module, "_TABLE", 30)
    throttle = Throttle(5, 60.0, clock=FakeClock())
    fail(throttle, "alice", THERE, 5)
    for number in range(15):
        fail(throttle, f"name{number}", HERE)
    refused = 0
    for number in range(100):
        try:
            throttle.admit(f"more{number}", HERE)
        except TooManyAttempts:
            refused += 1
    assert refused == 95
    with pytest.raises(TooManyAttempts):
        throttle.admit("alice", THERE)


def test_concurrent_guesses_count_before_they_fail(throttle: Throttle) -> None:
    for _ in range(5):
        throttle.admit("alice", HERE)
    with pytest.raises(TooManyAttempts):
        throttle.admit("alice", HERE)
    for _ in range(5):
        throttle.abandoned("alice", HERE)
    throttle.admit("alice", HERE)


def test_repeating_one_wrong_password_costs_a_short_wait(throttle: Throttle, clock: FakeClock) -> None:
    """A client configured with an old password is not a guesser; once fixed, it can log in within two seconds."""
    fail(throttle, "alice", HERE)
    for _ in range(50):
        throttle.repeated("alice", HERE)
    with pytest.raises(TooManyAttempts) as caught:
        throttle.check("alice", HERE)
    assert caught.value.retry_after == 2
    clock.now += 2
    throttle.check("alice", HERE)


def test_failures_fade(throttle: Throttle, clock: FakeClock) -> None:
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


def test_an_ipv6_network_counts_as_one_address() -> None:
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1")


@settings(deadline=None)
@given(st.text())
def test_any_text_is_accepted_as_address(address: str) -> None:
    assert isinstance(network(address), str)
