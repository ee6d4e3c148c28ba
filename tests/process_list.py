"""Command lines of a test's processes, as visible to every user of the machine."""

from __future__ import annotations

import contextlib
import threading
from typing import Self

import psutil

_INTERVAL = 0.1
"""Seconds between two samples; no client is faster."""


class ProcessList:
    """Collects the command lines of all descendants of this process."""

    def __init__(self) -> None:
        self.command_lines: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self.command_lines.add("\0".join(process.cmdline()))
