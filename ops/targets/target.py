"""Interface of a target, used by operations."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ops.errors import NotDeployedError, NotRespondingError, ProtectionError
from ops.secret import Secret
from ops.settings import Settings

UPGRADE = "upgrade"
"""Tag of versions deployed by an upgrade."""


@dataclass(frozen=True)
class Check:
    """Result of one preflight check, which only reads.

    Parameters:
        name: of the checked thing, a noun phrase.
        passed: True if it is as required.
        detail: what was found and, if it did not pass, what to do.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Deployment:
    """A running index.

    Parameters:
        url: of the index, ending in a slash; ``{url}simple/`` is the index URL for pip and uv, ``{url}`` the
            repository URL for twine and ``uv publish``.
        admin_url: of the admin application, ending in a slash.
        detail: one line for people: the process id, or the Modal app's version.
        changed: True if this call started or changed it.
        admin_headers: further headers that the admin application requires, if it is behind a proxy.
    """

    url: str
    admin_url: str
    detail: str
    changed: bool = False
    admin_headers: Mapping[str, Secret] = field(default_factory=dict)

    @property
    def index_url(self) -> str:
        """URL of the simple API (PEP 503), for ``index-url``."""
        return f"{self.url}simple/"


@dataclass(frozen=True)
class State:
    """State of an index: responding, deployed but not responding, or not deployed.

    Parameters:
        deployment: the deployed index; None if there is none.
        responds: True if a request gets a response.
        error: if it does not respond, the last error in its log; empty if there is none.
    """

    deployment: Deployment | None
    responds: bool = False
    error: str = ""

    def __str__(self) -> str:
        if self.deployment is None:
            return "does not run"
        if self.responds:
            return f"responds at {self.deployment.url}"
        return f"deployed at {self.deployment.url}, but does not respond: {self.error or 'no error in its log'}"

    def require(self, target: str) -> Deployment:
        """The index if it responds.

        Parameters:
            target: its name, for the error.

        Raises:
            NotDeployedError: there is none.
            NotRespondingError: it does not respond.
        """
        if self.deployment is None:
            raise NotDeployedError(target)
        if not self.responds:
            raise NotRespondingError(target, url=self.deployment.url, error=self.error)
        return self.deployment


@dataclass(frozen=True)
class DeployedVersion:
    """Entry of a deployment history.

    Parameters:
        version: counts from 1.
        when: ISO 8601 in UTC.
        tag: name of the deployment.
        detail: for people.
        commit: of the code, if known.
    """

    version: str
    when: str
    tag: str
    detail: str
    commit: str = ""


@dataclass(frozen=True)
class CredentialAge:
    """Age of a credential: times in UTC, None if unknown or never.

    Parameters:
        name: a noun phrase.
        created: when it was set.
        expires: when it expires.
    """

    name: str
    created: datetime | None
    expires: datetime | None = None


@dataclass(frozen=True)
class Move:
    """A change of the index's address.

    Parameters:
        before: the address that clients know, ending in a slash.
        after: the new address.
    """

    before: str
    after: str


@dataclass(frozen=True)
class VolumeFile:
    """File of a volume.

    Parameters:
        path: from the volume's root, with slashes.
        size: bytes.
        modified: seconds since the epoch, whole.
        mode: permission bits; None if unknown.
        link: True for a symbolic link.
    """

    path: str
    size: int
    modified: int
    mode: int | None = None
    link: bool = False


@dataclass(frozen=True)
class HostingChange:
    """Hosting setting that a deployment would change.

    Parameters:
        name: the field of :class:`~ops.settings.Hosting`.
        now: the deployed value, as text.
        then: the new value.
        refused: reason why the next deployment refuses it; empty if it does not.
    """

    name: str
    now: str
    then: str
    refused: str = ""

    @property
    def arrow(self) -> str:
        """Both values in one phrase."""
        return f"{self.now} -> {self.then}"


@dataclass(frozen=True)
class HostingDifferences:
    """Hosting after the next deployment, and its differences from the deployed one.

    Parameters:
        summary: settings that differ from the defaults, on one line.
        changes: settings that would change.
    """

    summary: str
    changes: tuple[HostingChange, ...]

    def require_allowed(self) -> None:
        """Raise if a change is refused.

        Raises:
            ProtectionError: with all refused changes.
        """
        if refused := [change for change in self.changes if change.refused]:
            raise ProtectionError(
                {change.name: f"hosting {change.name} {change.arrow}, and {change.refused}" for change in refused}
            )


