"""The clients under test talk to a fake index, so that what they send can be seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import FakeIndex


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    """A fake index without users."""
    with FakeIndex() as fake:
        yield fake
