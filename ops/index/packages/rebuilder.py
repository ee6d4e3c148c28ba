"""Background thread that computes missing file info."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from ops.index.errors import PackageIndexError, StorageBusy

_BURST_SECONDS = 0.002
_REST = 9
"""After ``_BURST_SECONDS`` of work the thread pauses for the time worked, divided by ``_REST``."""

_RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Rebuilder:
    """A thread that computes missing info, for instance after ``pip download`` has filled the directory.

    It pauses for a tenth of the time, so that pages come first.

    Parameters:
        missing: returns the paths of the files whose info is missing.
        compute: computes and stores the info of one file.
    """

    def __init__(self, missing: Callable[[], Iterable[str]], compute: Callable[[str], object]) -> None:
        self._missing = missing
        self._compute = compute
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, again: bool = False, after: float = 0.0) -> None:
        """Start the thread, unless it is running.

        Parameters:
            again: continue after the first pass, with another one after each :meth:`wake`.
            after: seconds from listing the files to checking what is missing.
        """
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, args=(again, after), name="file-info", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Start another pass: there may be more to compute."""
        self._woken.set()

    def close(self) -> None:
        """Stop the thread."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        self._woken.set()
        if thread is not None:
            thread.join(10)

    def _run(self, again: bool, after: float) -> None:
        while True:
            self._woken.clear()
            done = self._pass(after)
            after = 0.0
            if self._stopping.is_set() or not again:
                return
            self._woken.wait(None if done else _RETRY_SECONDS)

    def _pass(self, after: float) -> bool:
        """Compute everything that is missing now; False if that failed."""
        try:
            missing = self._missing()
            if self._stopping.wait(after):
                return True
            began = time.monotonic()
            for path in missing:
                self._compute(path)
                worked = time.monotonic() - began
                # Not after each small file: waking up would take as long as the work.
                if worked > _BURST_SECONDS:
                    self._stopping.wait(min(0.5, worked / _REST))
                    began = time.monotonic()
                if self._stopping.is_set():
                    return True
        except StorageBusy:  # logged elsewhere
            return False
        except (PackageIndexError, OSError) as error:
            _log.warning("the info of some files is computed only when it is first requested: %s", error)
            return False
        return True
