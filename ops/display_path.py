"""Paths as a person reads and types them."""

from __future__ import annotations

import shlex
from pathlib import Path


def shown(path: Path) -> str:
    """A path as a shell takes it from whatever directory: below ``~`` in the user's home, quoted where it has to be."""
    home, absolute = Path.home(), path.absolute()
    if absolute != home and absolute.is_relative_to(home):
        return f"~/{shlex.quote(str(absolute.relative_to(home)))}"
    return shlex.quote(str(absolute))
