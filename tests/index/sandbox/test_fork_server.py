"""The fork server reports when it cannot fork a worker, and continues."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from ops.index.sandbox.fork_server import CANNOT_FORK, ForkServer


def test_a_failed_fork_is_reported_and_the_next_call_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", exhausted)
    control, its_control = socket.socketpair()
    thread = threading.Thread(target=ForkServer(its_control, bytes, {}).serve)
    thread.start()
    with its_control:
        with control:
            for _ in range(2):
                data, its_data = socket.socketpair()
                life, its_life = socket.socketpair()
                with data, life:
                    with its_data, its_life:
                        socket.send_fds(control, [b"\0"], [its_data.fileno(), its_life.fileno()])
                    assert int.from_bytes(life.recv(4), "big") == CANNOT_FORK
                    assert data.recv(1) == b""
        thread.join(60)
        assert not thread.is_alive()
