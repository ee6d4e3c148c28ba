"""Client commands run in their own environment, with their secrets masked, and end in time."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from ops.clients.client import Result, client_environment, run_client
from ops.clients.configuration import is_loopback
from ops.errors import ClientError
from ops.secret import Secret
from tests.index.serving import eventually

SLEEP = ["sleep", f"600.{os.getpid()}"]


def python(code: str, *, seconds: float = 30.0, text: str = "", secrets: tuple[Secret, ...] = ()) -> Result:
    plain = client_environment("http://127.0.0.1/", {})
    return run_client(
        "python", [sys.executable, "-c", code], environment=plain, seconds=seconds, text=text, secrets=secrets
    )


def sleepers() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == SLEEP]


@dataclass
class Staying:
    """A client that does not exit, with a child that does not either. It is up before its time limit starts."""

    code: str
    when_up: Callable[[], None] = lambda: None


@pytest.fixture
def staying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staying:
    mark = tmp_path / "up"
    code = f"subprocess.Popen({SLEEP}); print('up', flush=True); pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
    client = Staying(f"import pathlib, subprocess, time; {code}")
    communicate = subprocess.Popen.communicate

    def communicate_once_up(self: subprocess.Popen[bytes], *arguments: Any, **named: Any) -> tuple[bytes, bytes]:
        eventually(mark.exists)
        client.when_up()
        return communicate(self, *arguments, **named)

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate_once_up)
    return client


def test_output_of_both_streams_is_kept_in_order() -> None:
    result = python(
        "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); print(input())", text="x"
    )
    assert result.output.split() == ["one", "two", "x"]
    assert result.returncode == 0


def test_an_error_has_the_exit_status_and_the_last_lines() -> None:
    result = python("print('the reason'); raise SystemExit(3)")
    with pytest.raises(ClientError, match=r"it failed.*\n.*python exited with 3: the reason") as caught:
        result.checked("it failed")
    assert (caught.value.client, caught.value.returncode) == ("python", 3)


def test_a_secret_is_masked_plain_quoted_and_in_base64() -> None:
    secret = Secret("p@ss word/é")
    forms = ["p@ss word/é", "p%40ss%20word%2F%C3%A9", base64.b64encode("p@ss word/é".encode()).decode()]
    result = python(f"print({forms!r})", secrets=(secret,))
    assert result.output.strip() == "['********', '********', '********']"


def test_a_client_that_does_not_end_is_killed_with_its_children(staying: Staying) -> None:
    with pytest.raises(ClientError, match=r"did not end within 1 s.*\n.*up"):
        python(staying.code, seconds=1)
    assert sleepers() == []


def test_an_interrupt_kills_the_client_with_its_children_and_is_raised(staying: Staying) -> None:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))

    def interrupt_once() -> None:
        if timer.ident is None:
            timer.start()

    staying.when_up = interrupt_once
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        python(staying.code, seconds=500)
    timer.join()
    assert time.monotonic() - started < 300, "they were killed and did not exit by themselves"
    assert sleepers() == []


def test_a_missing_program_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="twine could not be started") as caught:
        run_client("twine", [tmp_path / "nothing"], environment={})
    assert caught.value.todo


def test_a_client_inherits_neither_secrets_nor_settings_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTH_TOKEN", "INDEX_PASSWORD", "PIP_INDEX_URL", "UV_INDEX", "TWINE_PASSWORD", "NETRC", "PYTHONPATH"):
        monkeypatch.setenv(name, "of the operator")
    assert "of the operator" not in client_environment("http://127.0.0.1/", {}).values()


def test_a_proxy_is_used_for_other_hosts_and_never_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    assert client_environment("http://127.0.0.1:1/", {})["NO_PROXY"] == "internal.example,127.0.0.1"
    elsewhere = client_environment("https://index.example/", {})
    assert (elsewhere["NO_PROXY"], elsewhere["HTTPS_PROXY"]) == ("internal.example", "http://proxy.example:3128")


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8/", True),
        ("http://[::1]:8/", True),
        ("http://localhost/", True),
        ("https://a.example/", False),
    ],
)
def test_loopback_is_distinguished_from_other_hosts(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback
