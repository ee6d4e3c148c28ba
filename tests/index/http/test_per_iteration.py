"""A function is called once for all callbacks of an iteration, and for a task each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import pytest

from ops.index.http.per_iteration import PerIteration


def run(*steps: Callable[[], object]) -> None:
    """Call each step by itself from an event loop, one iteration after the other."""

    async def main() -> None:
        for step in steps:
            asyncio.get_running_loop().call_soon(step)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(main())


def test_all_callbacks_of_an_iteration_get_the_same_result() -> None:
    numbers = PerIteration(count().__next__)
    found: list[int] = []

    def several() -> None:
        found.extend(numbers() for _ in range(3))

    run(several, several)
    assert found == [0, 0, 0, 1, 1, 1]


def test_what_is_known_of_one_iteration_is_forgotten_before_the_next_one_receives() -> None:
    numbers = PerIteration(count().__next__)
    found: list[int] = []

    async def main() -> None:
        def receive() -> None:
            found.append(numbers())
            loop.call_soon(lambda: found.append(numbers()))

        loop = asyncio.get_running_loop()
        loop.call_soon(receive)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert found == [0, 1]


def test_tasks_run_before_an_iteration_receives_and_leave_it_nothing() -> None:
    numbers = PerIteration(count().__next__)
    found: list[int] = []

    async def main() -> None:
        found.extend(numbers() for _ in range(3))

    asyncio.run(main())
    assert found == [0, 1, 2]


def test_a_failure_is_not_repeated() -> None:
    calls = count()

    def next_result() -> int:
        if next(calls) == 0:
            raise OSError("broken")
        return 7

    numbers = PerIteration(next_result)
    found: list[int] = []

    def twice() -> None:
        with pytest.raises(OSError, match="broken"):
            numbers()
        found.extend([numbers(), numbers()])

    run(twice)
    assert found == [7, 7]
