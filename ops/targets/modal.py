"""Modal as a target: the deployment of this clone, through Modal's own client."""

from __future__ import annotations

import contextlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ops.errors import NotDeployedError, RunbookError, StartError, TargetError
from ops.secret import Secret
from ops.settings import ADMIN_FUNCTION, SERVER_FUNCTION, Settings
from ops.targets.lock import exclusive
from ops.targets.modal_release import Releases
from ops.targets.modal_session import SUPPORTED, ask, modal, say
from ops.targets.target import Check, Deployment, Release
from ops.workspace import Workspace

ENVIRONMENT_VARIABLE = "MODAL_ENVIRONMENT"
TRANSFER_SECONDS = 4 * 3600.0
ANSWER_SECONDS = 180.0
"""How long the index may take to answer after a deployment, the start of its container included."""
PROGRESS_BYTES = 64 * 1024**2
"""A transfer tells how far it is after each of these."""


class ModalTarget:
    """One environment of one Modal workspace. Credentials are Modal's own: its variables, or the file of its command.

    Parameters:
        workspace: the operator's folder, which keeps what Modal does not give back.
        settings: the names of app, volumes and secret.
        environment: Modal's environment; ``MODAL_ENVIRONMENT``, or the workspace's default, when not given.
    """

    name = "modal"

    def __init__(
        self, *, workspace: Workspace | None = None, settings: Settings | None = None, environment: str | None = None
    ) -> None:
        self._workspace = workspace or Workspace.default()
        self._settings = settings or Settings()
        self._environment = environment if environment is not None else os.environ.get(ENVIRONMENT_VARIABLE, "")
        self._folder = self._workspace.target(self.name)
        self._releases = Releases(self._settings, self._environment)

    # --- the preflight ------------------------------------------------------------------------------------------

    def checks(self) -> Sequence[Check]:
        """The client's version, the credentials, the environment, the deployment file. Each needs those before it."""
        found = [self._check_client(), self._check_credentials()]
        if found[-1].passed:
            found.append(self._check_workspace())
        if found[-1].passed:
            found.append(self._check_environment())
        file = self._releases.file
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
        def look() -> str | None:
            if self._environment:
                return modal.Environment.from_name(self._environment).hydrate().name
            return modal.Environment.from_context().hydrate().name

        try:
            name = ask("look up the environment", look, seconds=60)
        except RunbookError as error:
            todo = f"create it with: modal environment create {self._environment}"
            return Check("environment", passed=False, detail=f"{error.why or error.what}; {todo}")
        return Check("environment", passed=True, detail=name or "the default")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the target against other runs of this workspace's operator. Modal itself has no lock."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(self._folder / "lock", what="the target modal"):
            yield

    # --- secrets ------------------------------------------------------------------------------------------------

    def secret_exists(self, name: str) -> bool:
        """Whether Modal has a secret called *name* in this environment."""
        return self._exists("look up the secret", lambda: self._secret(name).hydrate())

    def put_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        """Create the secret, or give its keys new values, and keep a copy here: Modal does not give values back.

        The secret itself stays when it exists, since deployed functions hold it by its id. Containers that run go on
        with the old value until the next :meth:`deploy`, which replaces them.
        """
        revealed = {key: secret.reveal() for key, secret in values.items()}
        draft = self._write_copy(name, revealed)

        def put() -> None:
            try:
                modal.Secret.objects.create(name, revealed, environment_name=self._environment or None)
            except modal.exception.AlreadyExistsError:
                self._secret(name).update(revealed)

        try:
            ask("keep the secret", put)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        draft.replace(self._copy(name))
        self._stale.touch(mode=0o600)

    def recall_secret(self, name: str, key: str) -> Secret | None:
        """The operator's copy: the environment variable *key*, else the 0600 file that :meth:`put_secret` wrote."""
        if value := os.environ.get(key):
            return Secret(value)
        try:
            lines = self._copy(name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        for line in lines:
            found, _, value = line.partition("=")
            if found == key and value:
                return Secret(value)
        return None

    def delete_secret(self, name: str) -> bool:
        """Delete the secret, and the copy here."""
        self._copy(name).unlink(missing_ok=True)
        if not self.secret_exists(name):
            return False
        ask(
            "delete the secret",
            lambda: modal.Secret.objects.delete(name, allow_missing=True, environment_name=self._environment or None),
        )
        return True

    def _secret(self, name: str) -> modal.Secret:
        return modal.Secret.from_name(name, environment_name=self._environment or None)

    def _copy(self, name: str) -> Path:
        # Environments have secrets of the same name: each has a copy of its own.
        return self._workspace.secrets(self.name) / f"{self._environment or 'default'}.{name}.env"

    def _write_copy(self, name: str, values: Mapping[str, str]) -> Path:
        for key, value in values.items():
            if not key.isidentifier() or "\n" in value or "\r" in value:
                raise TargetError(
                    f"the secret {name!r} cannot be kept",
                    why="its copy holds one KEY=value a line, so a value cannot contain a line break",
                    todo="give a value on one line",
                )
        target = self._copy(name)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(f"{key}={value}\n" for key, value in values.items())
            stream.flush()
            os.fsync(stream.fileno())
        return draft

    @property
    def _stale(self) -> Path:
        """There while a secret is newer than the containers may be."""
        return self._folder / f"{self._environment or 'default'}.{self._settings.app_name}.stale"

    # --- volumes ------------------------------------------------------------------------------------------------

    def volume_exists(self, name: str) -> bool:
        """Whether Modal has a volume called *name* in this environment."""
        return self._exists("look up the volume", lambda: self._volume(name).hydrate())

    def create_volume(self, name: str) -> None:
        """Make a Volume v1: Modal does not vouch for data on v2."""
        ask(
            "create the volume",
            lambda: modal.Volume.objects.create(
                name, version=1, allow_existing=True, environment_name=self._environment or None
            ),
        )

    def delete_volume(self, name: str) -> bool:
        """Delete the volume, and with that of the packages the claims on its file names.

        An app that is deployed holds a volume by its id: stop the app first.
        """
        if not self.volume_exists(name):
            return False

        def delete() -> None:
            environment = self._environment or None
            modal.Volume.objects.delete(name, allow_missing=True, environment_name=environment)
            if name == self._settings.packages_volume:
                modal.Dict.objects.delete(self._settings.claims_dict, allow_missing=True, environment_name=environment)

        ask("delete the volume", delete)
        return True

    def list_files(self, volume: str) -> Iterator[tuple[str, int]]:
        """Every file of a volume, in the order of its paths."""

        def look() -> list[tuple[str, int]]:
            found = self._volume(volume).listdir("/", recursive=True)
            files = [entry for entry in found if entry.type.name == "FILE"]
            return sorted((entry.path.lstrip("/"), entry.size) for entry in files)

        yield from ask(f"list the files of {volume}", look, seconds=600)

    def download(self, volume: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*, which appears only when it is whole."""
        part = destination.with_name(f".{destination.name}.{os.getpid()}")

        def copy() -> None:
            told = done = 0
            with part.open("wb") as out:
                for piece in self._volume(volume).read_file(path):
                    out.write(piece)
                    done += len(piece)
                    if done - told >= PROGRESS_BYTES:
                        told = done
                        say(f"… {path}: {done // 2**20} MiB downloaded")

        try:
            ask(f"download {path}", copy, seconds=TRANSFER_SECONDS)
            part.replace(destination)
        finally:
            part.unlink(missing_ok=True)

    def upload(self, volume: str, path: str, source: Path) -> None:
        """Copy *source* onto a volume as *path*; running servers see it at their next reload."""

        def copy() -> None:
            with self._volume(volume).batch_upload(force=True) as batch:
                batch.put_file(source, f"/{path.lstrip('/')}")

        ask(f"upload {path} ({source.stat().st_size // 2**20} MiB)", copy, seconds=TRANSFER_SECONDS)

    def _volume(self, name: str) -> modal.Volume:
        return modal.Volume.from_name(name, environment_name=self._environment or None)

    # --- the app ------------------------------------------------------------------------------------------------

    def deployment(self) -> Deployment | None:
        """The index that answers now. Where nothing is kept warm this starts a container, which takes some seconds."""
        found = self._deployed(changed=False)
        return found if found is not None and _healthy(found.url, 60) else None

    def deploy(self, *, tag: str = "") -> Deployment:
        """Deploy this clone, replace containers that have an old secret, and wait until the index answers."""
        before = self._releases.version()
        self._releases.deploy(tag)
        if before and self._stale.exists():
            self._releases.rollover()
        self._stale.unlink(missing_ok=True)
        return self._answering(changed=self._releases.version() != before)

    def history(self) -> Sequence[Release]:
        """What Modal has noted of every deployment, newest first."""
        return self._releases.history()

    def rollback(self, version: str) -> Deployment:
        """Deploy an earlier version; volumes and secrets stay as they are."""
        self._releases.rollback(version)
        return self._answering(changed=True)

    def stop(self) -> bool:
        """Stop the app for good; volumes and secrets stay. The next :meth:`deploy` makes a new app of that name."""
        if not self._releases.version():
            return False
        ask("stop the app", lambda: self._app().stop())
        return True

    def logs(self, lines: int = 50) -> str:
        """The last lines that the containers printed, of all versions."""

        def tail() -> str:
            try:
                return "".join(entry.message for entry in self._app().logs.tail(lines))
            except modal.exception.NotFoundError:
                raise NotDeployedError(self.name) from None

        return "\n".join(ask("show the log", tail).splitlines()[-lines:])

    def _app(self) -> modal.App:
        return modal.App.lookup(self._settings.app_name, environment_name=self._environment or None)

    def _deployed(self, *, changed: bool) -> Deployment | None:
        def look() -> list[str | None] | None:
            try:
                return [
                    modal.Function.from_name(
                        self._settings.app_name, function, environment_name=self._environment or None
                    ).get_web_url()
                    for function in (SERVER_FUNCTION, ADMIN_FUNCTION)
                ]
            except modal.exception.NotFoundError:
                return None

        urls = ask("look up the app", look)
        if urls is None or not all(urls):
            return None
        where = f" in the environment {self._environment}" if self._environment else ""
        detail = f"app {self._settings.app_name}, version {self._releases.version()}{where}"
        return Deployment(url=f"{urls[0]}/", admin_url=f"{urls[1]}/", detail=detail, changed=changed)

    def _answering(self, *, changed: bool) -> Deployment:
        found = self._deployed(changed=changed)
        if found is None:
            raise NotDeployedError(self.name)
        if not _healthy(found.url, ANSWER_SECONDS):
            raise StartError(
                "the app was deployed and the index does not answer",
                why=self.logs(5).replace("\n", " | ") or "it printed nothing",
                todo="read its log, by logs() of the target or with: modal app logs " + self._settings.app_name,
            )
        return found

    def _exists(self, doing: str, hydrate: Callable[[], object]) -> bool:
        def look() -> bool:
            try:
                hydrate()
            except modal.exception.NotFoundError:
                return False
            return True

        return ask(doing, look)


def _healthy(url: str, seconds: float) -> bool:
    """Whether the index at *url* answers within *seconds*; tells that it waits."""
    deadline = time.monotonic() + seconds
    told = time.monotonic()
    while (left := deadline - time.monotonic()) > 0:
        try:
            with urllib.request.urlopen(f"{url}health", timeout=left) as answer:  # noqa: S310 - the URL is Modal's
                return bool(answer.status == 200)
        except urllib.error.HTTPError as refused:
            refused.close()
            if refused.code < 500:
                return False
        except (OSError, urllib.error.URLError):
            pass
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"… waiting for the index to answer: {left:.0f} s left")
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
    return False
