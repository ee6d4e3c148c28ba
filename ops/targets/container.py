"""Parts of the index in a Modal container: storage on a Volume, locks and entries in Dicts, the server's adapter."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ops.index.storage.volume import GuardedStorage

if TYPE_CHECKING:
    import modal


_log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""Seconds that a lock lasts unless its holder renews it."""
SKEW_SECONDS = 5.0
"""Largest difference between the clocks of two containers."""
SUCCESSION = "\0"
"""Prefix of the keys that decide the successor of a dead holder; occurs in no file name."""


class VolumeStorage(GuardedStorage):
    """Mounted Volume.

    Parameters:
        volume: the Volume.
        directory: its mount point.
        cache_directory: for copies of files served to clients; None for the container's own disk.
        cache_bytes: limit of their size.
    """

    def __init__(
        self,
        volume: modal.Volume,
        directory: Path | str,
        *,
        cache_directory: Path | None = None,
        cache_bytes: int = 8 * 1024**3,
    ) -> None:
        super().__init__(directory, cache_directory=cache_directory, cache_bytes=cache_bytes)
        self._volume = volume

    def _commit(self) -> None:
        self._volume.commit()

    def _reload(self) -> None:
        self._volume.reload()


@dataclass(frozen=True)
class _Lease:
    """Entry of the Dict for a locked name: the holder's token, and the end of the lease (Unix time)."""

    token: str
    until: float

    def over(self) -> bool:
        return self.until + SKEW_SECONDS < time.time()


class DictNameLocks:
    """Locks between all containers, as entries of a Modal Dict, whose ``put`` with ``skip_if_exists`` is atomic.

    A lock is a lease, renewed by a thread while it is held. If a container dies, exactly one other may take over after
    the lease: taking over requires a lock on the dead holder's token. Modal removes unused entries after 7 days,
    far longer than any lock is held.

    Parameters:
        entries: the Dict.
        lease_seconds: seconds that a lock outlives its holder.
    """

    def __init__(self, entries: modal.Dict, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._entries = entries
        self._seconds = lease_seconds
        self._lock = threading.Lock()
        self._held: dict[str, _Lease] = {}
        self._renewing: threading.Thread | None = None

    def acquire(self, filename: str) -> bool:
        """Lock *filename*. False if another one holds it."""
        with self._lock:
            if filename in self._held:
                return False
        lease = self._take(filename)
        if lease is None:
            return False
        with self._lock:
            self._held[filename] = lease
            if self._renewing is None:
                self._renewing = threading.Thread(target=self._renew, name="claims", daemon=True)
                self._renewing.start()
        return True

    def held(self) -> AbstractSet[str]:
        """All locked names, by one request to the Dict."""
        return {
            key
            for key, value in self._entries.items()
            if isinstance(key, str) and not key.startswith(SUCCESSION) and not _lease(value).over()
        }

    def release(self, filename: str) -> None:
        """Release the lock, unless another holder has taken over."""
        with self._lock:
            lease = self._held.pop(filename, None)
        if lease is not None:
            self._drop(filename, lease)

    def _take(self, key: str) -> _Lease | None:
        mine = self._new_lease()
        if self._entries.put(key, _value(mine), skip_if_exists=True):
            return mine
        found = self._entries.get(key)
        if found is None or not _lease(found).over():
            return None
        # Its holder is dead. The container that locks the holder's token may replace it.
        succession = f"{SUCCESSION}{_lease(found).token}"
        right = self._take(succession)
        if right is None:
            return None
        try:
            if self._entries.get(key) != found:
                return None  # another one succeeded before us
            self._entries.put(key, _value(mine))
            return mine
        finally:
            self._drop(succession, right)

    def _drop(self, key: str, lease: _Lease) -> None:
        found = self._entries.get(key)
        if found is not None and _lease(found).token == lease.token:
            self._entries.pop(key, None)

    def _new_lease(self) -> _Lease:
        return _Lease(secrets.token_hex(8), time.time() + self._seconds)

    def _renew(self) -> None:
        while True:
            time.sleep(self._seconds / 3)
            with self._lock:
                held = dict(self._held)
                if not held:
                    self._renewing = None
                    return
            for filename, lease in held.items():
                # A lease that expired while this container was suspended may now belong to another one.
                if lease.until < time.time():
                    continue
                renewed = _Lease(lease.token, time.time() + self._seconds)
                with contextlib.suppress(Exception), self._lock:
                    if self._held.get(filename) == lease:
                        self._entries.put(filename, _value(renewed))
                        self._held[filename] = renewed


class DictEntries:
    """Entries shared by all containers, in a Modal Dict, which needs no commit and no access to credentials.

    Modal removes an entry that was not used for 7 days; minted tokens and ids of ID tokens live for minutes.

    Parameters:
        entries: the Dict.
    """

    def __init__(self, entries: modal.Dict) -> None:
        self._entries = entries

    def add(self, key: str, value: str, *, until: float) -> bool:
        """Store a value unless the key exists; atomic among all containers."""
        return bool(self._entries.put(key, (value, until), skip_if_exists=True))

    def put(self, key: str, value: str, *, until: float) -> None:
        """Store a value, replacing any other."""
        self._entries.put(key, (value, until))

    def get(self, key: str) -> str | None:
        """The value; None if there is none, or it has expired."""
        found = cast("tuple[str, float] | None", self._entries.get(key))
        return found[0] if found is not None and found[1] > time.time() else None

    def remove(self, key: str) -> bool:
        """Remove an entry. False if there was none."""
        return self._entries.pop(key, None) is not None


def _value(lease: _Lease) -> tuple[str, float]:
    # Plain types: a Dict outlives the code that wrote it.
    return lease.token, lease.until


def _lease(value: object) -> _Lease:
    token, until = cast("tuple[str, float]", value)
    return _Lease(token, until)


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def for_modal(application: Application) -> Application:
    """Wrap *application* to send bodies of type ``bytes`` only.

    The runtime puts each message into a protobuf, which accepts nothing else. The index also sends a ``bytearray``,
    which saves a copy with uvicorn.
    """

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        async def send_bytes(message: Message) -> None:
            body = message.get("body")
            if body is not None and type(body) is not bytes:
                message["body"] = bytes(body)
            await send(message)

        await application(scope, receive, send_bytes)

    return call


def address_below(function: modal.Function[..., Any, Any], path: str) -> str:
    """The address of a page of a web function of this app; empty if unknown.

    Parameters:
        function: as the app's file defines it.
        path: below its root, without a leading slash.
    """
    from modal.exception import Error

    try:
        url = function.get_web_url()
    except Error:
        _log.warning("the address of the function that serves %s is unknown", path, exc_info=True)
        return ""
    return f"{url.rstrip('/')}/{path}" if url else ""
