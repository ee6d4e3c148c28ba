"""Environment of a Modal workspace, and the client files of its users on this machine."""

from __future__ import annotations

import configparser
import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ops.errors import RunbookError
from ops.settings import SERVER_FUNCTION, Settings
from ops.targets.modal_session import ask, modal
from ops.workspace import Workspace

if TYPE_CHECKING:
    from modal_proto.api_pb2 import EnvironmentListItem

TARGET = "modal"


class ModalEnvironment:
    """A named environment, or Modal's default.

    Parameters:
        given: its name; empty for the client's default.
    """

    def __init__(self, given: str) -> None:
        self.given = given

    @cached_property
    def name(self) -> str:
        """Its name, as reported by Modal.

        Raises:
            RunbookError: there is no such environment, or Modal did not respond.
        """

        def look() -> str:
            if self.given:
                found = modal.Environment.from_name(self.given).hydrate().name
            else:
                found = modal.Environment.from_context().hydrate().name
            return found or self.given or "main"

        return ask("look up the environment", look, seconds=60)

    @cached_property
    def is_default(self) -> bool:
        """True if Modal's client uses it without ``MODAL_ENVIRONMENT``."""
        profile = modal.config.config.get("environment", use_env=False)
        if profile:
            return bool(profile == self.name)
        default = next((item.name for item in self._all() if item.default), None)
        return self.name == default if default else not self.given

    @property
    def place(self) -> str:
        """The name of its folders: the target and the environment."""
        return f"{TARGET}.{self.name}"

    @property
    def earlier_prefixes(self) -> tuple[str, ...]:
        """Prefixes of this environment's files in the earlier layout, with one folder for all environments."""
        named = (f"{self.name}.",) if self.name != "default" else ()
        return (*named, *(("default.",) if self.is_default else ()))

    def other_urls(self, settings: Settings) -> set[str]:
        """URLs of the indexes in the other environments listed by Modal."""

        def look() -> set[str]:
            found = set()
            for item in self._all():
                if item.name == self.name:
                    continue
                function = modal.Function.from_name(settings.app_name, SERVER_FUNCTION, environment_name=item.name)
                with contextlib.suppress(modal.exception.Error):
                    found.add(f"{function.get_web_url()}/")
            return found

        return ask("look up the other environments", look)

    @staticmethod
    def _all() -> Sequence[EnvironmentListItem]:
        try:
            return ask("list the environments", modal.environments.list_environments, seconds=60)
        except RunbookError:
            # A token for one environment cannot list the others.
            return ()


class EnvironmentFolders:
    """The client files of the users of one environment.

    Parameters:
        workspace: the operator's folder.
        environment: of the users.
        settings: the names of the index.
        url: of the index in this environment, if it is deployed.
    """

    def __init__(
        self, workspace: Workspace, environment: ModalEnvironment, settings: Settings, url: Callable[[], str | None]
    ) -> None:
        self._workspace = workspace
        self._environment = environment
        self._settings = settings
        self._url = url

    def of(self, username: str) -> Path:
        """Folder of one user: the one in the earlier layout if it belongs to this environment and is the only one."""
        folder = self._workspace.user(self._environment.place, username)
        earlier = self._workspace.user(TARGET, username)
        return earlier if not folder.exists() and earlier.is_dir() and self._owned([earlier]) else folder

    def all(self) -> list[Path]:
        """Folders of all users, sorted by name."""
        now = _folders(self._workspace.users(self._environment.place))
        earlier = self._owned(_folders(self._workspace.users(TARGET)))
        return sorted([*now, *earlier], key=lambda folder: (folder.name, str(folder)))

    def _owned(self, folders: Sequence[Path]) -> list[Path]:
        """Folders of the earlier layout that belong to this environment, judging by the index in their files.

        Files that name no deployed index belong to the default environment.
        """
        if not folders:
            return []
        url = self._url()
        others = self._environment.other_urls(self._settings) if self._environment.is_default else set()
        return [
            folder
            for folder in folders
            if (named := _index_of(folder)) == url or (self._environment.is_default and named not in others)
        ]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _index_of(folder: Path) -> str:
    """URL of the index in client files; empty if there is none."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string((folder / ".pypirc").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return ""
    named = [parser.get(section, "repository", fallback="") for section in parser.sections()]
    return next((url for url in named if url), "")
