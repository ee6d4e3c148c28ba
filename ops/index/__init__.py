"""The server: packages, users and the admin application. Knows neither Modal nor Jupyter.

The public names are in ``__all__``; each is imported on first use, as writing a ``.htpasswd`` needs no server.
The admin application by itself is :func:`ops.index.admin.app.create_admin`.
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ops.index.assembly import create_index
    from ops.index.config import Options
    from ops.index.storage.directory import DirectoryStorage
    from ops.index.storage.name_locks import FileNameLocks, NameLocks
    from ops.index.storage.storage import Storage
    from ops.index.storage.volume import GuardedStorage

__all__ = [
    "DirectoryStorage",
    "FileNameLocks",
    "GuardedStorage",
    "NameLocks",
    "Options",
    "Storage",
    "create_index",
]

_HOMES = {
    "NameLocks": "storage.name_locks",
    "DirectoryStorage": "storage.directory",
    "FileNameLocks": "storage.name_locks",
    "GuardedStorage": "storage.volume",
    "Options": "config",
    "Storage": "storage.storage",
    "create_index": "assembly",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    collects = gc.isenabled()
    gc.disable()  # nothing that is imported is garbage, and searching it takes a tenth of the import
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    finally:
        if collects:
            gc.enable()
