"""Fixtures for the tests of operations: a fake index, a fake target that has it as its server, and a real local one."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from ops import provision
from ops.targets import Target, open_target
from tests.fakes import FakeIndex, FakeTarget


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


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    """A fake index without users."""
    with FakeIndex() as fake:
        yield fake


@pytest.fixture
def target(index: FakeIndex) -> FakeTarget:
    """A fake target, with nothing on it."""
    return FakeTarget(index)


@pytest.fixture
def provisioned(target: FakeTarget) -> FakeTarget:
    """A fake target with an index that answers."""
    provision.apply(target)
    return target


@pytest.fixture
def served(newcomer: object) -> Iterator[Target]:
    """A provisioned local target with a real server, in a workspace of its own."""
    del newcomer
    with local_index() as found:
        yield found
