"""Probes for a login: a project that no index has, and a wheel that every index refuses."""

from __future__ import annotations

import zipfile
from pathlib import Path

PROBE = "runbook-login-check"
"""A project that no index has: its page is 404 for a user of the index, and 401 for others."""

_DIST_INFO = "runbook_login_check-0.dist-info"


def write_refused_wheel(folder: Path) -> Path:
    """Write a wheel that twine and uv send, and that every index refuses, since its name contradicts its metadata.

    The response is 400 for a user who may upload, 403 for one who may not, and 401 for others. Nothing is stored.
    """
    path = folder / "runbook_login_check-0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: another-name\nVersion: 0\n"
    wheel = "Wheel-Version: 1.0\nGenerator: pypi-runbook\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{_DIST_INFO}/METADATA", metadata)
        archive.writestr(f"{_DIST_INFO}/WHEEL", wheel)
        archive.writestr(f"{_DIST_INFO}/RECORD", "")
    return path
