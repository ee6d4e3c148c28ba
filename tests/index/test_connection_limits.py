"""Limits on connections: their number, and the one that a new one replaces."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from ops.index.connection_limits import ConnectionLimits, needed_for, room_for_connections
from tests.index.serving import ROOT

PROGRAM = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))
from ops.index.connection_limits import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@dataclass(eq=False)
class FakeConnection:
    """A fake connection that only remembers that it was closed."""

    address: str = "192.0.2.1"
    logged_in: bool = False
    busy: bool = False
    since: float = 0.0
    ended: bool = field(default=False, init=False)

    def end(self) -> None:
        self.ended = True


def full(limits: ConnectionLimits, *connections: FakeConnection) -> tuple[FakeConnection, ...]:
    """The connections admitted by the limits."""
    assert all(limits.admit(connection) for connection in connections)
    return connections


def ended(*connections: FakeConnection) -> list[bool]:
    return [connection.ended for connection in connections]


def test_the_oldest_that_has_not_logged_in_is_closed_for_a_new_one() -> None:
    limits = ConnectionLimits(3, 3)
    held = full(limits, FakeConnection(logged_in=True), FakeConnection(), FakeConnection())
    full(limits, FakeConnection())
    assert ended(*held) == [False, True, False]


def test_a_login_in_progress_is_closed_after_idle_strangers() -> None:
    limits = ConnectionLimits(3, 3)
    held = full(limits, FakeConnection(busy=True), FakeConnection(busy=True), FakeConnection())
    new = full(limits, FakeConnection(busy=True))
    assert ended(*held) == [False, False, True]
    full(limits, FakeConnection())
    assert ended(*held, *new) == [True, False, True, False]


def test_the_longest_idle_user_is_closed_when_all_have_logged_in() -> None:
    limits = ConnectionLimits(3, 3)
    held = full(limits, *(FakeConnection(logged_in=True, busy=busy, since=since) for busy, since in USERS))
    full(limits, FakeConnection())
    assert ended(*held) == [False, False, True]


USERS = [(True, 1.0), (False, 3.0), (False, 2.0)]


def test_no_connection_is_admitted_when_all_users_have_requests() -> None:
    limits = ConnectionLimits(2, 2)
    held = full(limits, FakeConnection(logged_in=True, busy=True), FakeConnection(logged_in=True, busy=True))
    assert not limits.admit(FakeConnection())
    limits.release(held[0])
    assert limits.admit(FakeConnection())
    assert ended(*held) == [False, False]


def test_an_address_at_its_limit_replaces_its_own_connections() -> None:
    limits = ConnectionLimits(10, 2)
    others = full(limits, FakeConnection("192.0.2.7"))
    held = full(limits, FakeConnection(), FakeConnection())
    full(limits, FakeConnection())
    assert ended(*others, *held) == [False, True, False]


def test_an_exempt_address_has_no_limit_of_its_own() -> None:
    limits = ConnectionLimits(4, 2, exempt=lambda address: address == "192.0.2.1")
    held = full(limits, *(FakeConnection() for _ in range(4)))
    assert ended(*held) == [False] * 4
    full(limits, FakeConnection())
    assert ended(*held) == [True, False, False, False]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_addresses_of_one_client_are_counted_together(first: str, second: str, *, together: bool) -> None:
    limits = ConnectionLimits(10, 1)
    (held,) = full(limits, FakeConnection(first))
    full(limits, FakeConnection(second))
    assert held.ended is together


def test_a_closed_connection_no_longer_counts() -> None:
    limits = ConnectionLimits(2, 1)
    for _ in range(5):
        (connection,) = full(limits, FakeConnection())
        limits.release(connection)
        limits.release(connection)
        assert not connection.ended


def test_a_flood_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    limits = ConnectionLimits(1, 1, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        full(limits, *(FakeConnection(f"192.0.2.{number}") for number in range(50)))
        assert len(caplog.records) == 1
        assert "raise --max-connections" in caplog.text
        now[0] = 61.0
        full(limits, FakeConnection())
        assert len(caplog.records) == 2


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300", "300"]


@pytest.mark.parametrize("descriptors", [1024, 4096, 20_001])
def test_the_connections_leave_descriptors_for_files(descriptors: int) -> None:
    room = room_for_connections(descriptors)
    assert needed_for(room) <= descriptors < needed_for(room + 1)
    assert descriptors - room > descriptors / 2
