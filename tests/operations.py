"""Fixtures for the tests of operations: a fake index, and a fake target that has it as its server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops import provision
from tests.fakes import FakeIndex, FakeTarget


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
