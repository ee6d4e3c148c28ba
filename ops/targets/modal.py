"""Modal target: deploys this clone with Modal's own client."""

from __future__ import annotations

import contextlib
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ops.errors import NotDeployedError, RunbookError, StartError
from ops.private_files import private_file, private_folder
from ops.secret import Secret
from ops.settings import ADMIN_FUNCTION, SERVER_FUNCTION, Settings
from ops.targets.folders import SecretFiles
from ops.targets.lock import exclusive
from ops.targets.modal_environment import EnvironmentFolders, ModalEnvironment
from ops.targets.modal_session import SUPPORTED, ask, command_line, exists, modal, say
from ops.targets.modal_versions import AppVersions
from ops.targets.modal_volumes import Volumes
from ops.targets.target import (
    Check,
    CredentialAge,
    DeployedVersion,
    Deployment,
    HostingDifferences,
    State,
    as_lines,
    last_error,
)
from ops.workspace import Workspace

ENVIRONMENT_VARIABLE = "MODAL_ENVIRONMENT"
PROXY_TOKEN = {"Modal-Key": "MODAL_PROXY_TOKEN_ID", "Modal-Secret": "MODAL_PROXY_TOKEN_SECRET"}
"""The headers of a workspace's proxy token, for an admin application behind Modal's proxy auth, and the variables
that hold it."""
PROXY_SECRET = "modal-proxy-token"  # noqa: S105 - the name of a secret, not its value
"""The copy of a proxy token that an environment may have next to its secrets, with the same names as keys."""
RESPONSE_SECONDS = 180.0
"""Seconds for the index to respond after a deployment, including the start of its container."""
LOOK_SECONDS = 60.0
"""Seconds for it to respond when only its state is read."""
REFUSED_SECONDS = 15.0
"""Seconds that failures are retried when only its state is read."""
ERROR_LINES = 500
"""Lines of the log that are searched for an error."""


