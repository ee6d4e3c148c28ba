"""Results that hold for one iteration of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class PerIteration(Generic[Result]):
    """A function that is called at most once in each iteration of the running event loop.

    Callbacks of an iteration get what arrived before it, and what they send leaves at its end. So a client that has
    seen a change, or a response, sends its next request into a later one. That does not hold for tasks, which run
    before an iteration receives: for them the function is called each time.

    Parameters:
        function: takes no arguments. It is called again if it raises.
    """

    __slots__ = ("_function", "_known", "_result")

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._known = False
        self._result: Result

    def __call__(self) -> Result:
        """The function's result in this iteration."""
        if self._known:
            return self._result
        result = self._function()
        if asyncio.current_task() is None:
            asyncio.get_running_loop().call_soon(self._forget)
            self._known, self._result = True, result
        return result

    def _forget(self) -> None:
        self._known = False
