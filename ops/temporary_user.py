"""Temporary users and admins of an index, removed when no longer needed."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from packaging.version import Version

from ops import __version__
from ops.admin_api import AdminApi
from ops.clients import ClientFiles, Login
from ops.errors import IndexRequestError, RunbookError
from ops.http_client import JSON, HttpClient, login_status
from ops.polling import until, until_equal
from ops.private_files import private_file, private_folder, temporary_folder
from ops.secret import Secret
from ops.targets import Target
from ops.targets.index_rules import RANDOM_PASSWORD_ROUNDS, password_hash
from ops.test_release import PROJECT
from ops.workspace import Workspace

_STALE = timedelta(hours=1)
"""Age from which leftovers of a test that was killed on another machine are removed."""

_PREFIX = "runbook-smoke-"
"""Beginning of the names of temporary folders."""

_USERNAME = re.compile(r"(?:smoke|operator|incident)-([0-9a-f]{8})[0-9a-f]{4}")
_VERSION = re.compile(r"\d+(?:\.\d+)*\.dev(\d{14})\d{3}")


class TemporaryUser:
    """User with the role admin, to publish and remove one release.

    Parameters:
        target: the target of the index.
        prefix: of the user's name, which shows its purpose in the audit log: ``smoke`` or ``operator``.
    """

    def __init__(self, target: Target, *, prefix: str = "smoke") -> None:
        self._target = target
        now = datetime.now(UTC)
        self.username = _new_name(prefix)
        # In milliseconds: uv does not accept numbers of more than 64 bits.
        number = f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03}"
        self.version = f"{Version(__version__).base_version}.dev{number}"
        self.ended = False
        self._removed = False
        self._file = contextlib.ExitStack()
        self._temporary = contextlib.ExitStack()
        self._folder: Path | None = None
        self._logins: dict[str, Login] = {}

    def start(self) -> tuple[int, int]:
        """Register the user, and return the numbers of removed leftover users and releases.

        Raises:
            NotDeployedError: there is no index.
            IndexRequestError: the index refused the user.
        """
        self._folder = self._temporary.enter_context(temporary_folder(_PREFIX))
        # Even if the kernel is shut down in the middle.
        atexit.register(self._end_quietly)
        password = Secret.generate()
        deployment, admin = AdminApi.of(self._target)
        with admin:
            stale, left = _remove_stale_users(self._target, admin)
            digest = password_hash(password, RANDOM_PASSWORD_ROUNDS)
            self._file.enter_context(_with_file(self._target, self.username, self.version))
            admin.register(self.username, password_hash=digest, role="admin")
        url = deployment.url
        self._logins = {
            "the user": Login(url=url, username=self.username, password=password),
            "a wrong password": Login(url=url, username=self.username, password=Secret(f"not-{secrets.token_hex(8)}")),
            "a stranger": Login(url=url),
        }
        for who, login in self._logins.items():
            self.files(who).write(login)
        until_equal(self.login_status, 200)
        releases = self._remove_stale_releases(left.values())
        for path in left:
            path.unlink(missing_ok=True)
        return stale, releases

    @property
    def user(self) -> Login:
        """Login of the user."""
        return self.login("the user")

    def login(self, who: str) -> Login:
        """Login for ``the user``, ``a wrong password`` or ``a stranger``."""
        if who not in self._logins:
            raise RunbookError("this test was not started", todo="run the notebook from its start")
        return self._logins[who]

    def files(self, who: str) -> ClientFiles:
        """Client files of one of these logins."""
        return ClientFiles(self.inside(who.replace(" ", "-")))

    def inside(self, name: str) -> Path:
        """Path in a folder that is removed at the end."""
        if self._folder is None:
            raise RunbookError("this test was not started", todo="run the notebook from its start")
        return self._folder / name

    def http(self, who: str = "the user") -> HttpClient:
        """HTTP client with one of these logins."""
        return HttpClient.of(self.login(who))

    def login_status(self, who: str = "the user") -> int:
        """Status of the index's response to one of these logins."""
        return login_status(self.login(who))

    def versions(self) -> list[str]:
        """Published versions of this project."""
        with self.http() as http:
            page = http.request("GET", f"simple/{PROJECT}/", headers={"Accept": JSON})
        return list(page.json().get("versions", [])) if page.status_code == 200 else []

    def remove_release(self) -> str:
        """Remove the release with the upload API, and return its state afterwards.

        Raises:
            IndexRequestError: the index refused.
        """
        self._remove(self.version)
        left = until(self.versions, lambda versions: self.version not in versions)
        return "still there" if self.version in left else "removed"

    def delete_user(self) -> str:
        """Delete the user, and return its state afterwards.

        Raises:
            IndexRequestError: the index refused.
        """
        _, admin = AdminApi.of(self._target)
        with admin:
            admin.delete(self.username)
            return "still there" if admin.user(self.username) else "deleted"

    def end(self) -> None:
        """Remove release, user and temporary files, if there are any. May be called again, also if it failed.

        Raises:
            IndexRequestError: the index refused, or did not respond.
        """
        if self._removed or self._folder is None:
            return
        self.ended = True
        try:
            with self._file:  # which stays if the release does, for the next one to remove
                try:
                    if self._logins and self.login_status() == 200:
                        self._remove(self.version)
                finally:
                    self.delete_user()
                    self._removed = True
                    atexit.unregister(self._end_quietly)
        finally:
            self._temporary.close()

    def _end_quietly(self) -> None:
        with contextlib.suppress(RunbookError):
            self.end()

    def _remove(self, version: str) -> None:
        with self.http() as http:
            form = {":action": "remove_pkg", "name": PROJECT, "version": version}
            response = http.request("POST", "", data=form)
        if response.status_code not in {200, 404}:
            raise IndexRequestError(
                f"the release {version} could not be removed",
                status=response.status_code,
                why=f"the index responded with {response.status_code}",
                todo="remove it as an admin of the index",
            )

    def _remove_stale_releases(self, known: Collection[str]) -> int:
        stale = [version for version in self.versions() if version in known or _release_is_stale(version)]
        for version in stale:
            self._remove(version)
        return len(stale)


