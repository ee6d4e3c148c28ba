"""All files and folders written by the runbook are private, whatever the umask."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.clients import ClientFiles, Login
from ops.private_files import draft_of, private_file, private_folder, replace_file, temporary_folder
from ops.redaction import Redactor
from ops.runbook.record import Record
from ops.secret import Secret
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_KEY, SECRET_NAME, Settings
from ops.targets.local import LocalTarget
from ops.workspace import Workspace
from tests.benchmark.servers import free_port

UMASKS = (0o000, 0o022, 0o077, 0o277, 0o777)


@pytest.fixture(params=UMASKS, ids=lambda umask: f"{umask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def open_to_others_or_closed_to_us(folder: Path) -> list[str]:
    """Every folder that is not 0700, and every file that is not 0600, from *folder* down."""
    wanted = {True: 0o700, False: 0o600}
    found = [(path, stat.S_IMODE(path.stat().st_mode)) for path in (folder, *folder.rglob("*"))]
    return [f"{path} {mode:o}" for path, mode in found if mode != wanted[path.is_dir()]]


@pytest.mark.usefixtures("umask")
def test_folders_are_created_with_their_parents_and_modes_of_files_are_corrected(tmp_path: Path) -> None:
    private_folder(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "old").touch()
    (tmp_path / "a" / "old").chmod(0o666)
    for name in ("old", "b/new"):
        os.close(private_file(tmp_path / "a" / name, os.O_WRONLY))

    assert open_to_others_or_closed_to_us(tmp_path / "a") == []


def test_a_killed_process_s_temporary_file_is_removed_and_another_s_stays(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    abandoned = tmp_path / ".netrc.abcd1234"
    abandoned.write_text("a password")
    with draft_of(path) as draft:
        replace_file(path, "another password")
        assert not abandoned.exists()
        assert draft.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["netrc"]


@pytest.mark.usefixtures("umask")
def test_a_killed_process_s_temporary_folder_is_removed_and_another_s_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned = Path(tempfile.mkdtemp(prefix="test-"))
    abandoned.chmod(0o700)
    replace_file(abandoned / "netrc", "a password")
    with temporary_folder("test-") as first, temporary_folder("test-") as second:
        assert sorted(tmp_path.iterdir()) == sorted([first, second])
        assert open_to_others_or_closed_to_us(first) == []
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_was_taken_for_an_abandoned_one_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    create = tempfile.mkdtemp
    taken: list[Path] = []

    def create_and_take(prefix: str) -> str:
        folder = create(prefix=prefix)
        if not taken:
            taken.append(Path(folder))
            taken[0].rmdir()
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", create_and_take)
    with temporary_folder("test-") as folder:
        assert [folder] == list(tmp_path.iterdir()) != taken


def test_an_existing_folder_keeps_its_mode_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    private_folder(tmp_path / "shared" / "own")
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755

    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "file")


@pytest.mark.usefixtures("umask")
def test_a_file_is_replaced_atomically_and_keeps_its_content_if_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "x"
    replace_file(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "new \udc80")
    assert path.read_text() == "old"
    replace_file(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("umask")
def test_everything_written_by_a_target_its_server_and_a_run_is_private(workspace: Workspace) -> None:
    target = LocalTarget(workspace, Settings(), port=free_port())
    try:
        with target.lock():
            target.create_volume(PACKAGES_VOLUME)
            target.create_volume(CREDENTIALS_VOLUME)
            target.put_secret(SECRET_NAME, {SECRET_KEY: Secret.generate()})
            deployment = target.deploy()
        source = workspace.home.parent / "source"
        source.write_bytes(b"bytes")
        source.chmod(0o644)
        target.upload(PACKAGES_VOLUME, "sub/file.txt", source)
        ClientFiles(workspace.user("local", "alice")).write(
            Login(url=deployment.url, username="alice", password=Secret("a-good-password"))
        )
        Record.create(workspace.records, "01_provision").save(Redactor())
    finally:
        target.stop()

    assert open_to_others_or_closed_to_us(workspace.home) == []
