"""A pytest plugin that makes plain ``pytest --nbval notebooks/`` pass; without nbval it does nothing.

- Differences between runs are ignored: sanitize.cfg is used unless another file is named.
- The notebooks run on a temporary workspace, never on the operator's index, each in the state in which it was stored:
  after the notebooks with lower numbers. So any selection of files passes, in any order.
- Kernels listen on sockets instead of ports.
- After a failing cell the rest of its notebook is skipped. nbval would continue (computationalmodelling/nbval#145), so
  a step that deletes something would run although the check before it failed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ops.workspace import HOME_VARIABLE, PROJECT_ROOT

SANITIZE = Path(__file__).with_name("sanitize.cfg")
NOTEBOOKS = PROJECT_ROOT / "notebooks"

_FAILED_CELL = pytest.StashKey[str]()


class Stage:
    """A temporary workspace in the state that a notebook expects."""

    def __init__(self) -> None:
        self.notebook: Path | None = None
        self._before = dict(os.environ)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ran: list[Path] = []

    @property
    def home(self) -> Path | None:
        """The workspace's folder, once there is one."""
        return Path(self._folder.name).resolve() / "runbook" if self._folder else None

    def set_for(self, notebook: Path) -> None:
        """Run the notebooks before *notebook* that have not run in the workspace yet."""
        if self.notebook == notebook:
            return
        self.notebook = notebook
        expected = [path for path in _stored_together() if path.name < notebook.name]
        if self._folder is None or self._ran != expected[: len(self._ran)]:
            self.clear()
            self._folder = tempfile.TemporaryDirectory(prefix="runbook-nbval-", ignore_cleanup_errors=True)
            for name in [name for name in os.environ if name.startswith("PYPI_")] + ["INDEX_PASSWORD", "AUTH_TOKEN"]:
                os.environ.pop(name, None)
            os.environ[HOME_VARIABLE] = str(self.home)
        missing = expected[len(self._ran) :]
        if missing:
            _runbook("run", *map(str, missing))
        self._ran = expected + [path for path in _stored_together() if path == notebook]

    def spoil(self) -> None:
        """Discard the workspace after a failed cell: the next notebook gets a new one."""
        self._ran = [Path("failed")]

    def clear(self) -> None:
        """Stop the index and remove the workspace."""
        from ops.runbook.store import end_processes_of

        if self._folder is not None and self.home is not None:
            try:
                _runbook("stop")
            finally:
                end_processes_of(self.home)
                self._folder.cleanup()
        self._folder, self._ran = None, []
        os.environ.clear()
        os.environ.update(self._before)


def _stored_together() -> list[Path]:
    """The notebooks stored in one run, in order: all but those that measure for minutes."""
    from ops.runbook import list_notebooks
    from ops.runbook.store import comparable

    return [notebook.path for notebook in comparable(list_notebooks(NOTEBOOKS))]


def _runbook(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"`runbook {' '.join(arguments)}` failed\n{done.stdout}{done.stderr}", pytrace=False)


def pytest_configure(config: pytest.Config) -> None:
    """Set nbval's missing options; do nothing if it was not requested."""
    option = config.option
    if getattr(option, "nbval", False) or getattr(option, "nbval_lax", False):
        option.nbval_sanitize_with = option.nbval_sanitize_with or str(SANITIZE)
        option.nbval_current_env = option.nbval_current_env or not option.nbval_kernel_name
        config.pluginmanager.register(_Hooks(config), "runbook-nbval")
        _connect_by_sockets(config)


def _connect_by_sockets(config: pytest.Config) -> None:
    """Let kernels listen on sockets in a private folder: another program may take a port that was chosen for one."""
    from jupyter_client.manager import KernelManager
    from nbval import kernel

    folder = tempfile.TemporaryDirectory(prefix="runbook-kernels-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    numbers = itertools.count()

    def manager(**options: Any) -> KernelManager:
        return KernelManager(transport="ipc", connection_file=f"{folder.name}/{next(numbers)}.json", **options)

    kernel.KernelManager = manager


class _Hooks:
    """The hooks of a session with nbval."""

    def __init__(self, config: pytest.Config) -> None:
        self._stage = Stage()
        config.add_cleanup(self._stage.clear)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Prepare the workspace before the kernel starts; skip a cell if an earlier one in the notebook failed."""
        if not _is_cell(item) or item.parent is None:
            return
        if failed := item.parent.stash.get(_FAILED_CELL, None):
            pytest.skip(f"{failed} of this notebook failed")
        if item.path.parent == NOTEBOOKS:
            self._stage.set_for(item.path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Record the first failed cell."""
        del call
        report = yield
        if report.failed and _is_cell(item) and item.parent is not None:
            item.parent.stash.setdefault(_FAILED_CELL, item.name)
            self._stage.spoil()
        return report


def _is_cell(item: pytest.Item) -> bool:
    return type(item).__module__.startswith("nbval.")
