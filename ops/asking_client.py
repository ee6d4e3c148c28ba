"""Client that asks an index all the while a token is replaced, to prove that it is never refused."""

from __future__ import annotations

import threading
from typing import Self

from ops import user_tokens
from ops.errors import RunbookError
from ops.secret import Secret

INTERVAL_SECONDS = 0.05

SWITCH_SECONDS = 30.0
"""Seconds to wait for the first response to another token."""


class AskingClient:
    """A client that sends requests with the token that it has, all the while a token is replaced.

    Parameters:
        url: the root of the index.
        token: the one before the rotation; None to ask only after :meth:`switch`.
    """

    def __init__(self, url: str, token: Secret | None) -> None:
        self._url = url
        self._token = token
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.asked = self.refused = 0

    def __enter__(self) -> Self:
        if self._token and user_tokens.status(self._url, self._token) != 200:
            self._token = None  # it is of another index, or was revoked before
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def switch(self, token: Secret) -> None:
        """Use another token from now on, and wait until it was used."""
        self._token = token
        self.pause(SWITCH_SECONDS, until_answered=True)

    def pause(self, seconds: float, *, until_answered: bool = False) -> None:
        """Go on asking for some seconds, or until the next answer."""
        self._answered.clear()
        (self._answered if until_answered else self._ended).wait(seconds)

    def _ask(self) -> None:
        while not self._ended.is_set():
            token = self._token
            if token is not None:
                self.asked += 1
                try:
                    self.refused += user_tokens.status(self._url, token) != 200
                except RunbookError:
                    self.refused += 1
                if token is self._token:
                    self._answered.set()
            self._ended.wait(INTERVAL_SECONDS)
