"""pip, uv and twine as people run them, against a real server, with oddly named distributions."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest
from packaging.utils import canonicalize_name

from tests.index.recording import RecordingFront
from tests.index.serving import PASSWORD, Server, eventually

pytestmark = pytest.mark.usefixtures("watched")

UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv") or ""


@dataclass(frozen=True)
class Odd:
    """A distribution with an unusual name or version."""

    name: str
    version: str
    stem: str
    """Start of the wheel's file name, before the tags."""


ODD = [
    Odd("plain", "1.0", "plain-1.0"),
    Odd("Acme.Billing_Core", "1.0", "acme_billing_core-1.0"),
    Odd("dots.and-dashes", "0.1", "dots_and_dashes-0.1"),
    Odd("epochal", "1!2.0", "epochal-1!2.0"),
    Odd("localised", "1.0+ubuntu.1", "localised-1.0+ubuntu.1"),
    Odd("posted", "1.0.post3", "posted-1.0.post3"),
    Odd("developed", "2.0.dev5", "developed-2.0.dev5"),
    Odd("candidate", "3.0rc1", "candidate-3.0rc1"),
    Odd("calendar", "2026.1.2", "calendar-2026.1.2"),
    Odd("x", "0", "x-0"),
]


def build_wheel(
    folder: Path, name: str, version: str, stem: str, tags: str = "py3-none-any", needs: str = "", python: str = ">=3.8"
) -> Path:
    """A wheel that can be installed and imported."""
    module = canonicalize_name(name).replace("-", "_")
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: {python}\n{needs}"
    members = {
        f"{module}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tags}\n",
    }
    record = "".join(f"{path},sha256={_digest(text.encode())},{len(text)}\n" for path, text in members.items())
    path = folder / f"{stem}-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(member, text)
    return path


def build_sdist(folder: Path, name: str, version: str, *, suffix: str = ".tar.gz") -> Path:
    """An sdist with static metadata."""
    stem = f"{canonicalize_name(name).replace('-', '_')}-{version}"
    members = {
        f"{stem}/PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n".encode(),
        f"{stem}/pyproject.toml": b"",
    }
    path = folder / f"{stem}{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """Folder of a project's built distributions."""
    folder = tmp_path / "dist"
    folder.mkdir()
    return folder


class Client:
    """A machine without configuration, whose programs do not check for updates."""

    def __init__(self, server: Server, home: Path) -> None:
        home.mkdir()
        self.server = server
        self.home = home
        self._front = RecordingFront(server.port)
        self.root = self._front.url
        self.index = f"{server.url_for().replace(str(server.port), str(self._front.port))}simple/"

    def __enter__(self) -> Self:
        self._front.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._front.__exit__()
        assert self._front.unknown() == []

    def run(self, *command: str, fails: bool = False, cwd: Path | None = None, **environment: str) -> str:
        """Run a program, and return its output on both streams."""
        done = subprocess.run(
            command,
            cwd=cwd or self.home,
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.home),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_NO_INPUT": "1",
                "UV_NO_CONFIG": "1",
                "UV_CACHE_DIR": str(self.home / "uv-cache"),
                "UV_PYTHON": sys.executable,
                "UV_PYTHON_DOWNLOADS": "never",
                "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    def put(self, *files: Path) -> None:
        """Put files into the server's directory, for a test about what follows."""
        for file in files:
            shutil.copy(file, self.server.packages)
            eventually(lambda name=file.name: name in self.server.get(f"/simple/{name.split('-')[0]}/").text)

    def pip(self, *arguments: str, fails: bool = False) -> str:
        """pip, with this index and an empty cache."""
        verb, *rest = arguments
        return self.run(
            sys.executable, "-m", "pip", verb, "--index-url", self.index, "--no-cache-dir", *rest, fails=fails
        )

    def uv(self, *arguments: str, fails: bool = False, cwd: Path | None = None, **environment: str) -> str:
        """uv, with this index."""
        return self.run(UV, *arguments, fails=fails, cwd=cwd, **environment)

    def twine(self, *files: Path, user: str = "alice", password: str = PASSWORD, fails: bool = False) -> str:
        """``twine upload`` to the root of the index."""
        credentials = ["--username", user, "--password", password, "--repository-url", self.root]
        return self.run(
            sys.executable,
            "-m",
            "twine",
            "upload",
            "--non-interactive",
            "--disable-progress-bar",
            "--verbose",
            *credentials,
            *map(str, files),
            fails=fails,
        )

    def publish(self, *files: Path, more: tuple[str, ...] = (), user: str = "alice", fails: bool = False) -> str:
        """``uv publish`` to the root of the index."""
        credentials = ["--username", user, "--password", PASSWORD, "--publish-url", self.root]
        return self.uv("publish", *credentials, "--trusted-publishing", "never", *more, *map(str, files), fails=fails)


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Iterator[Client]:
    with Client(server, tmp_path / "machine") as client:
        yield client


