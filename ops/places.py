"""Where things lie, as a person reads and types it."""

from __future__ import annotations

import os
from pathlib import Path

from ops.workspace import HOME_VARIABLE, PROJECT_ROOT, Workspace


def shown(path: Path) -> str:
    """A path without what is peculiar to this machine.

    Relative to the project where it lies in it, below ``$PYPI_RUNBOOK_HOME`` where that names the workspace, below
    ``~`` in the home of the user, absolute otherwise. A shell understands them all, the first in the project's folder.
    """
    workspace = Workspace.default().home
    if os.environ.get(HOME_VARIABLE) and path.is_relative_to(workspace):
        return f"${HOME_VARIABLE}/{path.relative_to(workspace)}".removesuffix("/.")
    for root, prefix in ((PROJECT_ROOT, ""), (Path.home(), "~/")):
        if path.is_relative_to(root):
            return prefix + str(path.relative_to(root))
    return str(path)
