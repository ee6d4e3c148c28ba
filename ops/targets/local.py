"""Local target: folders as volumes, 0600 files as secrets, and a detached server process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ops.errors import NotDeployedError, PortTakenError, StartError, TargetError
from ops.index.config import PUBLIC_URL_VARIABLE, TRUSTED_ROOT_VARIABLE
from ops.polling import until
from ops.private_files import private_file, private_folder
from ops.revisions import checkout, head
from ops.secret import Secret
from ops.settings import LOCAL_HOST, LOCAL_PORT, Settings
from ops.targets.folders import SecretFiles, VolumeFolders, explained
from ops.targets.local_versions import LocalVersions, code_digest
from ops.targets.lock import exclusive
from ops.targets.process import STOP_SECONDS, ServerProcess, port_holder
from ops.targets.target import Check, CredentialAge, DeployedVersion, Deployment, Move, State, last_error
from ops.workspace import PROJECT_ROOT, Workspace

START_SECONDS = 60.0
"""Seconds from the start of a server to its first response."""

HUNG_SECONDS = 2.0
"""Seconds for an unresponsive server to end before it is killed."""

PORTS_TRIED = 50
"""Ports to try, starting with the usual one, if no port is requested."""

FREE_BYTES_NEEDED = 200 * 2**20


class LocalTarget(VolumeFolders):
    """An index on this machine, in the workspace's folder ``local``.

    Parameters:
        workspace: the operator's folder.
        settings: the names of volumes and secrets.
        port: the TCP port; None for the last one or, the first time, the usual one or the next free one.
    """

    name = place = "local"

    def __init__(self, workspace: Workspace, settings: Settings, *, port: int | None = None) -> None:
        if port is not None and not 0 < port < 65536:
            raise TargetError(f"{port} is not a TCP port", todo="use a number from 1 to 65535, or none")
        self._workspace = workspace
        self.settings = settings
        self._port = port
        self._folder = workspace.target(self.name)
        self._secrets = SecretFiles(workspace.secrets(self.name))
        super().__init__(self._folder / "volumes")
        self._versions = LocalVersions(self._folder / "versions")
        self._process_file = self._folder / "server.json"
        self._log = self._folder / "server.log"

    # --- the preflight ------------------------------------------------------------------------------------------

    def checks(self) -> Sequence[Check]:
        """Checks of Python's version, a writable workspace, and free disk space."""
        version = ".".join(map(str, sys.version_info[:3]))
        existing = self._workspace.home
        while not os.path.exists(existing):  # noqa: PTH110 - Path.exists raises without permission
            existing = existing.parent
        writable = os.access(existing, os.W_OK | os.X_OK)
        free = shutil.disk_usage(existing).free
        return (
            Check("Python", sys.version_info >= (3, 11), f"{version}; 3.11 or newer is needed"),
            Check(
                "workspace",
                writable,
                "can be written"
                if writable
                else f"{existing} cannot be written by this user: set PYPI_RUNBOOK_HOME to another folder",
            ),
            Check(
                "disk",
                free >= FREE_BYTES_NEEDED,
                f"at least {FREE_BYTES_NEEDED // 2**20} MiB free"
                if free >= FREE_BYTES_NEEDED
                else f"{free // 2**20} MiB free of {FREE_BYTES_NEEDED // 2**20} MiB needed: free some space",
            ),
        )

    def _taken_port(self) -> PortTakenError | None:
        """Error if the requested or known port is taken; None if not, or if any port will do."""
        last = ServerProcess.load(self._process_file)
        port = self._port or (last.port if last else None)
        if port is None or (last is not None and last.port == port and last.alive()):
            return None
        if _bindable(port):
            return None
        return PortTakenError(port, holder=port_holder(port), known=last is not None and last.port == port)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the target against other runs on this machine; the system releases it when a run dies."""
        with explained("lock the target", self._folder):
            private_folder(self._folder)
            os.close(private_file(self._folder / "lock", os.O_WRONLY))
        with exclusive(self._folder / "lock", what="the local target"):
            yield

    def is_named(self, word: str) -> bool:
        """True if *word* is ``local``."""
        return word == self.name

    def client_folder(self, username: str) -> Path:
        """Folder for the client files of one user."""
        return self._workspace.user(self.place, username)

    def client_folders(self) -> Sequence[Path]:
        """Folders with client files in the workspace."""
        folder = self._workspace.users(self.place)
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    # --- secrets and volumes ------------------------------------------------------------------------------------

    def secret_exists(self, name: str) -> bool:
        """True if there is a secret file for *name*."""
        return self._secrets.path(name).is_file()

    def put_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        """Write or replace the secret's file."""
        if name == self.settings.secret_name:
            self._secrets.keep_former(name)
        self._secrets.put(name, values)

    def recall_secret(self, name: str, key: str) -> Secret | None:
        """The value of *key* in the file, which is the store here; the environment is not used."""
        return self._secrets.recall(name, key)

    def recall_former_secret(self, name: str, key: str) -> Secret | None:
        """The value before the file was replaced, until the server has restarted."""
        return self._secrets.recall_former(name, key)

    def refused_secret(self, name: str, key: str) -> str:
        """Advice: the server reads the same file as the operator, but only at start."""
        return f"{key} in {self._secrets.path(name)} changed since the server started: run the notebook 01_provision"

    def credential_ages(self) -> Sequence[CredentialAge]:
        """Age of the admin secret; this machine needs no other credential."""
        name = self.settings.secret_name
        return [CredentialAge(f"secret {name} (admin token)", self._secrets.written(name))]

    def delete_secret(self, name: str) -> bool:
        """Remove the secret's file."""
        return self._secrets.delete(name)

    # --- the server ---------------------------------------------------------------------------------------------

    def state(self) -> State:
        """State of the server: not running, running, or responding."""
        process = ServerProcess.load(self._process_file)
        if process is None or not process.alive():
            return State(None)
        deployment = _deployment(process, changed=False)
        if _healthy(process):
            return State(deployment, responds=True)
        return State(deployment, error=last_error(self.logs(200).splitlines()) if self._log.is_file() else "")

    def deployment(self) -> Deployment | None:
        """The index that responds now."""
        state = self.state()
        return state.deployment if state.responds else None

    def outdated(self, *, revision: str = "") -> str:
        """Parts of the server that a restart would change: code, interpreter, folders, secret or address."""
        running = ServerProcess.load(self._process_file)
        if running is None or not running.alive():
            return ""
        before = dict(part.split("=", 1) for part in running.fingerprint.split() if "=" in part)
        with self._code(revision) as code:
            after = self._parts(code)
        parts = [name for name, digest in after.items() if before.get(name) != digest]
        return f"runs with another {' and '.join(parts)}" if parts else ""

    def private_paths(self) -> Sequence[Path]:
        """The workspace, the secrets, the volumes, and the state files of the server."""
        volumes = [
            self.volume_folder(name) for name in (self.settings.packages_volume, self.settings.credentials_volume)
        ]
        files = [self._workspace.home, self._folder, self._process_file, self._log, *volumes, *self._secrets.paths()]
        return [path for path in files if path.exists()]

    def move(self) -> Move | None:
        """Move to another port than last time.

        Raises:
            PortTakenError: another program uses the requested or known port.
        """
        if taken := self._taken_port():
            raise taken
        last = ServerProcess.load(self._process_file)
        if last is None or self._port is None or self._port == last.port:
            return None
        return Move(_url(last.port), _url(self._port))

    def hosting(self, *, lower_protection: str = "") -> None:
        """None: a local process has no hosting settings."""
        del lower_protection

    def deploy(self, *, tag: str = "", lower_protection: str = "", revision: str = "") -> Deployment:
        """Start the server, unless it runs with this code and configuration. There is no protection to lower."""
        del lower_protection
        with self._code(revision) as code:
            deployed = self._deploy(self._versions.keep(code) if revision else code, tag, head(code))
        self._secrets.forget_former(self.settings.secret_name)
        return deployed

    def restart(self) -> Deployment:
        """Restart the server with the code of the newest version, unless it has the current admin token."""
        if ServerProcess.load(self._process_file) is None:
            raise NotDeployedError(self.place)
        code, commit = self._newest_code()
        restarted = self._deploy(code, "", commit)
        self._secrets.forget_former(self.settings.secret_name)
        return restarted

    def _newest_code(self) -> tuple[Path, str]:
        """Folder and commit of the code that was deployed last: this clone if it has that code, or else a copy."""
        version = next((each.version for each in self.history()), "")
        code, commit = self._versions.code(version) if version else (PROJECT_ROOT, head(PROJECT_ROOT))
        return (PROJECT_ROOT if code_digest(code) == code_digest(PROJECT_ROOT) else code), commit

    @contextlib.contextmanager
    def _code(self, revision: str) -> Iterator[Path]:
        """The folder with the code of a revision, or of this clone."""
        if not revision:
            yield PROJECT_ROOT
            return
        with checkout(PROJECT_ROOT, revision) as clone:
            yield clone

    def _deploy(self, code: Path, tag: str, commit: str) -> Deployment:
        running = ServerProcess.load(self._process_file)
        fingerprint = self._fingerprint(code)
        if running is not None and running.alive():
            wanted = running.port if self._port is None else self._port
            same = (running.port, running.fingerprint) == (wanted, fingerprint)
            healthy = _healthy(running)
            if same and healthy:
                self._versions.record(code, tag=tag, commit=commit)  # a clone without history
                return _deployment(running, changed=False)
            if taken := self._taken_port():
                raise taken  # before the running server is stopped
            running.stop(seconds=STOP_SECONDS if healthy else HUNG_SECONDS)
        started = self._start(running, fingerprint, code)
        self._versions.record(code, tag=tag, commit=commit)
        return _deployment(started, changed=True)

    def resume(self) -> bool:
        """Start the server again if a run was killed while it was replaced for a new admin token or an upgrade.

        It runs the code from before: of the version before the upgrade, or else of the newest version. A server that
        hangs is stopped.
        """
        rotated = self.recall_former_secret(self.settings.secret_name, self.settings.secret_key) is not None
        if not rotated and not self.unfinished_upgrade.exists():
            return False
        with self.lock():
            last = ServerProcess.load(self._process_file)
            if last is None:
                return False
            # It may still be stopping, or starting.
            until(lambda: _healthy(last) or not last.alive(), bool, seconds=STOP_SECONDS, interval=0.1)
            if _healthy(last):
                return False
            last.stop(seconds=HUNG_SECONDS)
            before = self.unfinished_upgrade.read_text("utf-8") if self.unfinished_upgrade.exists() else ""
            code, _ = self._versions.code(before) if before else self._newest_code()
            self._start(last, self._fingerprint(code), code)
        return True

    def _start(self, last: ServerProcess | None, fingerprint: str, code: Path) -> ServerProcess:
        with explained("start the server", self._folder):
            private_folder(self._folder)
            for port in self._candidates(last):
                process = ServerProcess.start(
                    self._command(port),
                    file=self._process_file,
                    log=self._log,
                    host=LOCAL_HOST,
                    port=port,
                    fingerprint=fingerprint,
                    code=code,
                    variables=self._variables(port),
                )
                if self._responds(process):
                    return process
                if last is None:
                    self._process_file.unlink(missing_ok=True)
                else:
                    last.save(self._process_file)  # keeps the port that clients know
                if _bindable(port):
                    break
                # Another program took the port meanwhile: try the next one, if any port will do.
                if taken := self._taken_port():
                    raise taken
        raise StartError(
            "the server was started but did not respond",
            why=self.logs(5).replace("\n", " | ") or "it printed nothing",
            todo=f"read its log, {self._log}",
        )

    def _candidates(self, last: ServerProcess | None) -> Iterator[int]:
        """The requested port, or the last one, which clients know; otherwise the usual one and those after it."""
        port = self._port or (last.port if last else None)
        if port is not None:
            if taken := self._taken_port():
                raise taken
            yield port
            return
        for port in range(LOCAL_PORT, LOCAL_PORT + PORTS_TRIED):
            if _bindable(port):
                yield port
        raise TargetError(
            "no free port was found",
            why=f"all from {LOCAL_PORT} to {LOCAL_PORT + PORTS_TRIED - 1} are taken",
            todo="name a free one",
        )

    def _command(self, port: int) -> list[str]:
        return [
            sys.executable,
            "-m",
            "ops.index",
            "--packages",
            str(self.volume_folder(self.settings.packages_volume)),
            "--credentials",
            str(self.volume_folder(self.settings.credentials_volume)),
            "--host",
            LOCAL_HOST,
            "--port",
            str(port),
            "--admin-token-file",
            str(self._secrets.path(self.settings.secret_name)),
        ]

    def _variables(self, port: int) -> dict[str, str]:
        """Settings of the server in its environment.

        Pages link to provenances at the address of a proxy, if it is set, or else at ours: plain HTTP on loopback is a
        secure origin, as PEP 740 requires. Signatures are verified if the target has a trusted root.
        """
        root = self._folder / "trusted_root.json"
        trusted = os.environ.get(TRUSTED_ROOT_VARIABLE, "") or (str(root) if root.is_file() else "")
        return {
            PUBLIC_URL_VARIABLE: os.environ.get(PUBLIC_URL_VARIABLE, "") or _url(port),
            TRUSTED_ROOT_VARIABLE: trusted,
        }

    def _responds(self, process: ServerProcess) -> bool:
        def responds() -> bool:  # itself, and not another index that took the port meanwhile
            return process.listens() and _healthy(process)

        until(lambda: responds() or not process.alive(), bool, seconds=START_SECONDS, interval=0.02)
        if responds():
            return True
        process.stop(seconds=1)
        return False

    def _fingerprint(self, code: Path) -> str:
        return " ".join(f"{name}={digest}" for name, digest in self._parts(code).items())

    def _parts(self, code: Path) -> dict[str, str]:
        """Digest of each part that a server is started with."""
        secret = b""
        with contextlib.suppress(OSError):
            secret = self._secrets.path(self.settings.secret_name).read_bytes()
        return {
            "code": code_digest(code),
            "interpreter": _digest(sys.version.encode()),
            "command": _digest("\0".join([*self._command(0), *self._variables(0).values()]).encode()),
            "admin_token": _digest(secret),
        }

    def history(self) -> Sequence[DeployedVersion]:
        """Versions of the code that ran here, newest first."""
        return self._versions.history()

    def rollback(self, version: str) -> Deployment:
        """Start the server with the code of an earlier version. Volumes and secrets do not change."""
        code, commit = self._versions.code(version)
        return self._deploy(code, f"rollback-to-{version}", commit)

    @property
    def unfinished_upgrade(self) -> Path:
        """File with the version before an upgrade, until the new one has passed its test."""
        return self._folder / "upgrade"

    def state_files(self) -> Sequence[Path]:
        """The server's log, the code of its versions, and files of unfinished runs. The address is kept."""
        folders = (self._folder / "versions", self._folder / "temporary")
        return [path for path in (*folders, self._log, self.unfinished_upgrade) if path.exists()]

    def stop(self) -> bool:
        """Stop the server. Volumes and secrets stay."""
        process = ServerProcess.load(self._process_file)
        # The file stays: the next start uses the same port, so that client files remain valid.
        return process is not None and process.stop()

    def costs(self) -> None:
        """None: this machine sends no bill."""

    def logs(self, lines: int = 50) -> str:
        """Last lines of the server's log."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(max(0, self._log.stat().st_size - 400 * lines))
                tail = stream.read().decode("utf-8", "replace")
        except FileNotFoundError:
            raise NotDeployedError(self.name) from None
        return "\n".join(tail.splitlines()[-lines:])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCAL_HOST, port))
        except OSError:
            return False
    return True


def _url(port: int) -> str:
    return f"http://{LOCAL_HOST}:{port}/"


def _healthy(process: ServerProcess) -> bool:
    # No proxy from the environment for connections to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{_url(process.port)}health", timeout=3) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _deployment(process: ServerProcess, *, changed: bool) -> Deployment:
    url = _url(process.port)
    return Deployment(url=url, admin_url=f"{url}admin/", detail=f"process {process.pid}", changed=changed)
