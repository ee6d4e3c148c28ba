"""A pytest plugin: after a failing cell, nbval skips the rest of that notebook.

    python -m pytest -p ops.runbook.nbval_stop --nbval --nbval-current-env notebooks/

By itself nbval goes on to the next cell (computationalmodelling/nbval#145), so that a step which deletes something
would run although the check before it failed.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

_FAILED_CELL = pytest.StashKey[str]()


def _is_cell(item: pytest.Item) -> bool:
    return type(item).__module__.startswith("nbval.") and item.parent is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a cell when one before it in the same notebook failed."""
    if _is_cell(item) and item.parent is not None:
        failed = item.parent.stash.get(_FAILED_CELL, None)
        if failed is not None:
            pytest.skip(f"{failed} of this notebook failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the first cell that failed."""
    del call
    report = yield
    if report.failed and _is_cell(item) and item.parent is not None:
        item.parent.stash.setdefault(_FAILED_CELL, item.name)
    return report
