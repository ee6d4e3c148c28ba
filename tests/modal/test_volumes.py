"""The stand-in's Volumes: killing a container loses nothing that was committed."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from grpclib import GRPCError
from modal_proto import api_pb2

from tests.standin.volumes import View, Volume, Volumes


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "committed").mkdir()
    return Volume("vo-1", "data", "main", tmp_path / "committed")


@pytest.fixture
def view(volume: Volume, tmp_path: Path) -> View:
    view = View(volume, tmp_path / "visible", tmp_path / "hidden")
    (view.directory / "a.whl").write_bytes(b"a")
    view.commit(view.directory)
    assert set(volume.revisions) == {"a.whl"}
    return view


def test_a_commit_whose_caller_is_killed_is_completed_and_removes_nothing(
    volume: Volume, view: View, tmp_path: Path
) -> None:
    async def scenario() -> None:
        lock = asyncio.Lock()
        plane: Any = SimpleNamespace(directory=tmp_path, volume_lock=lambda _: lock)
        volumes = Volumes(cast("Any", plane))
        begun, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slowly(root: Path) -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(60)
            view.commit(root)

        call = asyncio.ensure_future(volumes._in_window(view, slowly, {}))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert lock.locked(), "it goes on"
        go_on.set()
        await volumes.ended()
        assert not lock.locked()

    asyncio.run(scenario())
    assert set(volume.revisions) == {"a.whl"}
    assert (view.directory / "a.whl").read_bytes() == b"a"


def test_a_view_whose_files_are_being_removed_commits_nothing(volume: Volume, view: View) -> None:
    view.closed = True
    shutil.rmtree(view.directory)
    with pytest.raises(GRPCError, match="gone"):
        view.commit(view.directory)
    assert set(volume.revisions) == {"a.whl"}


def test_a_starting_container_does_not_get_a_file_whose_removal_is_being_committed(
    volume: Volume, view: View, tmp_path: Path
) -> None:
    (view.directory / "b.whl").write_bytes(b"b")
    view.commit(view.directory)
    (volume.directory / "a.whl").unlink()
    another = View(volume, tmp_path / "another", tmp_path / "another hidden")
    assert [path.name for path in another.directory.iterdir()] == ["b.whl"]


def test_a_file_whose_removal_is_being_committed_is_left_out_of_a_listing(
    volume: Volume, view: View, tmp_path: Path
) -> None:
    (view.directory / "b.whl").write_bytes(b"b")
    view.commit(view.directory)
    (volume.directory / "a.whl").unlink()
    (volume.directory / "a.whl").symlink_to("gone")  # found by the listing, and missing when it is looked at
    plane: Any = SimpleNamespace(directory=tmp_path)
    volumes = Volumes(plane)
    volumes.by_id[volume.volume_id] = volume

    async def listed() -> list[str]:
        request = api_pb2.VolumeListFilesRequest(volume_id=volume.volume_id, path="/", recursive=True)
        caller: Any = None
        return [entry.path async for reply in volumes.list_files(request, caller) for entry in reply.entries]

    assert asyncio.run(listed()) == ["b.whl"]
