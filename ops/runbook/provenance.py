"""Provenance of a run: its user and host, the revision of the code, the CI run, and the versions of the tools."""

from __future__ import annotations

import getpass
import os
import platform
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from ops import __version__
from ops.revisions import head, is_changed
from ops.workspace import PROJECT_ROOT


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin and tools of a run.

    Parameters:
        who: ``user`` and ``host``.
        revision: ``commit``, and ``dirty`` if tracked files differ from it; empty outside a Git repository.
        ci: ``provider``, ``run``, ``url``, ``workflow``, ``event`` and ``actor`` of a CI run; empty elsewhere.
        versions: of Python, this project and the tools that run notebooks.
    """

    who: Mapping[str, str] = field(default_factory=dict)
    revision: Mapping[str, Any] = field(default_factory=dict)
    ci: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_now(cls, *, root: Path = PROJECT_ROOT) -> Self:
        """The provenance of this process, with the clone *root*."""
        return cls(_who(), _revision(root), _ci(os.environ), _versions())

    @classmethod
    def from_json(cls, stored: MutableMapping[str, Any]) -> Self:
        """Read the fields of a stored record; those that an earlier version did not write are empty."""
        return cls(**{each.name: stored.pop(each.name, {}) for each in fields(cls)})


def _revision(root: Path) -> Mapping[str, Any]:
    """The commit checked out in *root*, and whether tracked files differ from it; empty if unknown."""
    commit, dirty = head(root), is_changed(root, untracked=False)
    return {"commit": commit, "dirty": dirty} if commit and dirty is not None else {}


def _who() -> Mapping[str, str]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry in /etc/passwd; KeyError before Python 3.13
        user = str(os.getuid())
    return {"user": user, "host": socket.gethostname()}


def _ci(variables: Mapping[str, str]) -> Mapping[str, str]:
    if variables.get("GITHUB_ACTIONS") != "true":
        return {"provider": "unknown"} if variables.get("CI") else {}
    run = variables.get("GITHUB_RUN_ID", "")
    found = {
        "provider": "github",
        "run": run,
        "attempt": variables.get("GITHUB_RUN_ATTEMPT", ""),
        "url": "/".join(
            [variables.get("GITHUB_SERVER_URL", ""), variables.get("GITHUB_REPOSITORY", ""), "actions", "runs", run]
        ),
        "workflow": variables.get("GITHUB_WORKFLOW", ""),
        "event": variables.get("GITHUB_EVENT_NAME", ""),
        "actor": variables.get("GITHUB_ACTOR", ""),
    }
    return {name: value for name, value in found.items() if value}


def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version(), "pypi-runbook": __version__}
    for distribution in ("papermill", "nbclient", "ipykernel"):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "unknown"
    return found
