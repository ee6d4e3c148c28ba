"""A function is called once for all callbacks of an iteration, but each time for tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import pytest

from ops.index.http.per_iteration import PerIteration


def run(*steps: Callable[[], object]) -> None:
    """Call each step from its own iteration of an event loop."""

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


def test_a_result_is_forgotten_before_the_next_iteration_receives() -> None:
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


def test_tasks_do_not_share_results() -> None:
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
