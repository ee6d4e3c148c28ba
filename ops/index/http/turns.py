"""Limit of uploads at once by one user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ops.index.errors import TooManyUploads

WAIT_SECONDS: Final = 5.0
"""For so long an upload waits for its turn, unread. twine and ``uv publish`` do not try again after a 429, so that a
burst should pass; whoever waits longer is told."""


class Turns:
    """Lets a number of uploads of each user through.

    Used in the event loop only.

    Parameters:
        limit: uploads at once; 0 for any number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._users: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, username: str) -> AsyncIterator[None]:
        """Hold while an upload of a user is under way.

        Raises:
            TooManyUploads: there was no turn for too long.
        """
        if not self._limit:
            yield
            return
        turns, interested = self._users.get(username) or (asyncio.Semaphore(self._limit), 0)
        self._users[username] = (turns, interested + 1)
        try:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await turns.acquire()
            except TimeoutError:
                raise TooManyUploads(username, limit=self._limit) from None
            try:
                yield
            finally:
                turns.release()
        finally:
            interested = self._users[username][1] - 1
            if interested:
                self._users[username] = (turns, interested)
            else:
                del self._users[username]
