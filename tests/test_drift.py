"""Drift: any change by hand on this machine is a row in the plan of the responsible notebook."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from ops import onboard, provision
from ops.admin_api import AdminApi
from ops.errors import ApprovalError
from ops.onboard import Onboarding
from ops.plan import Plan
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_NAME
from ops.table import APPROVED_VARIABLE
from ops.targets import Target, open_target
from ops.targets.process import ServerProcess
from ops.workspace import Workspace
from tests.benchmark.servers import free_port

pytestmark = pytest.mark.slow


class World:
    """An index on this machine with a user, and all its files.

    Parameters:
        workspace: where to create it.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.home = workspace.home
        self.target: Target = open_target("local", workspace=workspace, port=free_port())
        provision.apply(self.target)
        onboard.apply(self.onboarding)
        self.target = open_target("local", workspace=workspace)

    @property
    def onboarding(self) -> Onboarding:
        return onboard.describe(
            self.target, username="alice", role="publisher", projects="spam", archive=True, folder=str(self.files)
        )

    @property
    def files(self) -> Path:
        return self.workspace.user("local", "alice")

    @property
    def credentials(self) -> Path:
        return self.home / "local" / "volumes" / CREDENTIALS_VOLUME

    @property
    def server(self) -> ServerProcess:
        process = ServerProcess.load(self.server_file)
        assert process is not None
        return process

    @property
    def server_file(self) -> Path:
        return self.home / "local" / "server.json"

    @property
    def token_file(self) -> Path:
        return self.home / "local" / "secrets" / f"{SECRET_NAME}.env"

    def admin(self) -> AdminApi:
        return AdminApi.of(self.target)[1]

    def provisioning(self) -> Plan:
        return provision.plan(self.target)

    def onboarding_plan(self) -> Plan:
        return onboard.plan(self.onboarding)

    def edit_fingerprint(self, name: str) -> None:
        stored = json.loads(self.server_file.read_text())
        words = [f"{name}=0" if word.startswith(f"{name}=") else word for word in stored["fingerprint"].split()]
        self.server_file.write_text(json.dumps(stored | {"fingerprint": " ".join(words)}))

    def register(self, **fields: object) -> None:
        with self.admin() as admin:
            admin.register("alice", **fields)  # type: ignore[arg-type]  # of any kind, for brevity

    def delete_user(self) -> None:
        with self.admin() as admin:
            admin.delete("alice")


