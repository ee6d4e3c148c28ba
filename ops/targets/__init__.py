"""Targets of a deployment, this machine (``local``) or Modal (``modal``), behind one interface."""

from __future__ import annotations

import os

from ops.errors import ParameterError
from ops.settings import Settings
from ops.targets.target import (
    UPGRADE,
    Check,
    CredentialAge,
    DeployedVersion,
    Deployment,
    HostingChange,
    HostingDifferences,
    Move,
    State,
    Target,
    VolumeFile,
    content_of,
    local_copy,
)
from ops.workspace import Workspace

TARGETS = ("local", "modal")
"""Values of the notebooks' parameter ``target``."""


def open_target(
    name: str,
    *,
    workspace: Workspace | None = None,
    port: int | None = None,
    environment: str | None = None,
) -> Target:
    """Create the target called *name*. Contacts and changes nothing.

    Parameters:
        name: ``local`` or ``modal``.
        workspace: the operator's folder; None for the default one.
        port: TCP port to listen on, for the local target; None or 0 for any.
        environment: of Modal; None for ``MODAL_ENVIRONMENT``, or Modal's own default.

    Raises:
        ParameterError: there is no target with that name.
        TargetError: a package that the target needs is not installed, or the workspace cannot be used.
    """
    workspace = workspace or Workspace.default()
    if name == "local":
        from ops.targets.local import LocalTarget

        return LocalTarget(workspace, Settings(), port=port or None)
    if name == "modal":
        from ops.targets.modal import ModalTarget

        return ModalTarget(workspace=workspace, environment=environment)
    raise ParameterError(
        f"there is no target {name!r}",
        why=f"the targets are {' and '.join(TARGETS)}",
        todo='use target="local" for this machine or target="modal" for Modal',
    )


def known_places(workspace: Workspace | None = None) -> list[tuple[str, str | None]]:
    """Targets and environments with files in this workspace, as arguments of :func:`open_target`.

    Always includes the local target, and the environment in ``MODAL_ENVIRONMENT``.
    """
    home = (workspace or Workspace.default()).home
    folders = home.glob("modal.*/") if home.is_dir() else ()
    environments = {folder.name.removeprefix("modal.") for folder in folders}
    if named := os.environ.get("MODAL_ENVIRONMENT"):
        environments.add(named)
    return [("local", None), *(("modal", name) for name in sorted(environments))]


__all__ = [
    "TARGETS",
    "UPGRADE",
    "Check",
    "CredentialAge",
    "DeployedVersion",
    "Deployment",
    "HostingChange",
    "HostingDifferences",
    "Move",
    "State",
    "Target",
    "VolumeFile",
    "content_of",
    "known_places",
    "local_copy",
    "open_target",
]
