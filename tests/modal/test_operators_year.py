"""The notebooks run an index on Modal for a year: as on this machine, with one parameter changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.operators_year import Operator, walk
from tests.standin.control_plane import ControlPlane


@pytest.mark.slow
def test_a_year_on_modal_from_first_look_to_teardown(
    plane: ControlPlane, client: Mapping[str, str], tmp_path: Path
) -> None:
    plane.apps.plan = "team"
    walk(Operator.new(tmp_path, "modal", client))
    assert plane.apps.named("pypiserver") is None
    assert [volume.name for volume in plane.volumes.by_id.values() if not volume.deleted] == []
    assert plane.secrets.by_id == {}
    assert plane.dicts.by_id == {}
    assert plane.containers() == []
