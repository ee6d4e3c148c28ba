"""Unmodified clients in an environment like that of GitHub or GitLab publish and install without a stored secret."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pypi_attestations import GitHubPublisher, Provenance

from ops.index import create_index
from ops.index.auth.trust import TrustStore
from ops.index.config import Options
from ops.index.storage.directory import DirectoryStorage
from ops.redaction import TOKEN_FORMS
from ops.workspace import PROJECT_ROOT
from tests.conftest import DOWNLOADS
from tests.index.archives import wheel, wheel_name
from tests.index.issuer import AUDIENCE, FakeIssuer
from tests.index.serving import ThreadServer, eventually
from tests.index.sigstore_instance import JOB, FakeSigstore
from tests.index.tls import TlsFront
from tests.process_list import ProcessList

BIN = Path(sys.executable).parent
LOGIN = PROJECT_ROOT / ".github" / "actions" / "index-login" / "login.py"


@dataclass
class World:
    """An index over TLS, an issuer, a Sigstore instance, and the environment of a job."""

    folder: Path
    front: TlsFront
    issuer: FakeIssuer
    sigstore: FakeSigstore
    index: ThreadServer
    variables: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def trust(self, **changed: Any) -> None:
        store = TrustStore(DirectoryStorage(self.folder / "credentials"))
        store.replace(self.issuer.trust(**changed), version=store.current().version)
        eventually(lambda: self.index.get("/_/oidc/audience", user=None).status == 200)

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "SSL_CERT_FILE": str(self.front.authority),
            "REQUESTS_CA_BUNDLE": str(self.front.authority),
            "PIP_CERT": str(self.front.authority),
            "UV_NO_CACHE": "1",
            "RUNNER_TEMP": str(self.folder / "home"),
            **self.variables,
            **variables,
        }
        done = subprocess.run(
            [str(part) for part in command],
            env=environment,
            cwd=self.folder / "home",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        # The runner removes these lines from the log.
        self.said += [re.sub(r"(?m)^::add-mask::.*$", "", text) for text in (done.stdout, done.stderr)]
        return done

    def wheel(self, name: str = "spam", version: str = "1.0") -> Path:
        path = self.folder / "home" / wheel_name(name, version)
        path.write_bytes(wheel(name, version))
        return path

    def log_in(self) -> dict[str, str]:
        """Run the composite action's program, and return the variables that it sets for later steps."""
        variables = self.folder / "home" / "variables"
        variables.touch()
        done = self.run(sys.executable, LOGIN, "--url", self.front.url, GITHUB_ENV=str(variables))
        assert done.returncode == 0, done.stderr
        return dict(line.split("=", 1) for line in variables.read_text().splitlines())

    def audit(self) -> list[dict[str, Any]]:
        found = sorted((self.folder / "packages" / ".index" / "audit").glob("*.jsonl"))
        return [json.loads(line) for path in found for line in path.read_text().splitlines()]


