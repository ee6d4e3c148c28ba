"""A fake control plane for each module, and this process as a client of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import modal.client
import pytest
from modal import _environments

from ops.settings import SECRET_KEY, SECRET_NAME
from ops.workspace import PROJECT_ROOT
from tests.standin import isolation
from tests.standin.control_plane import ControlPlane

TOKEN = "an-admin-token-of-the-tests-0123456789"
DEPLOYMENT = PROJECT_ROOT / "deployments" / "pypi_deploy.py"

Modal = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs its own mounts. Where they are not available it is skipped, never passed."""
    reason = isolation.missing()
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker("modal")
        if reason and "plane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=f"containers cannot be isolated here: {reason}"))


def run_modal(plane: ControlPlane, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The ``modal`` command as a user runs it, from an unrelated directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "PYPI_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-m", "modal", *arguments],
        cwd=plane.directory,
        env={**kept, **plane.variables, "NO_COLOR": "1", "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def deploy(plane: ControlPlane, file: Path = DEPLOYMENT, **variables: str) -> None:
    """Deploy *file* with the ``modal`` command; on failure, show its output."""
    done = run_modal(plane, "deploy", str(file), **variables)
    assert done.returncode == 0, done.stdout + done.stderr


def create_secret(plane: ControlPlane, value: str = TOKEN, *, environment: str = "main") -> None:
    """Create the admin's secret, as the ``modal`` command would."""
    source = plane.directory / "secret.json"
    source.write_text(f'{{"{SECRET_KEY}": "{value}"}}')
    done = run_modal(
        plane, "secret", "create", SECRET_NAME, "--from-json", str(source), "--force", "--env", environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An empty control plane."""
    with ControlPlane() as plane:
        yield plane
        assert not plane.problems, plane.problems


@pytest.fixture(scope="module")
def index(plane: ControlPlane) -> ControlPlane:
    """A control plane with the index deployed and empty volumes."""
    create_secret(plane)
    deploy(plane)
    return plane


@pytest.fixture
def client(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, str]]:
    """This process as a client of the control plane."""
    for name, value in plane.variables.items():
        monkeypatch.setenv(name, value)
    forget_client()
    yield plane.variables
    forget_client()


def forget_client() -> None:
    """Forget the client of an earlier test and its cached environments."""
    if modal.client._Client._client_from_env is not None:
        modal.client.Client.from_env().close()
    _environments.ENVIRONMENT_CACHE.clear()