@pytest.fixture
def world(workspace: Workspace) -> Iterator[World]:
    world = World(workspace)
    try:
        assert world.provisioning().pending == ()
        assert world.onboarding_plan().pending == ()
        yield world
    finally:
        if world.server_file.is_file():
            os.kill(world.server.pid, signal.SIGCONT)
        world.target.stop()


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def _rename(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.gone"))


def _forged(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("env.sh", "")


OF_PROVISIONING: dict[str, tuple[Callable[[World], object], str]] = {
    "the admin token is changed": (lambda w: _append(w.token_file, "OTHER=value-of-it\n"), "another admin_token"),
    "the mode of the token's file": (lambda w: w.token_file.chmod(0o644), "+ close"),
    "the mode of the workspace": (lambda w: w.home.chmod(0o755), "+ close"),
    "the mode of a volume": (lambda w: w.credentials.chmod(0o750), "+ close"),
    "the mode of the log": (lambda w: (w.home / "local" / "server.log").chmod(0o640), "+ close"),
    "other code runs": (lambda w: w.edit_fingerprint("code"), "another code"),
    "another interpreter runs": (lambda w: w.edit_fingerprint("interpreter"), "another interpreter"),
    "another command runs": (lambda w: w.edit_fingerprint("command"), "another command"),
    "the server is stopped": (lambda w: w.target.stop(), "+ server  start it"),
    "the server hangs": (lambda w: os.kill(w.server.pid, signal.SIGSTOP), "does not respond"),
    "the client files name another address": (
        lambda w: (w.files / ".pypirc").write_text((w.files / ".pypirc").read_text().replace("127.0.0.1", "127.0.0.2")),
        "~ client files of alice",
    ),
}
OF_ONBOARDING: dict[str, tuple[Callable[[World], object], str]] = {
    "the user is deleted": (World.delete_user, "+ user alice  create as publisher of spam"),
    "the role is changed": (lambda w: w.register(role="reader"), "change to publisher of spam"),
    "the projects are changed": (lambda w: w.register(projects=["eggs"]), "change to publisher of spam"),
    "the password is changed": (
        lambda w: w.register(password_hash=bcrypt.hashpw(b"changed-by-hand", bcrypt.gensalt(10)).decode()),
        "~ password  in the client files; lets nobody in",
    ),
    "a client file is lost": (lambda w: (w.files / "netrc").unlink(), "missing or outdated: netrc"),
    "a client file is altered": (lambda w: _append(w.files / "pip.conf", "#\n"), "missing or outdated: pip.conf"),
    "the mode of a client file": (lambda w: (w.files / "env.sh").chmod(0o644), "missing or outdated: env.sh"),
    "the mode of the folder": (lambda w: w.files.chmod(0o755), "close it to them"),
    "the zip file is altered": (lambda w: _forged(w.files / "handover.zip"), "missing or outdated: handover.zip"),
    "all client files are lost": (
        lambda w: _rename(w.files),
        "~ password  not known here; give it",
    ),
}
STOPPED: dict[str, tuple[Callable[[World], object], str]] = {
    "the admin token is lost": (lambda w: w.token_file.unlink(), "+ secret pypi-auth-token"),
    "the packages are lost": (lambda w: _rename(w.home / "local" / "volumes" / PACKAGES_VOLUME), "pypiserver-data"),
    "the users are lost": (lambda w: _rename(w.credentials), "+ volume pypiserver-credentials"),
}
"""Changes by hand while the server is stopped."""


def test_twenty_changes_by_hand_are_rows_of_the_plans(world: World) -> None:
    seen = 0
    for what, (change, row) in OF_PROVISIONING.items():
        change(world)
        lines = [str(pending) for pending in world.provisioning().pending]
        assert any(row.removeprefix("+ ") in line for line in lines), (what, lines)
        if what == "the server hangs":
            os.kill(world.server.pid, signal.SIGCONT)
        outcome = provision.apply(world.target)
        assert outcome.changed or what == "the server hangs", what
        assert world.provisioning().pending == (), f"{what}: applying the plan did not fix it"
        onboard.apply(world.onboarding)
        seen += 1
    for what, (change, row) in OF_ONBOARDING.items():
        change(world)
        lines = [str(pending) for pending in world.onboarding_plan().pending]
        assert any(row in line for line in lines), (what, lines)
        refused = any(pending.refused for pending in world.onboarding_plan().pending)
        reset = onboard.describe(
            world.target, username="alice", role="publisher", projects="spam", archive=True, password_reset=refused
        )
        onboard.apply(reset)
        assert world.onboarding_plan().pending == (), f"{what}: applying the plan did not fix it"
        seen += 1
    for what, (change, row) in STOPPED.items():
        world.target.stop()
        change(world)
        lines = [str(pending) for pending in world.provisioning().pending]
        assert any(row in line for line in lines), (what, lines)
        provision.apply(world.target)
        assert world.provisioning().pending == (), what
        seen += 1
    assert seen >= 20


def test_an_outdated_plan_of_this_machine_is_refused_in_100_of_100_races(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    provisioning = (world.provisioning, lambda: provision.apply(world.target))
    onboarding = (world.onboarding_plan, lambda: onboard.apply(world.onboarding))
    changes: tuple[tuple[Callable[[], object], tuple[Callable[[], Plan], Callable[[], object]]], ...] = (
        (lambda: world.token_file.chmod(0o644), provisioning),
        (lambda: _append(world.token_file, "OTHER=value-of-it\n"), provisioning),
        (lambda: world.edit_fingerprint("code"), provisioning),
        (lambda: world.files.chmod(0o755), onboarding),
        (lambda: _append(world.files / "pip.conf", "#\n"), onboarding),
    )
    kept = {path: path.read_bytes() for path in (world.token_file, world.server_file, world.files / "pip.conf")}
    pid, refused = world.server.pid, 0
    for number in range(100):
        change, (look, apply) = changes[number % len(changes)]
        monkeypatch.setenv(APPROVED_VARIABLE, look().sha256)
        change()
        with pytest.raises(ApprovalError):
            apply()
        monkeypatch.delenv(APPROVED_VARIABLE)
        refused += world.server.pid == pid
        for path, content in kept.items():
            path.write_bytes(content)
        world.token_file.chmod(0o600)
        world.files.chmod(0o700)
    assert refused == 100
