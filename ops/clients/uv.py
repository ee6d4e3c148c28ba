"""uv, as the user whose files it is given."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.clients.command import Result, environment, run
from ops.clients.configuration import ClientFiles, Login
from ops.errors import ClientError

_REFUSED = re.compile(r"\((401|403) (?:Unauthorized|Forbidden)\)|Missing credentials")
_UPLOAD_REFUSED = re.compile(r"status code (\d{3})")


@dataclass(frozen=True)
class Uv:
    """The uv of this interpreter's environment.

    Parameters:
        files: the configuration that it reads.
        login: what that configuration says.
    """

    files: ClientFiles
    login: Login

    def page_status(self, project: str) -> int:
        """What the index answers when this uv asks for a project's page: 200, or 404 for none, or 401, or 403.

        Raises:
            ClientError: uv got no answer, or one that it does not name.
        """
        result = self._run("pip", "compile", "--no-deps", "--no-header", "-", text=f"{project}\n")
        if result.returncode == 0:
            return 200
        if refused := _REFUSED.search(result.output):
            return int(refused[1] or 401)
        if "was not found in the package registry" in result.output:
            return 404
        raise ClientError(
            f"uv got no answer from {self.login.index_url}",
            client="uv",
            returncode=result.returncode,
            output=result.output,
            todo="see whether the index answers at that address",
        )

    def publish(self, files: Sequence[Path]) -> tuple[int, Result]:
        """Publish files; the status that the index answered, 200 when all were taken, and what uv said.

        Raises:
            ClientError: uv got no answer.
        """
        result = self._run("publish", *files)
        refused = _UPLOAD_REFUSED.search(result.output)
        if result.returncode == 0:
            return 200, result
        if refused is None and _REFUSED.search(result.output):
            return 401, result
        if refused is None:
            raise ClientError(
                f"uv could not publish to {self.login.url}",
                client="uv",
                returncode=result.returncode,
                output=result.output,
                todo="see whether the index answers at that address",
            )
        return int(refused[1]), result

    def make_environment(self, folder: Path) -> Path:
        """Make an empty virtual environment with this interpreter; return its Python."""
        result = self._run("venv", "--quiet", "--no-project", "--python", sys.executable, folder)
        result.checked("uv could not make a virtual environment")
        return folder / "bin" / "python"

    def install(self, requirement: str, *, python: Path) -> Result:
        """Install one distribution without its dependencies into the environment of *python*."""
        return self._run("pip", "install", "--no-deps", "--quiet", "--python", python, requirement)

    def _run(self, *arguments: str | Path, text: str = "") -> Result:
        variables = {
            "UV_CONFIG_FILE": str(self.files.uv_toml),
            "NETRC": str(self.files.netrc),
            # Ours is the only index here, or a name that it lacks would be asked for elsewhere.
            "UV_DEFAULT_INDEX": self.login.index_url,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_CACHE": "1",
            "UV_NO_PROGRESS": "1",
        }
        secrets = [self.login.password] if self.login.password else []
        return run(
            "uv",
            [_program(), *arguments],
            environment=environment(self.login.url, variables),
            secrets=secrets,
            text=text,
        )


def _program() -> str:
    """The uv that this project installed; it need not be on PATH."""
    from uv import find_uv_bin

    try:
        return find_uv_bin()
    except FileNotFoundError:
        return "uv"
