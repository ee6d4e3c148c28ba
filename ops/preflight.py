"""Preflight checks: everything that an operation needs, checked before it changes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ops.admin_api import AdminApi
from ops.errors import PreflightError
from ops.table import Table, where
from ops.targets import Check, State, Target


def preflight(target: Target) -> Table:
    """Check that everything that the target needs is there. Passes without an index. Reads only.

    Raises:
        PreflightError: something is missing; all of it is listed.
    """
    return _passed(target, target.checks())


def preflight_of_index(target: Target) -> Table:
    """Check what the target needs, and that an index responds there and accepts the admin token.

    Changes nothing, but starts a server again that a killed run had stopped to replace it.

    Parameters:
        target: where the index runs.

    Raises:
        PreflightError: something is missing; all of it is listed.
    """
    checks, address = list(target.checks()), ""
    if all(check.passed for check in checks):
        if target.resume():
            checks.append(Check("server", passed=True, detail="an earlier run was killed; started again"))
        state = target.state()
        address = state.deployment.url if state.deployment else ""
        checks += _index(target, state)
    return _passed(target, checks, address)


def table_of(caption: str, checks: Sequence[Check], *, metadata: Mapping[str, Any] | None = None) -> Table:
    """Checks as a table; a failed one is a row like the others."""
    rows = [(check.name, check.detail, "yes" if check.passed else "NO") for check in checks]
    rows = rows or [("nothing", "there is nothing to look at", "yes")]
    return Table.of(caption, ("looked at", "found", "as it must be"), rows, metadata=metadata)


def problems(checks: Sequence[Check]) -> list[str]:
    """A phrase for each check that failed."""
    return [f"{check.name}: {check.detail}" for check in checks if not check.passed]


def _passed(target: Target, checks: Sequence[Check], address: str = "") -> Table:
    if failed := problems(checks):
        raise PreflightError(failed)
    return table_of(f"Preflight of the target {target.name}", checks, metadata=where(target.place, address))


def _index(target: Target, state: State) -> list[Check]:
    if not state.responds:
        found = str(state) if state.deployment else f"there is none on the target {target.place}"
        return [Check("index", passed=False, detail=f"{found}; run the notebook 01_provision first")]
    return [Check("index", passed=True, detail=str(state)), _admin_token(target)]


def _admin_token(target: Target) -> Check:
    try:
        _, admin = AdminApi.of(target)
    except PreflightError as error:
        return Check("admin token", passed=False, detail=f"{error.problems[0]}; {error.todo}")
    with admin:
        if advice := admin.refusal_advice():
            return Check("admin token", passed=False, detail=f"the index refuses it; {advice}")
    return Check("admin token", passed=True, detail="is accepted")
