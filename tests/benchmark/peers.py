"""The contenders that accept uploads: our index, stock pypiserver, devpi-server and peryx.

Each prepares its data in a folder from the same corpus, and creates servers on that folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import bcrypt

from ops.errors import StartError
from ops.index.auth.passwords import TOKEN_USER
from ops.index.auth.roles import Role
from ops.index.auth.token_file import Token, TokenFile, new_token, token_digest
from ops.index.auth.tokens import DEFAULT_LIFETIME
from ops.secret import Secret
from ops.settings import SECRET_KEY
from ops.workspace import PROJECT_ROOT
from tests.benchmark import devpi
from tests.benchmark.corpus import Corpus, Wheel
from tests.benchmark.machine import own_versions
from tests.benchmark.servers import HOST, Login, Server
from tests.benchmark.toolbox import Toolbox

OURS = "pypi-runbook"
BY_TOKEN = f"{OURS}, by token"
DEVPI = "devpi"
PERYX = "peryx"


class Peer(Protocol):
    """One contender."""

    @property
    def name(self) -> str:
        """As shown in tables."""

    @property
    def login(self) -> Login | None:
        """The user, or None if no login is required."""

    def missing(self) -> str:
        """Why it cannot take part, in one sentence; empty if it can."""

    def version(self) -> str:
        """Version of the program."""

    def prepare(self, folder: Path, corpus: Corpus) -> None:
        """Create *folder*, with the corpus in it."""

    def add(self, folder: Path, wheel: Wheel, source: Path) -> None:
        """Add one file to a prepared folder while its server is stopped."""

    def server(self, folder: Path, port: int) -> Server:
        """A server on a prepared folder, not started."""


@dataclass(frozen=True)
class Ours:
    """This project's index: authentication required everywhere, bcrypt cost 12, durable uploads."""

    login: Login
    name: str = OURS
    rounds: int = 12
    options: tuple[str, ...] = ()

    def missing(self) -> str:
        """Empty: it can always take part."""
        return ""

    def version(self) -> str:
        """Version of this project."""
        return own_versions()["pypi-runbook"]

    def prepare(self, folder: Path, corpus: Corpus) -> None:
        """Hard-link the corpus, and create a credentials folder with the user."""
        corpus.link(folder / "packages")
        credentials = folder / "credentials"
        credentials.mkdir(mode=0o700)
        write_htpasswd(credentials / ".htpasswd", self.login, self.rounds)
        write_tokens(credentials, [self.login.username], kept=folder)
        token = folder / "admin.env"
        token.touch(mode=0o600)
        token.write_text(f"{SECRET_KEY}={Secret.generate().reveal()}\n")

    def add(self, folder: Path, wheel: Wheel, source: Path) -> None:
        """Link it into the directory behind the server's back."""
        os.link(source, folder / "packages" / wheel.filename)

    def server(self, folder: Path, port: int) -> Server:
        """The command that the local target runs."""
        command = [sys.executable, "-m", "ops.index", "--host", HOST, "--port", str(port)]
        command += ["--packages", str(folder / "packages"), "--credentials", str(folder / "credentials")]
        command += ["--admin-token-file", str(folder / "admin.env")]
        return Server(
            self.name,
            [*command, *self.options],
            folder=folder / "run",
            port=port,
            upload_path="/",
            login=self.login,
            environment={"PYTHONPATH": str(PROJECT_ROOT)},  # for a clone that is not installed
        )


@dataclass(frozen=True)
class Stock:
    """Unmodified pypiserver, with one bcrypt cost in ``.htpasswd``, on one of its servers."""

    login: Login
    toolbox: Toolbox
    server_kind: Literal["wsgiref", "gunicorn"]
    rounds: int

    @property
    def name(self) -> str:
        """Includes server and bcrypt cost, which matter most."""
        return f"pypiserver {self.server_kind}, cost {self.rounds}"

    def missing(self) -> str:
        """Why it is not installed; empty if it is."""
        return self.toolbox.missing("stock")

    def version(self) -> str:
        """Versions of pypiserver and gunicorn."""
        version = self.toolbox.version("stock", "pypiserver")
        if self.server_kind == "wsgiref":
            return version
        return f"{version}, gunicorn {self.toolbox.version('stock', 'gunicorn')} with 2 workers x 8 threads"

    def prepare(self, folder: Path, corpus: Corpus) -> None:
        """Hard-link the corpus, and write ``.htpasswd`` and the module that gunicorn imports."""
        corpus.link(folder / "packages")
        write_htpasswd(folder / "htpasswd", self.login, self.rounds)
        (folder / "stock_application.py").write_text(
            "import pypiserver\n"
            f"application = pypiserver.app(roots=[{str(folder / 'packages')!r}], authenticate=['download', 'list',\n"
            f"    'update'], password_file={str(folder / 'htpasswd')!r}, disable_fallback=True, verbosity=0)\n"
        )

    def add(self, folder: Path, wheel: Wheel, source: Path) -> None:
        """Link it into the directory that pypiserver scans."""
        os.link(source, folder / "packages" / wheel.filename)

    def server(self, folder: Path, port: int) -> Server:
        """wsgiref, its single-threaded default, or gunicorn with 2 workers of 8 threads, as its manual recommends."""
        if self.server_kind == "wsgiref":
            command = [self.toolbox.program("stock", "pypi-server"), "run", "--server", "wsgiref", "-i", HOST]
            command += ["-p", str(port), "-P", str(folder / "htpasswd"), "-a", "download,list,update"]
            command += ["--disable-fallback", str(folder / "packages")]
        else:
            command = [self.toolbox.program("stock", "gunicorn"), "--bind", f"{HOST}:{port}", "--workers", "2"]
            command += ["--threads", "8", "--chdir", str(folder), "--timeout", "300", "--log-level", "warning"]
            command += ["--no-control-socket", "stock_application:application"]
        return Server(self.name, command, folder=folder / "run", port=port, upload_path="/", login=self.login)


