"""Requests of the deployment to Modal, read from the control plane's record."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from modal_proto import api_pb2

from ops.settings import (
    CREDENTIALS_PATH,
    CREDENTIALS_VOLUME,
    PACKAGES_PATH,
    PACKAGES_VOLUME,
    SECRET_NAME,
    Hosting,
    Settings,
)
from ops.workspace import PROJECT_ROOT
from tests.modal.conftest import DEPLOYMENT, create_secret, deploy, run_modal
from tests.standin.control_plane import ControlPlane

REQUIREMENTS = DEPLOYMENT.parent / "requirements.txt"


def mounts(plane: ControlPlane, function: str) -> dict[str, tuple[str, bool]]:
    """Maps the path in the container to the Volume's name and whether it is read-only."""
    return {
        mount.mount_path: (plane.volumes.by_id[mount.volume_id].name, mount.read_only)
        for mount in plane.function(function).definition.volume_mounts
    }


def secrets(plane: ControlPlane, function: str) -> list[str]:
    return [plane.secrets.by_id[secret].name for secret in plane.function(function).definition.secret_ids]


def shipped(plane: ControlPlane, function: str = "server") -> set[str]:
    definition = plane.function(function).definition
    copied = [layer.context_mount_id for layer in plane.images.lineage(definition.image_id) if layer.context_mount_id]
    ids = [*definition.mount_ids, *copied]
    return {path for mount_id in ids for path in plane.images.mounts[mount_id].files}


def test_the_index_reads_credentials_writes_packages_and_has_no_secret(index: ControlPlane) -> None:
    assert mounts(index, "server") == {
        PACKAGES_PATH: (PACKAGES_VOLUME, False),
        CREDENTIALS_PATH: (CREDENTIALS_VOLUME, True),
    }
    assert secrets(index, "server") == []


def test_only_the_admin_application_has_the_token_and_writes_credentials(index: ControlPlane) -> None:
    assert mounts(index, "register_user") == {CREDENTIALS_PATH: (CREDENTIALS_VOLUME, False)}
    assert secrets(index, "register_user") == [SECRET_NAME]


def test_volumes_are_version_1(index: ControlPlane) -> None:
    for name in (PACKAGES_VOLUME, CREDENTIALS_VOLUME):
        volume = index.volumes.named(name, "main")
        assert volume is not None
        assert volume.metadata().version == api_pb2.VOLUME_FS_VERSION_V1


def test_a_container_takes_many_requests_and_by_default_there_is_one(
    index: ControlPlane,
) -> None:
    asked = index.function("server").definition
    assert asked.max_concurrent_inputs == Hosting().max_requests >= 100
    assert asked.target_concurrent_inputs == Hosting().target_requests
    assert asked.autoscaler_settings.max_containers == 1
    assert asked.autoscaler_settings.min_containers == 0
    assert asked.autoscaler_settings.scaledown_window == Hosting().scaledown_seconds


def test_the_timeout_is_long_enough_for_the_largest_file(index: ControlPlane) -> None:
    seconds = index.function("server").definition.timeout_secs
    assert 4 * 1024**3 * 8 / seconds <= 5e6, "5 Mbit/s must be enough for 4 GiB"


def test_both_functions_are_our_applications_and_not_generated_endpoints(index: ControlPlane) -> None:
    for name in ("server", "register_user"):
        assert index.function(name).definition.webhook_config.type == api_pb2.WEBHOOK_TYPE_ASGI_APP


def test_the_containers_get_the_index_and_none_of_the_operators_code(index: ControlPlane) -> None:
    files = shipped(index)
    assert {"/root/pypi_deploy.py", "/root/ops/settings.py", "/root/ops/index/__init__.py"} <= files
    assert any(path.endswith(".html") for path in files), "templates are needed although they are not Python files"
    folders = {Path(path).parts[3] for path in files if path.startswith("/root/ops/")}
    assert not folders & {"runbook", "clients"}
    assert not any("__pycache__" in path or path.endswith(".pyc") for path in files)


