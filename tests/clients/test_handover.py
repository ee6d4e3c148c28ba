"""The zip file for a user unpacks to working private files."""

from __future__ import annotations

import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from ops.clients import ClientFiles, Login
from ops.secret import Secret

URL = "https://index.example/"


def login(username: str = "alice") -> Login:
    return Login(url=URL, username=username, password=Secret("a-good-password"))


@pytest.mark.parametrize(("username", "folder"), [("alice", "index-alice"), ("Zoë; rm -rf", "index-Zo-rm--rf")])
def test_unpacked_files_are_private_and_name_the_index(tmp_path: Path, username: str, folder: str) -> None:
    if shutil.which("unzip") is None:
        pytest.skip("unzip is not installed")
    files = ClientFiles(tmp_path / "files", zipped=True)
    files.write(login(username))
    assert stat.S_IMODE(files.archive.stat().st_mode) == 0o600

    unpack: list[str | Path] = [
        "sh",
        "-c",
        'umask 022; unzip -q "$1" -d "$2"',
        "sh",
        files.archive,
        tmp_path / "elsewhere",
    ]
    subprocess.run(unpack, check=True)
    shutil.rmtree(files.folder)

    unpacked = tmp_path / "elsewhere" / folder
    assert stat.S_IMODE(unpacked.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in unpacked.iterdir()} == {0o600}
    script = '. "$1"; printf "%s\\n" "$NETRC" "$PIP_INDEX_URL" "$TWINE_PASSWORD"'
    done = subprocess.run(["bash", "-euc", script, "bash", unpacked / "env.sh"], capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [f"{unpacked}/netrc", f"{URL}simple/", "a-good-password"]


def test_the_page_names_index_and_user_and_contains_no_password(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path, zipped=True)
    files.write(login("<b>alice</b>"))

    with zipfile.ZipFile(files.archive) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith("README.html")]
        page = packed.read(name).decode()

    assert URL in page
    assert "&lt;b&gt;alice&lt;/b&gt;" in page
    assert "a-good-password" not in page
    assert "operator's machine" not in page


def test_the_page_says_that_only_this_machine_reaches_a_loopback_address(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path, zipped=True)
    files.write(Login(url="http://127.0.0.1:8765/", username="alice", password=Secret("a-good-password")))

    with zipfile.ZipFile(files.archive) as packed:
        assert "operator's machine" in packed.read("index-alice/README.html").decode()


def test_an_existing_archive_is_updated(tmp_path: Path) -> None:
    ClientFiles(tmp_path, zipped=True).write(login())
    files = ClientFiles(tmp_path)
    assert files.outdated(login()) == []
    assert files.archive in files.outdated(login("bob"))
