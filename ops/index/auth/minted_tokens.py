"""Minted tokens: short-lived tokens of CI jobs, in entries that all servers share.

They are not on the credentials volume, which servers cannot write.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final, NamedTuple

from ops.index.auth.token_file import new_token, token_digest
from ops.index.auth.trust import Trust
from ops.index.auth.users import Account
from ops.index.bounded_dict import BoundedDict
from ops.index.storage.shared_entries import SharedEntries

LIFETIME: Final = 900
"""Seconds: the minimum in the draft of PEP 807."""

_KNOWN: Final = 10_000

_CHECK_SECONDS: Final = 1.0
"""Longest check of all known tokens, and of one: two rounds with a pause of two seconds stay below five."""

_CHECKS: Final = 8
"""Tokens that are checked concurrently."""


class MintedToken(NamedTuple):
    """Stored part of a minted token.

    Parameters:
        id: begins with m.
        jobs: the names of the trusted jobs whose rights it has, for as long as they are trusted.
        run: the URL of the run that it was minted for.
        expires: seconds since the epoch.
    """

    id: str
    jobs: tuple[str, ...]
    run: str
    expires: float


class MintedTokens:
    """Mints, finds and burns tokens. Methods that access the shared entries block.

    Parameters:
        entries: shared by all servers.
        clock: seconds since the epoch.
    """

    def __init__(self, entries: SharedEntries, *, clock: Callable[[], float] = time.time) -> None:
        self._entries = entries
        self._clock = clock
        self._known: BoundedDict[str, MintedToken] = BoundedDict(_KNOWN)
        self._threads = ThreadPoolExecutor(_CHECKS, thread_name_prefix="minted")

    def spend(self, issuer: str, jti: str, until: float) -> bool:
        """Use up the id of an ID token; False if it was used before, on any server."""
        key = hashlib.sha256(f"{issuer}\0{jti}".encode()).hexdigest()
        return self._entries.add(f"jti-{key}", "", until=until)

    def mint(self, jobs: Sequence[str], run: str) -> tuple[str, MintedToken]:
        """A new token with the rights of these jobs."""
        plain, token_id = new_token(minted=True)
        token = MintedToken(token_id, tuple(jobs), run, float(math.ceil(self._clock()) + LIFETIME))
        digest = token_digest(plain)
        self._entries.put(_key(digest), json.dumps(token), until=token.expires)
        self._known[digest] = token
        return plain, token

    def burn(self, plain: str) -> MintedToken | None:
        """End a token; None if there is none. Other servers notice within seconds."""
        digest = token_digest(plain)
        token = self._read(digest)
        if token is not None:
            self._entries.remove(_key(digest))
        self._known.pop(digest, None)
        return token

    def known(self, digest: str, trust: Trust) -> Account | None:
        """The account of a token that this server has seen and that has not expired. Does not block."""
        token = self._known.get(digest)
        if token is None or token.expires <= self._clock():
            return None
        identity = trust.identity(token.jobs)
        return (
            None
            if identity is None
            else Account(digest, replace(identity, token=token.id, run=token.run, expires=token.expires))
        )

    def exists(self, digest: str) -> bool:
        """Check whether a token exists now.

        Raises:
            TimeoutError: the answer took so long that the token may have been burnt meanwhile.
        """
        began = time.monotonic()
        token = self._read(digest)
        late = time.monotonic() - began > _CHECK_SECONDS
        if token is not None and not late:
            self._known[digest] = token
            return True
        self._known.pop(digest, None)
        if late:
            raise TimeoutError(f"a token could not be looked up within {_CHECK_SECONDS:g} s")
        return False

    def refresh(self) -> None:
        """Check which of the tokens known to this server were burnt elsewhere. Blocks for about a second at most.

        Tokens that could not be checked in that time are forgotten, and looked up when they are used again.

        Raises:
            Exception: whatever the shared storage raises.
        """
        checks = {self._threads.submit(self.exists, digest): digest for digest in list(self._known)}
        done, late = wait(checks, timeout=_CHECK_SECONDS)
        failed = [check for check in done if check.exception() is not None]
        for check in (*late, *failed):
            check.cancel()
            self._known.pop(checks[check], None)
        for check in failed:
            check.result()

    def _read(self, digest: str) -> MintedToken | None:
        value = self._entries.get(_key(digest))
        if value is None:
            return None
        token_id, jobs, run, expires = json.loads(value)
        return MintedToken(token_id, tuple(jobs), run, expires)


def _key(digest: str) -> str:
    return f"minted-{digest}"