def test_shipped_code_is_compiled_in_the_image(index: ControlPlane) -> None:
    image_id = index.function("server").definition.image_id
    built = index.images.files(image_id)
    sources = {path.relative_to(built) for path in built.rglob("ops/**/*.py")}
    compiled = {path.relative_to(built) for path in built.rglob("ops/**/*.pyc")}
    assert sources
    assert {path.parent.parent / f"{path.name.partition('.')[0]}.py" for path in compiled} == sources
    for path in compiled:
        flags = int.from_bytes((built / path).read_bytes()[4:8], "little")
        assert flags == 0b01, "an unchecked hash (PEP 552)"


def test_shipped_code_imports_only_shipped_code() -> None:
    """A module that is not shipped would be missed only when a container starts."""
    assignments = (each for each in ast.parse(DEPLOYMENT.read_text()).body if isinstance(each, ast.Assign))
    (shipped,) = (ast.literal_eval(each.value) for each in assignments if ast.unparse(each.targets[0]) == "SHIPPED")
    ops = PROJECT_ROOT / "ops"
    missing = set()
    for path in (path for path in ops.rglob("*.py") if path.relative_to(ops).as_posix().startswith(shipped)):
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("ops."):
                module = str(statement.module).removeprefix("ops.").replace(".", "/")
                if not f"{module}.py".startswith(shipped) and not f"{module}/".startswith(shipped):
                    missing.add(f"{path.relative_to(ops)} imports {statement.module}")
    assert missing == set()


def test_the_image_installs_pinned_versions_by_hash(index: ControlPlane) -> None:
    layers = index.images.lineage(index.function("server").definition.image_id)
    commands = [command for layer in layers for command in layer.commands]
    install = next(command for command in commands if "pip install" in command and "requirements" in command)
    assert "--require-hashes" in install
    assert REQUIREMENTS.read_bytes() in [data for layer in layers for data in layer.context_files.values()]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-attestations.txt"])
def test_the_pinned_requirements_name_no_host_and_pin_each_package_by_hash(name: str) -> None:
    text = REQUIREMENTS.with_name(name).read_text()
    assert "://" not in text
    assert "--index" not in text
    pins = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    blocks = re.split(r"\n(?=\S)", pins.strip())
    for block in blocks:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block


def test_no_value_of_the_secret_is_in_the_deployment(index: ControlPlane) -> None:
    create_secret(index, "another-token-that-must-not-be-seen")
    for name in ("server", "register_user"):
        assert b"must-not-be-seen" not in index.function(name).definition.SerializeToString()
    for image in index.images.images.values():
        assert "must-not-be-seen" not in repr(image)


def test_the_deployment_imports_only_modal_the_standard_library_and_the_settings() -> None:
    tree = ast.parse(DEPLOYMENT.read_text())
    names = set()
    for statement in tree.body:
        match statement:
            case ast.Import(names=aliases):
                names |= {alias.name.partition(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module)):
                names.add(module)
    foreign = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"modal", "ops.settings"}


