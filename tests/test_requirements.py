"""Each pin is stated once, and containers install what was tested here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ops.workspace import PROJECT_ROOT

PIN = re.compile(r"^([a-z0-9-]+)==([^ ]+)(?: ; (.+?))? \\$", re.MULTILINE)
IN_CONTAINERS = PROJECT_ROOT / "deployments" / "requirements.txt"


def pins(path: Path) -> set[tuple[str, str, str]]:
    """Name, version and marker of every pin in a requirements file."""
    return set(PIN.findall(path.read_text()))


def test_a_container_requires_the_same_ranges_as_the_project() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    ranges = {Requirement(each).name: Requirement(each).specifier for each in project["dependencies"]}
    lines = (PROJECT_ROOT / "deployments" / "requirements.in").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert ranges.get(requirement.name) == requirement.specifier, requirement.name


def test_a_container_installs_the_tested_versions() -> None:
    tested = {name: version for name, version, _ in pins(PROJECT_ROOT / "requirements.txt")}
    for name, version, _ in pins(IN_CONTAINERS):
        assert tested.get(name, version) == version, name


def test_a_container_that_verifies_signatures_additionally_installs_the_tested_extra() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    lines = IN_CONTAINERS.with_name("requirements-attestations.in").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["optional-dependencies"]["attestations"]
    added = pins(IN_CONTAINERS.with_name("requirements-attestations.txt"))
    tested = pins(PROJECT_ROOT / "requirements.txt") | pins(PROJECT_ROOT / "requirements-test.txt")
    assert {(name, version) for name, version, _ in added} <= {(name, version) for name, version, _ in tested}
    assert not {name for name, _, _ in added} & {name for name, _, _ in pins(IN_CONTAINERS)}


@pytest.mark.parametrize("extra", ["test", "lab", "modal"])
def test_the_requirements_of_an_extra_repeat_no_pin(extra: str) -> None:
    path = PROJECT_ROOT / f"requirements-{extra}.txt"
    assert "-r requirements.txt" in path.read_text().splitlines()
    assert not pins(path) & pins(PROJECT_ROOT / "requirements.txt")


def test_modal_s_client_is_the_tested_version() -> None:
    assert pins(PROJECT_ROOT / "requirements-modal.txt") <= pins(PROJECT_ROOT / "requirements-test.txt")


def test_documented_commands_pin_the_tested_modal_and_uv() -> None:
    (modal,) = [version for name, version, _ in pins(PROJECT_ROOT / "requirements-modal.txt") if name == "modal"]
    (uv,) = [version for name, version, _ in pins(PROJECT_ROOT / "requirements.txt") if name == "uv"]
    deployment = PROJECT_ROOT / "deployments" / "pypi_deploy.py"
    for path in (deployment, IN_CONTAINERS.parent / "README.md"):
        assert set(re.findall(r"uvx \S+", path.read_text())) == {f"uvx 'modal=={modal}'"}, path.name
    assert f'UV_VERSION = "{uv}"' in deployment.read_text()


def test_every_requirements_file_says_that_it_is_generated() -> None:
    for path in (
        *PROJECT_ROOT.glob("requirements*.txt"),
        *IN_CONTAINERS.parent.glob("requirements*.txt"),
        PROJECT_ROOT / "tests" / "project_managers.txt",
    ):
        assert "make lock" in path.read_text()[:200], path.name
