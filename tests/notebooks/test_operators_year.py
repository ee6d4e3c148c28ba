"""The notebooks operate an index on this machine for a year, and keep its snapshots in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.operators_year import Operator, walk


@pytest.mark.slow
def test_a_year_from_first_steps_to_teardown_on_this_machine(tmp_path: Path) -> None:
    walk(Operator.new(tmp_path, "local", {}), str(tmp_path / "snapshots"))
