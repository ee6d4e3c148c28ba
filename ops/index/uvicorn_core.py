"""Core of uvicorn, without the parts that this server does not use, which would take a sixth of its startup.

They are the command line, with supervisors, file watchers and option parsers, and the configuration of logs by files.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType

_UNUSED = {
    "uvicorn.main": dict.fromkeys(("Server", "main", "run")),
    "logging.config": {},
    "configparser": {"RawConfigParser": None},
}
"""Modules, with the attributes that are imported from them."""


def _import_core() -> None:
    """Import the package with stand-ins for modules; a later import finds the real ones."""
    absent = {name: attributes for name, attributes in _UNUSED.items() if name not in sys.modules}
    for name, attributes in absent.items():
        stand_in = ModuleType(name)
        vars(stand_in).update(attributes)
        sys.modules[name] = stand_in
    try:
        import uvicorn
        import uvicorn.config
    finally:
        for name in absent:
            del sys.modules[name]
    for attribute in _UNUSED["uvicorn.main"]:
        delattr(uvicorn, attribute)
    if "logging.config" in absent:
        _import_later("logging.config")


def _import_later(name: str) -> None:
    """Import a submodule of ``logging`` on its first use."""
    spec = find_spec(name)
    assert spec is not None and spec.loader is not None  # noqa: PT018, S101 - of the standard library
    spec.loader = LazyLoader(spec.loader)
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    setattr(logging, name.rpartition(".")[2], module)


if "uvicorn" not in sys.modules:
    _import_core()

from uvicorn.config import Config  # noqa: E402 - after the line above
from uvicorn.protocols.http.flow_control import FlowControl  # noqa: E402
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol  # noqa: E402
from uvicorn.server import Server as UvicornServer  # noqa: E402

__all__ = ["STATUS_LINE", "Config", "FlowControl", "HttpToolsProtocol", "UvicornServer"]

sys.modules["uvicorn"].Server = UvicornServer  # type: ignore[attr-defined]
