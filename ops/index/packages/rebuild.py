"""Computing what is missing in the background, such as after ``pip download`` has filled the directory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from ops.index.errors import PackageIndexError, StorageBusy

_log = logging.getLogger(__name__)


_RETRY_SECONDS = 5.0


class Rebuilder:
    """A thread that computes the facts of files, and rests a fifth of the time so that pages come first.

    Parameters:
        missing: the paths of the files that have no facts.
        compute: computes and keeps the facts of one.
    """

    def __init__(self, missing: Callable[[], Iterable[str]], compute: Callable[[str], object]) -> None:
        self._missing = missing
        self._compute = compute
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, again: bool = False) -> None:
        """Begin; a second time it does nothing.

        Parameters:
            again: go on when all is done, and look for what is missing after each :meth:`wake`.
        """
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, args=(again,), name="catalogue", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """There may be more to do."""
        self._woken.set()

    def close(self) -> None:
        """Stop."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        self._woken.set()
        if thread is not None:
            thread.join(10)

    def _run(self, again: bool) -> None:
        while True:
            self._woken.clear()
            done = self._pass()
            if self._stopping.is_set() or not again:
                return
            self._woken.wait(None if done else _RETRY_SECONDS)

    def _pass(self) -> bool:
        """Do all that is missing now; whether that went well."""
        try:
            for path in self._missing():
                began = time.monotonic()
                self._compute(path)
                if self._stopping.wait(min(0.5, (time.monotonic() - began) / 4)):
                    return True
        except StorageBusy:  # all are told of that who need the storage
            return False
        except (PackageIndexError, OSError) as error:
            _log.warning("the facts of some files are computed when they are first asked for: %s", error)
            return False
        return True
