"""The notebooks run an index on Modal for a year: as on this machine, but with its snapshots in a bucket."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.operators_year import Operator, walk
from tests.standin.control_plane import ControlPlane

pytest_plugins = ["tests.object_store"]


@pytest.mark.slow
def test_a_year_on_modal_from_first_look_to_teardown(
    plane: ControlPlane, client: Mapping[str, str], s3: Callable[[str], str], tmp_path: Path
) -> None:
    plane.apps.plan = "team"
    walk(Operator.new(tmp_path, "modal", client), s3("year"))
    assert plane.apps.named("pypiserver") is None
    assert [volume.name for volume in plane.volumes.by_id.values() if not volume.deleted] == []
    assert plane.secrets.by_id == {}
    assert plane.dicts.by_id == {}
    assert plane.containers() == []
