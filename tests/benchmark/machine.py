"""The machine that a benchmark ran on, and the versions of everything measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from ops import __version__

_OURS = ("pypiserver", "uvicorn", "uvloop", "httptools", "bcrypt", "libpass", "uv")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Machine and date of a run. *memory* is in bytes, *when* is ISO 8601 in UTC."""

    cpu: str
    cores: int
    memory: int
    system: str
    disk: str
    load: float
    when: str

    @classmethod
    def here(cls, folder: Path) -> Machine:
        """This machine, with the file system of *folder* and the one-minute load average."""
        return cls(
            cpu=_cpu(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory=psutil.virtual_memory().total,
            system=f"{_distribution()}, {platform.system()} {platform.release()} {platform.machine()}",
            disk=_file_system(folder),
            load=os.getloadavg()[0],
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def own_versions() -> Mapping[str, str]:
    """Versions of Python and the packages used by our server and the clients."""
    found = {"pypi-runbook": __version__, "python": platform.python_version()}
    for name in _OURS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def program_version(command: list[str], pattern: str) -> str:
    """The version printed by a program, matched by the pattern's only group; empty if it cannot run."""
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(pattern, finished.stdout + finished.stderr)
    return found[1] if found else ""


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)


def _file_system(folder: Path) -> str:
    """The type of the file system: on tmpfs, durable writes would look free."""
    folder = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"
