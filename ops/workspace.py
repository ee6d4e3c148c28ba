"""Workspace of an operator: volumes of the local target, secrets, client files and records.

.runbook/
  local/                    the local target
    volumes/NAME/           one folder a volume
    secrets/NAME.env        0600, one KEY=value a line
    server.json, server.log
    temporary/USER          a user made for a running notebook
  modal.ENVIRONMENT/        one Modal environment
    secrets/NAME.env        the operator's copy of secrets, which Modal does not return
  users/PLACE/USER/         pip.conf, uv.toml, .pypirc, netrc, env.sh; the place is local or modal.ENVIRONMENT
  records/RUN/              executed notebooks, reports, record.json

Earlier versions kept all Modal environments in modal/ and users/modal/, which are still read.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ops.errors import SettingError
from ops.private_files import private_folder

HOME_VARIABLE = "PYPI_RUNBOOK_HOME"

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The clone that this package was installed from (an editable install), with ``notebooks/``."""


@dataclass(frozen=True)
class Workspace:
    """Folder of an operator."""

    home: Path

    @classmethod
    def default(cls) -> Workspace:
        """The folder in ``PYPI_RUNBOOK_HOME``, else ``.runbook`` in the clone.

        Raises:
            SettingError: the variable does not name a usable folder.
        """
        named = os.environ.get(HOME_VARIABLE)
        if not named:
            return cls(PROJECT_ROOT / ".runbook")
        try:
            named.encode()
        except UnicodeEncodeError:
            raise _unusable(ascii(named), "its name is not UTF-8, but records store it as text") from None
        try:
            home = Path(named).expanduser().resolve()
        except RuntimeError as error:  # ~unknown, or a symbolic link to itself
            raise _unusable(named, str(error)) from None
        # os.path.exists does not raise without permission.
        above = next(folder for folder in (home, *home.parents) if os.path.exists(folder))  # noqa: PTH110
        if not above.is_dir():
            raise _unusable(named, f"{above} is not a folder")
        return cls(home)

    @property
    def records(self) -> Path:
        """Folder of all records, one folder per run."""
        return self.home / "records"

    def target(self, place: str) -> Path:
        """Folder of a target, or of one of its environments."""
        return self.home / place

    def secrets(self, place: str) -> Path:
        """Folder with the secrets of a target or environment, in files of mode 0600."""
        return self.home / place / "secrets"

    def users(self, place: str) -> Path:
        """Folder with the client files of all users of a target or environment."""
        return self.home / "users" / place

    def user(self, place: str, username: str) -> Path:
        """Folder with the client files of one user."""
        return self.users(place) / username

    def create(self) -> Workspace:
        """Create the folder, with mode 0700, and return the workspace."""
        try:
            private_folder(self.home)
        except PermissionError:
            raise
        except OSError as error:
            raise _unusable(str(self.home), f"it cannot be created: {error.strerror or error}") from None
        return self


def _unusable(named: str, why: str) -> SettingError:
    return SettingError(
        f"the runbook cannot store its files in {named!r}",
        why=why,
        todo=f"set {HOME_VARIABLE} to one of your folders, or unset it for .runbook in the clone",
    )


def shown(path: Path) -> str:
    """Absolute path for a shell: relative to ``~`` if possible, quoted if necessary."""
    home, absolute = Path.home(), path.absolute()
    if absolute != home and absolute.is_relative_to(home):
        return f"~/{shlex.quote(str(absolute.relative_to(home)))}"
    return shlex.quote(str(absolute))
