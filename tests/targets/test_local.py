"""The local target, with the real server process on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ops.errors import BusyError, PortTakenError, StartError, TargetError
from ops.index.config import PUBLIC_URL_VARIABLE, TRUSTED_ROOT_VARIABLE
from ops.polling import until
from ops.preflight import preflight_of_index
from ops.secret import Secret
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_KEY, SECRET_NAME, Settings
from ops.targets import Move, local, open_target
from ops.targets import lock as lock_module
from ops.targets.local import LocalTarget
from ops.targets.process import ServerProcess
from ops.workspace import PROJECT_ROOT, Workspace
from tests.benchmark.servers import free_port
from tests.index.sigstore_instance import FakeSigstore


@pytest.fixture
def target(workspace: Workspace) -> Iterator[LocalTarget]:
    """A local target with its volumes and secret in place and no server; stopped at the end."""
    target = LocalTarget(workspace, Settings(), port=free_port())
    target.create_volume(PACKAGES_VOLUME)
    target.create_volume(CREDENTIALS_VOLUME)
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
    yield target
    target.stop()


def _process(workspace: Workspace) -> ServerProcess:
    process = ServerProcess.load(workspace.target("local") / "server.json")
    assert process is not None
    return process


def test_a_deployed_index_responds_and_refuses_strangers(target: LocalTarget) -> None:
    deployment = target.deploy()

    assert deployment.changed
    with urllib.request.urlopen(f"{deployment.url}health") as response:
        assert response.status == 200
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(deployment.index_url)
    refusal.value.close()
    assert refusal.value.code == 401
    assert "realm=" in refusal.value.headers["WWW-Authenticate"]


def test_the_server_knows_the_url_given_to_clients(target: LocalTarget, workspace: Workspace) -> None:
    deployment = target.deploy()
    environment = psutil.Process(_process(workspace).pid).environ()
    assert environment[PUBLIC_URL_VARIABLE] == deployment.url


def test_a_public_url_set_by_the_operator_is_that_of_a_proxy(
    target: LocalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.deploy()
    assert target.outdated() == ""
    monkeypatch.setenv(PUBLIC_URL_VARIABLE, "https://index.example/pypi/")
    assert "command" in target.outdated()
    target.deploy()
    environment = psutil.Process(_process(workspace).pid).environ()
    assert environment[PUBLIC_URL_VARIABLE] == "https://index.example/pypi/"


def test_a_trusted_root_in_the_folder_of_the_target_verifies_signatures(
    target: LocalTarget, workspace: Workspace
) -> None:
    target.deploy()
    root = FakeSigstore().write(workspace.target("local") / "trusted_root.json")
    assert target.deploy().changed
    assert psutil.Process(_process(workspace).pid).environ()[TRUSTED_ROOT_VARIABLE] == str(root)
    root.write_text("{}")
    root.chmod(0o600)
    target.stop()
    with pytest.raises(StartError, match="trusted_root"):
        target.deploy()


def test_deploying_again_finds_the_same_process(target: LocalTarget, workspace: Workspace) -> None:
    target.deploy()
    first = _process(workspace)

    again = target.deploy()

    assert not again.changed
    assert _process(workspace) == first


def test_a_new_secret_restarts_the_server_on_the_same_port(target: LocalTarget, workspace: Workspace) -> None:
    before = target.deploy()
    first = _process(workspace)
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})

    after = target.deploy()

    assert after.changed
    assert after.url == before.url
    assert _process(workspace).pid != first.pid


def test_a_restart_for_a_new_secret_keeps_the_version(
    target: LocalTarget, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.deploy()
    first = _process(workspace)
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
    shutil.copytree(PROJECT_ROOT / "ops", tmp_path / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "ops/index/__init__.py").open("a") as file:
        file.write("# another version")
    monkeypatch.setattr(local, "PROJECT_ROOT", tmp_path)

    assert target.restart().changed

    parts = [dict(part.split("=") for part in each.fingerprint.split()) for each in (first, _process(workspace))]
    assert [name for name in parts[0] if parts[0][name] != parts[1][name]] == ["admin_token"]
    assert len(target.history()) == 1
    assert target.recall_former_secret(SECRET_NAME, SECRET_KEY) is None


def test_a_killed_server_does_not_count_as_deployed_and_is_repaired(target: LocalTarget, workspace: Workspace) -> None:
    before = target.deploy()
    os.kill(_process(workspace).pid, signal.SIGKILL)
    psutil.Process(_process(workspace).pid).wait(timeout=60)

    assert target.deployment() is None
    assert target.deploy().url == before.url


def test_a_run_killed_before_it_has_saved_its_server_leaves_none(target: LocalTarget, workspace: Workspace) -> None:
    program = (
        "import os, signal\n"
        "from ops.targets import open_target\n"
        "from ops.targets.process import ServerProcess\n"
        "ServerProcess.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_target('local').deploy()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=PROJECT_ROOT)
    assert done.returncode == -signal.SIGKILL
    assert until(lambda: _programs(workspace), lambda found: not found) == []
    assert target.deploy().changed
    (server,) = _programs(workspace)
    assert server.pid == _process(workspace).pid


def _programs(workspace: Workspace) -> list[psutil.Process]:
    """Processes with the workspace among their arguments."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(workspace.home) in argument for argument in process.cmdline()):
                found.append(process)
    return found


