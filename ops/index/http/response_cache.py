"""Cache of rendered responses, each valid until its content changes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from functools import partial
from typing import Generic, TypeVar

from ops.index.http.representation import Representation
from ops.index.storage.waiting import in_thread

Key = TypeVar("Key", bound=Hashable)


_SMALL = 64 * 1024
"""Largest response whose mark is cheap enough for the event loop, in bytes; some 150 files."""


class _Entry:
    """One cached response.

    Parameters:
        stamp: of everything, when the response was last found valid.
        current_mark: returns the current mark of its content.
        mark: of its content when it was rendered.
        until: time of the next comparison of marks, regardless of the stamp.
        representation: the response.

    Attributes:
        size: that counts until the entry is removed: a response grows when it is first compressed.
        used: true if it was requested since it was last spared.
    """

    __slots__ = ("current_mark", "mark", "representation", "size", "stamp", "until", "used")

    def __init__(
        self,
        stamp: Hashable,
        current_mark: Callable[[], Hashable],
        mark: Hashable,
        until: float,
        representation: Representation,
    ) -> None:
        self.until = until
        self.used = False
        self.stamp = stamp
        self.current_mark = current_mark
        self.mark = mark
        self.representation = representation
        self.size = representation.size


class ResponseCache(Generic[Key]):
    """Bounded cache of rendered responses that evicts those not requested recently.

    A response is valid if nothing at all has changed since (*stamp*), or if its own content has not (*mark*). So an
    upload to one project leaves the pages of all others cached.

    Parameters:
        stamp: cheap, and equal as long as nothing visible has changed.
        capacity: total size of all responses in bytes, approximately.
        lifetime: seconds for which an equal stamp suffices; stamps do not reveal files changed in place.
        near: true if marks take microseconds, without waiting for another machine.
        executor: renders; None for the default threads.
    """

    def __init__(
        self,
        stamp: Callable[[], Hashable],
        *,
        capacity: int,
        lifetime: float,
        near: bool,
        executor: Executor | None = None,
    ) -> None:
        self._near = near
        self._executor = executor
        self._lifetime = lifetime
        self._stamp = stamp
        self._capacity = capacity
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._size = 0
        self._changing = threading.Lock()
        self._rendering: dict[tuple[Key, Hashable], asyncio.Future[Representation | None]] = {}

    def ready(self, key: Key) -> Representation | None:
        """The response, if it is cached and immediately known to be valid; else None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        stamp = self._stamp()
        if entry.stamp != stamp or entry.until < time.monotonic():
            if not self._near or entry.representation.size > _SMALL or entry.current_mark() != entry.mark:
                return None
            entry.stamp = stamp
            entry.until = time.monotonic() + self._lifetime
        entry.used = True
        return entry.representation

    def last(self, key: Key) -> Representation | None:
        """The last rendered response, valid or not: its unchanged parts need not be rendered again."""
        entry = self._entries.get(key)
        return None if entry is None else entry.representation

    def load(
        self, key: Key, mark: Callable[[], Hashable], load: Callable[[], Representation | None]
    ) -> Representation | None:
        """Cache a response that takes no thread to make.

        Parameters:
            key: of the cache.
            mark: returns what the response depends on; called before *load*. None to prevent caching.
            load: returns the response, or None.
        """
        stamp, marked = self._stamp(), mark()
        representation = load()
        if representation is not None and marked is not None:
            self._put(key, _Entry(stamp, mark, marked, time.monotonic() + self._lifetime, representation))
        return representation

    async def fetch(
        self,
        key: Key,
        mark: Callable[[], Hashable],
        render: Callable[[], Representation | None],
        *,
        gzip: bool = True,
    ) -> Representation | None:
        """The response, rendered in another thread if it is not cached or its content has changed.

        Requests that arrive meanwhile share the result, unless something changed after rendering began:
        users must see the file they just uploaded.

        Parameters:
            key: of the cache.
            mark: returns what the response depends on; None to prevent caching. Called in the other thread, and
                in :meth:`ready` if marks are near.
            render: returns the response, or None.
            gzip: false to compress a short response only on demand.
        """
        stamp = self._stamp()
        rendering = self._rendering.get((key, stamp))
        if rendering is None:
            work = partial(self._renewed, key, stamp, mark, render, gzip)
            rendering = asyncio.ensure_future(in_thread(work, self._executor))
            self._rendering[key, stamp] = rendering
            rendering.add_done_callback(lambda done: self._finished(key, stamp, done))
        return await asyncio.shield(rendering)

    def _renewed(
        self,
        key: Key,
        stamp: Hashable,
        mark: Callable[[], Hashable],
        render: Callable[[], Representation | None],
        gzip: bool,
    ) -> Representation | None:
        entry = self._entries.get(key)
        marked = mark()
        if entry is not None and entry.mark == marked:
            entry.stamp = stamp
            entry.until = time.monotonic() + self._lifetime
            return entry.representation
        representation = render()
        if representation is not None and (gzip or representation.size > _SMALL):
            representation.gzipped()  # here rather than in the event loop
        until = time.monotonic() + self._lifetime
        if representation is None or marked is None:
            self._put(key, None)
        else:
            self._put(key, _Entry(stamp, mark, marked, until, representation))
        return representation

    def _put(self, key: Key, entry: _Entry | None) -> None:
        with self._changing:
            before = self._entries.pop(key, None)
            if before is not None:
                self._size -= before.size
            if entry is None or entry.size > self._capacity:
                return
            self._entries[key] = entry
            self._size += entry.size
            while self._size > self._capacity:
                name, oldest = self._entries.popitem(last=False)
                if oldest.used:  # since the last round: it gets another
                    oldest.used = False
                    self._entries[name] = oldest
                else:
                    self._size -= oldest.size

    def _finished(self, key: Key, stamp: Hashable, done: asyncio.Future[Representation | None]) -> None:
        self._rendering.pop((key, stamp), None)
        if not done.cancelled():
            done.exception()  # retrieved even if unawaited
