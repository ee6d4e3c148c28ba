"""Work on strangers' content ends within its limits, affects nothing else, and reports its outcome."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ops.index.errors import SandboxBusy, SandboxUnavailable, WorkCancelled, WorkFailed
from ops.index.sandbox.sandbox import Cancellation, Limits, Sandbox
from ops.workspace import PROJECT_ROOT
from tests.index.serving import eventually

WORK = "tests.index.sandbox.work"
ROOMY = Limits(cpu_seconds=60, wall_seconds=600)
TIGHT = Limits(cpu_seconds=1, wall_seconds=600)


@contextmanager
def opened(limits: Limits = ROOMY, *, workers: int = 1, queue: int = 0) -> Iterator[Sandbox]:
    sandbox = Sandbox(f"{WORK}:do", limits, preload=f"{WORK}:preload", workers=workers, queue=queue)
    try:
        yield sandbox
    finally:
        sandbox.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with opened(Limits(cpu_seconds=60, wall_seconds=600, result_bytes=1000)) as sandbox:
        yield sandbox


def told(sandbox: Sandbox) -> dict[str, object]:
    description: dict[str, object] = json.loads(sandbox.run(b"describe"))
    return description


def hanging(sandbox: Sandbox, pool: ThreadPoolExecutor, cancellation: Cancellation | None = None):  # type: ignore[no-untyped-def]
    """Work that has started and does not end by itself."""
    reading, writing = os.pipe()
    try:
        future = pool.submit(sandbox.run, b"tell", writing, cancellation=cancellation)
        assert os.read(reading, 5) == b"begun"
    finally:
        os.close(reading)
        os.close(writing)
    return future


def test_the_function_s_result_is_returned(sandbox: Sandbox) -> None:
    assert sandbox.run(b"reverse abc") == b"cba"
    assert sandbox.run(b"reverse ") == b""


def test_large_payloads_and_results_pass() -> None:
    payload = os.urandom(3 * 1024**2)
    with opened() as sandbox:
        assert sandbox.run(b"reverse " + payload) == payload[::-1]


def test_a_worker_sees_neither_the_environment_nor_the_directory_nor_the_files_of_the_server(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTH_TOKEN", "a-secret-of-the-server")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        with opened() as fresh:
            description = told(fresh)
    assert "a-secret-of-the-server" not in json.dumps(description)
    assert description["directory"] == "/"
    assert len(description["descriptors"]) == 5  # type: ignore[arg-type]  # no streams, its socket and its pipe
    assert description["core"] == 0
    assert all(Path(entry).is_absolute() for entry in description["path"])  # type: ignore[attr-defined]


def test_each_call_has_its_own_process_and_imports_happen_once(sandbox: Sandbox) -> None:
    first, second = told(sandbox), told(sandbox)
    assert first["prepared"]
    assert first["server"] == second["server"]
    assert first["process"] != second["process"]
    assert sandbox.run(b"remember one") == b"one"
    assert sandbox.run(b"remember two") == b"two"


def test_no_process_starts_before_the_first_call() -> None:
    before = psutil.Process().children(recursive=True)
    with opened():
        assert psutil.Process().children(recursive=True) == before


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"abort", "SIGABRT"),
        (b"raise", "LookupError"),
        (b"recurse", "RecursionError"),
        (b"long 5000", "longer than 1,000 bytes"),
        (b"eat", "512 MiB"),
    ],
)
def test_a_failure_gives_its_reason_and_the_next_call_works(sandbox: Sandbox, payload: bytes, reason: str) -> None:
    server = told(sandbox)["server"]
    with pytest.raises(WorkFailed, match=reason) as caught:
        sandbox.run(payload)
    assert "secret" not in str(caught.value)
    assert told(sandbox)["server"] == server


@pytest.mark.parametrize(
    ("limits", "payload"), [(TIGHT, b"spin"), (Limits(cpu_seconds=60, wall_seconds=0.2), b"sleep")], ids=["cpu", "wall"]
)
def test_work_that_takes_too_long_is_killed(limits: Limits, payload: bytes) -> None:
    with opened(limits) as sandbox, pytest.raises(WorkFailed, match="it takes more than"):
        sandbox.run(payload)


def test_a_worker_cannot_write_files(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(WorkFailed):
        sandbox.run(b"write " + os.fsencode(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_can_be_passed_to_a_worker(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        assert sandbox.run(b"read", file.fileno()) == b"content"


def test_the_numbers_of_running_and_waiting_calls_are_limited() -> None:
    with ThreadPoolExecutor() as pool, opened(workers=2, queue=1) as sandbox:
        stop = Cancellation()
        ended, _ = hanging(sandbox, pool, stop), hanging(sandbox, pool)
        waiting = pool.submit(sandbox.run, b"reverse abc")
        eventually(lambda: sandbox._waiting == 1)
        with pytest.raises(SandboxBusy):
            sandbox.run(b"reverse abc")
        stop.cancel()
        assert waiting.result() == b"cba"
        assert isinstance(ended.exception(), WorkCancelled)
        sandbox.close()


def test_waiting_and_running_work_can_be_cancelled_which_ends_its_process() -> None:
    with ThreadPoolExecutor() as pool, opened(queue=1) as sandbox:
        running, waiting = Cancellation(), Cancellation()
        server = psutil.Process(told(sandbox)["server"])  # type: ignore[arg-type]
        first = hanging(sandbox, pool, running)
        second = pool.submit(sandbox.run, b"reverse abc", cancellation=waiting)
        eventually(lambda: sandbox._waiting == 1)
        waiting.cancel()
        assert isinstance(second.exception(), WorkCancelled)
        (worker,) = server.children()
        running.cancel()
        assert isinstance(first.exception(), WorkCancelled)
        worker.wait(30)
        assert sandbox.run(b"reverse abc") == b"cba"
        with pytest.raises(WorkCancelled):
            sandbox.run(b"reverse abc", cancellation=running)


def test_closing_ends_the_work_and_all_processes() -> None:
    with ThreadPoolExecutor() as pool, opened(queue=1) as sandbox:
        server = psutil.Process(told(sandbox)["server"])  # type: ignore[arg-type]
        first = hanging(sandbox, pool)
        second = pool.submit(sandbox.run, b"reverse abc")
        eventually(lambda: sandbox._waiting == 1)
        sandbox.close()
        assert isinstance(first.exception(), WorkCancelled)
        assert isinstance(second.exception(), WorkCancelled)
        assert not server.is_running()
        with pytest.raises(WorkCancelled):
            sandbox.run(b"reverse abc")


def test_a_killed_fork_server_is_replaced(sandbox: Sandbox) -> None:
    server = told(sandbox)["server"]
    psutil.Process(server).kill()  # type: ignore[arg-type]
    assert told(sandbox)["server"] != server


def test_a_call_during_which_the_fork_server_is_killed_is_repeated_once() -> None:
    reading, writing = os.pipe()
    with ThreadPoolExecutor() as pool, opened() as sandbox:
        future = pool.submit(sandbox.run, b"tell", writing)
        for _ in range(2):
            assert os.read(reading, 5) == b"begun"
            assert sandbox._process is not None
            server = psutil.Process(sandbox._process.pid)
            (worker,) = server.children()
            server.kill()
            worker.kill()
        assert isinstance(future.exception(), SandboxUnavailable)
    os.close(reading)
    os.close(writing)


def test_a_killed_worker_is_not_blamed_on_the_content(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxUnavailable, match="was killed"):
        sandbox.run(b"killed")


def test_a_failed_import_of_the_work_is_reported() -> None:
    broken = Sandbox("tests.index.sandbox.none:do", ROOMY)
    with pytest.raises(SandboxUnavailable, match="did not start"):
        broken.run(b"")


def test_a_lack_of_processes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with opened() as sandbox:
        monkeypatch.setattr(subprocess, "Popen", exhausted)
        with pytest.raises(SandboxUnavailable, match="Resource temporarily unavailable"):
            sandbox.run(b"reverse abc")
        monkeypatch.undo()
        assert sandbox.run(b"reverse abc") == b"cba"


def test_everything_ends_with_the_process_that_started_it() -> None:
    program = f"""
import threading, sys
from ops.index.sandbox.sandbox import Limits, Sandbox
sandbox = Sandbox("{WORK}:do", Limits(cpu_seconds=60, wall_seconds=600), workers=2)
print(sandbox.run(b"describe").decode(), flush=True)
sandbox.run(b"tell", 1)
"""
    starter = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT_ROOT, stdout=subprocess.PIPE)
    assert starter.stdout is not None
    try:
        server = psutil.Process(json.loads(starter.stdout.readline())["server"])
        assert starter.stdout.read(5) == b"begun"
        processes = [server, *server.children()]
        assert len(processes) == 2
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        starter.stdout.close()
    assert psutil.wait_procs(processes, timeout=30)[1] == []


def test_no_descriptor_or_thread_is_leaked(sandbox: Sandbox) -> None:
    sandbox.run(b"reverse abc")
    gc.collect()  # or descriptors of earlier tests would be closed between the two counts
    before = psutil.Process().num_fds(), threading.active_count()
    for payload in (b"abort", b"long 5000", b"reverse abc"):
        try:
            sandbox.run(payload)
        except WorkFailed:
            continue
    assert (psutil.Process().num_fds(), threading.active_count()) == before
