"""The server: packages, users and the admin application. Knows neither Modal nor Jupyter.

The public names are in ``__all__``; each is imported on first use, because writing a ``.htpasswd`` needs no server.
The admin application alone is :func:`ops.index.admin.app.create_admin`.
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
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    collects = gc.isenabled()
    gc.disable()  # imports create no garbage, and looking for it takes a tenth of the import time
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    finally:
        if collects:
            gc.enable()
