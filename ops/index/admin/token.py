"""The admin token (RFC 6750): one check and one throttle for all requests."""

from __future__ import annotations

import hmac
import logging
from typing import Final

from ops.index.auth.audit import Audit
from ops.index.auth.throttle import Throttle
from ops.index.config import Options
from ops.index.errors import TooManyAttempts
from ops.index.startup import check_sendable

OPEN_PATHS: Final = frozenset({"/health", "/docs", "/openapi.json"})
"""Paths that need no token when the admin application runs alone. They reveal nothing about the users."""

GUESSABLE: Final = 32
"""Bytes. A shorter token could be guessed; for a longer one throttling is pointless."""

_log = logging.getLogger(__name__)


class TokenCheck:
    """Compares Authorization headers with the admin token, and delays addresses that send wrong ones.

    Parameters:
        token: 32 bytes or more.
        audit: records each wrong token once.
        options: number of wrong tokens before a delay.

    Raises:
        ValueError: the token is empty, or cannot be sent in a header.
    """

    def __init__(self, token: str, *, audit: Audit, options: Options) -> None:
        token = token.strip()
        if not token:
            raise ValueError("the admin token is empty: set AUTH_TOKEN in the index's secret")
        check_sendable(token)
        if len(token.encode()) < GUESSABLE:
            _log.warning("the admin token has fewer than %d bytes: generate a longer one", GUESSABLE)
        self._token = token.encode()
        self._audit = audit
        self._throttle = Throttle(options.login_failures, options.login_window_seconds)

    def accepts(self, authorization: bytes, address: str) -> bool:
        """True if an Authorization header has the token. An empty header does not count as a guess.

        Parameters:
            authorization: the header's value; empty if there is none.
            address: of the client.

        Raises:
            TooManyAttempts: too many wrong ones came from there; a long token is accepted anyway.
        """
        authorization = authorization.strip()
        scheme, _, given = authorization.partition(b" ")
        right = hmac.compare_digest(given.strip(), self._token) and scheme.lower() == b"bearer"
        if not right or len(self._token) < GUESSABLE:
            try:
                self._throttle.check("", address)
            except TooManyAttempts:
                if authorization:
                    self._audit.record("admin.throttled", user="", address=address)
                raise
        if not right and authorization:
            self._throttle.wrong("", address)
            self._audit.record("admin.refused", user="", address=address)
        return right
