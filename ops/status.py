"""Status of an index on any target: whether it answers, how it is hosted, and for whom there are files here."""

from __future__ import annotations

from ops.display_path import shown
from ops.targets import State, Target

_LABEL = 13


def status(target: Target) -> str:
    """The state of *target* in lines for a terminal; no secret among them. Reads only.

    Raises:
        TargetError: the platform cannot be asked.
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
    return "\n".join(f"{label:<{_LABEL}} {text}" for label, text in rows)


def _index(state: State) -> str:
    if state.deployment is None:
        return "not deployed; the notebook 01_provision deploys it"
    return f"{state.deployment.index_url}   (answers)" if state.answers else str(state)
