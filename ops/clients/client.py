"""pip, uv and twine as a user runs them: in their own processes, without secrets as arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from ops.clients.configuration import ClientFiles, Login, is_loopback
from ops.errors import ClientError
from ops.redaction import Redactor
from ops.secret import Secret

TIME_LIMIT = 300.0
"""Seconds after which a client is killed."""

_PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    # The machine's proxies and certificates.
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "TWINE_CERT"),
    *("UV_NATIVE_TLS", "UV_SYSTEM_CERTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""Variables that a client inherits. Not those that configure pip, uv or twine, which might make them use other indexes
as well, nor the operator's secrets, which no build needs."""


@dataclass(frozen=True)
class Result:
    """Result of a finished client.

    Parameters:
        client: the program's name.
        returncode: its exit status; negative for the signal that ended it.
        output: of both streams, with secrets masked.
        seconds: how long it ran.
    """

    client: str
    returncode: int
    output: str
    seconds: float

    def checked(self, what: str, *, todo: str = "") -> Result:
        """Return this result if the client exited with 0.

        Parameters:
            what: the failure, for the error.
            todo: for the error, what to do.

        Raises:
            ClientError: it exited with another status.
        """
        if self.returncode != 0:
            raise ClientError(what, client=self.client, returncode=self.returncode, output=self.output, todo=todo)
        return self


def client_environment(url: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Environment of a client for the index at *url*, with the variables in *extra*."""
    inherited = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    if is_loopback(url):
        # Loopback addresses must not go through a proxy.
        host = urlsplit(url).hostname or ""
        for name in ("NO_PROXY", "no_proxy"):
            inherited[name] = ",".join(filter(None, [inherited.get(name, ""), host]))
    return {**inherited, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "PYTHONUTF8": "1", **extra}


def run_client(
    client: str,
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    secrets: Iterable[Secret] = (),
    cwd: Path | None = None,
    text: str = "",
    seconds: float = TIME_LIMIT,
) -> Result:
    """Run a client, and return its result.

    If it is interrupted or takes too long, it is killed with all processes it started.

    Parameters:
        client: its name, for messages.
        arguments: the program and its arguments. Never a secret: every user of this machine can list them.
        environment: all of its environment variables.
        secrets: to mask in its output.
        cwd: its working directory.
        text: its standard input.
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
            todo="reinstall this project, which includes pip, uv, twine and build",
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
            output=_shown(output, secrets),
            todo="check that the index responds, and run this again",
        ) from None
    except BaseException:
        _end(process)
        process.communicate()
        raise
    return Result(client, process.returncode, _shown(output, secrets), time.monotonic() - started)


def _shown(output: bytes, secrets: Iterable[Secret]) -> str:
    return Redactor(secret.reveal() for secret in secrets).text(output.decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children, which share its session."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


@dataclass(frozen=True)
class Client:
    """One client program. Each command runs in its own process.

    Parameters:
        files: the configuration that it reads.
        login: the content of that configuration.
    """

    files: ClientFiles
    login: Login
    name: ClassVar[str]

    def _command(self) -> Sequence[str]:
        """The program, before its arguments."""
        raise NotImplementedError

    def _variables(self) -> Mapping[str, str]:
        """Environment variables that the program needs in addition to those of every client."""
        raise NotImplementedError

    def _run(self, *arguments: str | Path, text: str = "") -> Result:
        return run_client(
            self.name,
            [*self._command(), *arguments],
            environment=client_environment(self.login.url, self._variables()),
            secrets=[self.login.password] if self.login.password else [],
            text=text,
        )

    def _failure(self, what: str, result: Result) -> ClientError:
        """Error for a client that got no response, or none that it reports."""
        return ClientError(
            what,
            client=self.name,
            returncode=result.returncode,
            output=result.output,
            todo="check that the index responds at that address",
        )