@dataclass(frozen=True)
class Devpi:
    """devpi-server with one index and no mirror; as by default, reading needs no login.

    With credentials in every request it would be twenty times slower, because it verifies them each time.
    """

    login: Login
    toolbox: Toolbox
    name: str = DEVPI

    def missing(self) -> str:
        """Why it is not installed; empty if it is."""
        return self.toolbox.missing("devpi")

    def version(self) -> str:
        """Version of devpi-server."""
        return self.toolbox.version("devpi", "devpi-server")

    def prepare(self, folder: Path, corpus: Corpus) -> None:
        """Upload the corpus, at about ten files a second; the prepared data is kept for the next run."""
        devpi.prepare(folder, corpus, self.login, self.toolbox, server=self.server)

    def add(self, folder: Path, wheel: Wheel, source: Path) -> None:
        """Upload it."""
        devpi.add(folder, wheel, source, self.login, server=self.server)

    def server(self, folder: Path, port: int) -> Server:
        """devpi-server offline, with core metadata (PEP 658) enabled.

        With its default of 100 connections, a second uv would wait minutes for those kept open by the first.
        """
        command = [self.toolbox.program("devpi", "devpi-server"), "--serverdir", str(folder / "data")]
        command += ["--host", HOST, "--port", str(port), "--offline-mode", "--enable-core-metadata"]
        command += ["--max-request-body-size", str(4 * 2**30), "--connection-limit", "1000"]
        return Server(
            self.name,
            command,
            folder=folder / "run",
            port=port,
            index_path=f"/{self.login.username}/{devpi.INDEX}/+simple/",
            upload_path=f"/{self.login.username}/{devpi.INDEX}/",
            uploader=self.login,
        )


@dataclass(frozen=True)
class Peryx:
    """peryx, in Rust, with one hosted index; as by default, reading needs no login."""

    login: Login
    toolbox: Toolbox
    name: str = PERYX

    def missing(self) -> str:
        """Why it is not installed; empty if it is."""
        return self.toolbox.missing("peryx")

    def version(self) -> str:
        """Version of its wheel."""
        return self.toolbox.version("peryx", "peryx")

    def prepare(self, folder: Path, corpus: Corpus) -> None:
        """Import the corpus with its own command.

        Raises:
            StartError: the import failed.
        """
        folder.mkdir(parents=True)
        secret = folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(self.login.password.reveal())
        (folder / "peryx.toml").write_text(
            '[[index]]\nname = "bench"\nroute = "bench"\nhosted = true\nanonymous_read = true\n'
            f'[[index.access_token]]\nname = "bench"\nsecret_file = {json.dumps(str(secret))}\n'
            'actions = ["read", "write"]\n[rate_limit]\nenabled = false\n'
        )
        self._import(folder, corpus.folder)

    def add(self, folder: Path, wheel: Wheel, source: Path) -> None:
        """Import it."""
        alone = folder / f"add-{wheel.filename}"
        alone.mkdir()
        os.link(source, alone / wheel.filename)
        self._import(folder, alone)

    def server(self, folder: Path, port: int) -> Server:
        """peryx without an access log, like the others."""
        return Server(
            self.name,
            [*self._command(folder, "serve"), "--host", HOST, "--port", str(port), "--log-level", "error"],
            folder=folder / "run",
            port=port,
            index_path="/bench/simple/",
            upload_path="/bench/",
            uploader=self.login,
        )

    def _import(self, folder: Path, wheels: Path) -> None:
        command = [*self._command(folder, "import-dir"), "bench", str(wheels)]
        finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise StartError("peryx import-dir failed", why=(finished.stderr.strip() or "silent").splitlines()[-1])

    def _command(self, folder: Path, verb: str) -> list[str]:
        program = self.toolbox.program("peryx", "peryx")
        return [program, verb, "--config", str(folder / "peryx.toml"), "--data-dir", str(folder / "data")]


def write_tokens(credentials: Path, owners: Sequence[str], *, kept: Path) -> None:
    """Create a token for each user in our index's format, and store them in plain text in *kept*."""
    file, now, plains = TokenFile(b""), float(int(time.time())), []
    for owner in owners:
        plain, token_id = new_token()
        expires = now + DEFAULT_LIFETIME
        file.add(Token(token_id, token_digest(plain), owner, Role.PUBLISHER, None, "benchmark", now, expires))
        plains.append(plain)
    for path, content in ((credentials / ".tokens", bytes(file)), (kept / "tokens", "\n".join(plains).encode())):
        path.touch(mode=0o600)
        path.write_bytes(content)


def token_logins(kept: Path) -> list[Login]:
    """Logins with the tokens in *kept*."""
    return [Login(TOKEN_USER, Secret(plain)) for plain in (kept / "tokens").read_text().splitlines()]


def write_htpasswd(path: Path, login: Login, rounds: int) -> None:
    """Write one user with a bcrypt hash of the given cost."""
    digest = bcrypt.hashpw(login.password.reveal().encode(), bcrypt.gensalt(rounds)).decode()
    path.touch(mode=0o600)
    path.write_text(f"{login.username}:{digest}\n")
