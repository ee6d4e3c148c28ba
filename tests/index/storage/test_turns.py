"""Threads take turns, and none waits long for another."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack

import pytest

from ops.index.storage import turns
from ops.index.storage.turns import Turns, between_turns


class Worker:
    """A thread that enters and leaves contexts on demand."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._entered: list[ExitStack] = []

    def enter(self, context: AbstractContextManager[None]) -> Future[None]:
        """Enter a context in the thread."""

        def work() -> None:
            stack = ExitStack()
            stack.enter_context(context)
            self._entered.append(stack)

        return self._thread.submit(work)

    def leave(self) -> Future[None]:
        """Leave the context that was entered last."""
        return self._thread.submit(lambda: self._entered.pop().close())

    def close(self) -> None:
        while self._entered:
            self.leave().result(60)
        self._thread.shutdown()


@pytest.fixture
def workers() -> Iterator[tuple[Worker, Worker, Worker]]:
    three = Worker(), Worker(), Worker()
    yield three
    for worker in three:
        worker.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives up waiting."""
    monkeypatch.setattr(turns, "_LONGEST_WAIT", 60)


@pytest.mark.usefixtures("patient")
def test_a_turn_begins_when_another_has_ended(workers: tuple[Worker, Worker, Worker]) -> None:
    one, other, _ = workers
    shared = Turns()
    one.enter(shared.turn()).result(60)
    began = other.enter(shared.turn())
    assert not began.done()
    one.leave().result(60)
    began.result(60)
    assert shared._lock.locked(), "it went on without a turn"


@pytest.mark.usefixtures("patient")
def test_a_turn_is_free_while_its_thread_waits_and_is_taken_again_afterwards(
    workers: tuple[Worker, Worker, Worker],
) -> None:
    one, other, third = workers
    shared = Turns()
    one.enter(shared.turn()).result(60)
    one.enter(between_turns()).result(60)
    other.enter(shared.turn()).result(60)
    back = one.leave()
    assert not back.done()
    other.leave().result(60)
    back.result(60)
    began = third.enter(shared.turn())
    assert not began.done()
    one.leave().result(60)
    began.result(60)
    assert shared._lock.locked(), "it went on without a turn"


@pytest.mark.usefixtures("patient")
def test_an_error_ends_a_turn(workers: tuple[Worker, Worker, Worker]) -> None:
    shared = Turns()
    with pytest.raises(ZeroDivisionError), shared.turn(), between_turns():
        raise ZeroDivisionError
    workers[0].enter(shared.turn()).result(60)


def test_a_thread_without_a_turn_has_none_afterwards_either(workers: tuple[Worker, Worker, Worker]) -> None:
    shared = Turns()
    with between_turns():
        workers[0].enter(shared.turn()).result(60)
    assert turns._give_up() is None


def test_a_thread_goes_on_without_a_turn_and_leaves_the_other_s_alone(
    workers: tuple[Worker, Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk hangs during the other's turn."""
    monkeypatch.setattr(turns, "_REST_SECONDS", 0)
    one, other, third = workers
    shared = Turns()
    one.enter(shared.turn()).result(60)
    other.enter(shared.turn()).result(60)
    other.enter(between_turns()).result(60)
    other.leave().result(60)
    other.leave().result(60)
    monkeypatch.setattr(turns, "_LONGEST_WAIT", 60)
    began = third.enter(shared.turn())
    assert not began.done()
    one.leave().result(60)
    began.result(60)
    assert shared._lock.locked(), "it went on without a turn"


def test_there_are_no_turns_for_a_while_after_a_wait_in_vain(
    workers: tuple[Worker, Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = workers
    monkeypatch.setattr(turns, "_REST_SECONDS", 600)
    shared = Turns()
    one.enter(shared.turn()).result(60)
    other.enter(shared.turn()).result(60)
    monkeypatch.setattr(turns, "_LONGEST_WAIT", 600)
    third.enter(shared.turn()).result(60)
    monkeypatch.setattr(time, "monotonic", lambda: math.inf)
    began = third.enter(shared.turn())
    assert not began.done()
    one.leave().result(60)
    began.result(60)
    assert shared._lock.locked()
