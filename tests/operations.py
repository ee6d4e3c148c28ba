"""Fixtures for the tests of operations: a fake index, a fake target with it as its server, and a real local target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops import provision
from ops.targets import Target
from tests.fakes import FakeIndex, FakeTarget
from tests.local_index import local_index


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
    """A fake target with a running index."""
    provision.apply(target)
    return target


@pytest.fixture
def served(newcomer: object) -> Iterator[Target]:
    """A provisioned local target with a real server, in its own workspace."""
    del newcomer
    with local_index() as found:
        yield found
