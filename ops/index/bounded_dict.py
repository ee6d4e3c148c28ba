"""A dict with a limit: new entries evict the oldest ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_MISSING: Final = object()


class BoundedDict(dict[K, V]):
    """Evicts the entries that were set longest ago to stay within the limit.

    Reads are those of ``dict``, and as cheap. Lookups in a ``cachetools`` cache are Python code and need a lock.
    Changes may come from several threads. Popping an entry and setting it again makes it the youngest, so that the
    least recently used one is evicted first.

    Only assignment, ``del``, :meth:`pop` and :meth:`clear` change it; ``update`` and ``setdefault`` ignore the limit.

    Parameters:
        limit: of the total weight. The youngest entry always stays.
        weigh: the weight of a value; None for 1 each.
        evicted: called with each entry that is evicted.
    """

    # Attributes of an instance dict would slow down ``get``.
    __slots__ = ("_evicted", "_limit", "_lock", "_weigh", "_weight")

    def __init__(
        self,
        limit: int,
        weigh: Callable[[V], int] | None = None,
        *,
        evicted: Callable[[K, V], object] | None = None,
    ) -> None:
        super().__init__()
        self._evicted = evicted
        self._limit = limit
        self._weigh = weigh
        self._weight = 0
        self._lock = threading.RLock()

    def __setitem__(self, key: K, value: V) -> None:
        with self._lock:
            if key in self:
                self.pop(key)
            super().__setitem__(key, value)
            self._weight += 1 if self._weigh is None else self._weigh(value)
            while self._weight > self._limit and len(self) > 1:
                oldest = next(iter(self))
                evicted = self.pop(oldest)
                if self._evicted is not None:
                    self._evicted(oldest, evicted)

    def __delitem__(self, key: K) -> None:
        self.pop(key)

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, default: V | D, /) -> V | D: ...
    def pop(self, key: K, default: Any = _MISSING, /) -> Any:
        """Remove an entry and return its value; without an entry, the default, or KeyError."""
        with self._lock:
            if key not in self:
                if default is _MISSING:
                    raise KeyError(key)
                return default
            value = super().pop(key)
            self._weight -= 1 if self._weigh is None else self._weigh(value)
            return value

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            super().clear()
            self._weight = 0
