"""Computing what is missing in the background, such as after ``pip download`` has filled the directory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from ops.index.errors import PackageIndexError

_log = logging.getLogger(__name__)


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
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; a second time it does nothing."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="catalogue", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            thread.join(10)

    def _run(self) -> None:
        try:
            for path in self._missing():
                began = time.monotonic()
                self._compute(path)
                if self._stopping.wait(min(0.5, (time.monotonic() - began) / 4)):
                    return
        except (PackageIndexError, OSError) as error:
            _log.warning("the facts of some files are computed when they are first asked for: %s", error)
