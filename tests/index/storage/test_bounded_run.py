"""Callers share runs, and none waits for an overdue one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ops.index.errors import StorageBusy
from ops.index.storage.bounded_run import BoundedRun
from tests.index.serving import eventually


class Action:
    """An action whose start and end the test controls."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.runs = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.runs += 1
        self.begun.release()
        assert self.go_on.acquire(timeout=60)
        if self.error is not None:
            raise self.error


@pytest.fixture
def action() -> Iterator[Action]:
    action = Action()
    yield action
    action.go_on.release(100)


def bounded(action: Action, seconds: float) -> BoundedRun:
    return BoundedRun(action, name="test", seconds=seconds, overdue="it does not end")


def test_a_caller_times_out_and_the_run_continues(action: Action) -> None:
    run = bounded(action, 0.05)
    with pytest.raises(StorageBusy, match="it does not end; try again in 10 s"):
        run()
    assert action.runs == 1
    action.go_on.release(2)
    eventually(lambda: not _is_refused(run))


def test_further_callers_are_refused_at_once_while_a_run_takes_too_long(action: Action) -> None:
    run = bounded(action, 0.05)
    with pytest.raises(StorageBusy):
        run()
    eventually(lambda: _is_refused(run))
    for _ in range(50):
        with pytest.raises(StorageBusy):
            run.begin()
    assert action.runs == 1
    assert sum(thread.name == "test" for thread in threading.enumerate()) == 1


def test_callers_during_a_run_share_the_next_one(action: Action) -> None:
    run = bounded(action, 60)
    first = run.begin()
    assert action.begun.acquire(timeout=20)
    later = [run.begin() for _ in range(5)]
    assert not first.done()
    assert len({id(result) for result in later}) == 1
    action.go_on.release()
    first.result(20)
    assert not later[0].done()
    action.go_on.release()
    later[0].result(20)
    assert action.runs == 2


def test_an_error_is_raised_in_all_callers_and_the_next_run_may_succeed(action: Action) -> None:
    run = bounded(action, 60)
    for error in (ValueError("no"), TimeoutError("the network"), None):
        action.error = error
        action.go_on.release()
        if error is None:
            run()
        else:
            with pytest.raises(type(error), match=str(error)):
                run()


def test_closing_releases_all_waiting_callers(action: Action) -> None:
    run = bounded(action, 60)
    waiting = [run.begin()]
    assert action.begun.acquire(timeout=20)
    waiting.append(run.begin())
    run.end(0.05)
    for result in waiting:
        with pytest.raises(StorageBusy):
            result.result(20)
    with pytest.raises(StorageBusy):
        run()


def _is_refused(run: BoundedRun) -> bool:
    try:
        run.check()
    except StorageBusy:
        return True
    return False
