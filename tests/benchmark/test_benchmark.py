"""A complete run from preflight to stored results, at a scale of seconds."""

from __future__ import annotations

import dataclasses
import json

import psutil
import pytest

from ops.errors import ParameterError, PreflightError
from ops.workspace import Workspace
from tests.benchmark import Benchmark, benchmark, changes, field, logins, sizes
from tests.benchmark.scale import QUICK, Scale, find_scale

TINY = dataclasses.replace(
    QUICK, projects=4, versions=2, packages=3, at_once=2, installs=1, rounds=1, seconds=0.3, most_uploads=40,
    index_files=(20, 40), project_files=(10, 40), projects_listed=60, large_bytes=(2_000_000,), start_files=20,
    logins=4, login_cost=4,
)  # fmt: skip

STEPS = (
    "cold_install",
    "installs_at_once",
    "page_rate",
    "upload_rate",
    "page_by_size",
    "changes",
    "repeats",
    "large_files",
    "starts",
    "first_logins",
)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"target": "modal"}, "cannot run on the target 'modal'"),
        ({"scale": "huge"}, "no scale 'huge'"),
        ({"peers": "nginx,apache"}, "no peer 'apache'"),
    ],
)
def test_an_invalid_parameter_is_refused_with_the_valid_values(wrong: dict[str, str], sentence: str) -> None:
    given = {"target": "local", "scale": "quick", "peers": "nginx"} | wrong
    with pytest.raises(ParameterError, match=sentence):
        Benchmark(target=given["target"], scale=given["scale"], peers=given["peers"])


def test_too_little_disk_space_is_reported_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    vast = dataclasses.replace(QUICK, free_bytes=2**60)
    monkeypatch.setattr(benchmark, "find_scale", lambda name: vast)
    with pytest.raises(PreflightError, match="are needed"):
        Benchmark(target="local", scale="quick", peers="").preflight()


def test_the_full_scale_has_the_sizes_named_by_the_goals() -> None:
    full = find_scale("full")
    assert (full.packages, full.at_once, full.projects * full.versions) == (40, 8, 600)
    assert full.index_files == (100, 1_000, 10_000, 100_000, 1_000_000)
    assert full.project_files == (10, 100, 1_500, 10_000)
    assert full.projects_listed == 100_000
    assert full.large_bytes == (200_000_000, 2_000_000_000)
    assert full.start_files == 10_000
    assert (full.logins, full.login_cost, full.login_rounds) == (300, 12, 5)


@pytest.mark.slow
def test_a_complete_run_measures_every_row_and_leaves_no_process(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(name: str) -> Scale:
        assert name == "quick"
        return TINY

    monkeypatch.setattr(benchmark, "find_scale", tiny)
    for module in (field, sizes, changes, logins):  # no comparisons
        monkeypatch.setattr(module, "await_rest", lambda servers: None)
    bench = Benchmark(target="local", scale="quick", peers="nginx", workspace=workspace)
    bench.preflight()
    bench.prepare()
    for step in STEPS:
        for row in getattr(bench, step)().rows:
            for entry in row.entries:
                if not entry.name.startswith("nginx"):
                    assert entry.values, f"{row.title}: {entry}"
                    # CPU time may be below its resolution, and a cached install may send no request.
                    if "processor time" not in row.title and row.unit != "requests":
                        assert min(entry.values) > 0

    assert len(bench.goals().rows) == 41
    assert any(name == "figures as JSON" for name, _ in bench.finish().rows)

    results = list((workspace.home / "benchmark/results").iterdir())
    assert len(results) == 1
    assert len(json.loads(results[0].read_text())["rows"]) == 40
    assert not (workspace.home / "benchmark/scratch").exists()
    home = str(workspace.home)
    assert not [p for p in psutil.process_iter(["cmdline"]) if any(home in part for part in p.info["cmdline"] or ())]
