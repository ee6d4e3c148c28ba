"""Client files in this workspace, rewritten when the index moves to another address."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.admin_api import AdminApi
from ops.clients import ClientFiles
from ops.errors import RunbookError, TargetError
from ops.plan import Change
from ops.targets import Target
from ops.workspace import shown


@dataclass(frozen=True)
class ClientFolders:
    """Folders of client files written into the workspace by onboarding.

    Parameters:
        target: the target of the index.
        folders: one per user, named like the user.
    """

    target: Target
    folders: tuple[ClientFiles, ...]

    @classmethod
    def of(cls, target: Target) -> ClientFolders:
        """Folders of the users of one target and environment."""
        return cls(target, tuple(map(ClientFiles, target.client_folders())))

    def naming_another_address(self, url: str) -> list[ClientFiles]:
        """Folders whose files contain an address other than *url*."""
        logins = ((files, files.login()) for files in self.folders)
        return [files for files, login in logins if login is not None and login.url != url]

    def another_address(self, url: str) -> str:
        """An address other than *url* in one of the files; empty if there is none."""
        return next((_url(files) for files in self.naming_another_address(url)), "")

    def changes(self, url: str) -> list[Change]:
        """A planned change for each folder that :meth:`readdress` would write."""
        return [
            Change(f"client files of {files.folder.name}", f"name {_url(files)}", f"write them for {url}")
            for files in self.naming_another_address(url)
        ]

    def readdress(self, url: str) -> list[tuple[str, str]]:
        """Rewrite files with another address for *url*, and return a line per user.

        Raises:
            RunbookError: a folder cannot be written.
        """
        done = []
        for files in self.naming_another_address(url):
            login = files.login()
            if login is not None:
                files.write(dataclasses.replace(login, url=url))
                done.append((f"client files of {files.folder.name}", f"written for {url}"))
        return done


def advice_after_move(target: Target, before: str) -> str:
    """Advice for the operator of a moved index: the users to inform.

    Parameters:
        target: the target of the index.
        before: its previous address.
    """
    try:
        _, admin = AdminApi.of(target)
        with admin:
            names: Sequence[str] = [user.username for user in admin.users()]
    except RunbookError:
        names = [files.folder.name for files in ClientFolders.of(target).folders]
    if not names:
        return f"The index moved from {before}; it has no user yet."
    return (
        f"The index moved from {before}. Tell its users ({', '.join(names)}): source env.sh again in every open shell, "
        "replace each copy of the client files, and update anything else with the old address. A program that listens "
        "there gets the passwords of those who keep using it."
    )


def delete_folder(folder: Path) -> None:
    """Delete a file or folder, such as a user's client files.

    Raises:
        TargetError: something in it cannot be deleted.
    """
    try:
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    except OSError as error:
        raise TargetError(
            f"{shown(folder)} could not be deleted",
            why=f"{error.strerror or error}: {error.filename or folder}",
            todo="delete it yourself, and run this notebook again",
        ) from None


def _url(files: ClientFiles) -> str:
    login = files.login()
    return login.url if login else "no address"
