"""The first login, verified while the server is still being imported: bcrypt is slow, and does not hold the GIL."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from pathlib import Path

from ops.index.auth.password_file import PasswordFile
from ops.index.auth.passwords import BasicCredentials, refusal_cost, verify_password

_CONNECTIONS = 16
"""Connections that are accepted before the server is ready. Further ones wait in the listener's backlog."""

_HEAD_BYTES = 16 * 1024

_SWITCH_SECONDS = 0.0002
"""Seconds that each step waits for the importing thread, which by default yields only after 5 ms."""


class EarlyLogin:
    """Accepts connections until one sends a password, and runs bcrypt for that one.

    Nothing is decided here: the authenticator admits, counts and records the login as any other, and only gets the
    result of bcrypt from :meth:`verify_password`. The server reads the requests again, from their first byte.

    Parameters:
        listener: a listening socket.
        credentials: the directory with the ``.htpasswd``, neither of which need exist.
        rounds: the lowest bcrypt cost of a refusal.
    """

    def __init__(self, listener: socket.socket, credentials: Path, *, rounds: int) -> None:
        listener.setblocking(False)  # as the server does, which also accepts connections just before it is ready
        self._listener = listener
        self._credentials = credentials
        self._rounds = rounds
        self._stopped, self._stop = os.pipe()
        self._connections: list[socket.socket] = []
        self._accepted = threading.Event()
        self._login: tuple[str, str | None, int] | None = None
        self._right = False
        self._thread = threading.Thread(target=self._run, name="early-login", daemon=True)
        self._thread.start()

    def connections(self) -> list[socket.socket]:
        """Stop accepting, and hand over the connections, from which nothing has been read."""
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1
        self._accepted.wait()
        connections, self._connections = self._connections, []
        return connections

    def close(self) -> None:
        """Stop accepting, close the connections that were not handed over, and forget the password."""
        self._login = None
        for connection in self.connections():
            connection.close()

    def verify_password(self, password: str, digest: str | None, level: int) -> bool:
        """As :func:`ops.index.auth.passwords.verify_password`; the first login's result is known already, or soon."""
        if self._login != (password, digest, level):
            return verify_password(password, digest, level)
        self._login = None  # no password stays in memory
        self._thread.join()
        return self._right

    def _run(self) -> None:
        login = None
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            credentials = self._first_credentials()
            if credentials is not None:
                entries = PasswordFile((self._credentials.expanduser() / ".htpasswd").read_bytes()).entries()
                digest = entries.get(credentials.username)
                self._login = login = credentials.password, digest, refusal_cost(entries.values(), self._rounds)
        except (OSError, RuntimeError):  # no such file, or no such home
            pass
        finally:
            sys.setswitchinterval(interval)
            os.close(self._stopped)
            self._accepted.set()
        if login is not None:
            self._right = verify_password(*login)

    def _first_credentials(self) -> BasicCredentials | None:
        """The first user name and password to arrive; None if the server is ready first."""
        poll = select.poll()
        for source in (self._stopped, self._listener.fileno()):
            poll.register(source, select.POLLIN)
        while True:
            for source, _ in poll.poll():
                if source == self._stopped:
                    return None
                if source == self._listener.fileno():
                    self._accept(poll)
                else:
                    poll.unregister(source)
                    found = _credentials(next(one for one in self._connections if one.fileno() == source))
                    if found is not None:
                        return found

    def _accept(self, poll: select.poll) -> None:
        with contextlib.suppress(OSError):  # the client has left
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._connections.append(connection)
            poll.register(connection, select.POLLIN)
        if len(self._connections) == _CONNECTIONS:
            poll.unregister(self._listener)


def _credentials(connection: socket.socket) -> BasicCredentials | None:
    """The user name and password of the request that has arrived, which stays unread; None if it has none."""
    try:
        head, end, _ = connection.recv(_HEAD_BYTES, socket.MSG_PEEK).partition(b"\r\n\r\n")
    except OSError:
        return None
    for line in head.split(b"\r\n")[1:] if end else ():
        name, _, value = line.partition(b":")
        if name.lower() == b"authorization":
            found = BasicCredentials.parse(value)
            return found if found is not None and not found.flaw and found.token is None else None
    return None