class ModalTarget(Volumes):
    """Environment of a Modal workspace. Credentials come from Modal's own variables or configuration file.

    Parameters:
        workspace: the operator's folder, with copies of secrets, which Modal does not return.
        settings: names of app, volumes and secret.
        environment: Modal's environment; None for ``MODAL_ENVIRONMENT``, or the workspace's default.
    """

    name = "modal"

    def __init__(
        self, *, workspace: Workspace | None = None, settings: Settings | None = None, environment: str | None = None
    ) -> None:
        self._workspace = workspace or Workspace.default()
        self.settings = settings or Settings()
        self._environment = environment if environment is not None else os.environ.get(ENVIRONMENT_VARIABLE, "")
        self._whole = ModalEnvironment(self._environment)
        self._clients = EnvironmentFolders(self._workspace, self._whole, self.settings, self._url)
        super().__init__(self._environment)
        self._versions = AppVersions(self.settings, self._environment)

    @property
    def place(self) -> str:
        """``modal.`` and the environment's name, which separates the files of environments. Calls Modal once."""
        return self._whole.place

    def is_named(self, word: str) -> bool:
        """True if *word* is ``modal``, or that with the environment, as in ``modal.staging``."""
        return word in {self.name, self.place}

    @property
    def _folder(self) -> Path:
        return self._workspace.target(self.place)

    @property
    def _copies(self) -> SecretFiles:
        return SecretFiles(self._workspace.secrets(self.place))

    @property
    def _earlier_copies(self) -> list[SecretFiles]:
        folder = self._workspace.secrets(self.name)
        return (
            [SecretFiles(folder, prefix=prefix) for prefix in self._whole.earlier_prefixes] if folder.is_dir() else []
        )

    # --- the preflight ------------------------------------------------------------------------------------------

    def checks(self) -> Sequence[Check]:
        """Client version, credentials, environment and deployment file. Each check depends on the previous ones."""
        found = [self._check_client(), self._check_credentials()]
        if found[-1].passed:
            found.append(self._check_workspace())
        if found[-1].passed:
            found.append(self._check_environment())
        file = self._versions.file
        found.append(Check("deployment file", file.is_file(), str(file) if file.is_file() else f"{file} is missing"))
        return found

    @staticmethod
    def _check_client() -> Check:
        version = tuple(int(part) for part in modal.__version__.split(".")[:3] if part.isdigit())
        first, end = (".".join(map(str, bound)) for bound in SUPPORTED)
        supported = SUPPORTED[0] <= version < SUPPORTED[1]
        detail = f"modal {modal.__version__}"
        if not supported:
            detail += f"; tested from {first} to before {end}: pip install 'modal>={first},<{end}'"
        return Check("client", supported, detail)

    @staticmethod
    def _check_credentials() -> Check:
        there = bool(modal.config.config["token_id"] and modal.config.config["token_secret"])
        detail = "present" if there else "none: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run: modal token new"
        return Check("credentials", there, detail)

    def _check_workspace(self) -> Check:
        try:
            name = ask("check the credentials", lambda: modal.Workspace.from_context().hydrate().name, seconds=60)
        except RunbookError as error:
            return Check("workspace", passed=False, detail=f"{error.why or error.what}: {error.todo}")
        return Check("workspace", passed=True, detail=name or "reached")

    def _check_environment(self) -> Check:
        try:
            name = self._whole.name
        except RunbookError as error:
            todo = f"create it with: modal environment create {self._environment}"
            return Check("environment", passed=False, detail=f"{error.why or error.what}; {todo}")
        return Check("environment", passed=True, detail=name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the target against other runs in this workspace. Modal itself has no lock."""
        private_folder(self._folder)
        with exclusive(self._folder / "lock", what=f"the target {self.place}"):
            yield

    # --- secrets ------------------------------------------------------------------------------------------------

    def secret_exists(self, name: str) -> bool:
        """True if Modal has a secret called *name* in this environment."""
        return exists("look up the secret", lambda: self._secret(name).hydrate())

    def put_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        """Create the secret, or update its keys, and store a copy here, because Modal does not return values.

        The copy is stored first: if this fails or is killed, Modal has the value in the copy or the former one, and
        the next :meth:`deploy` sends the copy again. Running containers have the former value until then.
        """
        private_folder(self._folder)
        os.close(private_file(self._stale, os.O_WRONLY))
        if name == self.settings.secret_name:
            self._copies.keep_former(name, *self._earlier_copies)
        self._copies.put(name, values)
        self._send_secret(name, values)

    def _send_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        revealed = {key: secret.reveal() for key, secret in values.items()}

        def send() -> None:
            try:
                modal.Secret.objects.create(name, revealed, environment_name=self._environment or None)
            except modal.exception.AlreadyExistsError:
                # Deployed functions refer to its id.
                self._secret(name).update(revealed)

        ask("keep the secret", send)

    def recall_secret(self, name: str, key: str) -> Secret | None:
        """The operator's copy: the environment variable *key*, or the file that :meth:`put_secret` wrote."""
        if value := os.environ.get(key):
            return Secret(value)
        found = (files.recall(name, key) for files in (self._copies, *self._earlier_copies))
        return next((secret for secret in found if secret is not None), None)

    def recall_former_secret(self, name: str, key: str) -> Secret | None:
        """This machine's copy of the value before, until the containers are replaced."""
        return self._copies.recall_former(name, key)

    def refused_secret(self, name: str, key: str) -> str:
        """Advice: the copy belongs to another environment, or the secret was changed elsewhere."""
        copy = self.recall_secret(name, key)
        source = f"the environment variable {key}" if os.environ.get(key) else "this machine's copy"
        for place in self._other_places():
            if copy is not None and SecretFiles(self._workspace.secrets(place)).recall(name, key) == copy:
                own = place.removeprefix(f"{self.name}.")
                return (
                    f"{source} is that of the environment {own}, but this is {self._whole.name}: "
                    f"set MODAL_ENVIRONMENT={own}, or set the value for {self._whole.name}"
                )
        return (
            f"{source} differs from the index's: the secret {name} was changed elsewhere, or belongs to another "
            f"environment than {self._whole.name}. Set {key} to its current value; if it is lost, unset {key}, run "
            f"modal secret delete {name} --env {self._whole.name}, and the notebook 01_provision, which makes a new one"
        )

    def _other_places(self) -> list[str]:
        folders = self._workspace.home.glob(f"{self.name}.*/") if self._workspace.home.is_dir() else ()
        return sorted(folder.name for folder in folders if folder.name != self.place)

    def credential_ages(self) -> Sequence[CredentialAge]:
        """Ages of the admin secret, from the copy here or else from Modal, and of Modal's own token."""
        name = self.settings.secret_name
        written = next((when for files in (self._copies, *self._earlier_copies) if (when := files.written(name))), None)
        if written is None and self.secret_exists(name):
            written = ask("look up the secret", lambda: self._secret(name).info().created_at)
        shown = command_line("show the token", "token", "info", environment={"TZ": "UTC"})
        created, expires = (_moment_in(shown, word) for word in ("Created", "Expires"))
        return [
            CredentialAge(f"secret {name} (admin token)", written),
            CredentialAge("token of Modal", created, expires),
            *([CredentialAge("proxy token of Modal", proxy)] if (proxy := self._copies.written(PROXY_SECRET)) else []),
        ]

    def delete_secret(self, name: str) -> bool:
        """Delete the secret, then the copy here."""
        found = self.secret_exists(name)
        if found:
            environment = self._environment or None
            ask(
                "delete the secret",
                lambda: modal.Secret.objects.delete(name, allow_missing=True, environment_name=environment),
            )
        for files in (self._copies, *self._earlier_copies):
            files.delete(name)
        return found

    def _secret(self, name: str) -> modal.Secret:
        return modal.Secret.from_name(name, environment_name=self._environment or None)

    @property
    def _stale(self) -> Path:
        """File that exists while running containers may have an old secret."""
        return self._folder / f"{self.settings.app_name}.stale"

    @property
    def _stale_files(self) -> list[Path]:
        earlier = self._workspace.target(self.name)
        prefixes = self._whole.earlier_prefixes if earlier.is_dir() else ()
        return [self._stale, *(earlier / f"{prefix}{self.settings.app_name}.stale" for prefix in prefixes)]

    # --- client files -------------------------------------------------------------------------------------------

    def client_folder(self, username: str) -> Path:
        """Folder for the client files of one user of this environment."""
        return self._clients.of(username)

    def client_folders(self) -> Sequence[Path]:
        """Folders with client files of this environment's users."""
        return self._clients.all()

    # --- volumes ------------------------------------------------------------------------------------------------

    def _dicts_of(self, name: str) -> Sequence[str]:
        """The Dicts of a volume: locks on file names, and minted tokens, belong to the packages volume."""
        packages = name == self.settings.packages_volume
        return (self.settings.claims_dict, self.settings.tokens_dict) if packages else ()

    # --- the app ------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """State of the app: not deployed, deployed, or responding. Starts a container if none is warm."""
        found = self._deployed(changed=False)
        if found is None:
            return State(None)
        if _healthy(found.url, LOOK_SECONDS, refused_seconds=REFUSED_SECONDS):
            return State(found, responds=True)
        return State(found, error=self._last_error())

    def deployment(self) -> Deployment | None:
        """The index if it responds. Starts a container if none is warm, which takes some seconds."""
        state = self.state()
        return state.deployment if state.responds else None

    def outdated(self, *, revision: str = "") -> str:
        """The running commit, if it differs from the code here; or a secret that containers do not have yet."""
        if any(file.exists() for file in self._stale_files):
            return "runs with an older secret"
        return self._versions.outdated(revision)

    def private_paths(self) -> Sequence[Path]:
        """The workspace, the target's folder, and the copies of secrets."""
        folders = [path for path in (self._workspace.home, self._folder) if path.exists()]
        return [*folders, *self._copies.paths()]

    def move(self) -> None:
        """None: Modal determines the address when it deploys."""

    def hosting(self, *, lower_protection: str = "") -> HostingDifferences:
        """Hosting after the next :meth:`deploy`: from this process's variables, otherwise as deployed."""
        return self._versions.hosting(lower_protection).differences()

    def deploy(self, *, tag: str = "", lower_protection: str = "", revision: str = "") -> Deployment:
        """Deploy, replace containers with an old secret, and wait until the index responds."""
        before = self._versions.version()
        self._complete_rotation()
        self._versions.deploy(tag, lower_protection=lower_protection, revision=revision)
        self._replace_containers(deployed=bool(before))
        return self._responding(changed=self._versions.version() != before)

    def restart(self) -> Deployment:
        """Replace containers with an old secret, and wait until the index responds."""
        if not self._versions.version():
            raise NotDeployedError(self.place)
        self._complete_rotation()
        self._replace_containers(deployed=True)
        return self._responding(changed=False)

    def _complete_rotation(self) -> None:
        """Send the new admin token again if a run was interrupted before Modal confirmed it."""
        name, key = self.settings.secret_name, self.settings.secret_key
        copy = self._copies.recall(name, key)
        if copy is not None and self._copies.recall_former(name, key) is not None:
            self._send_secret(name, {key: copy})

    def _replace_containers(self, *, deployed: bool) -> None:
        """Replace containers that may have an old secret; none of an app that was only just deployed has."""
        stale = [file for file in self._stale_files if file.exists()]
        if deployed and stale:
            self._versions.rollover()
        for file in stale:
            file.unlink(missing_ok=True)
        self._copies.forget_former(self.settings.secret_name)

    def resume(self) -> bool:
        """False: Modal replaces containers without stopping the app."""
        return False

    def history(self) -> Sequence[DeployedVersion]:
        """Modal's history of deployments, newest first."""
        return self._versions.history()

    def rollback(self, version: str) -> Deployment:
        """Deploy an earlier version. Volumes and secrets do not change."""
        self._versions.rollback(version)
        return self._responding(changed=True)

    @property
    def unfinished_upgrade(self) -> Path:
        """File with the version before an upgrade, until the new one has passed its test."""
        return self._folder / f"{self.settings.app_name}.upgrade"

    def state_files(self) -> Sequence[Path]:
        """Files about containers with an older secret, and about unfinished runs."""
        paths = (*self._stale_files, self.unfinished_upgrade, self._folder / "temporary")
        return [path for path in paths if path.exists()]

    def stop(self) -> bool:
        """Stop the app for good. Volumes and secrets stay; the next :meth:`deploy` creates a new app with that name."""
        if not self._versions.version():
            return False
        ask("stop the app", lambda: self._app().stop())
        return True

    def logs(self, lines: int = 50) -> str:
        """The last lines printed by the containers of all versions."""
        return "\n".join(as_lines(entry.message for entry in self._log(lines))[-lines:])

    def costs(self) -> Sequence[tuple[str, float]]:
        """Metered cost of this environment since the first of the month in UTC, by resource."""

        def look() -> list[tuple[str, float]]:
            name = self._environment
            environment = modal.Environment.from_name(name) if name else modal.Environment.from_context()
            summary = environment.billing.summary()
            return [(resource, float(cost)) for resource, cost in sorted(summary.metered_cost_breakdown.items())]

        return ask("report the cost of the environment", look)

    def _last_error(self) -> str:
        """The last error printed by containers of the deployed version."""
        deployed = self._versions.deployed_at()
        entries = [entry.message for entry in self._log(ERROR_LINES) if entry.timestamp.timestamp() >= deployed]
        return last_error(as_lines(entries))

    def _log(self, entries: int) -> list[modal.types.LogEntry]:
        def tail() -> list[modal.types.LogEntry]:
            try:
                return list(self._app().logs.tail(entries))
            except modal.exception.NotFoundError:
                raise NotDeployedError(self.place) from None

        return ask("show the log", tail)

    def _app(self) -> modal.App:
        return modal.App.lookup(self.settings.app_name, environment_name=self._environment or None)

    def _url(self) -> str | None:
        found = self._deployed(changed=False)
        return found.url if found else None

    def _deployed(self, *, changed: bool) -> Deployment | None:
        """The deployed index, whether or not it responds."""

        def look() -> tuple[str | None, str | None, bool] | None:
            server, admin = (
                modal.Function.from_name(self.settings.app_name, function, environment_name=self._environment or None)
                for function in (SERVER_FUNCTION, ADMIN_FUNCTION)
            )
            try:
                urls = server.get_web_url(), admin.get_web_url()
            except modal.exception.NotFoundError:
                return None
            web = admin.info().web_info
            return *urls, web is not None and not web.unauthenticated

        found = ask("look up the app", look)
        if found is None or not found[0] or not found[1]:
            return None
        url, admin_url, behind_proxy_auth = found
        return Deployment(
            url=f"{url}/",
            admin_url=f"{admin_url}/",
            detail=f"app {self.settings.app_name}, version {self._versions.version()}, environment {self._whole.name}",
            changed=changed,
            admin_headers=self._proxy_headers() if behind_proxy_auth else {},
        )

    def _proxy_headers(self) -> Mapping[str, Secret]:
        """The proxy token, only for an admin application behind proxy auth."""
        recalled = {header: self.recall_secret(PROXY_SECRET, key) for header, key in PROXY_TOKEN.items()}
        return {header: secret for header, secret in recalled.items() if secret is not None}

    def _responding(self, *, changed: bool) -> Deployment:
        found = self._deployed(changed=changed)
        if found is None:
            raise NotDeployedError(self.place)
        if not _healthy(found.url, RESPONSE_SECONDS):
            raise StartError(
                "the app was deployed but the index does not respond",
                why=self._last_error() or self.logs(5).replace("\n", " | ") or "it printed nothing",
                todo="fix that and run this again; the whole log: modal app logs "
                f"{self.settings.app_name} --env {self._whole.name}",
            )
        return found


def _moment_in(shown: str, word: str) -> datetime | None:
    """The time after *word* in the output of ``modal token info``."""
    found = re.search(rf"^{word} at: (\S+ \S+) UTC", shown, re.MULTILINE)
    return datetime.strptime(f"{found[1]}+0000", "%Y-%m-%d %H:%M:%S%z") if found else None


def _healthy(url: str, seconds: float, *, refused_seconds: float = RESPONSE_SECONDS) -> bool:
    """Wait until the index at *url* responds, with progress messages. False if it does not.

    Parameters:
        url: ending in a slash.
        seconds: for any response, so that a container can start.
        refused_seconds: during which failures are retried, as they occur while containers are replaced.
    """
    begun = told = time.monotonic()
    deadline = begun + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            with urllib.request.urlopen(f"{url}health", timeout=left) as response:  # noqa: S310 - the URL is Modal's
                return bool(response.status == 200)
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code < 500 or time.monotonic() - begun >= refused_seconds:
                return False
        except (OSError, urllib.error.URLError):
            pass
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"… waiting for the index to respond: {left:.0f} s left")
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
    return False
