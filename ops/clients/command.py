"""Running pip, uv and twine as a user does: a process of its own, nothing secret among its arguments."""

from __future__ import annotations

import base64
import ipaddress
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from ops.errors import ClientError
from ops.secret import Secret

TIME_LIMIT = 300.0
"""Seconds after which a client is ended."""

_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    # How this machine reaches others, and whom it trusts.
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "TWINE_CERT"),
    *("UV_NATIVE_TLS", "UV_SYSTEM_CERTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""All that a client sees of the operator's environment. What configures pip, uv or twine on this machine stays out, or
they would ask other indexes beside ours; so do the operator's secrets, which no build needs to know."""


@dataclass(frozen=True)
class Result:
    """A client that has ended.

    Parameters:
        client: the program's name.
        returncode: what it exited with; negative for the signal that ended it.
        output: what it printed on both streams, free of secrets.
        seconds: how long it ran.
    """

    client: str
    returncode: int
    output: str
    seconds: float

    def checked(self, what: str, *, todo: str = "") -> Result:
        """Itself, when the client exited with 0.

        Parameters:
            what: what could not be done, for the error.
            todo: what to do then.

        Raises:
            ClientError: it exited with another code.
        """
        if self.returncode != 0:
            raise ClientError(what, client=self.client, returncode=self.returncode, output=self.output, todo=todo)
        return self


def environment(url: str, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a client that talks to the index at *url*, with *extra* on top."""
    inherited = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    if is_loopback(url):
        # No proxy stands between this machine and itself.
        host = urlsplit(url).hostname or ""
        for name in ("NO_PROXY", "no_proxy"):
            inherited[name] = ",".join(filter(None, [inherited.get(name, ""), host]))
    return {**inherited, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "PYTHONUTF8": "1", **extra}


def is_loopback(url: str) -> bool:
    """Whether the host of *url* is this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(
    client: str,
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    secrets: Iterable[Secret] = (),
    cwd: Path | None = None,
    text: str = "",
    seconds: float = TIME_LIMIT,
) -> Result:
    """Run a client to its end and keep what it printed.

    Interrupted or out of time, it is ended with all the processes that it started.

    Parameters:
        client: its name, for messages.
        arguments: the program and its arguments; no secret, since everybody on this machine can list them.
        environment: all that it sees.
        secrets: what is masked in its output.
        cwd: where it runs.
        text: what it reads on standard input.
        seconds: its time limit.

    Raises:
        ClientError: it is not installed, or did not end in time.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            [os.fspath(argument) for argument in arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise ClientError(
            f"{client} could not be started",
            client=client,
            returncode=127,
            output=str(error),
            todo="install this project again: it brings pip, uv, twine and build with it",
        ) from None
    output = b""
    try:
        output, _ = process.communicate(text.encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        output, _ = process.communicate()
        raise ClientError(
            f"{client} did not end within {seconds:.0f} s",
            client=client,
            returncode=process.returncode,
            output=masked(output.decode("utf-8", "replace"), secrets),
            todo="see whether the index answers, and run this again",
        ) from None
    except BaseException:
        _end(process)
        process.communicate()
        raise
    shown = masked(output.decode("utf-8", "replace"), secrets)
    return Result(client, process.returncode, shown, time.monotonic() - started)


def masked(text: str, secrets: Iterable[Secret]) -> str:
    """The text with asterisks where a secret stood, also quoted for a URL or in base64."""
    for secret in secrets:
        value = secret.reveal()
        for form in (value, quote(value, safe=""), base64.b64encode(value.encode()).decode()):
            text = text.replace(form, str(secret))
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children, which share its session."""
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
