"""Summary of the local installation: the index, its users' files, and what to do next."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ops.client_folders import who_must_be_told
from ops.clients import ClientFiles
from ops.display_path import shown
from ops.settings import Settings
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

    def addresses(self) -> dict[str, str]:
        """The address of the index that each user's client files name."""
        logins = {folder.name: ClientFiles(folder).login() for folder in self.users()}
        return {name: login.url for name, login in logins.items() if login is not None}

    def told(self, before: Mapping[str, str]) -> str:
        """What the users have to know whose address has changed since it was *before*; empty when none has."""
        after = self.addresses()
        old = next((url for name, url in before.items() if after.get(name, url) != url), "")
        return f"{who_must_be_told(self._target, old, Settings())}" if old else ""

    def state(self) -> str:
        """A digest of all that a run could change and that stays: the server, secrets, users, their files, packages.

        Equal before and after a run, nothing was changed. What a smoke test puts there and takes away again is none.
        """
        digest = hashlib.sha256()
        target = self._workspace.target("local")
        folders = [self._workspace.secrets("local"), self._workspace.user("local", "x").parent]
        for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(self._workspace.home)}\0".encode() + path.read_bytes())
        for path in sorted((target / "volumes").glob("*/*")):
            users = path.name in {".htpasswd", ".htgroup"}
            if path.is_file() and (users or not path.name.startswith(".")):
                digest.update(f"{path.relative_to(target)}\0".encode() + (path.read_bytes() if users else b""))
        digest.update(repr(self._target.deployment()).encode())
        return digest.hexdigest()

    def summary(self, *, report: Path | None = None) -> str:
        """Where the index answers, for whom, which files matter, and how to stop; no secret among it."""
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
