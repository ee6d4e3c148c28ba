"""Answers that were made once and stay right until what they tell of changes."""

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
"""Bytes of an answer that tells of few enough things to look at on the way; some 150 files."""


class _Entry:
    """What is kept of one answer.

    Parameters:
        stamp: of everything, when it was last found to be right.
        look: gives the mark of what it tells of, now.
        mark: the same when it was made.
        until: when its mark is to be compared once more, whatever the stamp says.
        representation: the answer.
    """

    __slots__ = ("look", "mark", "representation", "stamp", "until", "used")

    def __init__(
        self,
        stamp: Hashable,
        look: Callable[[], Hashable],
        mark: Hashable,
        until: float,
        representation: Representation,
    ) -> None:
        self.until = until
        self.used = False
        self.stamp = stamp
        self.look = look
        self.mark = mark
        self.representation = representation


class ResponseCache(Generic[Key]):
    """A bounded store of rendered answers, from which those go first that were not asked for lately.

    Whether an answer is still right is asked in two steps: if nothing at all has changed since (*stamp*), it is; else,
    if what it tells of has not (*mark*), it is too. So an upload to one project leaves the pages of all others alone.

    Parameters:
        stamp: cheap, and equal as long as nothing visible has changed.
        capacity: of all answers together, in bytes, roughly.
        lifetime: seconds for which an equal stamp is enough. It does not tell of files that were changed in place.
        near: whether marks can be looked at in microseconds, without waiting for another machine.
        executor: renders; None for the threads that everything else uses too.
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
        """The answer, if it lies here and can be told at once to be right: by its stamp, or by its mark."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        stamp = self._stamp()
        if entry.stamp != stamp or entry.until < time.monotonic():
            if not self._near or entry.representation.size > _SMALL or entry.look() != entry.mark:
                return None
            entry.stamp = stamp
            entry.until = time.monotonic() + self._lifetime
        entry.used = True
        return entry.representation

    async def fetch(
        self, key: Key, mark: Callable[[], Hashable], render: Callable[[], Representation | None]
    ) -> Representation | None:
        """The answer, rendered in another thread when there is none or what it tells of has changed.

        Requests that come while it is rendered share the result, unless something changed after the rendering began:
        who has just uploaded a file must find it.

        Parameters:
            key: under which it is kept.
            mark: what the answer depends on; equal as long as it is unchanged, and None when there is nothing. Runs in
                the other thread too, and in :meth:`ready` if marks are near.
            render: makes the answer; None when there is nothing to tell of.
        """
        stamp = self._stamp()
        rendering = self._rendering.get((key, stamp))
        if rendering is None:
            work = partial(self._renewed, key, stamp, mark, render)
            rendering = asyncio.ensure_future(in_thread(work, self._executor))
            self._rendering[key, stamp] = rendering
            rendering.add_done_callback(lambda done: self._finished(key, stamp, done))
        return await asyncio.shield(rendering)

    def _renewed(
        self, key: Key, stamp: Hashable, mark: Callable[[], Hashable], render: Callable[[], Representation | None]
    ) -> Representation | None:
        entry = self._entries.get(key)
        marked = mark()
        if entry is not None and entry.mark == marked:
            entry.stamp = stamp
            entry.until = time.monotonic() + self._lifetime
            return entry.representation
        representation = render()
        if representation is not None:
            representation.gzipped()  # here, where it holds up nobody
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
                self._size -= before.representation.size
            if entry is None or entry.representation.size > self._capacity // 4:
                return
            self._entries[key] = entry
            self._size += entry.representation.size
            while self._size > self._capacity:
                name, oldest = self._entries.popitem(last=False)
                if oldest.used:  # since it was last looked at here: it gets another round
                    oldest.used = False
                    self._entries[name] = oldest
                else:
                    self._size -= oldest.representation.size

    def _finished(self, key: Key, stamp: Hashable, done: asyncio.Future[Representation | None]) -> None:
        self._rendering.pop((key, stamp), None)
        if not done.cancelled():
            done.exception()  # was told to all who waited, if any are left
