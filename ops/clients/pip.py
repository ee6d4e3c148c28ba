"""pip, configured by a user's client files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.clients.client import Client, Result

_RESPONSE = re.compile(r'"GET (\S+) HTTP/[\d.]+" (\d{3})')


@dataclass(frozen=True)
class Pip(Client):
    """The pip of this interpreter's environment."""

    name = "pip"

    def page_status(self, project: str) -> int:
        """Status of the response when pip requests a project's page: 200, 404 if there is none, or 401.

        Read from pip's debug log, because pip prints the same message for every status but 200.

        Raises:
            ClientError: pip got no response.
        """
        result = self._run("-vv", "index", "versions", project)
        statuses = [int(status) for path, status in _RESPONSE.findall(result.output) if path.endswith(f"/{project}/")]
        if not statuses:
            raise self._failure(f"pip got no response from {self.login.index_url}", result)
        return statuses[-1]

    def install(self, requirement: str, *, python: Path) -> Result:
        """Install one distribution, without its dependencies, into the environment of *python*."""
        return self._run("--python", python, "install", "--no-deps", "--no-cache-dir", "--quiet", requirement)

    def _command(self) -> Sequence[str]:
        return sys.executable, "-m", "pip"

    def _variables(self) -> Mapping[str, str]:
        return {
            "PIP_CONFIG_FILE": str(self.files.pip_conf),
            "NETRC": str(self.files.netrc),
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # One space is pip's only way to override the machine's own /etc/pip.conf with nothing.
            "PIP_EXTRA_INDEX_URL": " ",
            "PIP_FIND_LINKS": " ",
        }
