"""Benchmark of the index against nginx with static files, peryx, stock pypiserver, devpi-server."""

from __future__ import annotations

from tests.benchmark.benchmark import Benchmark
from tests.benchmark.measurement import Entry, Row, Verdict
from tests.benchmark.results import Report, Results

__all__ = ["Benchmark", "Entry", "Report", "Results", "Row", "Verdict"]
