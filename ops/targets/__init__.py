"""Targets: where an index runs, on this machine (``local``) or on Modal (``modal``), behind one interface."""

from __future__ import annotations

import os

from ops.errors import ParameterError
from ops.settings import Settings
from ops.targets.target import (
    Check,
    DeployedVersion,
    Deployment,
    HostingChange,
    HostingDifferences,
    Move,
    State,
    Target,
)
from ops.workspace import Workspace

TARGETS = ("local", "modal")
"""The values of the notebooks' parameter ``target``."""


def open_target(
    name: str,
    *,
    workspace: Workspace | None = None,
    settings: Settings | None = None,
    host: str | None = None,
    port: int | None = None,
    environment: str | None = None,
) -> Target:
    """The target called *name*, ready to be asked; nothing is contacted or changed yet.

    Parameters:
        name: ``local`` or ``modal``.
        workspace: the operator's folder; the default one when not given.
        settings: the names of the index; the documented ones when not given.
        host: the address to listen on, local target only; loopback when not given.
        port: the TCP port to listen on, local target only; None or 0 lets the target pick one.
        environment: of Modal, that target only; ``MODAL_ENVIRONMENT``, or Modal's own default, when not given.

    Raises:
        ParameterError: there is no target of that name.
        TargetError: what the target needs is not installed, or the workspace cannot be used.
    """
    workspace = workspace or Workspace.default()
    settings = settings or Settings()
    if name == "local":
        from ops.targets.local import LocalTarget

        return LocalTarget(workspace, settings, host=host, port=port or None)
    if name == "modal":
        from ops.targets.modal import ModalTarget

        return ModalTarget(workspace=workspace, settings=settings, environment=environment)
    raise ParameterError(
        f"there is no target {name!r}",
        why=f"the targets are {' and '.join(TARGETS)}",
        todo='give target="local" for this machine or target="modal" for Modal',
    )


def known_places(workspace: Workspace | None = None) -> list[tuple[str, str | None]]:
    """Every target and environment that this workspace has files of, as arguments of :func:`open_target`.

    The local target is always among them, and of Modal also the environment that ``MODAL_ENVIRONMENT`` names.
    """
    home = (workspace or Workspace.default()).home
    folders = home.glob("modal.*/") if home.is_dir() else ()
    environments = {folder.name.removeprefix("modal.") for folder in folders}
    if named := os.environ.get("MODAL_ENVIRONMENT"):
        environments.add(named)
    return [("local", None), *(("modal", name) for name in sorted(environments))]


__all__ = [
    "TARGETS",
    "Check",
    "DeployedVersion",
    "Deployment",
    "HostingChange",
    "HostingDifferences",
    "Move",
    "State",
    "Target",
    "known_places",
    "open_target",
]