def remove_leftovers(target: Target) -> None:
    """Remove users and releases that killed and failed tests of this machine left on an index.

    Raises:
        NotDeployedError: there is no index.
        IndexRequestError: the index refused.
    """
    if not any(_user_files(target).glob("*")):
        return
    user = TemporaryUser(target)
    try:
        user.start()
    finally:
        user.end()


def _new_name(prefix: str) -> str:
    """A user name that contains the time, so that later runs recognize it as stale."""
    return f"{prefix}-{int(datetime.now(UTC).timestamp()):08x}{secrets.token_hex(2)}"


def _user_files(target: Target) -> Path:
    return Workspace.default().target(target.place) / "temporary"


@contextmanager
def _with_file(target: Target, username: str, version: str = "") -> Iterator[None]:
    """A file for a user who only exists inside the context, with the version to remove too if we are killed.

    It stays locked until then.
    """
    path = _user_files(target) / username
    private_folder(path.parent)
    descriptor = private_file(path, os.O_WRONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, version.encode())
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _remove_stale_users(target: Target, admin: AdminApi) -> tuple[int, dict[Path, str]]:
    """Remove users left by killed runs of this machine, and old ones of others.

    Returns their number, and each remaining file of a killed run here with the version that it may have published: the
    file is to be removed after the release.
    """
    left = {}
    # Locked until the users are deleted: a run that has just created its file, and not locked it yet, waits for that.
    with contextlib.ExitStack() as files:
        for path in _user_files(target).glob("*"):
            with contextlib.suppress(OSError):
                file = files.enter_context(path.open(encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left[path] = file.read()
        names = {path.name for path in left}
        stale = [user.username for user in admin.users() if user.username in names or _user_is_stale(user.username)]
        for username in stale:
            admin.delete(username)
    for path in [path for path, version in left.items() if not version]:
        path.unlink(missing_ok=True)
        del left[path]
    return len(stale), left


def _user_is_stale(username: str) -> bool:
    found = _USERNAME.fullmatch(username)
    return found is not None and _is_past(datetime.fromtimestamp(int(found[1], 16), UTC))


def _release_is_stale(version: str) -> bool:
    found = _VERSION.fullmatch(version)
    if found is None:
        return False
    try:
        return _is_past(datetime.strptime(f"{found[1]}+0000", "%Y%m%d%H%M%S%z"))
    except ValueError:
        return False


def _is_past(moment: datetime) -> bool:
    return datetime.now(UTC) - moment > _STALE


@contextmanager
def temporary_admin(target: Target, purpose: str) -> Iterator[HttpClient]:
    """An HTTP client with the login of an admin who exists only inside the context.

    Parameters:
        target: the target of the index.
        purpose: prefix of the user's name, which stays in the audit log and by which later runs remove a leftover user:
            ``incident``.

    Raises:
        NotDeployedError: there is no index.
        IndexRequestError: the index refused the user.
    """
    username, password = _new_name(purpose), Secret.generate()
    deployment, admin = AdminApi.of(target)
    with admin, _with_file(target, username):
        _remove_stale_users(target, admin)
        admin.register(username, password_hash=password_hash(password, RANDOM_PASSWORD_ROUNDS), role="admin")
        try:
            with HttpClient(deployment.url, username=username, password=password) as http:
                until_equal(http.login_status, 200)
                yield http
        finally:
            admin.delete(username)
