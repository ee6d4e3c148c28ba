"""twine, configured by a user's client files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.clients.client import Client, Result
from ops.clients.configuration import REPOSITORY

_REFUSED = re.compile(r"HTTPError: (\d{3})")


@dataclass(frozen=True)
class Twine(Client):
    """The twine of this interpreter's environment."""

    name = "twine"

    def upload(self, files: Sequence[Path]) -> tuple[int, Result]:
        """Publish files, and return the status of the response and twine's result. 200 if all were accepted.

        Raises:
            ClientError: twine got no response, or sent nothing.
        """
        how = ("--non-interactive", "--disable-progress-bar", "--repository", REPOSITORY)
        result = self._run("upload", *how, "--config-file", self.files.pypirc, *files)
        if result.returncode == 0:
            return 200, result
        refused = _REFUSED.search(result.output)
        if refused is None:
            raise self._failure(f"twine could not publish to {self.login.url}", result)
        return int(refused[1]), result

    def _command(self) -> Sequence[str]:
        return sys.executable, "-m", "twine"

    def _variables(self) -> Mapping[str, str]:
        # A desktop keyring would take precedence over the file.
        return {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
