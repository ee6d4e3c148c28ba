"""poetry, pdm and hatch as people run them, following the page "How to use this index"."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.index.archives import wheel, wheel_name
from tests.index.serving import PASSWORD, Server
from tests.index.tls import TlsFront

pytestmark = pytest.mark.slow


@dataclass
class Machine:
    """The machine of a user with a login in ``~/.netrc`` and a project."""

    programs: Path
    home: Path
    front: TlsFront

    def run(self, *command: str, **variables: str) -> None:
        done = subprocess.run(
            command,
            cwd=self.home / "project",
            env={
                "PATH": f"{self.programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
                "HOME": str(self.home),
                "LC_ALL": "C.UTF-8",
                "SSL_CERT_FILE": str(self.front.authority),
                "REQUESTS_CA_BUNDLE": str(self.front.authority),
                "PIP_CERT": str(self.front.authority),
                "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
                "POETRY_VIRTUALENVS_IN_PROJECT": "true",
                "PDM_CHECK_UPDATE": "0",
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout

    def write(self, more: str, *, built: str = "") -> None:
        """Write ``pyproject.toml``, and put a wheel of that name into ``dist``."""
        (self.home / "project" / "pyproject.toml").write_text(
            f'[project]\nname = "mine"\nversion = "1.0"\nrequires-python = ">=3.11"\ndependencies = []\n{more}'
        )
        if built:
            dist = self.home / "project" / "dist"
            dist.mkdir()
            (dist / wheel_name(built, "1.0")).write_bytes(wheel(built, "1.0"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("project managers")) as server:
        (server.packages / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
        yield server


@pytest.fixture
def machine(project_managers: Path, server: Server, tmp_path: Path) -> Iterator[Machine]:
    home = tmp_path / "home"
    (home / "project").mkdir(parents=True)
    netrc = home / ".netrc"
    netrc.write_text(f'machine 127.0.0.1\nlogin alice\npassword "{PASSWORD}"\n')
    netrc.chmod(0o600)
    with TlsFront(tmp_path, server.port) as front, server.watched():
        yield Machine(project_managers, home, front)
    assert front.unknown() == []
    assert front.requests


def test_poetry_installs_and_publishes(machine: Machine, server: Server) -> None:
    source = f'[[tool.poetry.source]]\nname = "team"\nurl = "{machine.front.url}simple/"\npriority = "explicit"\n'
    machine.write(source, built="mine")
    machine.run("poetry", "add", "--no-interaction", "--source", "team", "spam")
    assert list(machine.home.glob("project/.venv/lib/*/site-packages/spam-1.0.dist-info"))
    repository = {"POETRY_REPOSITORIES_TEAM_URL": machine.front.url}
    machine.run("poetry", "publish", "--no-interaction", "--repository", "team", **repository)
    assert server.get("/simple/mine/").status == 200


def test_pdm_installs_and_publishes(machine: Machine, server: Server) -> None:
    source = f'[[tool.pdm.source]]\nname = "team"\nurl = "{machine.front.url}simple/"\ninclude_packages = ["spam"]\n'
    machine.write(f"[tool.pdm]\ndistribution = false\n{source}", built="by-pdm")
    machine.run("pdm", "add", "--no-self", "spam")
    assert list(machine.home.glob("project/.venv/lib/*/site-packages/spam-1.0.dist-info"))
    login = {"PDM_PUBLISH_USERNAME": "alice", "PDM_PUBLISH_PASSWORD": PASSWORD}
    machine.run("pdm", "publish", "--no-build", "--repository", machine.front.url, **login)
    assert server.get("/simple/by-pdm/").status == 200


def test_hatch_installs_and_publishes(machine: Machine, server: Server) -> None:
    environment = f'PIP_INDEX_URL = "{machine.front.url}simple/"'
    machine.write(
        '[tool.hatch.envs.default]\nskip-install = true\ndependencies = ["spam"]\n'
        f"[tool.hatch.envs.default.env-vars]\n{environment}\n",
        built="by-hatch",
    )
    machine.run("hatch", "run", "python", "-c", "import spam")
    login = {"HATCH_INDEX_USER": "alice", "HATCH_INDEX_AUTH": PASSWORD}
    machine.run("hatch", "publish", "--no-prompt", "--repo", machine.front.url, **login)
    assert server.get("/simple/by-hatch/").status == 200
