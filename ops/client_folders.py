"""The client files of a target's users in this workspace, when the index moves to another address."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ops.admin_api import AdminApi
from ops.clients import ClientFiles
from ops.errors import RunbookError
from ops.plan import Change
from ops.settings import Settings
from ops.targets import Target


@dataclass(frozen=True)
class ClientFolders:
    """Each user's folder of client files, as onboarding wrote it into the workspace.

    Parameters:
        target: where the index runs.
        folders: one a user; each is named as its user.
    """

    target: Target
    folders: tuple[ClientFiles, ...]

    @classmethod
    def of(cls, target: Target) -> ClientFolders:
        """Those of the target's place, which no other place has."""
        return cls(target, tuple(map(ClientFiles, target.client_folders())))

    def naming_another_address(self, url: str) -> list[ClientFiles]:
        """The folders whose files name another address than *url*."""
        logins = ((files, files.login()) for files in self.folders)
        return [files for files, login in logins if login is not None and login.url != url]

    def another_address(self, url: str) -> str:
        """One that files name and that is not *url*; empty when there is none."""
        return next((_url(files) for files in self.naming_another_address(url)), "")

    def changes(self, url: str) -> list[Change]:
        """A line of the plan for each folder that :meth:`readdress` would write."""
        return [
            Change(f"client files of {files.folder.name}", f"name {_url(files)}", f"write them for {url}")
            for files in self.naming_another_address(url)
        ]

    def readdress(self, url: str) -> list[tuple[str, str]]:
        """Write the files that name another address for *url*, and return a line about each user.

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


def who_must_be_told(target: Target, before: str, settings: Settings) -> str:
    """A sentence about the users of an index that moved: their files, and the shells that know the old address.

    Parameters:
        target: where the index runs now.
        before: its address until now.
        settings: the names of the admin secret.
    """
    try:
        _, admin = AdminApi.of(target, settings)
        with admin:
            names: Sequence[str] = [user.username for user in admin.users()]
    except RunbookError:
        names = [files.folder.name for files in ClientFolders.of(target).folders]
    if not names:
        return f"The index moved from {before}; it has no user yet."
    return (
        f"The index moved from {before}. Tell its users ({', '.join(names)}): read env.sh again in every open shell, "
        "replace each copy of the client files, and change what else names the old address. A program that listens "
        "there is sent the passwords of those who go on using it."
    )


def _url(files: ClientFiles) -> str:
    login = files.login()
    return login.url if login else "no address"
