"""Actions that may hang, run in a thread of their own so that callers wait only for a limited time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from ops.index.errors import StorageBusy, StorageError


class BoundedRun:
    """The same for an action that may take for ever: it runs in a thread of its own, and callers wait for so long only.

    There is never more than one such thread. While a run takes longer than callers wait, further callers are refused
    at once.

    Parameters:
        action: what to do; what it raises, each caller of that run gets.
        name: of the thread.
        seconds: how long a caller waits at most.
        overdue: what callers are told then.
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
        """Refuse who would wait in vain.

        Raises:
            StorageBusy: a run takes longer than callers wait.
        """
        began = self._began
        if began is not None and (self._over or time.monotonic() - began > self._seconds):
            raise self._refusal()

    def __call__(self) -> None:
        """Have it done once more, and wait for it.

        Raises:
            StorageBusy: it takes too long. It is not known whether, and when, it will have been done.
            Exception: what the action raises.
        """
        run = self.begin()
        try:
            run.result(self._seconds)
        except TimeoutError:
            if run.done():  # an action that failed so
                raise
            raise self._refusal() from None

    def begin(self) -> Future[None]:
        """Have it done once more; the result is what is to be waited for.

        Raises:
            StorageBusy: a run before takes too long.
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
        """Let what runs go on for some seconds; after that refuse whoever still waits. For a server that stops."""

        def abandon() -> None:
            with self._lock:
                self._over = True
                runs = [run for run in (self._current, self._next) if run is not None]
            for run in runs:
                _settle(run, self._refusal())

        self._seconds = min(self._seconds, seconds)
        timer = threading.Timer(seconds, abandon)
        timer.daemon = True
        timer.start()

    def _start(self) -> None:
        """Called with the lock."""
        self._began = time.monotonic()
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:  # no further thread can be had
            self._began = self._next = None
            raise self._refusal() from None

    def _run(self) -> None:
        while True:
            with self._lock:
                run, self._next = self._next, None  # whoever calls from now on needs a later run
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
                _settle(run, StorageError("the server is stopping"))
                raise
            _settle(run, error)

    def _refusal(self) -> StorageBusy:
        return StorageBusy(self._overdue)


def _settle(run: Future[None], error: Exception | None) -> None:
    try:
        if error is None:
            run.set_result(None)
        else:
            run.set_exception(error.with_traceback(None))
    except InvalidStateError:
        pass  # nobody waits for it any more
