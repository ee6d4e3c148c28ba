"""A world for notebooks, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.notebooks.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with an index, which its tests reset or leave as it was."""
    with World(tmp_path_factory.mktemp("world")) as made:
        yield made
