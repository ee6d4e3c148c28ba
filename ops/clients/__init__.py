"""Clients of an index as a user runs them: pip, uv and twine, and their configuration files."""

from __future__ import annotations

from ops.clients.client import Result
from ops.clients.configuration import REPOSITORY, ClientFiles, Login, check_public_index, is_loopback
from ops.clients.pip import Pip
from ops.clients.twine import Twine
from ops.clients.uv import Uv

__all__ = [
    "REPOSITORY",
    "ClientFiles",
    "Login",
    "Pip",
    "Result",
    "Twine",
    "Uv",
    "check_public_index",
    "is_loopback",
]