def requirement(path: Path, name: str, version: str) -> str:
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_odd_names_and_versions_are_uploaded_by_twine_and_downloaded_by_pip(client: Client, dist: Path) -> None:
    """``pip download --require-hashes`` compares every byte."""
    wheels = [build_wheel(dist, odd.name, odd.version, odd.stem) for odd in ODD]
    client.twine(*wheels)
    requirements = client.home / "requirements.txt"
    requirements.write_text("".join(requirement(w, o.name, o.version) for w, o in zip(wheels, ODD, strict=True)))
    client.pip("download", "--require-hashes", "--no-deps", "-d", "got", "-r", str(requirements))
    assert {path.name for path in (client.home / "got").iterdir()} == {wheel.name for wheel in wheels}


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_odd_names_and_versions_are_published_and_installed_by_uv(client: Client, dist: Path) -> None:
    tag = "uv"
    odd = [Odd(f"{one.name}-{tag}", one.version, one.stem.replace("-", f"_{tag}-", 1)) for one in ODD]
    wheels = [build_wheel(dist, one.name, one.version, one.stem) for one in odd]
    client.publish(*wheels)
    wanted = [f"{one.name}=={one.version}" for one in odd]
    client.uv("pip", "install", "--target", "site", "--default-index", client.index, *wanted)
    for one in odd:
        module = canonicalize_name(one.name).replace("-", "_")
        assert one.version in (client.home / "site" / module / "__init__.py").read_text()


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_both_kinds_of_sdists_are_downloaded_unchanged(client: Client, dist: Path, suffix: str) -> None:
    name = f"source{suffix.replace('.', '-')}"
    sdist = build_sdist(dist, name, "1.0", suffix=suffix)
    client.twine(sdist)
    address = re.search(r'href="\.\./\.\./([^"#]+)#sha256=(\w+)', client.server.get(f"/simple/{name}/").text)
    assert address is not None
    content = client.server.get("/" + address[1]).body
    assert content == sdist.read_bytes()
    assert hashlib.sha256(content).hexdigest() == address[2]


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_each_platform_gets_its_own_wheel(client: Client, dist: Path) -> None:
    tags = {"linux": "manylinux_2_17_x86_64", "macos": "macosx_11_0_arm64", "windows": "win_amd64"}
    client.publish(*(build_wheel(dist, "native", "1.0", "native-1.0", tags=f"py3-none-{tag}") for tag in tags.values()))
    for platform, tag in tags.items():
        where = ["--python-platform", platform, "--target", platform, "--default-index", client.index]
        client.uv("pip", "install", *where, "native")
        assert tag in (client.home / platform / "native-1.0.dist-info" / "WHEEL").read_text()


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_dependencies_are_found_through_the_metadata_alone(client: Client, dist: Path) -> None:
    """uv reads ``.metadata`` (PEP 658), and fetches no wheel to resolve."""
    client.publish(
        build_wheel(dist, "base", "1.0", "base-1.0"),
        build_wheel(dist, "top", "1.0", "top-1.0", needs="Requires-Dist: base>=1\n"),
    )
    (client.home / "requirements.in").write_text("top\n")
    said = client.uv("pip", "compile", "--verbose", "--default-index", client.index, "requirements.in")
    assert "base==1.0" in said
    assert ".whl.metadata" in said
    assert "range request" not in said.lower()


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_a_lock_file_names_hashes_and_sizes(client: Client, dist: Path) -> None:
    wheel = build_wheel(dist, "lockable", "1.0", "lockable-1.0")
    client.publish(wheel)
    project = client.home / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["lockable"]\n'
    )
    client.uv("lock", "--default-index", client.index, cwd=project)
    lock = (project / "uv.lock").read_text()
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in lock
    assert f"size = {wheel.stat().st_size}" in lock
    assert "upload-time" in lock
    assert PASSWORD not in lock


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_later_uploads_can_be_excluded(client: Client, dist: Path) -> None:
    """``--exclude-newer`` needs the upload times of PEP 700."""
    client.publish(build_wheel(dist, "dated", "1.0", "dated-1.0"))
    between = datetime.now(UTC)
    time.sleep(1.1)
    client.publish(build_wheel(dist, "dated", "2.0", "dated-2.0"))
    for moment, version in ((between + timedelta(seconds=0.5), "1.0"), (between + timedelta(days=1), "2.0")):
        cutoff = moment.isoformat().replace("+00:00", "Z")
        target = f"site-{version}"
        install = ["pip", "install", "--target", target, "--default-index", client.index, "--exclude-newer", cutoff]
        client.uv(*install, "dated")
        assert version in (client.home / target / "dated" / "__init__.py").read_text()


