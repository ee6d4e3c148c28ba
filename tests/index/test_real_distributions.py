"""Real distributions of the public index, with awkward names and metadata, go through ours unchanged."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest
import requests
from pip._internal.models.index import PyPI
from pypi_simple import ACCEPT_JSON_ONLY, PyPISimple
from urllib3.filepost import encode_multipart_formdata

from ops.index.packages.filenames import Name, parse
from tests.index.serving import PASSWORD, Server

LISTED = Path(__file__).with_name("real_distributions.txt")
DISTRIBUTIONS = dict(line.split() for line in LISTED.read_text().splitlines() if line and not line.startswith("#"))

_TAKES_PYTHON = re.compile(r"-(py3|py2\.py3|py3\.py2)-none-any\.whl$")


def name_of(filename: str) -> Name:
    name = parse(filename)
    assert name is not None
    return name


class Registry:
    """The index that pip on this machine is configured for."""

    def __init__(self) -> None:
        lines = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        settings = {
            key.rpartition(".")[2]: value.strip("'") for key, _, value in (line.partition("=") for line in lines)
        }
        self.url = os.environ.get("PIP_INDEX_URL") or settings.get("index-url") or PyPI.simple_url
        self._session = requests.Session()
        if "cert" in settings:
            self._session.verify = settings["cert"]
        self._addresses: dict[str, dict[str, str]] = {}

    def get(self, filename: str) -> bytes | None:
        """A file, or None if the registry does not have it."""
        project = name_of(filename).project
        if project not in self._addresses:
            page = f"{self.url.rstrip('/')}/{project}/"
            response = self._session.get(page, headers={"Accept": "application/vnd.pypi.simple.v1+html"}, timeout=60)
            links = re.findall(r'href="([^"#]+)', response.text) if response.ok else []
            addresses = {unquote(link.rpartition("/")[2]): urljoin(page, link) for link in links}
            self._addresses[project] = addresses
        address = self._addresses[project].get(filename)
        if address is None:
            return None
        response = self._session.get(address, timeout=120)
        response.raise_for_status()
        return response.content


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """The listed files, from the registry."""
    registry = Registry()
    try:
        found = {filename: registry.get(filename) for filename in DISTRIBUTIONS}
    except requests.RequestException as error:
        pytest.skip(f"the index that pip is configured for cannot be reached: {type(error).__name__}")
    missing = [filename for filename, content in found.items() if content is None]
    if len(missing) > len(found) // 4:
        pytest.skip(f"the index that pip is configured for does not have {len(missing)} of {len(found)} files")
    return {filename: content for filename, content in found.items() if content is not None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, originals: dict[str, bytes]) -> Iterator[Server]:
    """An index to which all of them were uploaded."""
    with Server(tmp_path_factory.mktemp("index")) as server:
        refused = {}
        for filename, content in originals.items():
            response = upload(server, filename, content)
            if response is not None:
                refused[filename] = response
        assert not refused
        yield server


def upload(server: Server, filename: str, content: bytes) -> str | None:
    """Reason for the refusal, or None."""
    name = name_of(filename)
    form: dict[str, str | tuple[str, str | bytes]] = {
        ":action": "file_upload",
        "name": name.project,
        "version": name.version,
        "sha256_digest": hashlib.sha256(content).hexdigest(),
        "blake2_256_digest": hashlib.blake2b(content).hexdigest(),
        "content": (filename, content),
    }
    body, content_type = encode_multipart_formdata(form)
    response = server.request("POST", "/", headers={"Content-Type": content_type}, body=body)
    return None if response.status == 200 else response.text


def test_the_list_is_long_and_every_name_on_it_can_be_parsed() -> None:
    assert len(DISTRIBUTIONS) >= 60
    assert all(name_of(filename).form in {"wheel", "sdist"} for filename in DISTRIBUTIONS)


@pytest.mark.slow
def test_all_files_match_the_list(originals: dict[str, bytes]) -> None:
    digests = {filename: hashlib.sha256(content).hexdigest() for filename, content in originals.items()}
    assert digests == {filename: DISTRIBUTIONS[filename] for filename in originals}


@pytest.mark.slow
def test_all_files_are_listed_and_downloaded_unchanged(server: Server, originals: dict[str, bytes]) -> None:
    with PyPISimple(f"{server.url}simple/", auth=("alice", PASSWORD), accept=ACCEPT_JSON_ONLY) as client:
        listed = {
            package.filename: package
            for project in {name_of(filename).project for filename in originals}
            for package in client.get_project_page(project).packages
        }
    assert listed.keys() == originals.keys()
    for filename, content in originals.items():
        assert server.get(f"/packages/{filename}").body == content
        assert listed[filename].digests["sha256"] == DISTRIBUTIONS[filename]
        if filename.endswith(".whl"):
            assert listed[filename].has_metadata, filename


@pytest.mark.slow
@pytest.mark.parametrize("client", ["pip", "uv"])
def test_their_wheels_are_installed(server: Server, originals: dict[str, bytes], client: str, tmp_path: Path) -> None:
    wheels: dict[str, Name] = {}
    for filename in originals:
        if _TAKES_PYTHON.search(filename):
            wheels.setdefault(name_of(filename).project, name_of(filename))
    assert len(wheels) >= 20
    wanted = [f"{name.project}=={name.version}" for name in wheels.values()]
    index = f"{server.url_for()}simple/"
    more = ["--no-deps", "--only-binary", ":all:", "--target", str(tmp_path / "installed"), *wanted]
    if client == "pip":
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--ignore-requires-python"]
        command += ["--index-url", index, *more]
    else:
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--no-cache",
            "--no-config",
            "--default-index",
            index,
            *more,
        ]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    environment = {**kept, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folders = (tmp_path / "installed").glob("*.dist-info")
    assert wheels.keys() <= {re.sub(r"[-_.]+", "-", folder.name.split("-")[0]).lower() for folder in folders}
