"""Interface of a target, which operations are written against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ops.errors import NotAnsweringError, NotDeployedError, ProtectionError
from ops.secret import Secret


@dataclass(frozen=True)
class Check:
    """One thing that a preflight looked at. It reads and never changes.

    Parameters:
        name: what was looked at, as a noun phrase.
        passed: whether it is as it must be.
        detail: what was found; when it did not pass, what to do about it.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Deployment:
    """A running index.

    Parameters:
        url: where the index answers, ending in a slash; ``{url}simple/`` is the index URL for pip and uv, ``{url}`` the
            repository URL for twine and ``uv publish``.
        admin_url: where the admin application answers, ending in a slash.
        detail: one line for people: the process id, or the Modal app's version.
        changed: whether this call started or altered it, or found it as it is.
        admin_headers: what every request to the admin application has to carry besides its token, if something stands
            in front of it.
    """

    url: str
    admin_url: str
    detail: str
    changed: bool = False
    admin_headers: Mapping[str, Secret] = field(default_factory=dict)

    @property
    def index_url(self) -> str:
        """The PEP 503 root, for ``index-url``."""
        return f"{self.url}simple/"


@dataclass(frozen=True)
class State:
    """An index as it is found now: there and answering, there and not answering, or not there.

    Parameters:
        deployment: what is deployed, whether or not it answers; None when nothing is.
        answers: whether it does.
        error: the last error in the log of one that does not; empty when the log has none.
    """

    deployment: Deployment | None
    answers: bool = False
    error: str = ""

    def __str__(self) -> str:
        if self.deployment is None:
            return "does not run"
        if self.answers:
            return f"answers at {self.deployment.url}"
        return f"deployed at {self.deployment.url}, and does not answer: {self.error or 'no error in its log'}"

    def require(self, target: str) -> Deployment:
        """The index, when it answers.

        Parameters:
            target: its name, for the error.

        Raises:
            NotDeployedError: there is none.
            NotAnsweringError: it does not answer.
        """
        if self.deployment is None:
            raise NotDeployedError(target)
        if not self.answers:
            raise NotAnsweringError(target, url=self.deployment.url, error=self.error)
        return self.deployment


@dataclass(frozen=True)
class DeployedVersion:
    """One entry of a target's deployment history: *version* counts from 1, *when* is ISO 8601 in UTC."""

    version: str
    when: str
    tag: str
    detail: str


@dataclass(frozen=True)
class Move:
    """A change of the index's address.

    Parameters:
        before: the address that its clients know, ending in a slash.
        after: the one that it would have.
    """

    before: str
    after: str


@dataclass(frozen=True)
class HostingChange:
    """One setting of the hosting that a deployment would change.

    Parameters:
        name: the field of :class:`~ops.settings.Hosting`.
        now: as it is deployed, in words.
        then: as it would be.
        refused: why the next deployment will not do that, or an empty string.
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
    """The hosting after the next deployment, and how it differs from what is deployed.

    Parameters:
        summary: all that is not by default, in one line.
        changes: what would be another than now.
    """

    summary: str
    changes: tuple[HostingChange, ...]

    def require_allowed(self) -> None:
        """Refuse a deployment of which a change is refused.

        Raises:
            ProtectionError: one is; all of them are named.
        """
        if refused := [change for change in self.changes if change.refused]:
            raise ProtectionError(
                {change.name: f"hosting {change.name} {change.arrow}, and {change.refused}" for change in refused}
            )


class Target(Protocol):
    """A place where an index runs. What a method cannot do is a ``TargetError`` that says what to do instead."""

    @property
    def name(self) -> str:
        """``local`` or ``modal``: the value of the notebooks' parameter ``target``."""

    @property
    def place(self) -> str:
        """The target and, where it has them, its environment: what files on this machine are kept apart by."""

    def is_named(self, word: str) -> bool:
        """Whether *word* names this target, for a parameter that has to before something is destroyed."""

    def client_folder(self, username: str) -> Path:
        """Where the client files of one user of this target are, or go."""

    def client_folders(self) -> Sequence[Path]:
        """The folders with client files of this target's users that are on this machine."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold the target against other runs that change it.

        Raises:
            BusyError: another run still holds it after the waiting time, of which it told on stderr.
        """

    def checks(self) -> Sequence[Check]:
        """The preflight: is everything here that the target needs? Reads only."""

    def secret_exists(self, name: str) -> bool:
        """Whether the target's secret store has a secret called *name*."""

    def put_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        """Create the secret *name*, or replace it as a whole; servers take the new value at their next deployment."""

    def recall_secret(self, name: str, key: str) -> Secret | None:
        """The operator's own copy of a secret's value: from the environment variable *key*, else from the workspace."""

    def refused_secret(self, name: str, key: str) -> str:
        """Advice for when the index refuses the value that :meth:`recall_secret` gives."""

    def delete_secret(self, name: str) -> bool:
        """Delete the secret, and the operator's copy. False when there was none."""

    def volume_exists(self, name: str) -> bool:
        """Whether there is a volume called *name*."""

    def create_volume(self, name: str) -> None:
        """Make an empty volume. One that exists is left as it is."""

    def delete_volume(self, name: str) -> bool:
        """Delete the volume and all that lies on it. False when there was none."""

    def list_files(self, volume: str) -> Iterator[tuple[str, int]]:
        """Every file of a volume: its path relative to the volume's root, with slashes, and its size in bytes."""

    def download(self, volume: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*."""

    def upload(self, volume: str, path: str, source: Path) -> None:
        """Copy *source* onto a volume as *path*, in place of what is there."""

    def state(self) -> State:
        """Whether there is an index, and whether it answers. Reads only."""

    def deployment(self) -> Deployment | None:
        """The index that answers now, or None."""

    def outdated(self) -> str:
        """What the next :meth:`deploy` would bring up to date on a server that answers; empty when nothing."""

    def private_paths(self) -> Sequence[Path]:
        """The files and folders of this target on this machine that are for their owner only."""

    def move(self) -> Move | None:
        """The move to another address that the next :meth:`deploy` would make; None when the index stays.

        Raises:
            PortTakenError: the address cannot be had.
        """

    def hosting(self, *, lower_protection: str = "") -> HostingDifferences | None:
        """The hosting as the next :meth:`deploy` would leave it; None where there is none to choose.

        Parameters:
            lower_protection: as of :meth:`deploy`.
        """

    def deploy(self, *, tag: str = "", lower_protection: str = "") -> Deployment:
        """Start the index, or bring the running one up to date; return when it answers.

        Hosting that this run was not told stays as it is deployed.

        Parameters:
            tag: a name for this deployment in the history.
            lower_protection: the protections that may be lowered, by commas; see :meth:`hosting`.

        Raises:
            ProtectionError: it would lower one that is not named.
            StartError: it did not answer in time; the message says where its log is.
        """

    def history(self) -> Sequence[DeployedVersion]:
        """Past deployments, newest first; empty where the target keeps none."""

    def rollback(self, version: str) -> Deployment:
        """Deploy what was deployed as *version*."""

    def stop(self) -> bool:
        """End the server and keep all data. False when none ran."""

    def logs(self, lines: int = 50) -> str:
        """The last lines of the server's log."""