def test_it_deploys_from_any_directory_with_only_modal_installed(plane: ControlPlane, tmp_path: Path) -> None:
    """Packages needed by the container but not by modal cannot be imported here."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'fastapi', 'starlette', 'pypiserver', 'passlib', 'bcrypt', 'pydantic',\n"
        "                                      'a2wsgi', 'packaging', 'jinja2', 'readme_renderer', 'papermill'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    create_secret(plane)
    deploy(plane, PYTHONPATH=str(tmp_path))


def test_it_names_the_missing_secret() -> None:
    with ControlPlane() as plane:
        done = run_modal(plane, "deploy", str(DEPLOYMENT))
        assert done.returncode == 1
        assert SECRET_NAME in done.stderr
        assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("environment", ["", "staging"])
def test_a_plain_deployment_without_the_secret_ends_with_the_command_that_creates_it(
    tmp_path: Path, environment: str
) -> None:
    with ControlPlane() as plane:
        plane.environments.append("staging")
        named = {"MODAL_ENVIRONMENT": environment} if environment else {}
        done = run_modal(plane, "deploy", str(DEPLOYMENT), **named)
        command = done.stderr.partition("give the value back:")[2].strip()
        made = subprocess.run(
            ["sh", "-c", command],
            env={**os.environ, **plane.variables, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert made.returncode == 0, made.stderr
        stored = plane.secrets.named(SECRET_NAME, environment or "main")
        assert stored is not None
        (kept,) = tmp_path.glob("*.json")
        assert json.loads(kept.read_text()) == stored.values
        assert stored.values["AUTH_TOKEN"] not in made.stdout + made.stderr
        assert kept.stat().st_mode & 0o777 == 0o600
        deploy(plane, DEPLOYMENT, **named)


def test_settings_from_the_environment_reach_modal_and_the_container(plane: ControlPlane) -> None:
    create_secret(plane)
    deploy(
        plane,
        PYPI_APP_NAME="pypiserver-two",
        PYPI_PACKAGES_VOLUME="two-data",
        PYPI_MIN_CONTAINERS="0",
        PYPI_MAX_CONTAINERS="3",
        PYPI_SCALEDOWN_SECONDS="900",
        PYPI_REGION="eu",
        PYPI_PROXY_AUTH="1",
        PYPI_CPU="0.5",
        PYPI_MEMORY="1024",
    )
    asked = plane.function("server", app="pypiserver-two").definition
    assert asked.autoscaler_settings.max_containers == 3
    assert asked.autoscaler_settings.scaledown_window == 900
    assert list(asked.scheduler_placement.regions) == ["eu"]
    assert (asked.resources.milli_cpu, asked.resources.memory_mb) == (500, 1024)
    assert {plane.volumes.by_id[mount.volume_id].name for mount in asked.volume_mounts} >= {"two-data"}
    admin = plane.function("register_user", app="pypiserver-two").definition
    assert admin.webhook_config.requires_proxy_auth
    assert not asked.webhook_config.requires_proxy_auth, "pip, uv and twine cannot send a proxy token"
    assert plane.image_environment(asked.image_id)["PYPI_APP_NAME"] == "pypiserver-two"


@pytest.mark.parametrize(("name", "value"), [("PYPI_MAX_CONTAINERS", "0"), ("PYPI_MAX_CONTAINER", "1")])
def test_an_invalid_setting_stops_the_deployment(plane: ControlPlane, name: str, value: str) -> None:
    create_secret(plane)
    before = plane.called.count("AppCreate")
    done = run_modal(plane, "deploy", str(DEPLOYMENT), **{name: value})
    assert done.returncode
    assert f"{name} is " in done.stdout + done.stderr
    assert plane.called.count("AppCreate") == before


def test_settings_survive_the_round_trip_through_variables() -> None:
    hosting = Hosting(min_containers=1, cpu=0.25, region="eu")
    assert Hosting.from_environment(hosting.variables()) == hosting
    settings = Settings(app_name="x", secret_name="y")
    assert Settings.from_environment(settings.variables()) == settings


def test_an_always_on_deployment_has_a_container_before_the_first_request(plane: ControlPlane) -> None:
    create_secret(plane)
    deploy(plane, PYPI_APP_NAME="always-on", PYPI_MIN_CONTAINERS="1")
    function = plane.function("server", app="always-on")
    plane.run(plane.pool(function.function_id).live()[0].ready.wait(), 60)


def test_the_code_of_the_index_imports_neither_modal_nor_jupyter() -> None:
    """Otherwise the local target or the container would need packages it does not have."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ops.index, ops.index.admin.app; print(*sys.modules)"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not {"modal", "IPython", "ipykernel", "papermill", "nbformat"} & set(done.stdout.split())