def test_a_server_stopped_by_a_killed_rotation_is_started_again(target: LocalTarget) -> None:
    target.deploy()
    target.stop()
    assert not target.resume(), "it was stopped on purpose"
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
    assert not target.state().responds
    row = ("server", "an earlier run was killed; started again", "yes")
    assert row in preflight_of_index(target).rows
    assert target.state().responds
    assert row not in preflight_of_index(target).rows


def test_a_server_that_hangs_is_replaced(
    target: LocalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "HUNG_SECONDS", 0.1)
    target.deploy()
    hung = _process(workspace)
    os.kill(hung.pid, signal.SIGSTOP)

    assert target.deployment() is None
    assert target.deploy().changed  # it cannot react to SIGTERM, so it is killed after a wait
    assert not psutil.pid_exists(hung.pid)


def test_a_process_id_reused_by_another_program_is_not_our_server(target: LocalTarget, workspace: Workspace) -> None:
    """After a reboot the id in server.json may belong to any program, which is neither trusted nor stopped."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        try:
            stale = ServerProcess(
                pid=bystander.pid, created=1_000_000.0, host="127.0.0.1", port=free_port(), fingerprint=""
            )
            stale.save(workspace.target("local") / "server.json")

            assert target.deployment() is None
            assert target.stop() is False
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_an_invalid_process_file_means_no_server(target: LocalTarget, workspace: Workspace) -> None:
    (workspace.target("local") / "server.json").write_text('{"pid": "nonsense"')

    assert target.deployment() is None
    assert target.deploy().changed


def test_a_taken_requested_port_is_reported_with_its_holder(workspace: Workspace) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(PortTakenError) as refusal:
            LocalTarget(workspace, Settings(), port=port).deploy()

    assert str(port) in str(refusal.value)
    assert str(os.getpid()) in str(refusal.value)


@contextlib.contextmanager
def listener(port: int) -> Iterator[subprocess.Popen[str]]:
    """Another program that listens on *port*, with a secret word among its arguments."""
    program = (
        "import socket, sys, time\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        f"s.bind(('127.0.0.1', {port})); s.listen(); print('listens', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, "--password=a-canary"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_the_last_port_is_not_abandoned_when_another_program_has_it(target: LocalTarget, workspace: Workspace) -> None:
    """Shells that know the index there would keep sending their passwords to the program on that port."""
    target.deploy()
    target.stop()
    port = _process(workspace).port
    anywhere = LocalTarget(workspace, Settings())
    with listener(port) as other:
        for attempt in (anywhere.move, anywhere.deploy, target.deploy):
            with pytest.raises(PortTakenError) as refusal:
                attempt()
            for known in (f"port {port}", f"process {other.pid}", psutil.Process().username(), "PORT="):
                assert known in str(refusal.value)
            assert "canary" not in str(refusal.value)

    assert anywhere.deploy().url == f"http://127.0.0.1:{port}/"


def test_a_server_keeps_running_when_the_port_it_should_move_to_is_taken(
    target: LocalTarget, workspace: Workspace
) -> None:
    target.deploy()
    deployment = target.deployment()
    port = free_port()
    with listener(port), pytest.raises(PortTakenError):
        LocalTarget(workspace, Settings(), port=port).deploy()

    assert target.deployment() == deployment


def test_a_failed_start_does_not_forget_the_port_that_clients_know(target: LocalTarget, workspace: Workspace) -> None:
    target.deploy()
    target.stop()
    folder = target.volume_folder(PACKAGES_VOLUME)
    folder.rename(folder.with_name("aside"))
    folder.write_text("a file where the volume should be")

    with pytest.raises(StartError):
        LocalTarget(workspace, Settings(), port=free_port()).deploy()

    assert _process(workspace).port == target._port


def test_a_port_other_than_the_last_one_is_a_move(target: LocalTarget, workspace: Workspace) -> None:
    assert target.move() is None
    before = target.deploy().url
    port = free_port()

    assert target.move() is None
    assert LocalTarget(workspace, Settings()).move() is None
    assert LocalTarget(workspace, Settings(), port=port).move() == Move(before, f"http://127.0.0.1:{port}/")


def test_a_first_start_takes_the_next_port_when_the_usual_one_is_taken(
    target: LocalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr("ops.targets.local.LOCAL_PORT", port)
    first = LocalTarget(workspace, Settings())
    with listener(port):
        try:
            assert first.deploy().url != f"http://127.0.0.1:{port}/"
        finally:
            first.stop()


def test_a_first_start_fails_if_every_port_that_it_may_take_is_taken(
    target: LocalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(local, "LOCAL_PORT", port)
    monkeypatch.setattr(local, "PORTS_TRIED", 1)
    with listener(port), pytest.raises(TargetError, match="no free port was found"):
        LocalTarget(workspace, Settings()).deploy()


def test_another_index_that_takes_the_port_while_the_server_starts_is_not_mistaken_for_it(
    target: LocalTarget, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.deploy()
    port = _process(workspace).port
    monkeypatch.setattr("ops.targets.local.LOCAL_PORT", port)
    checked: list[int] = []

    def bindable(port: int) -> bool:
        checked.append(port)
        return len(checked) == 1 or bindable_now(port)

    bindable_now = local._bindable
    monkeypatch.setattr(local, "_bindable", bindable)
    second = LocalTarget(Workspace(workspace.home / "second"), Settings())
    second.create_volume(PACKAGES_VOLUME)
    second.create_volume(CREDENTIALS_VOLUME)
    second.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
    try:
        assert second.deploy().url != f"http://127.0.0.1:{port}/"
        assert second.state().responds
    finally:
        second.stop()


def test_stopping_keeps_data_and_a_second_stop_reports_that_nothing_was_running(target: LocalTarget) -> None:
    target.deploy()
    kept = target.volume_folder(PACKAGES_VOLUME) / "kept.txt"
    kept.write_text("kept")

    assert target.stop() is True
    assert target.stop() is False
    assert target.deployment() is None
    assert kept.read_text() == "kept"


def test_the_server_outlives_the_process_that_started_it(workspace: Workspace, target: LocalTarget) -> None:
    program = (
        "from ops.targets import open_target\n"
        f"print(open_target('local', port={target._port}).deploy().url)\n"  # the workspace comes from the environment
    )
    url = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout.strip()

    with urllib.request.urlopen(f"{url}health") as response:
        assert response.status == 200


def test_a_server_that_cannot_start_is_explained_with_its_log(target: LocalTarget, workspace: Workspace) -> None:
    folder = target.volume_folder(PACKAGES_VOLUME)
    folder.rmdir()
    folder.write_text("a file where the volume should be")

    with pytest.raises(StartError) as failure:
        target.deploy()

    assert str(workspace.target("local") / "server.log") in str(failure.value)


def test_a_secret_is_stored_in_a_private_file_and_read_back(target: LocalTarget, workspace: Workspace) -> None:
    target.put_secret("some-secret", {"KEY": Secret("a=b # c")})

    path = workspace.secrets("local") / "some-secret.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert target.recall_secret("some-secret", "KEY") == Secret("a=b # c")
    assert target.recall_secret("some-secret", "OTHER") is None
    assert target.delete_secret("some-secret") is True
    assert target.delete_secret("some-secret") is False


def test_a_secret_that_other_users_may_read_is_told_once_and_stays_as_it_is(
    target: LocalTarget, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of an earlier version or another umask, say: 01_provision plans to close it, reading does not."""
    assert target.recall_secret(SECRET_NAME, SECRET_KEY)
    assert capsys.readouterr().err == ""
    path = workspace.secrets("local") / f"{SECRET_NAME}.env"
    path.chmod(0o640)
    for _ in range(2):
        assert target.recall_secret(SECRET_NAME, SECRET_KEY)
    told = capsys.readouterr().err
    assert told.count(path.name) == told.count("01_provision") == told.count("04_rotate_credentials") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_no_secret_is_in_the_process_file_or_visible_to_ps(target: LocalTarget, workspace: Workspace) -> None:
    canary = "canary-of-the-admin-token-0123456789"
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret(canary)})
    target.deploy()
    process = psutil.Process(_process(workspace).pid)

    assert canary not in (workspace.target("local") / "server.json").read_text()
    assert canary not in " ".join(process.cmdline())
    assert canary not in json.dumps(process.environ())
    assert canary not in target.logs()


