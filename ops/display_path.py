"""Paths for display, as a person types them into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path


def shown(path: Path) -> str:
    """Absolute path for a shell: relative to ``~`` if possible, quoted if necessary."""
    home, absolute = Path.home(), path.absolute()
    if absolute != home and absolute.is_relative_to(home):
        return f"~/{shlex.quote(str(absolute.relative_to(home)))}"
    return shlex.quote(str(absolute))
