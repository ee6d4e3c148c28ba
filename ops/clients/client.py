"""Base of pip, uv and twine: a program that runs with the client files of one user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ops.clients.command import Result, environment, run
from ops.clients.configuration import ClientFiles, Login
from ops.errors import ClientError


@dataclass(frozen=True)
class Client:
    """One client program. Each of its commands is a process of its own.

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
        """Environment variables that the program needs besides those of every client."""
        raise NotImplementedError

    def _run(self, *arguments: str | Path, text: str = "") -> Result:
        return run(
            self.name,
            [*self._command(), *arguments],
            environment=environment(self.login.url, self._variables()),
            secrets=[self.login.password] if self.login.password else [],
            text=text,
        )

    def _failure(self, what: str, result: Result) -> ClientError:
        """Error for a client that did not get a response that it reports."""
        return ClientError(
            what,
            client=self.name,
            returncode=result.returncode,
            output=result.output,
            todo="check that the index answers at that address",
        )
