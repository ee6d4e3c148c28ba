"""An index on this machine, for notebooks in processes that can be killed at any step."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from ops.admin_api import AdminApi
from ops.clients import ClientFiles
from ops.http_client import HttpClient
from ops.secret import Secret
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from ops.snapshots.snapshot import CREDENTIALS, PACKAGES, is_kept, is_log
from ops.test_release import PROJECT
from ops.workspace import HOME_VARIABLE
from tests.benchmark.servers import free_port
from tests.operators_year import Index, Operator

LEFT = re.compile(rf"{PROJECT.replace('-', '_')}-|\.index/removed/")
"""Releases that a smoke test leaves behind if it cannot remove them, and names that cannot be reused."""


class Worker:
    """The operator's notebooks, in processes that can be killed.

    Parameters:
        operator: with a clone and a workspace.
        temporary: a folder for temporary files.
        modules: to import once.
    """

    def __init__(self, operator: Operator, temporary: Path, *modules: str) -> None:
        self._home = operator.home
        temporary.mkdir()
        environment = {
            **os.environ,
            **operator.variables,
            "HOME": str(operator.home),
            HOME_VARIABLE: str(operator.workspace.home),
            "PYTHONPATH": str(operator.clone),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(temporary),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.notebooks.kill_points", *modules],
            cwd=operator.clone, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, notebook: str, parameters: Mapping[str, Any], number: int = 0, word: str = "") -> dict[str, Any]:
        """Run a notebook, and kill it before the step of a given number, among those with a word in their names."""
        given = {
            name: value.replace("HOME", str(self._home)) if isinstance(value, str) else value
            for name, value in parameters.items()
        }
        request = {"notebook": notebook, "parameters": given, "number": number, "word": word}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return cast("dict[str, Any]", json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        with self._process:  # closes its pipes, which ends it, and waits
            pass


class World:
    """An index with a user and a release on this machine, which can be reset to its initial state.

    Parameters:
        folder: for the clone, the workspace, and a copy of the initial state.
    """

    def __init__(self, folder: Path) -> None:
        self.operator = Operator.new(folder, "local", {})
        self.operator.break_removal("broken")
        self.operator.commit("good", "ops/index/__init__.py", lambda source: f"{source}# changed\n")
        self._made = folder / "made"
        self._worker = Worker(self.operator, folder / "temporary", "ops.targets.local")
        self.index = Index(self.operator)

    def __enter__(self) -> Self:
        """Create the index, and keep a copy."""
        home = self.operator.home
        (home / "team.csv").write_text("username,role\nbob,reader\ncarol,publisher\ndave,admin\n")
        assert not self.run("01_provision", {"port": free_port()})["error"]
        assert not self.run("02_onboard_user", {"username": "alice", "token_days": 30})["error"]
        login = ClientFiles(self.index.target.client_folder("alice")).login()
        assert login is not None
        assert login.password is not None
        self.index.logins["alice"] = ("alice", login.password.reveal())
        self.index.upload("alice", "spam", "1.0")
        self.index.upload("alice", "eggs", "1.0")
        assert not self.run("06_back_up", {"destination": "HOME/snapshots"})["error"]
        self.index.target.stop()
        shutil.copytree(home, self._made)
        self.reset()
        return self

    def reset(self, *, lost: bool = False) -> None:
        """Reset everything to the initial state; with *lost*, without the volumes' contents."""
        self.index.target.stop()
        shutil.rmtree(self.operator.home)
        shutil.copytree(self._made, self.operator.home)
        if lost:
            for volume in (PACKAGES_VOLUME, CREDENTIALS_VOLUME):
                self.index.target.delete_volume(volume)
        assert not self.run("01_provision")["error"]

    def run(self, notebook: str, parameters: Mapping[str, Any] | None = None, number: int = 0) -> dict[str, Any]:
        """Run a notebook, and kill it before a given step."""
        return self._worker.run(notebook, parameters or {}, number)

    def contents(self) -> dict[str, str]:
        """The digest of each file that only changes with the index or the workspace."""
        found = self.index.digests()
        for path in self._files():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def _files(self) -> list[Path]:
        """The operator's files, except for volumes and logs."""
        apart = {"volumes", "versions"}
        return sorted(
            path
            for path in self.operator.home.rglob("*")
            if path.is_file() and not apart & set(path.parts) and path.name not in {"lock", "server.log", "copy"}
        )

    def seen(self) -> dict[str, Any]:
        """The state, without random values and times."""
        target, home = self.index.target, self.operator.home
        state = target.state()
        found: dict[str, Any] = {
            "responds": state.responds,
            "commit": next((version.commit for version in target.history()), ""),
            "home": [
                path.relative_to(home).as_posix()
                for path in self._files()
                if not {"blobs", "snapshots"} & set(path.parts)
            ],
            "snapshots": len(list(home.glob("*/snapshots/*"))),
        }  # fmt: skip
        for part, volume in ((PACKAGES, PACKAGES_VOLUME), (CREDENTIALS, CREDENTIALS_VOLUME)):
            listed = target.list_files(volume) if target.volume_exists(volume) else []
            found[part] = sorted(
                each.path
                for each in listed
                if is_kept(each.path) and not is_log(part, each.path) and not LEFT.match(each.path)
            )
        if state.deployment is None or not state.responds:
            return found
        _, admin = AdminApi.of(target)
        with admin:
            found["users"] = [(user.username, user.role, user.projects) for user in admin.users()]
            found["tokens"] = sorted((token.owner, token.label, token.role) for token in admin.tokens())
        for folder in target.client_folders():
            login = ClientFiles(folder).login()
            assert login is not None
            with HttpClient(state.deployment.url, username=login.username, password=login.password) as http:
                found[f"login of {folder.name}"] = http.request("GET", "simple/").status_code
            for path in folder.glob("*token*"):
                with HttpClient(
                    state.deployment.url, username="__token__", password=Secret(path.read_text().strip())
                ) as http:
                    found[path.name] = http.request("GET", "simple/").status_code
        return found

    def __exit__(self, *error: object) -> None:
        """End the server and the worker."""
        self.index.target.stop()
        self._worker.close()
