"""The pinned versions are sufficient on both sides, in environments with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import requests

from ops.workspace import PROJECT_ROOT
from tests.conftest import DOWNLOADS
from tests.index.sigstore_instance import FakeSigstore
from tests.modal.conftest import DEPLOYMENT, TOKEN, create_secret
from tests.modal.traffic import PASSWORD, digests, eventually, register, upload, url
from tests.standin.control_plane import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MODAL = f"modal=={version('modal')}"


REQUIREMENTS = DEPLOYMENT.parent / "requirements.txt"


def environment(folder: Path, *installs: list[str]) -> Path:
    """The interpreter of a virtual environment with only the given requirements."""
    python = folder / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    commands = [[*uv, "venv", "--python", sys.executable, str(folder)]]
    commands += [[*uv, "pip", "install", "--python", str(python), *install] for install in installs]
    for command in commands:
        variables = {**os.environ, **DOWNLOADS}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=variables)
        assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Containers with the image's packages and Modal's client, which Modal adds."""
    pinned = ["--require-hashes", "--requirements", str(REQUIREMENTS)]
    python = environment(tmp_path_factory.mktemp("container") / "venv", pinned, [MODAL])
    with ControlPlane(python=python) as plane:
        create_secret(plane)
        yield plane
        assert not plane.problems, plane.problems


def test_an_operator_needs_only_modal_and_a_container_only_the_pinned_packages(
    lean: ControlPlane, tmp_path: Path
) -> None:
    operator = environment(tmp_path / "venv", [MODAL])
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}}
    done = subprocess.run(
        [str(operator), "-m", "modal", "deploy", str(DEPLOYMENT)],
        cwd="/",
        env={**kept, **lean.variables, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert register(lean, "alice").status_code == 201
    assert requests.get(f"{url(lean)}/health", timeout=60).status_code == 200
    eventually(lambda: requests.get(f"{url(lean)}/", auth=("alice", PASSWORD), timeout=60).status_code == 200)
    assert upload(lean, "pinned", "1.0").status_code == 200
    ((name, _),) = digests(lean, "pinned").items()
    for path in ("/", "/projects/pinned/", f"/packages/{name}", f"/packages/{name}.metadata"):
        response = requests.get(f"{url(lean)}{path}", auth=("alice", PASSWORD), timeout=60)
        assert response.status_code == 200, path
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/docs", "/openapi.json", "/users"):
        assert requests.get(f"{url(lean, 'register_user')}{path}", headers=headers, timeout=60).status_code == 200
    assert lean.exceptions == []


def test_a_container_with_both_pinned_files_can_verify_signatures(tmp_path: Path) -> None:
    more = REQUIREMENTS.with_name("requirements-attestations.txt")
    pinned = ["--require-hashes", "--requirements", str(REQUIREMENTS), "--requirements", str(more)]
    python = environment(tmp_path / "venv", pinned)
    root = FakeSigstore().write(tmp_path / "trusted_root.json")
    check = (
        "import pathlib, sys; from ops.index.packages.signatures import SignatureVerifier as V; "
        "verifier = V(pathlib.Path(sys.argv[1])); verifier.check(); verifier.close()"
    )
    subprocess.run([str(python), "-c", check, str(root)], cwd=PROJECT_ROOT, check=True, timeout=120)
