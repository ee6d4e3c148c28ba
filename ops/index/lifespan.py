"""Background work of a server: warm-up, periodic refreshes and an orderly shutdown (ASGI lifespan)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ops.index.config import FIRST_REQUESTS_SECONDS
from ops.index.errors import StorageError

_logger = logging.getLogger(__name__)


class Lifespan:
    """Runs tasks from the start to the end of a server.

    Parameters:
        start: tasks to run first; each returns at once.
        warm_up: tasks to run after the first requests. Each blocks, in a thread.
        repeat: periodic tasks, independent of each other. Each blocks, in a thread, and may raise StorageError.
        every: seconds between two runs.
        stop: tasks to run last, in order. Each blocks, in a thread.
    """

    def __init__(
        self,
        *,
        start: Sequence[Callable[[], None]],
        warm_up: Sequence[Callable[[], None]],
        repeat: Sequence[Callable[[], None]],
        every: float,
        stop: Sequence[Callable[[], None]],
    ) -> None:
        self._start = start
        self._warm_up = warm_up
        self._repeat = repeat
        self._every = every
        self._stop = stop
        self._tasks: list[asyncio.Task[None]] = []
        # Separate, because tasks may block; one more than can be blocked when the server stops.
        self._threads = ThreadPoolExecutor(len(repeat) + 1, thread_name_prefix="lifespan")
        self._failing: set[Callable[[], None]] = set()
        self.running = False

    def begin(self) -> None:
        """Start, in the event loop of the requests. Does nothing the second time."""
        if self.running:
            return
        self.running = True
        for action in self._start:
            action()
        work = [self._warming(), *(self._repeating(action) for action in self._repeat)]
        self._tasks = [asyncio.ensure_future(part) for part in work]

    async def end(self) -> None:
        """Stop. Each task runs even if others fail."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for action in self._stop:
            await self._guarded(action)
        self.running = False

    async def _warming(self) -> None:
        await asyncio.sleep(FIRST_REQUESTS_SECONDS)
        for action in self._warm_up:
            await self._guarded(action)

    async def _repeating(self, action: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._guarded(action)

    async def _guarded(self, action: Callable[[], None]) -> None:
        """Run a task in a thread. A failure is logged once until the task succeeds again, and does not stop others."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, action)
            self._failing.discard(action)
        except StorageError as error:
            if action not in self._failing:
                _logger.warning("%s", error)
            self._failing.add(action)
        except Exception:
            _logger.exception("a background task failed")
