"""How a client is run: what it sees, what is shown of it, and how it ends."""

from __future__ import annotations

import base64
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ops.clients.command import Result, environment, is_loopback, masked, run
from ops.errors import ClientError
from ops.secret import Secret

CHILD_THAT_STAYS = (
    "import subprocess, sys, time; subprocess.Popen(['sleep', '61.25']); print('up', flush=True); time.sleep(60)"
)


def python(code: str, *, seconds: float = 30.0, text: str = "", secrets: tuple[Secret, ...] = ()) -> Result:
    plain = environment("http://127.0.0.1/", {})
    return run("python", [sys.executable, "-c", code], environment=plain, seconds=seconds, text=text, secrets=secrets)


def sleepers() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "61.25"]]


def test_what_a_client_prints_on_both_streams_is_kept_in_order() -> None:
    result = python(
        "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); print(input())", text="x"
    )
    assert result.output.split() == ["one", "two", "x"]
    assert result.returncode == 0


def test_a_failure_carries_code_and_last_lines() -> None:
    result = python("print('the reason'); raise SystemExit(3)")
    with pytest.raises(ClientError, match=r"it failed.*\n.*python exited with 3: the reason") as caught:
        result.checked("it failed")
    assert (caught.value.client, caught.value.returncode) == ("python", 3)


def test_a_secret_is_masked_as_it_is_quoted_and_in_base64() -> None:
    secret = Secret("p@ss word/é")
    forms = ["p@ss word/é", "p%40ss%20word%2F%C3%A9", base64.b64encode("p@ss word/é".encode()).decode()]
    shown = masked(" ".join(forms), [secret])
    assert shown == "******** ******** ********"


def test_a_client_that_does_not_end_is_ended_with_its_children() -> None:
    with pytest.raises(ClientError, match=r"did not end within 1 s.*\n.*up"):
        python(CHILD_THAT_STAYS, seconds=1)
    assert sleepers() == []


def test_an_interrupt_ends_the_client_and_its_children_and_goes_on() -> None:
    timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        python(CHILD_THAT_STAYS)
    timer.join()
    assert time.monotonic() - started < 10
    assert sleepers() == []


def test_a_program_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="twine could not be started") as caught:
        run("twine", [tmp_path / "nothing"], environment={})
    assert caught.value.todo


def test_a_client_sees_neither_secrets_nor_settings_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTH_TOKEN", "INDEX_PASSWORD", "PIP_INDEX_URL", "UV_INDEX", "TWINE_PASSWORD", "NETRC", "PYTHONPATH"):
        monkeypatch.setenv(name, "of the operator")
    assert "of the operator" not in environment("http://127.0.0.1/", {}).values()


def test_no_proxy_stands_before_loopback_and_one_may_stand_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    assert environment("http://127.0.0.1:1/", {})["NO_PROXY"] == "internal.example,127.0.0.1"
    elsewhere = environment("https://index.example/", {})
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
def test_loopback_is_told_from_other_hosts(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback
