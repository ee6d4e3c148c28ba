"""Core of uvicorn, without its command line: supervisors, file watchers and option parsers are a tenth of a start."""

from __future__ import annotations

import sys
from types import ModuleType


def _import_core() -> None:
    """Import the package with a stand-in for ``uvicorn.main``; a later import finds the real one."""
    name = "uvicorn.main"
    absent = dict.fromkeys(("Server", "main", "run"))
    stand_in = ModuleType(name)
    vars(stand_in).update(absent)
    sys.modules[name] = stand_in
    try:
        import uvicorn
    finally:
        del sys.modules[name]
    for attribute in absent:
        delattr(uvicorn, attribute)


if "uvicorn" not in sys.modules:
    _import_core()

from uvicorn.config import Config  # noqa: E402 - after the line above
from uvicorn.protocols.http.flow_control import FlowControl  # noqa: E402
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol  # noqa: E402
from uvicorn.server import Server as UvicornServer  # noqa: E402

__all__ = ["STATUS_LINE", "Config", "FlowControl", "HttpToolsProtocol", "UvicornServer"]

sys.modules["uvicorn"].Server = UvicornServer  # type: ignore[attr-defined]
