"""Passwords are verified fairly, however many guesses are waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from ops.index.auth.verification_queue import VerificationQueue
from ops.index.errors import LoginDelayed, PackageIndexError
from tests.index.serving import eventually


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def verified(queue: VerificationQueue, *addresses: str, most: int = 10) -> list[str]:
    """Log in one after the other while another login is verified; returns in which order they get their turns.

    Parameters:
        addresses: of the logins.
        most: the number of logins that may wait; others are rejected.
    """
    ended: list[str] = []

    def take(address: str) -> None:
        try:
            with queue.turn(address):
                ended.append(address)
        except PackageIndexError as refusal:
            ended.append(f"{address} rejected: {refusal.status}")

    with queue.turn("first"):
        threads = []
        for address in addresses:
            threads.append(in_thread(partial(take, address)))
            eventually(lambda: len(queue._waiting) + len(ended) == len(threads))
            assert len(queue._waiting) == min(len(threads), most)
    for thread in threads:
        thread.join()
    return ended


def test_addresses_that_have_not_failed_are_served_first() -> None:
    queue = VerificationQueue(lambda address: 3.0 if address == "guesser" else 0.0, turns=1)
    assert verified(queue, "guesser", "guesser", "alice", "bob") == ["alice", "bob", "guesser", "guesser"]


def test_a_user_does_not_wait_for_many_logins_from_another_address() -> None:
    queue = VerificationQueue(lambda address: 0.0, turns=1)
    order = verified(queue, "crowd", "crowd", "crowd", "alice", "bob", "alice")
    assert order == ["crowd", "alice", "bob", "crowd", "alice", "crowd"]


def test_a_later_address_does_not_catch_up_on_turns_that_others_already_had() -> None:
    queue = VerificationQueue(lambda address: 0.0, turns=1)
    for _ in range(5):
        with queue.turn("crowd"):
            pass
    assert verified(queue, "crowd", "late", "late", "crowd") == ["crowd", "late", "late", "crowd"]


def test_guesses_get_at_most_half_of_the_turns() -> None:
    queue = VerificationQueue(lambda address: float(address == "guesser"), turns=2)
    waiting = threading.Event()

    def guess() -> None:
        with queue.turn("guesser"):
            waiting.set()

    with queue.turn("guesser"):
        thread = in_thread(guess)
        eventually(lambda: bool(queue._waiting))
        with queue.turn("alice"):  # would block if the second guess had the other turn
            assert not waiting.is_set()
    thread.join()
    assert waiting.is_set()


def test_when_too_many_are_waiting_the_most_suspicious_is_rejected() -> None:
    queue = VerificationQueue(lambda address: float(address == "guesser"), turns=1, max_waiting=2)
    order = verified(queue, "alice", "guesser", "bob", "carol", most=2)
    assert order == ["guesser rejected: 429", "carol rejected: 503", "alice", "bob"]


def test_without_failures_a_login_of_the_busiest_address_is_rejected() -> None:
    queue = VerificationQueue(lambda address: 0.0, turns=1, max_waiting=3)
    order = verified(queue, "crowd", "crowd", "crowd", "alice", "bob", most=3)
    assert order == ["crowd rejected: 503", "crowd rejected: 503", "crowd", "alice", "bob"]


def test_logins_waiting_when_the_server_stops_are_rejected_at_once() -> None:
    queue = VerificationQueue(lambda address: 0.0, turns=1)
    ended: list[int] = []

    def take() -> None:
        with pytest.raises(LoginDelayed) as delayed, queue.turn("alice"):
            pass
        ended.append(delayed.value.status)

    with queue.turn("first"):
        thread = in_thread(take)
        eventually(lambda: len(queue._waiting) == 1)
        queue.close()
        thread.join(60)
        take()
    assert ended == [503, 503]
