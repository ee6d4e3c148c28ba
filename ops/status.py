"""Status of an index: its state, its hosting, its users, and the next commands for a newcomer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ops.errors import RunbookError
from ops.targets import State, Target, open_target
from ops.workspace import shown


def status(target: Target) -> str:
    """State of *target* as lines for a terminal, without secrets. Reads only.

    Raises:
        TargetError: the platform did not respond.
    """
    state = target.state()
    rows = [("Target", target.place), ("Index", _index(state))]
    if state.deployment is not None:
        rows.append(("Deployed", state.deployment.detail))
        rows.append(("Admin", state.deployment.admin_url))
        if (hosting := target.hosting()) is not None:
            rows.append(("Hosting", hosting.summary))
            rows += [("To change", f"{change.name} {change.arrow}") for change in hosting.changes]
        if releases := target.history():
            rows.append(("Since", " ".join(part for part in (releases[0].when, releases[0].tag) if part)))
    rows += [("User", f"{folder.name}   (files in {shown(folder)}/)") for folder in target.client_folders()]
    return _lines(rows)


def status_json(target: str, environment: str | None) -> dict[str, Any]:
    """State of one target as JSON, with ``error`` if it cannot be read.

    Parameters:
        target: ``local`` or ``modal``.
        environment: of Modal; None for its default.
    """
    found: dict[str, Any] = {"target": target, "environment": environment or "", "deployed": False, "responds": False}
    try:
        opened = open_target(target, environment=environment)
        found["environment"] = opened.place.partition(".")[2]
        state = opened.state()
        if deployment := state.deployment:
            found |= {
                "deployed": True,
                "responds": state.responds,
                "address": deployment.url,
                "index_url": deployment.index_url,
                "admin_url": deployment.admin_url,
                "detail": deployment.detail,
                "log_error": state.error,
            }
            if (hosting := opened.hosting()) is not None:
                changes = {change.name: {"now": change.now, "then": change.then} for change in hosting.changes}
                found["hosting"] = {"summary": hosting.summary, "to_change": changes}
        found["users"] = [{"name": folder.name, "files": str(folder)} for folder in opened.client_folders()]
    except RunbookError as error:
        found["error"] = str(error)
    return found


def _index(state: State) -> str:
    if state.deployment is None:
        return "not deployed; the notebook 01_provision deploys it"
    return f"{state.deployment.index_url}   (responds)" if state.responds else str(state)


def installation(*, report: Path | None = None) -> str:
    """The index on this machine: its address, users, their files, and the command that stops it, without secrets.

    Parameters:
        report: of the run that installed it.
    """
    target = open_target("local")
    state = target.state()
    deployment = state.deployment if state.responds else None
    rows: list[tuple[str, str]] = []
    if deployment:
        rows.append(("Index", f"{deployment.index_url}   ({deployment.detail})"))
    elif state.deployment:
        rows.append(("Index", f"{state}; restart it with: make run"))
    else:
        rows.append(("Index", "is not running; start it with: make run"))
    for folder in target.client_folders():
        rows.append(("User", folder.name))
        rows.append(("Credentials", shown(folder / "netrc")))
        rows.append(("Client files", f"{shown(folder)}/   (pip.conf, uv.toml, .pypirc, netrc)"))
        rows.append(("Use them", f". {shown(folder / 'env.sh')}   then pip, uv and twine use the index"))
    if report is not None:
        rows.append(("Report", shown(report)))
    if deployment:
        rows.append(("Stop", "make stop   in the folder of the clone; the data stays"))
    return _lines(rows)


def _lines(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{label:<13} {text}" for label, text in rows)
