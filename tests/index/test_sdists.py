"""Sdists through pip, uv and twine: metadata is offered only for those with static metadata."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index.archives import core_metadata, sdist, wheel, wheel_name
from tests.index.serving import JSON, PASSWORD, Server
from tests.index.test_clients import UV, Client, requirement

pytestmark = pytest.mark.usefixtures("watched")

needs_uv = pytest.mark.skipif(not UV, reason="uv is not installed")

PROJECT = b"""\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

BACKEND = b"""\
import os, pathlib

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    pathlib.Path(os.environ["HOME"], "built").touch()
    info = pathlib.Path(folder, "STEM.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_bytes(pathlib.Path("PKG-INFO").read_bytes())
    return info.name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise SystemExit("nobody asked for a wheel")
"""
"""Builds from the sdist alone, so that no build needs the network, and leaves a mark when it was called."""


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Client]:
    with Client(server, tmp_path / "machine") as client:
        yield client


def build(folder: Path, name: str, lines: str = "", metadata_version: str = "2.4") -> Path:
    """An sdist of version 1.0 that pip can prepare."""
    stem = f"{name.replace('-', '_')}-1.0"
    members = []
    for member, content in (("pyproject.toml", PROJECT), ("backend.py", BACKEND.replace(b"STEM", stem.encode()))):
        info = tarfile.TarInfo(f"{stem}/{member}")
        info.size = len(content)
        members.append((info, content))
    path = folder / f"{stem}.tar.gz"
    path.write_bytes(sdist(name, "1.0", lines=lines, metadata_version=metadata_version, members=members))
    return path


def assert_metadata_offered(server: Server, name: str, metadata: bytes) -> None:
    """Both pages have the hash of the metadata file (PEP 714), and it exists."""
    digest = hashlib.sha256(metadata).hexdigest()
    (file,) = json.loads(server.get(f"/simple/{name}/", Accept=JSON).body)["files"]
    assert file["core-metadata"] == {"sha256": digest}
    assert f'data-core-metadata="sha256={digest}"' in server.get(f"/simple/{name}/").text
    assert server.get(f"/packages/{file['filename']}.metadata").body == metadata


def assert_metadata_withheld(server: Server, name: str) -> None:
    """Neither page offers metadata, and there is none."""
    (file,) = json.loads(server.get(f"/simple/{name}/", Accept=JSON).body)["files"]
    assert not file.get("core-metadata")
    assert not file.get("data-dist-info-metadata")
    html = server.get(f"/simple/{name}/").text
    assert file["filename"] in html
    assert "metadata" not in html
    assert server.get(f"/packages/{file['filename']}.metadata").status == 404


@pytest.mark.parametrize("tool", ["twine", pytest.param("uv", marks=needs_uv)])
def test_metadata_is_offered_only_for_static_sdists_and_pip_downloads_all_by_hash(
    client: Client, tmp_path: Path, tool: str
) -> None:
    """Static metadata is at least of version 2.2 and has no dynamic fields (PEP 643)."""
    kinds = {
        f"static-{tool}": ("", "2.2"),
        f"dynamic-{tool}": ("Dynamic: Requires-Dist\n", "2.2"),
        f"older-{tool}": ("", "2.1"),
    }
    sdists = {name: build(tmp_path, name, *kind) for name, kind in kinds.items()}
    if tool == "uv":
        client.publish(*sdists.values())
    else:
        client.twine(*sdists.values())

    assert_metadata_offered(
        client.server, f"static-{tool}", core_metadata(f"static-{tool}", "1.0", metadata_version="2.2")
    )
    for name in (f"dynamic-{tool}", f"older-{tool}"):
        assert_metadata_withheld(client.server, name)

    requirements = client.home / "requirements.txt"
    requirements.write_text("".join(requirement(path, name, "1.0") for name, path in sdists.items()))
    options = ["--require-hashes", "--no-deps", "--no-binary", ":all:"]
    client.pip("download", *options, "-d", "got", "-r", str(requirements))
    got = {path.name: path.read_bytes() for path in (client.home / "got").iterdir()}
    assert got == {path.name: path.read_bytes() for path in sdists.values()}


@needs_uv
def test_a_static_sdist_is_locked_with_its_hash_and_requirements_without_being_built(
    client: Client, tmp_path: Path
) -> None:
    needed = tmp_path / wheel_name("needed", "1.0")
    needed.write_bytes(wheel("needed", "1.0"))
    path = build(tmp_path, "settled", "Requires-Dist: needed>=1\n")
    client.publish(path, needed)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    project = client.home / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["settled"]\n'
    )
    client.uv("lock", "--default-index", client.index, cwd=project)
    lock = (project / "uv.lock").read_text()
    (sdist_line,) = [line for line in lock.splitlines() if line.startswith("sdist = ")]
    for part in (f"/{path.name}", f"sha256:{digest}", f"size = {path.stat().st_size}", "upload-time"):
        assert part in sdist_line
    assert hashlib.sha256(needed.read_bytes()).hexdigest() in lock
    assert PASSWORD not in lock

    (client.home / "requirements.in").write_text("settled\n")
    compiled = client.uv(
        "pip", "compile", "--generate-hashes", "--no-header", "--default-index", client.index, "requirements.in"
    )
    assert f"settled==1.0 \\\n    --hash=sha256:{digest}" in compiled
    assert "needed==1.0 \\\n" in compiled
    assert not (client.home / "built").exists()
