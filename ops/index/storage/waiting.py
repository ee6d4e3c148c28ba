"""The time that whoever reads a shared storage waits for a commit or reload: a property of the task or thread.

Requests for what is known must not stand behind requests for what is not. So a request reads without waiting first;
when that will not do, it waits, but in threads that nobody else needs, and not for long.
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
"""How long a request to read waits at most: pip gives up a connection after 15 s, and comes again after a 503."""

_BRIEF: Final = 2.0
_THREADS: Final = 16
_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("storage_deadline", default=None)

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@contextmanager
def waiting_until(moment: float) -> Iterator[None]:
    """Let this task or thread, and the threads that it uses, wait until a moment on the monotonic clock."""
    token = _deadline.set(moment)
    try:
        yield
    finally:
        _deadline.reset(token)


def at_once() -> AbstractContextManager[None]:
    """Let this task or thread, and the threads that it uses, not wait at all."""
    return waiting_until(0.0)


def briefly(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """*function* for a thread that must be able to end at any moment, and tries again later."""

    @wraps(function)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        with waiting_until(time.monotonic() + _BRIEF):
            return function(*arguments, **named)

    return call


def seconds_left(otherwise: float) -> float:
    """How long this task or thread may wait now.

    Parameters:
        otherwise: seconds, where nothing else was said.
    """
    deadline = _deadline.get()
    return otherwise if deadline is None else max(0.0, deadline - time.monotonic())


async def in_thread(function: Callable[[], Result], executor: Executor | None = None) -> Result:
    """Call a function in another thread, which waits for as long as this task may.

    Parameters:
        function: what to call.
        executor: whose threads; None for the common ones. One that may have to wait takes none of either.
    """
    context = contextvars.copy_context()
    threads = _waiters() if _deadline.get() else executor
    return await asyncio.get_running_loop().run_in_executor(threads, context.run, function)


@lru_cache(1)
def _waiters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="waiting")
