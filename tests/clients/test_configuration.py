"""Client files are private, and preserve names and passwords."""

from __future__ import annotations

import configparser
import netrc
import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twine.utils import get_config

from ops.clients import ClientFiles, Login
from ops.errors import RunbookError
from ops.secret import Secret

URL = "http://127.0.0.1:8765/"
NASTY = [
    "plain-Password_1",
    "with space in it",
    "%(x)s %d %% 100%",
    "#hash ;semicolon # inline",
    "\"double\" 'single' `back`",
    "back\\slash\\",
    "$HOME $(id) ${x} !history",
    "key = value : other",
    "[section]",
    "pässwörd-été",
]
PRINTABLE_ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1).filter(
    lambda text: text == text.strip()
)


def login(password: str, username: str = "alice") -> Login:
    return Login(url=URL, username=username, password=Secret(password))


@pytest.mark.parametrize("password", NASTY)
def test_a_password_reads_the_same_from_every_file(tmp_path: Path, password: str) -> None:
    files = ClientFiles(tmp_path / "files")
    files.write(login(password))
    assert netrc.netrc(str(files.netrc)).authenticators("127.0.0.1") == ("alice", "", password)
    assert get_config(str(files.pypirc))["private"]["password"] == password
    shell = subprocess.run(
        ["bash", "-c", '. "$1"; printf %s "$TWINE_PASSWORD"', "bash", files.env_sh], capture_output=True, check=True
    )
    assert shell.stdout.decode() == password
    assert files.password() == Secret(password)


@given(username=PRINTABLE_ASCII, password=PRINTABLE_ASCII)
def test_any_password_reads_the_same_from_netrc_and_pypirc(
    tmp_path_factory: pytest.TempPathFactory, username: str, password: str
) -> None:
    files = ClientFiles(tmp_path_factory.mktemp("files"))
    files.write(login(password, username))
    assert netrc.netrc(str(files.netrc)).authenticators("127.0.0.1") == (username, "", password)
    repository = get_config(str(files.pypirc))["private"]
    assert (repository["username"], repository["password"]) == (username, password)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("two\nlines-of-it", "invisible"),
        ("a\ttab-in-it", "invisible"),
        ("nul\0nul-nul-nul", "invisible"),
        (" leading-space", "begins or ends with a space"),
        ("trailing-space ", "begins or ends with a space"),
        ("euro-€-euro-euro", "Latin-1"),
        ("Ã©-is-sent-as-another", "Latin-1"),
    ],
)
def test_a_password_that_a_client_cannot_send_is_refused_without_showing_it(password: str, reason: str) -> None:
    with pytest.raises(RunbookError, match=reason) as caught:
        login(password)
    assert "the password" in str(caught.value)
    assert password.strip() not in str(caught.value)


def test_a_user_name_that_a_client_cannot_send_is_refused() -> None:
    with pytest.raises(RunbookError, match="the user name"):
        login("a-good-password", "李")


def test_the_files_become_private_if_they_were_not(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path / "files")
    files.folder.mkdir(mode=0o755)
    files.netrc.write_text("older")
    files.netrc.chmod(0o644)
    files.write(login("a-good-password"))
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    for path in files.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert len(list(files.folder.iterdir())) == 5


def test_a_file_readable_by_other_users_is_outdated(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    files.write(login("a-good-password"))
    files.pypirc.chmod(0o640)
    assert files.outdated(login("a-good-password")) == [files.pypirc]


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    assert len(files.write(login("a-good-password"))) == 5
    before = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert files.write(login("a-good-password")) == []
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == before


def test_a_new_address_changes_only_the_files_that_contain_it(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    files.write(login("a-good-password"))
    elsewhere = Login(url="http://127.0.0.1:9999/", username="alice", password=Secret("a-good-password"))
    assert files.netrc not in files.write(elsewhere)
    assert "9999" in files.pip_conf.read_text()


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ClientFiles(tmp_path)
    files.write(login("the-old-password"))

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunbookError, match="No space left"):
        files.write(login("the-new-password"))
    assert files.password() == Secret("the-old-password")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".pypirc", "env.sh", "netrc", "pip.conf", "uv.toml"]


def test_no_url_and_only_three_files_contain_credentials(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    files.write(login("a-good-password"))
    for path in tmp_path.iterdir():
        assert not re.search(r"//[^/\s]*@", path.read_text()), path
    holding = {path.name for path in tmp_path.iterdir() if "a-good-password" in path.read_text()}
    assert holding == {"netrc", ".pypirc", "env.sh"}


def test_pip_gets_one_index_unless_a_second_one_is_requested(tmp_path: Path) -> None:
    parser = configparser.RawConfigParser()
    files = ClientFiles(tmp_path)
    files.write(login("a-good-password"))
    parser.read(files.pip_conf)
    assert dict(parser["global"]) == {"index-url": f"{URL}simple/"}
    public = "https://index.example/simple"
    files.write(Login(url=URL, username="alice", password=Secret("a-good-password"), public_index=public))
    parser.read(files.pip_conf)
    assert parser["global"]["extra-index-url"] == public


def test_the_users_own_netrc_is_not_touched(newcomer: Path, tmp_path: Path) -> None:
    own = newcomer / ".netrc"
    own.write_text("machine elsewhere.example login me password mine\n")
    ClientFiles(tmp_path).write(login("a-good-password"))
    assert own.read_text() == "machine elsewhere.example login me password mine\n"


@pytest.mark.parametrize("content", ["", "no section\n", "[private]\n", "[private]\nusername = alice\n", "\xff"])
def test_a_pypirc_without_a_password_is_read_as_such(tmp_path: Path, content: str) -> None:
    files = ClientFiles(tmp_path)
    files.pypirc.write_bytes(content.encode("latin-1"))
    assert files.password() is None


def test_files_of_a_login_without_user_contain_no_credentials(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    files.write(Login(url=URL))
    assert files.netrc.read_text() == ""
    assert files.password() is None
