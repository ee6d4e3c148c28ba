"""pip, as the user whose files it is given."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ops.clients.command import Result, environment, run
from ops.clients.configuration import ClientFiles, Login
from ops.errors import ClientError

_ANSWER = re.compile(r'"GET (\S+) HTTP/[\d.]+" (\d{3})')


@dataclass(frozen=True)
class Pip:
    """The pip of this interpreter's environment.

    Parameters:
        files: the configuration that it reads.
        login: what that configuration says.
    """

    files: ClientFiles
    login: Login

    def page_status(self, project: str) -> int:
        """What the index answers when this pip asks for a project's page: 200, or 404 for none, or 401.

        pip prints the same sentence for all that is not a page, so its own log of requests is read instead.

        Raises:
            ClientError: pip got no answer.
        """
        result = self._run("-vv", "index", "versions", project)
        statuses = [int(status) for path, status in _ANSWER.findall(result.output) if path.endswith(f"/{project}/")]
        if not statuses:
            raise ClientError(
                f"pip got no answer from {self.login.index_url}",
                client="pip",
                returncode=result.returncode,
                output=result.output,
                todo="see whether the index answers at that address",
            )
        return statuses[-1]

    def install(self, requirement: str, *, python: Path) -> Result:
        """Install one distribution without its dependencies into the environment of *python*."""
        return self._run("--python", python, "install", "--no-deps", "--no-cache-dir", "--quiet", requirement)

    def download(self, requirement: str, *, into: Path) -> Result:
        """Download one wheel without its dependencies."""
        return self._run(
            "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet", "--dest", into, requirement
        )

    def _run(self, *arguments: str | Path) -> Result:
        variables = {
            "PIP_CONFIG_FILE": str(self.files.pip_conf),
            "NETRC": str(self.files.netrc),
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # One space is pip's only way to say "none" over the machine's own /etc/pip.conf, which is read as well.
            "PIP_EXTRA_INDEX_URL": " ",
            "PIP_FIND_LINKS": " ",
        }
        secrets = [self.login.password] if self.login.password else []
        command = [sys.executable, "-m", "pip", *arguments]
        return run("pip", command, environment=environment(self.login.url, variables), secrets=secrets)
