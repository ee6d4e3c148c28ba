"""Cold installs with the real uv: empty cache, new environment, everything over the wire."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ops.errors import ClientError
from tests.benchmark.corpus import ROOT_PROJECT
from tests.benchmark.servers import Server

INSTALL_SECONDS = 600


@dataclass(frozen=True)
class Installer:
    """Installs the corpus's root project with its dependencies.

    Nothing is deleted between measurements: thousands of deletions slow a file system for minutes.

    Parameters:
        uv: the program.
        folder: for caches and environments, which are kept.
        packages: number of distributions to expect besides the root.
    """

    uv: str
    folder: Path
    packages: int

    def install(self, server: Server, *, at_once: int = 1, start: bool = False) -> float:
        """Seconds until the last of *at_once* concurrent installs has finished, without creating their environments.

        Parameters:
            server: to install from.
            at_once: number of concurrent installs.
            start: whether to start the server first; its start counts.

        Raises:
            ClientError: uv failed, or not all distributions were installed.
        """
        homes = [self.home() for _ in range(at_once)]
        begin = time.perf_counter()
        if start:
            server.listen()
        return self._run(server, homes, begin)

    def home(self) -> Path:
        """Create an environment with an empty cache."""
        place = self.folder / "installs"
        place.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(dir=place))
        self._make_environment(home)
        return home

    def renew(self, home: Path) -> None:
        """Replace the environment, and keep its cache."""
        (home / "venv").rename(tempfile.mkdtemp(dir=home) + "/venv")
        self._make_environment(home)

    def into(self, home: Path, server: Server, *, url: str) -> None:
        """Install from another URL of a server.

        Raises:
            ClientError: as from :meth:`install`.
        """
        self._run(server, [home], time.perf_counter(), url=url)

    def _make_environment(self, home: Path) -> None:
        command = [self.uv, "venv", "--quiet", "--python", sys.executable, str(home / "venv")]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "UV_NO_CONFIG": "1"}
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True, env=environment)

    def _run(self, server: Server, homes: Sequence[Path], begin: float, *, url: str = "") -> float:
        running = [
            subprocess.Popen(
                [self.uv, "pip", "install", "--quiet", "--python", str(home / "venv"), ROOT_PROJECT],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self._environment(home, server, url or server.index_url),
                text=True,
            )
            for home in homes
        ]
        try:
            errors = [process.communicate(timeout=INSTALL_SECONDS)[1] for process in running]
        except subprocess.TimeoutExpired as error:
            raise ClientError(
                f"uv did not end in {INSTALL_SECONDS} s", client="uv", returncode=-1, output=server.log_tail()
            ) from error
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        seconds = time.perf_counter() - begin
        for home, process, output in zip(homes, running, errors):
            self._check(home, server, process.returncode, output)
        return seconds

    def _check(self, home: Path, server: Server, returncode: int, output: str) -> None:
        arrived = len(list((home / "venv").glob("lib/python*/site-packages/bench_*.dist-info")))
        if returncode or arrived != self.packages + 1:
            raise ClientError(
                f"uv installed {arrived} of {self.packages + 1} distributions from {server.name}",
                client="uv",
                returncode=returncode,
                output=output.replace(server.login.password.reveal(), "********") if server.login else output,
            )

    def _environment(self, home: Path, server: Server, url: str) -> Mapping[str, str]:
        """None of this machine's settings; credentials in the environment, where other users cannot read them."""
        login = server.login
        user = f"{quote(login.username)}:{quote(login.password.reveal(), safe='')}@" if login else ""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "UV_CACHE_DIR": str(home / "cache"),
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_HTTP_TIMEOUT": str(INSTALL_SECONDS),
            "UV_DEFAULT_INDEX": url.replace("://", f"://{user}"),
        }
