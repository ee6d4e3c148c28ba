"""File descriptors: how many the process may open, and how many connections that leaves room for."""

from __future__ import annotations

import contextlib
import sys

from ops.index.config import Options
from ops.index.startup import CannotStartError

KEPT_BACK = 128
"""Descriptors for what is neither a connection nor a file that a connection downloads: libraries, logs, locks, staged
uploads, child processes."""

FEWEST_CONNECTIONS = 16
"""One cold installer opens some 50; with fewer than this nothing works well enough to be started."""

_PER_CONNECTION = 2
"""The socket, and the file that is being downloaded over it."""

_UNLIMITED = 1_048_576
"""What is used of a limit that has no number, or none that the system would keep to."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return what may be opened.

    The usual soft limit of 1,024 is for programs that use ``select``; the hard one is the operator's.
    """
    if sys.platform == "win32":
        return _UNLIMITED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS names no hard limit, and then takes no more than OPEN_MAX.
        for wanted in (hard, 10_240):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                break
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _UNLIMITED if soft == resource.RLIM_INFINITY else min(soft, _UNLIMITED)


def room_for_connections(descriptors: int) -> int:
    """The most connections that so many descriptors leave room for; less than one if there are too few."""
    return (descriptors - KEPT_BACK) // _PER_CONNECTION


def needed_for(connections: int) -> int:
    """The descriptors that so many connections take."""
    return connections * _PER_CONNECTION + KEPT_BACK


def shared_out(total: int | None, per_address: int | None) -> tuple[int, int]:
    """The most connections in total and from one address, once the limit of open files has been raised.

    Parameters:
        total: what the operator asked for; None for the default, or as many as there is room for.
        per_address: likewise; None for half of all.

    Raises:
        CannotStartError: there is no room for so many, or they contradict each other.
    """
    descriptors = raise_limit()
    room = room_for_connections(descriptors)
    wanted = total or min(Options.max_connections, max(room, FEWEST_CONNECTIONS))
    if wanted > room:
        needed = needed_for(total or Options.max_connections)
        remedy = f"raise its hard limit to {needed} (ulimit -Hn, or LimitNOFILE= of systemd)"
        if room >= FEWEST_CONNECTIONS:
            remedy += f", or ask for --max-connections {room} or fewer"
        raise CannotStartError(f"this process may open {descriptors} files, too few for {wanted} connections: {remedy}")
    if per_address is not None and per_address > wanted:
        raise CannotStartError(
            f"--max-connections-per-address {per_address} is more than the {wanted} connections in total: "
            "ask for fewer, or raise --max-connections"
        )
    return wanted, per_address or max(FEWEST_CONNECTIONS, wanted // 2)
