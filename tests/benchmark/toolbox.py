"""The peers' programs: pinned by version and hash, in separate environments and never in the project's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ops.errors import ClientError

Set = Literal["stock", "devpi", "peryx"]
"""Environments, separate because stock pypiserver needs libpass and devpi passlib, both imported as ``passlib``."""

_REQUIREMENTS = Path(__file__).parent / "requirements"
_INSTALL_SECONDS = 300


@dataclass(frozen=True)
class Toolbox:
    """The environments below *folder*, created on demand and kept for the next run."""

    folder: Path

    def install(self, name: Set) -> bool:
        """Install one set of programs; False if already installed.

        Raises:
            ClientError: uv failed, for example because no package index is reachable.
        """
        stamp = self._environment(name) / "installed"
        digest = hashlib.sha256(self._requirements(name).read_bytes() + sys.version.encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == digest:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = self._environment(name)
        self._uv("venv", "--quiet", "--clear", "--python", sys.executable, str(environment))
        requirements = str(self._requirements(name))
        self._uv("pip", "install", "--quiet", "--python", str(environment), "--require-hashes", "-r", requirements)
        stamp.write_text(digest)
        return True

    def missing(self, name: Set) -> str:
        """Why a set cannot be used; empty if it can."""
        if (self._environment(name) / "installed").is_file():
            return ""
        return f"its environment was not installed from {self._requirements(name).name}"

    def program(self, name: Set, program: str) -> str:
        """The path of a set's program."""
        return str(self._environment(name) / "bin" / program)

    def version(self, name: Set, distribution: str) -> str:
        """The pinned version of a distribution in a set."""
        for line in self._requirements(name).read_text().splitlines():
            if line.startswith(f"{distribution}=="):
                return line.removeprefix(f"{distribution}==").split()[0]
        return ""

    @cached_property
    def uv(self) -> str:
        """uv, a dependency of this project: next to this Python, otherwise on PATH."""
        beside = Path(sysconfig.get_path("scripts")) / "uv"
        return str(beside) if beside.exists() else shutil.which("uv") or "uv"

    def _environment(self, name: Set) -> Path:
        return self.folder / name

    def _requirements(self, name: Set) -> Path:
        return _REQUIREMENTS / f"{name}.txt"

    def _uv(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
        try:
            finished = subprocess.run(
                [self.uv, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                timeout=_INSTALL_SECONDS,
            )
            code, output = finished.returncode, finished.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            code, output = -1, str(error)
        if code:
            raise ClientError(
                "the programs to compare with could not be installed",
                client="uv",
                returncode=code,
                output=output,
                todo="see whether a package index can be reached, or leave these peers out with the parameter peers",
            )