class Target(Protocol):
    """Place where an index runs. Methods raise ``TargetError`` if they fail, with what to do."""

    @property
    def name(self) -> str:
        """``local`` or ``modal``: the value of the notebooks' parameter ``target``."""

    @property
    def place(self) -> str:
        """The target with its environment, if it has them; separates the files on this machine."""

    @property
    def settings(self) -> Settings:
        """Names of the index on this target: its app, volumes and secrets."""

    def is_named(self, word: str) -> bool:
        """True if *word* names this target, as required of a parameter before anything is deleted."""

    def client_folder(self, username: str) -> Path:
        """Folder for the client files of one user of this target."""

    def client_folders(self) -> Sequence[Path]:
        """Folders on this machine with client files of this target's users."""

    def lock(self) -> AbstractContextManager[None]:
        """Lock the target against other runs that change it. Waits, with a message on stderr.

        Raises:
            BusyError: another run still holds the lock after the timeout.
        """

    def checks(self) -> Sequence[Check]:
        """Preflight checks of everything that the target needs. Reads only."""

    def secret_exists(self, name: str) -> bool:
        """True if the target's secret store has a secret called *name*."""

    def put_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        """Create or replace the secret *name*. Servers use the new value after their next deployment."""

    def recall_secret(self, name: str, key: str) -> Secret | None:
        """The operator's copy of a secret's value, from the environment variable *key* or the workspace."""

    def recall_former_secret(self, name: str, key: str) -> Secret | None:
        """The operator's copy of the value that servers have until the next deployment; None if they have no other."""

    def refused_secret(self, name: str, key: str) -> str:
        """Advice for when the index refuses the value of :meth:`recall_secret`."""

    def credential_ages(self) -> Sequence[CredentialAge]:
        """Ages of the admin secret and of the operator's own credentials for the platform. Reads only."""

    def delete_secret(self, name: str) -> bool:
        """Delete the secret and the operator's copy. False if there was none."""

    def volume_exists(self, name: str) -> bool:
        """True if there is a volume called *name*."""

    def create_volume(self, name: str) -> None:
        """Create an empty volume, unless it exists."""

    def delete_volume(self, name: str) -> bool:
        """Delete the volume with all its files. False if there was none."""

    def list_files(self, volume: str) -> Sequence[VolumeFile]:
        """All files of a volume with their properties, sorted by path."""

    def download(self, volume: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*."""

    def upload(self, volume: str, path: str, source: Path) -> None:
        """Copy *source* onto a volume as *path*, replacing a file there."""

    def upload_files(self, volume: str, sources: Mapping[str, Path]) -> None:
        """Copy files onto a volume, each to the path that is its key. If it fails, some may have been copied."""

    def delete_file(self, volume: str, path: str) -> bool:
        """Delete one file of a volume. False if there was none."""

    def state(self) -> State:
        """State of the index. Reads only."""

    def deployment(self) -> Deployment | None:
        """The index if it responds now, or None."""

    def outdated(self, *, revision: str = "") -> str:
        """Description of what the next :meth:`deploy` would update on a running server; empty if nothing.

        Parameters:
            revision: as of :meth:`deploy`.
        """

    def private_paths(self) -> Sequence[Path]:
        """Files and folders of this target on this machine that must be private."""

    def move(self) -> Move | None:
        """Change of address by the next :meth:`deploy`; None if there is none.

        Raises:
            PortTakenError: the address is taken.
        """

    def hosting(self, *, lower_protection: str = "") -> HostingDifferences | None:
        """Hosting after the next :meth:`deploy`; None if the target has no hosting settings.

        Parameters:
            lower_protection: as of :meth:`deploy`.
        """

    def deploy(self, *, tag: str = "", lower_protection: str = "", revision: str = "") -> Deployment:
        """Start or update the index, and wait until it responds.

        Hosting settings without a variable keep their deployed values.

        Parameters:
            tag: name of this deployment in the history.
            lower_protection: protections that may be lowered, separated by commas; see :meth:`hosting`.
            revision: a commit, branch or tag of the clone; empty for the clone as it is.

        Raises:
            ParameterError: there is no such revision.
            ProtectionError: it would lower a protection without permission.
            StartError: the index did not respond in time; the message has the path of its log.
        """

    def restart(self) -> Deployment:
        """Restart the index with its current version, so that it reads the current admin token.

        Raises:
            NotDeployedError: there is no index.
            StartError: the index did not respond in time.
        """

    def resume(self) -> bool:
        """Start a server again that a killed run had stopped to replace it. False if there is none."""

    def history(self) -> Sequence[DeployedVersion]:
        """Past deployments, newest first; empty if the target has no history."""

    def rollback(self, version: str) -> Deployment:
        """Deploy an earlier version again."""

    @property
    def unfinished_upgrade(self) -> Path:
        """File with the version before an upgrade, which exists until the new version has passed its test."""

    def state_files(self) -> Sequence[Path]:
        """Files and folders on this machine that only serve this index: logs, and the code of its versions."""

    def stop(self) -> bool:
        """Stop the server and keep all data. False if none was running."""

    def logs(self, lines: int = 50) -> str:
        """Last lines of the server's log."""

    def costs(self) -> Sequence[tuple[str, float]] | None:
        """Costs of this month in US dollars, by item; None if nothing is metered.

        Raises:
            RunbookError: the platform does not report them to this client.
        """


@contextlib.contextmanager
def local_copy(target: Target, volume: str, path: str) -> Iterator[Path]:
    """A copy of one file of a volume on this machine, deleted afterwards.

    Raises:
        TargetError: it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        copy = Path(folder, "copy")
        target.download(volume, path, copy)
        yield copy


def content_of(target: Target, volume: str, path: str) -> bytes:
    """The bytes of one small file of a volume.

    Raises:
        TargetError: it cannot be read.
    """
    with local_copy(target, volume, path) as copy:
        return copy.read_bytes()


LONGEST = 300
"""Maximum length of a line quoted in an error, in characters."""

_EXCEPTION = re.compile(r"([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt|Fault|NotFound|Timeout)(: .*)?")
_ERROR = re.compile(r"\b(error|critical|fatal|failed|killed|exit(ed)? (code|status)|out of memory)\b", re.IGNORECASE)
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def as_lines(pieces: Iterable[str]) -> list[str]:
    """Split pieces of a log into lines, without terminal control codes. Each piece ends a line."""
    return [_CONTROL.sub("", line).rstrip() for piece in pieces for line in piece.splitlines()]


def last_error(lines: Iterable[str]) -> str:
    """Last line of the last exception, or the last line with an error, or an empty string."""
    newest_first = [line.strip() for line in lines if line.strip()][::-1]
    for found in (_EXCEPTION.fullmatch, _ERROR.search):
        for line in newest_first:
            if found(line):
                return line[:LONGEST]
    return ""