def test_a_yanked_version_is_skipped_but_can_be_pinned(client: Client, dist: Path) -> None:
    client.put(*(build_wheel(dist, "flawed", version, f"flawed-{version}") for version in ("1.0", "1.1")))
    body, headers = b'{"version": "1.1", "reason": "loses money"}', {"Content-Type": "application/json"}
    assert client.server.request("POST", "/projects/flawed/yank", headers=headers, body=body).status == 200
    client.pip("download", "--no-deps", "-d", "any", "flawed")
    assert [path.name for path in (client.home / "any").iterdir()] == ["flawed-1.0-py3-none-any.whl"]
    said = client.pip("download", "--no-deps", "-d", "that", "flawed==1.1")
    assert "loses money" in said


def test_a_version_for_another_python_is_skipped(client: Client, dist: Path) -> None:
    client.put(build_wheel(dist, "aging", "1.0", "aging-1.0"))
    client.put(build_wheel(dist, "aging", "2.0", "aging-2.0", python=">=9.9"))
    client.pip("download", "--no-deps", "-d", "got", "aging")
    assert [path.name for path in (client.home / "got").iterdir()] == ["aging-1.0-py3-none-any.whl"]


def test_publishing_again_succeeds_for_identical_bytes_and_is_refused_for_different_ones(
    client: Client, dist: Path
) -> None:
    wheel = build_wheel(dist, "again", "1.0", "again-1.0")
    client.twine(wheel)
    client.twine(wheel)
    if UV:
        client.publish(wheel)
    other = build_wheel(dist, "again", "1.0", "again-1.0", needs="Summary: other\n")
    said = client.twine(other, fails=True)
    assert "400" in said
    assert "never changes" in said
    if UV:
        assert "never changes" in client.publish(other, fails=True)


@pytest.mark.skipif(not UV, reason="uv is not installed")
def test_uv_can_check_for_existing_files_first(client: Client, dist: Path) -> None:
    wheel = build_wheel(dist, "looked-for", "1.0", "looked_for-1.0")
    look = ("--check-url", client.index)
    assert "Uploading" in client.publish(wheel, more=look)
    said = client.publish(wheel, more=look)
    assert "already exists" in said
    assert "Uploading" not in said
    other = build_wheel(dist, "looked-for", "1.0", "looked_for-1.0", needs="Summary: other\n")
    assert "do not match" in client.publish(other, more=look, fails=True)


def test_a_wrong_password_is_reported_as_such(client: Client, dist: Path) -> None:
    """Not as 'no matching distribution', after which a stranger's package of that name might be taken."""
    wheel = build_wheel(dist, "guarded", "1.0", "guarded-1.0")
    assert "401" in client.twine(wheel, password="wrong password", fails=True)
    client.twine(wheel)
    client.index = client.index.replace("horse", "mule")
    assert "401" in client.pip("download", "--no-deps", "guarded", fails=True)
    if UV:
        said = client.uv("pip", "install", "--target", "x", "--default-index", client.index, "guarded", fails=True)
        assert "401" in said or "credentials" in said.lower()


def test_a_reader_is_told_that_they_cannot_upload(client: Client, dist: Path) -> None:
    wheel = build_wheel(dist, "reserved", "1.0", "reserved-1.0")
    assert "403" in client.twine(wheel, user="rea", fails=True)
    if UV:
        assert "may not" in client.publish(wheel, user="rea", fails=True)


def test_an_unknown_project_is_not_searched_elsewhere(client: Client) -> None:
    assert "No matching distribution" in client.pip("download", "--no-deps", "nobody-has-this", fails=True)
