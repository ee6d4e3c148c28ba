"""twine, as the user whose files it is given."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.clients.command import Result, environment, run
from ops.clients.configuration import REPOSITORY, ClientFiles, Login
from ops.errors import ClientError

_REFUSED = re.compile(r"HTTPError: (\d{3})")


@dataclass(frozen=True)
class Twine:
    """The twine of this interpreter's environment.

    Parameters:
        files: the configuration that it reads.
        login: what that configuration says.
    """

    files: ClientFiles
    login: Login

    def upload(self, files: Sequence[Path]) -> tuple[int, Result]:
        """Publish files; the status that the index answered, 200 when all were taken, and what twine said.

        Raises:
            ClientError: twine got no answer, or sent nothing.
        """
        how = ("--non-interactive", "--disable-progress-bar", "--repository", REPOSITORY)
        command: list[str | Path] = [sys.executable, "-m", "twine", "upload", *how]
        command += ["--config-file", self.files.pypirc, *files]
        # Without a keyring of the desktop, which could answer instead of the file.
        variables = {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
        secrets = [self.login.password] if self.login.password else []
        result = run("twine", command, environment=environment(self.login.url, variables), secrets=secrets)
        if result.returncode == 0:
            return 200, result
        refused = _REFUSED.search(result.output)
        if refused is None:
            raise ClientError(
                f"twine could not publish to {self.login.url}",
                client="twine",
                returncode=result.returncode,
                output=result.output,
                todo="see whether the index answers at that address",
            )
        return int(refused[1]), result
