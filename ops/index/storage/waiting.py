"""Limits on waiting for a commit or reload of a Volume, per task or thread.

Requests that the cache can serve must not queue behind others. So a request first reads without waiting; if that
fails, it waits briefly, in reserved threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, wraps
from typing import Final, ParamSpec, TypeVar

READ_SECONDS: Final = 5.0
"""The longest wait of a read: pip gives up a connection after 15 s, and retries after a 503."""

_BRIEF: Final = 2.0
_THREADS: Final = 16
_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("storage_deadline", default=None)

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@contextmanager
def waiting_until(moment: float) -> Iterator[None]:
    """Let this task or thread, and its threads, wait until a time on the monotonic clock."""
    token = _deadline.set(moment)
    try:
        yield
    finally:
        _deadline.reset(token)


def without_waiting() -> AbstractContextManager[None]:
    """Forbid this task or thread, and its threads, to wait."""
    return waiting_until(0.0)


def briefly(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap a function to wait only briefly, for a thread that may be stopped at any time and retries later."""

    @wraps(function)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        with waiting_until(time.monotonic() + _BRIEF):
            return function(*arguments, **named)

    return call


def seconds_left(otherwise: float) -> float:
    """The seconds that this task or thread may still wait.

    Parameters:
        otherwise: seconds if there is no limit.
    """
    deadline = _deadline.get()
    return otherwise if deadline is None else max(0.0, deadline - time.monotonic())


async def in_thread(function: Callable[[], Result], executor: Executor | None = None) -> Result:
    """Call a function in another thread, with this task's limit.

    Parameters:
        function: to call.
        executor: None for the default one. Calls that may wait use reserved threads.
    """
    context = contextvars.copy_context()
    threads = _waiters() if _deadline.get() else executor
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, function)


@lru_cache(1)
def _waiters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="waiting")