@pytest.mark.parametrize("name", ["..", "../other", "a/b", "", ".hidden", "a\nb"])
def test_a_name_that_points_outside_the_folder_is_refused(target: LocalTarget, name: str) -> None:
    with pytest.raises(TargetError):
        target.create_volume(name)
    with pytest.raises(TargetError):
        target.put_secret(name, {"KEY": Secret("x")})


def test_files_are_copied_to_and_from_a_volume_but_never_outside_it(target: LocalTarget, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"bytes")

    target.upload(PACKAGES_VOLUME, "sub/file.whl", source)
    target.download(PACKAGES_VOLUME, "sub/file.whl", tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == b"bytes"
    assert ("sub/file.whl", 5) in [(file.path, file.size) for file in target.list_files(PACKAGES_VOLUME)]
    with pytest.raises(TargetError):
        target.upload(PACKAGES_VOLUME, "../outside", source)


def test_a_second_run_waits_for_the_first_and_says_so(
    target: LocalTarget, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = threading.Event()
    waits = threading.Event()

    def sleep(seconds: float) -> None:
        waits.set()
        time.sleep(seconds)

    monkeypatch.setattr("ops.polling.time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))

    def second() -> None:
        with target.lock():
            entered.set()

    with target.lock():
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
        assert not entered.is_set()
    thread.join(60)

    assert entered.is_set()
    assert "waiting" in capsys.readouterr().err


def test_a_run_that_waits_too_long_is_told_which_process_holds_the_target(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        lock_module.exclusive(path, what="the target"),
        pytest.raises(BusyError, match=str(os.getpid())),
        lock_module.exclusive(path, what="the target", seconds=0.2),
    ):
        pytest.fail("two runs hold one target")


def test_a_child_that_goes_on_after_its_run_was_killed_holds_the_target(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import os, signal, subprocess, sys\n"
        "from pathlib import Path\n"
        "from ops.targets import lock\n"
        "with lock.exclusive(Path(sys.argv[1]), what='the target'):\n"
        "    child = subprocess.Popen(['cat'], stdout=subprocess.DEVNULL, pass_fds=lock.held())\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    read, write = os.pipe()
    with open(read), open(write, "w") as child:
        subprocess.run([sys.executable, "-c", program, str(path)], stdin=read, check=False, cwd=PROJECT_ROOT)
        with pytest.raises(BusyError), lock_module.exclusive(path, what="the target", seconds=0.0):
            pytest.fail("its child still holds the target")
        child.close()  # which ends it
        with lock_module.exclusive(path, what="the target"):
            pass
    assert lock_module.held() == ()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without write access")
def test_a_user_without_write_access_gets_one_sentence(workspace: Workspace) -> None:
    workspace.create()
    program = (
        "import os\n"
        "from ops.targets import open_target; from ops.errors import TargetError; import ops.targets.local\n"
        "os.setuid(65534)\n"
        "target = open_target('local')\n"
        "assert not all(check.passed for check in target.checks())\n"
        "try: target.create_volume('v')\n"
        "except TargetError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )

    assert "cannot be written by this user" in done.stdout, done.stderr


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Exception, match="local and modal"):
        open_target("cloud")
