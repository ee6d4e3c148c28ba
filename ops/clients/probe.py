"""A wheel that every index refuses, to ask only whether a client is let in."""

from __future__ import annotations

import zipfile
from pathlib import Path

PROBE = "runbook-login-check"
"""A project that no index has. Who is let in gets 404 for its page, who is not gets 401."""

_DIST_INFO = "runbook_login_check-0.dist-info"


def write_refused_wheel(folder: Path) -> Path:
    """Write a wheel that twine and uv send and an index refuses, since its name and its metadata disagree.

    Who is let in gets 400 for it, or 403 for want of the right to upload; who is not gets 401. Nothing is ever stored.
    """
    path = folder / "runbook_login_check-0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: another-name\nVersion: 0\n"
    wheel = "Wheel-Version: 1.0\nGenerator: pypi-runbook\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{_DIST_INFO}/METADATA", metadata)
        archive.writestr(f"{_DIST_INFO}/WHEEL", wheel)
        archive.writestr(f"{_DIST_INFO}/RECORD", "")
    return path
