"""Storing of fresh outputs in the notebooks, so that they read as a tutorial without being run.

    python -m ops.runbook.store [NOTEBOOK …]

The notebooks run in a temporary copy of the project: a fresh local target, the default parameters, and paths as a
newcomer sees them. Processes they leave are ended. The notebooks here change only if all runs succeeded and no output
shows a secret. Then :mod:`ops.runbook.contents` generates its files from them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ops.errors import RunbookError, RunError
from ops.private_files import replace_file
from ops.redaction import Redactor
from ops.runbook import contents
from ops.runbook.execution import CELL_TIMEOUT
from ops.runbook.failure import failure_of
from ops.runbook.kernel import kernel_environment, kernel_manager
from ops.runbook.notebook import Notebook, find_notebook, list_notebooks
from ops.runbook.workspace_secrets import recorded_secrets, workspace_sources
from ops.secret import REGISTER_VARIABLE
from ops.table import KEY
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT, Workspace

SKIP_TAG = "nbval-skip"
"""The tag of cells that take minutes and show different output each time; nbval skips them too."""

_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "dist", "build", "*.egg-info", "node_modules")
_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.runbook.store", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "notebooks",
        nargs="*",
        metavar="NOTEBOOK",
        help="names or numbers; by default all but those that measure for minutes",
    )
    options = parser.parse_args(arguments)
    folder = PROJECT_ROOT / "notebooks"
    try:
        chosen = [find_notebook(name, folder) for name in options.notebooks] or comparable(list_notebooks(folder))
        for path in (*store(chosen), *contents.write()):
            sys.stdout.write(f"stored {path}\n")
    except RunbookError as error:
        sys.stderr.write(f"store: {error}\n")
        return 1
    return 0


def comparable(notebooks: Sequence[Notebook]) -> list[Notebook]:
    """The notebooks with reproducible outputs: all but those that measure for minutes."""
    return [notebook for notebook in notebooks if not any(SKIP_TAG in cell.tags for cell in notebook.cells)]


def store(notebooks: Sequence[Notebook], *, project: Path = PROJECT_ROOT) -> tuple[Path, ...]:
    """Run *notebooks* in order, starting from a fresh state, and store their outputs in them.

    Parameters:
        notebooks: those of *project*.
        project: the folder to copy for the run.

    Returns:
        the files that changed.

    Raises:
        RunError: a notebook failed or shows a secret; no file was changed.
    """
    with tempfile.TemporaryDirectory(prefix="runbook-store-", ignore_cleanup_errors=True) as temporary:
        # Resolved: a process names itself by the real path.
        copy = Path(temporary).resolve() / "pypi-runbook"
        shutil.copytree(project, copy, ignore=_NOT_COPIED)
        secrets = Path(temporary) / "secrets"
        secrets.touch(mode=0o600)
        redactor = Redactor(
            sources=(*workspace_sources(Workspace(copy / ".runbook"), os.environ), recorded_secrets(secrets)),
        )
        environment = {**os.environ, REGISTER_VARIABLE: str(secrets), "PYTHONPATH": str(copy), "COLUMNS": "100"}
        environment["HOME"] = str(copy.parent)  # paths are shown below ~, and no files of this user are read
        environment.pop(HOME_VARIABLE, None)
        try:
            executed = [(notebook.path, _executed(notebook, copy, environment, redactor)) for notebook in notebooks]
        finally:
            end_processes_of(copy)
    changed = []
    for path, text in executed:
        if path.read_text(encoding="utf-8") != text:
            mode = path.stat().st_mode
            replace_file(path, text)
            path.chmod(mode)
            changed.append(path)
    return tuple(changed)


class _Client(NotebookClient):
    """nbclient with this interpreter's kernel."""

    def __init__(self, node: Any, scratch: Path) -> None:
        super().__init__(node, record_timing=False, coalesce_streams=True, timeout=CELL_TIMEOUT)
        self._scratch = scratch

    def create_kernel_manager(self) -> Any:
        self.km = kernel_manager(self._scratch, self.log)
        return self.km


def _executed(notebook: Notebook, copy: Path, environment: dict[str, str], redactor: Redactor) -> str:
    node = nbformat.read(notebook.path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="runbook-") as scratch, (copy / "kernel.log").open("ab") as log:
        try:
            _Client(node, Path(scratch)).execute(
                env=kernel_environment(Path(scratch), environment), cwd=str(copy), stdout=log, stderr=log
            )
        except CellExecutionError as error:
            failure = failure_of(error.ename, redactor.text(error.evalue))
            raise RunError(
                f"{notebook.name} was not stored, because it failed",
                why=": ".join(part for part in (failure.what, failure.why) if part),
                todo=failure.todo or "run it in Jupyter, cell by cell",
            ) from None
    normalise(node)
    if redactor.notebook(node) != node:
        raise RunError(
            f"{notebook.name} was not stored, because it shows a secret",
            why="one of its outputs contains a known secret",
            todo="display the Secret object, not the result of reveal()",
        )
    text: str = nbformat.writes(node)
    return text.rstrip("\n") + "\n"


def normalise(node: Any) -> None:
    """Remove from a notebook what differs between machines and runs."""
    node.metadata = nbformat.from_dict(
        {key: value for key, value in node.metadata.items() if key not in {"papermill", "widgets"}}
        | {"kernelspec": _KERNELSPEC, "language_info": {"name": "python"}}
    )
    for cell in node.cells:
        for key in ("execution", "papermill", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).pop(KEY, None)


def end_processes_of(folder: Path) -> tuple[int, ...]:
    """End processes whose arguments name *folder*, and return their ids."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(str(folder) in argument for argument in process.info["cmdline"] or ()):
            found.append(process)
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=10)
    for process in alive:
        process.kill()
    return tuple(process.pid for process in found)


if __name__ == "__main__":
    sys.exit(main())
