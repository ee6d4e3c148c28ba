"""Installation on this machine: the index, its users' files, and the next commands for a newcomer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ops.display_path import shown
from ops.targets import open_target
from ops.targets.lock import exclusive
from ops.workspace import Workspace


class Installation:
    """The index of the local target and the files around it, seen as one thing.

    Parameters:
        workspace: the operator's folder.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._target = open_target("local", workspace=workspace)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the workspace against another `runbook up`: the second waits, and says so.

        Apart from the target's own lock, which the notebooks take in processes of their own.

        Raises:
            BusyError: the other one did not end in time.
        """
        self._workspace.create()
        with exclusive(self._workspace.home / "up.lock", what="the workspace"):
            yield

    def users(self) -> list[Path]:
        """The folders with client configuration that were written here, one a user."""
        folder = self._workspace.user("local", "x").parent
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def summary(self, *, report: Path | None = None) -> str:
        """The index's address, its users, their files, and the command that stops it; no secret among it."""
        state = self._target.state()
        deployment = state.deployment if state.answers else None
        rows: list[tuple[str, str]] = []
        if deployment:
            rows.append(("Index", f"{deployment.index_url}   ({deployment.detail})"))
        elif state.deployment:
            rows.append(("Index", f"{state}; start it anew with: make run"))
        else:
            rows.append(("Index", "does not run; start it with: make run"))
        for folder in self.users():
            rows.append(("User", folder.name))
            rows.append(("Credentials", shown(folder / "netrc")))
            rows.append(("Client files", f"{shown(folder)}/   (pip.conf, uv.toml, .pypirc, netrc)"))
            rows.append(("Use them", f". {shown(folder / 'env.sh')}   then pip, uv and twine know the index"))
        if report is not None:
            rows.append(("Report", shown(report)))
        if deployment:
            rows.append(("Stop", "make stop   in the folder of the clone; the data stays"))
        return "\n".join(f"{label:<13} {text}" for label, text in rows)
