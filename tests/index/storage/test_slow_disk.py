"""An event loop leaves a slow disk alone for a while."""

from __future__ import annotations

import time

import pytest

from ops.index.storage.slow_disk import SlowDisk


@pytest.mark.parametrize(("seconds", "rest"), [(0.001, 0.0), (0.02, 0.16), (1.0, 8.0)])
def test_the_rest_after_a_slow_read_is_in_proportion(
    seconds: float, rest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    disk = SlowDisk()
    began = disk.begin()
    assert began == now
    now += seconds
    disk.end(began)
    if rest:
        now += rest - 0.001
        assert disk.begin() is None
        now += 0.002
    assert disk.begin() == now