@pytest.fixture(params=["github", "gitlab"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    (tmp_path / "home").mkdir()
    sigstore = FakeSigstore()
    index = create_index(
        packages=DirectoryStorage(tmp_path / "packages"),
        credentials=DirectoryStorage(tmp_path / "credentials"),
        options=Options(refresh_seconds=0.1, trusted_root=sigstore.write(tmp_path / "trusted_root.json")),
    )
    with ThreadServer(index) as server, TlsFront(tmp_path, server.port) as front, FakeIssuer(request.param) as issuer:
        made = World(tmp_path, front, issuer, sigstore, server)
        if request.param == "github":
            made.variables = {
                "GITHUB_ACTIONS": "true",
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/id-token?api-version=2",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-secret-of-the-runner",
            }
        else:
            made.variables = {"GITLAB_CI": "true", "PYPI_TEST_ID_TOKEN": issuer.id_token(aud=AUDIENCE)}
        with ProcessList() as processes:
            yield made
        assert front.unknown() == []
        kept = [path.read_text("latin-1") for path in (tmp_path / "packages").rglob("*") if path.is_file()]
        for text in [*made.said, *kept, *processes.command_lines]:
            assert not TOKEN_FORMS.search(text), "a token was shown or stored"


def test_uv_publishes_and_the_file_names_the_run(world: World) -> None:
    world.trust()
    done = world.run("uv", "publish", "--publish-url", world.front.url, world.wheel())
    assert done.returncode == 0, done.stderr
    lines = {line["event"]: line for line in world.audit()}
    assert lines["upload"]["user"] == "oidc:spam-release"
    assert "4711" in lines["upload"]["run"]
    assert lines["upload"]["credential"] == lines["oidc.minted"]["id"]
    if "POST /_/oidc/burn-token" in world.front.requests:  # uv of September 2026 and later
        assert lines["oidc.burnt"]["id"] == lines["oidc.minted"]["id"]


@pytest.mark.slow
@pytest.mark.parametrize("client", ["uv", "twine"])
@pytest.mark.parametrize("world", ["github"], indirect=True)
def test_the_job_s_attestations_are_published_with_the_file(world: World, client: str) -> None:
    world.trust()
    path = world.wheel()
    claims = JOB | {8: world.issuer.url}
    attested = Path(f"{path}.publish.attestation")
    publish: dict[str, list[str | Path]] = {
        "uv": ["uv", "publish", "--publish-url", world.front.url, path, attested],
        "twine": ["twine", "upload", "--non-interactive", "--verbose", "--attestations", path, attested],
    }
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    variables = world.log_in() if client == "twine" else {}
    for repository, outcome in ("1002", "not by a job that is trusted"), ("1001", ""):
        attested.write_text(json.dumps(world.sigstore.attest(path.name, sha256, claims | {15: repository})))
        done = world.run(*publish[client], **variables)
        assert (done.returncode == 0) is (outcome == ""), done.stdout + done.stderr
        assert outcome in re.sub(r"\s+", " ", done.stdout + done.stderr)
    (line,) = [line for line in world.audit() if line["event"] == "upload"]
    assert line["signers"] == [JOB[21]]
    kept = world.folder / "packages" / ".index" / "provenance" / path.name
    provenance = Provenance.model_validate_json(kept.read_bytes())
    publisher = GitHubPublisher(repository="acme/spam", workflow="release.yaml")
    assert provenance.attestation_bundles[0].publisher == publisher


@pytest.mark.slow
@pytest.mark.parametrize("world", ["github"], indirect=True)
def test_pdm_makes_the_exchange_by_itself(world: World, project_managers: Path) -> None:
    world.trust()
    (world.folder / "home" / "dist").mkdir()
    built = world.wheel()
    built.rename(built.parent / "dist" / built.name)
    project = '[project]\nname = "spam"\nversion = "1.0"\nrequires-python = ">=3.11"\n'
    (world.folder / "home" / "pyproject.toml").write_text(project)
    command = ["publish", "--no-build", "--repository", world.front.url]
    done = world.run(project_managers / "pdm", *command, PDM_CHECK_UPDATE="0")
    assert done.returncode == 0, done.stderr
    assert {line["event"]: line["user"] for line in world.audit()}["upload"] == "oidc:spam-release"


def test_uv_reports_what_did_not_match(world: World) -> None:
    world.trust(environment="production")
    done = world.run("uv", "publish", "--trusted-publishing", "always", "--publish-url", world.front.url, world.wheel())
    assert done.returncode != 0
    assert "the environment is 'release' and not 'production'" in re.sub(r"\s+", " ", done.stderr)


def test_uv_cannot_publish_another_project(world: World) -> None:
    world.trust()
    done = world.run("uv", "publish", "--publish-url", world.front.url, world.wheel("ham"))
    assert done.returncode != 0
    assert "may not upload to the project" in re.sub(r"\s+", " ", done.stderr)


@pytest.mark.slow
def test_twine_publishes_and_pip_and_uv_install_after_the_login_action(world: World) -> None:
    world.trust()
    variables = world.log_in()
    done = world.run("twine", "upload", "--non-interactive", world.wheel(), **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    done = world.run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", "pip", "spam", **variables)
    assert done.returncode == 0, done.stderr
    for name in ("NETRC", "UV_INDEX_PRIVATE_PASSWORD"):  # either is enough
        fewer = {other: value for other, value in variables.items() if other != name}
        folder = world.folder / f"uv-{name}"
        done = world.run(
            "uv", "pip", "install", "--target", folder, "--default-index", "https://127.0.0.1:1/", "spam", **fewer
        )
        assert done.returncode == 0, done.stderr
        assert list(folder.glob("spam-1.0.dist-info"))


def test_a_reader_installs_and_does_not_publish(world: World) -> None:
    (world.folder / "packages" / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    world.trust(role="reader", projects=None)
    variables = world.log_in()
    done = world.run(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", "pip", "spam", **variables)
    assert done.returncode == 0, done.stderr
    refused = world.run("twine", "upload", "--non-interactive", world.wheel("eggs"), **variables)
    assert refused.returncode != 0
    assert "403" in refused.stdout + refused.stderr


def test_a_job_without_an_id_token_is_told_what_to_add(world: World) -> None:
    world.trust()
    world.variables = {}
    done = world.run(sys.executable, LOGIN, "--url", world.front.url, "--out", "index.env")
    assert done.returncode == 1
    assert "id-token: write" in done.stderr
    assert "PYPI_TEST_ID_TOKEN" in done.stderr


@pytest.mark.slow
def test_the_smoke_test_job_publishes_identical_bytes_again_and_installs(world: World) -> None:
    steps = yaml.safe_load((PROJECT_ROOT / ".github/workflows/smoke-test.yaml").read_text())["jobs"]["publish"]["steps"]
    publish, install = (step["run"] for step in steps if step["name"] in {"Publish", "Install with pip and uv"})
    world.trust(projects=["runbook-publishing-check"])
    (world.folder / "home" / ".venv").mkdir()
    (world.folder / "home" / ".venv" / "bin").symlink_to(BIN)
    python_path = {"PYTHONPATH": str(PROJECT_ROOT), "INDEX_URL": world.front.url}
    for _ in range(2):
        if world.issuer.kind == "gitlab":
            world.variables["PYPI_TEST_ID_TOKEN"] = world.issuer.id_token()
        done = world.run("bash", "-ec", publish, **python_path)
        assert done.returncode == 0, done.stderr
    if world.issuer.kind == "gitlab":
        world.variables["PYPI_TEST_ID_TOKEN"] = world.issuer.id_token()
    done = world.run("bash", "-ec", install, **python_path, **world.log_in())
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def older_uv(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of another version of uv."""
    folder = tmp_path_factory.mktemp("uv")
    command: list[str | Path] = [BIN / "uv", "pip", "install", "--target", folder, f"uv=={request.param}"]
    done = subprocess.run(command, env={**os.environ, **DOWNLOADS}, capture_output=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip("this machine cannot download it")
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("older_uv", "world"), [("0.4.16", "github"), ("0.9.0", "github"), ("0.9.0", "gitlab")], indirect=True
)
def test_older_versions_of_uv_publish_too(world: World, older_uv: Path) -> None:
    """The first one that attempts the exchange with any index, and one that does not burn its token."""
    world.trust()
    done = world.run(
        older_uv / "uv", "publish", "--trusted-publishing", "always", "--publish-url", world.front.url, world.wheel()
    )
    assert done.returncode == 0, done.stderr
    assert "upload" in {line["event"] for line in world.audit()}
