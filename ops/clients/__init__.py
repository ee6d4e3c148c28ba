"""Clients of an index as a user runs them: pip, uv and twine, and their configuration files."""

from __future__ import annotations

from ops.clients.command import Result, is_loopback
from ops.clients.configuration import REPOSITORY, ClientFiles, Login
from ops.clients.pip import Pip
from ops.clients.probe import PROBE, write_refused_wheel
from ops.clients.twine import Twine
from ops.clients.uv import Uv

__all__ = [
    "PROBE",
    "REPOSITORY",
    "ClientFiles",
    "Login",
    "Pip",
    "Result",
    "Twine",
    "Uv",
    "is_loopback",
    "write_refused_wheel",
]
