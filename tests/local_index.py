"""A local index provisioned by a test, with a real server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ops import provision
from ops.targets import Target, open_target
from tests.benchmark.servers import free_port


@contextlib.contextmanager
def local_index() -> Iterator[Target]:
    """A provisioned local target with a real server on a free port, stopped at the end."""
    target = open_target("local", port=free_port())
    try:
        provision.apply(target)
        yield target
    finally:
        target.stop()
