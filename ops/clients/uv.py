"""uv, configured by a user's client files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.clients.client import Client, Result

_REFUSED = re.compile(r"\((401|403) (?:Unauthorized|Forbidden)\)|Missing credentials")
_UPLOAD_REFUSED = re.compile(r"status code (\d{3})")


@dataclass(frozen=True)
class Uv(Client):
    """The uv installed with this project."""

    name = "uv"

    def page_status(self, project: str) -> int:
        """Status of the response when uv requests a project's page: 200, 404 if there is none, 401 or 403.

        Raises:
            ClientError: uv got no response, or one that it does not report.
        """
        result = self._run("pip", "compile", "--no-deps", "--no-header", "-", text=f"{project}\n")
        if result.returncode == 0:
            return 200
        if refused := _REFUSED.search(result.output):
            return int(refused[1] or 401)
        if "was not found in the package registry" in result.output:
            return 404
        raise self._failure(f"uv got no response from {self.login.index_url}", result)

    def publish(self, files: Sequence[Path]) -> tuple[int, Result]:
        """Publish files, and return the status of the response and uv's result. 200 if all were accepted.

        Raises:
            ClientError: uv got no response.
        """
        result = self._run("publish", *files)
        if result.returncode == 0:
            return 200, result
        if refused := _UPLOAD_REFUSED.search(result.output):
            return int(refused[1]), result
        if _REFUSED.search(result.output):
            return 401, result
        raise self._failure(f"uv could not publish to {self.login.url}", result)

    def make_environment(self, folder: Path) -> Path:
        """Create an empty virtual environment with this interpreter, and return its Python."""
        result = self._run("venv", "--quiet", "--no-project", "--python", sys.executable, folder)
        result.checked("uv could not create a virtual environment")
        return folder / "bin" / "python"

    def install(self, requirement: str, *, python: Path) -> Result:
        """Install one distribution, without its dependencies, into the environment of *python*."""
        return self._run("pip", "install", "--no-deps", "--quiet", "--python", python, requirement)

    def _command(self) -> Sequence[str]:
        return (_program(),)

    def _variables(self) -> Mapping[str, str]:
        return {
            "UV_CONFIG_FILE": str(self.files.uv_toml),
            "NETRC": str(self.files.netrc),
            # Makes this the only index: missing names would otherwise be requested elsewhere.
            "UV_DEFAULT_INDEX": self.login.index_url,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_CACHE": "1",
            "UV_NO_PROGRESS": "1",
            # Else uv searches the operator's own credentials, and creates the folder for them.
            "UV_CREDENTIALS_DIR": os.devnull,
        }


def _program() -> str:
    """Path of the installed uv, which may not be on PATH."""
    from uv import find_uv_bin

    try:
        return find_uv_bin()
    except FileNotFoundError:
        return "uv"
