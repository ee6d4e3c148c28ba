"""Start: checks everything that a target needs, shows what is already there, and says what comes next."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from ops.errors import PreflightError, RunbookError, TargetError
from ops.preflight import problems, table_of
from ops.table import Table, Text
from ops.targets import Check, open_target
from ops.troubleshoot import machine_checks
from ops.workspace import PROJECT_ROOT, shown

TOOLS = ("pip", "uv", "twine", "build", "papermill", "nbclient")
"""Packages that the notebooks run."""

_INSTALL = f"run make in {shown(PROJECT_ROOT)}, or pip install --require-hashes -r requirements.txt"


def checks(name: str) -> Table:
    """Check this machine and what a target needs from it. Reads only; does not raise for failed checks.

    Parameters:
        name: of the target, as for all functions here: ``local`` or ``modal``.
    """
    return table_of(f"What the target {name} needs", _checks(name))


def found(name: str) -> Table:
    """The index and its users, as far as this machine knows them. Reads only; does not raise for failures."""
    try:
        target = open_target(name)
        state, users = str(target.state()), [folder.name for folder in target.client_folders()]
    except RunbookError as error:
        return Table.of("What there is", ("what", "seen"), [("index", f"could not be read: {error.why or error.what}")])
    rows = [("index", state), ("users with client files here", ", ".join(users) or "none")]
    return Table.of("What there is", ("what", "seen"), rows)


def next_steps(name: str) -> Text:
    """The notebooks to run next. Reads only.

    Raises:
        TargetError: the platform did not respond.
    """
    try:
        target = open_target(name)
    except TargetError:
        return Text("Next: fix what the first table says NO to.")
    state = target.state()
    if state.deployment is None:
        return Text(f"Next: runbook run 01_provision 02_onboard_user 03_smoke_test -p target={target.name}")
    if not state.responds:
        return Text(f"Next: runbook run 90_troubleshoot -p target={target.name}, which says why the index is silent.")
    if not target.client_folders():
        return Text(f"Next: runbook run 02_onboard_user -p target={target.name} -p username=NAME")
    return Text(f"Next: runbook run 03_smoke_test -p target={target.name}, after every change and on a schedule.")


def verify(name: str) -> Table:
    """Require that all checks pass.

    Raises:
        PreflightError: something is missing; all of it is listed, each with what to do.
    """
    every = _checks(name)
    if failed := problems(every):
        raise PreflightError(failed)
    return Table.of("Ready", ("checks", "failed"), [(len(every), 0)])


def _checks(name: str) -> list[Check]:
    here = [*map(_tool, TOOLS), _git(), _notebooks(PROJECT_ROOT / "notebooks")]
    try:
        return [*here, *machine_checks(open_target(name))]
    except TargetError as error:
        return [*here, Check("target", passed=False, detail=f"{error.why}: {error.todo}")]


def _tool(name: str) -> Check:
    try:
        return Check(name, passed=True, detail=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, passed=False, detail=f"not installed: {_INSTALL}")


def _git() -> Check:
    there = shutil.which("git") is not None
    return Check("git", there, "installed" if there else "not installed: install it; records name the revision by it")


def _notebooks(folder: Path) -> Check:
    there = folder.is_dir()
    return Check("notebooks", there, "there" if there else f"{shown(folder)} is missing: install from a clone")


__all__ = ["checks", "found", "next_steps", "verify"]
