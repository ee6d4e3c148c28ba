"""Headless Chromium, driven over its debugging pipe (Chrome DevTools Protocol)."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.index.serving import eventually

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]

_LAUNCH = """
import fcntl, os, sys
free = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 5) for given in sys.argv[1:3]]  # neither is 3 or 4
for given, number in zip(free, (3, 4)):
    os.dup2(given, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads commands from descriptor 3 and writes to 4."""


class Chromium:
    """One browser with one page.

    Parameters:
        profile: an empty folder for its data.
    """

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._session: str | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        child_in, self._to = os.pipe()
        self._from, child_out = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(child_in), str(child_out), PROGRAM, *flags],
            pass_fds=(child_in, child_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_in)
        os.close(child_out)
        eventually(self._pages)
        (page,) = self._pages()
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _pages(self) -> list[str]:
        return [t["targetId"] for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command, and return its reply."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            response = self._receive(20)
            if response.get("id") == self._number:
                assert "error" not in response, response["error"]
                return response["result"]

    def open(self, url: str, *, width: int = 1100, height: int = 900, dark: bool = False) -> None:
        """Load a page, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, failed
        self._wait(lambda: any(event["method"] == "Page.loadEventFired" for event in self.events))

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; awaits a promise."""
        response = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in response, response["exceptionDetails"]
        return response["result"].get("value")

    def type(self, selector: str, text: str) -> None:
        """Replace the content of a field, like a person."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{field}.focus(); {field}.select()")
        self.call("Input.insertText", text=text)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        self._wait(lambda: bool(self.run(expression)))

    def complaints(self) -> list[str]:
        """The browser's messages about the page: errors, refused scripts and the like."""
        found = []
        for event in self.events:
            if event["method"] == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"]["text"])
        return found

    def _wait(self, check: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not check():
            assert time.monotonic() < end, "it did not happen"
            if b"\0" in self._unread or select.select([self._from], [], [], 0.02)[0]:
                self._receive(1)

    def _receive(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._from], [], [], seconds)[0], "the browser does not respond"
            piece = os.read(self._from, 1024 * 1024)
            assert piece, "the browser has ended"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        response: dict[str, Any] = json.loads(message)
        if "method" in response:
            self.events.append(response)
        return response
