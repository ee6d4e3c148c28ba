"""Actions that may hang, run in a separate thread so that callers wait only for a limited time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from ops.index.errors import StorageBusy, StorageError


class BoundedRun:
    """An action that may hang. Callers share runs: each gets one that began after its call.

    It runs in its own thread, at most one at a time, and callers wait for a limited time. While a run is overdue,
    further callers are refused at once.

    Parameters:
        action: its errors are raised in every caller of that run.
        name: of the thread.
        seconds: the longest wait of a caller.
        overdue: the error message after that time.
    """

    def __init__(self, action: Callable[[], None], *, name: str, seconds: float, overdue: str) -> None:
        self._action = action
        self._name = name
        self._seconds = seconds
        self._overdue = overdue
        self._lock = threading.Lock()
        self._began: float | None = None
        self._next: Future[None] | None = None
        self._current: Future[None] | None = None
        self._over = False

    def check(self) -> None:
        """Refuse a caller that would wait for an overdue run.

        Raises:
            StorageBusy: a run is overdue.
        """
        began = self._began
        if began is not None and (self._over or time.monotonic() - began > self._seconds):
            raise self._refusal()

    def __call__(self) -> None:
        """Run the action again, and wait for it.

        Raises:
            StorageBusy: it is overdue, and may still finish later.
            Exception: what the action raises.
        """
        run = self.begin()
        try:
            run.result(self._seconds)
        except TimeoutError:
            if run.done():  # the action itself timed out
                raise
            raise self._refusal() from None

    def begin(self) -> Future[None]:
        """Start another run of the action, or share the next one, without waiting; the future ends with it.

        Raises:
            StorageBusy: an earlier run is overdue.
        """
        with self._lock:
            self.check()
            run = self._next
            if run is None:
                run = self._next = Future()
                if self._began is None:
                    self._start()
            return run

    def end(self, seconds: float) -> None:
        """Refuse all callers still waiting after some seconds, because the server is stopping."""

        def abandon() -> None:
            with self._lock:
                self._over = True
                runs = [run for run in (self._current, self._next) if run is not None]
            for run in runs:
                _finish(run, self._refusal())

        self._seconds = min(self._seconds, seconds)
        timer = threading.Timer(seconds, abandon)
        timer.daemon = True
        timer.start()

    def _start(self) -> None:
        """Called with the lock."""
        self._began = time.monotonic()
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:  # no thread can be started
            self._began = self._next = None
            raise self._refusal() from None

    def _run(self) -> None:
        while True:
            with self._lock:
                run, self._next = self._next, None  # later callers need a later run
                self._current = run
                if run is None:
                    self._began = None
                    return
                self._began = time.monotonic()
            error: Exception | None = None
            try:
                self._action()
            except Exception as raised:  # noqa: BLE001 - the callers hear of it
                error = raised
            except BaseException:
                _finish(run, StorageError("the server is stopping"))
                raise
            _finish(run, error)

    def _refusal(self) -> StorageBusy:
        return StorageBusy(self._overdue)


def _finish(run: Future[None], error: Exception | None) -> None:
    try:
        if error is None:
            run.set_result(None)
        else:
            run.set_exception(error.with_traceback(None))
    except InvalidStateError:
        pass  # abandoned
