"""What a server does beside answering: seeing others' changes, importing what comes later, and ending well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from ops.index.errors import StorageError

_logger = logging.getLogger(__name__)

_FIRST_REQUESTS = 1.0
"""Seconds after the start that belong to those who wait for their first page: imports would slow them down."""


class Housekeeping:
    """Runs between the start and the end of a server.

    Parameters:
        start: what must be done first; each takes no time worth telling.
        warm_up: what may be done once the first requests are answered. Each blocks, in a thread.
        repeat: what is done again and again. Each blocks, in a thread, and may raise StorageError.
        every: seconds between two rounds.
        stop: what must be done last, in order. Each blocks, in a thread.
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
        self.running = False

    def begin(self) -> None:
        """Start, in the event loop that answers the requests. A second time it does nothing."""
        if self.running:
            return
        self.running = True
        for action in self._start:
            action()
        self._tasks = [asyncio.ensure_future(self._warming()), asyncio.ensure_future(self._repeating())]

    async def end(self) -> None:
        """Stop; every part gets its chance, whatever happens to the others."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for action in self._stop:
            await _guarded(action)
        self.running = False

    async def _warming(self) -> None:
        await asyncio.sleep(_FIRST_REQUESTS)
        for action in self._warm_up:
            await _guarded(action)

    async def _repeating(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            for action in self._repeat:
                await _guarded(action)


async def _guarded(action: Callable[[], None]) -> None:
    """Do it in a thread. What fails is told in the log, and does not keep the others from being done."""
    try:
        await asyncio.to_thread(action)
    except StorageError as error:
        _logger.warning("%s", error)
    except Exception:
        _logger.exception("a background task failed")
