"""A local index that a test provisions, with a real server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from ops import provision
from ops.targets import Target, open_target


@contextlib.contextmanager
def local_index() -> Iterator[Target]:
    """A provisioned local target with a real server on a free port, stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = open_target("local", port=port)
    try:
        provision.apply(target)
        yield target
    finally:
        target.stop()
