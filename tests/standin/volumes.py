"""Volumes with Modal's rules: snapshots, commits, reloads; the last commit of a file wins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import shutil
import stat
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.standin.rpc import Caller, new_id, rpc

if TYPE_CHECKING:
    from tests.standin.control_plane import ControlPlane

BLOCK_SIZE = 8 * 1024 * 1024
"""Clients read Volumes in blocks of this many bytes, one URL each."""

Fingerprint = tuple[int, int, int]


def fingerprint(path: Path) -> Fingerprint:
    """A signature that changes when a file is written."""
    status = path.lstat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def walk(root: Path) -> Iterator[str]:
    """Every file below *root*, relative and with slashes. Files that disappear meanwhile are left out."""
    for folder, _, names in os.walk(root):
        for name in names:
            yield (Path(folder) / name).relative_to(root).as_posix()


@dataclass
class Volume:
    """Committed files, and how often each was committed."""

    volume_id: str
    name: str
    environment: str
    directory: Path
    created_at: float = field(default_factory=time.time)
    revisions: dict[str, int] = field(default_factory=dict)
    commits: int = 0
    background_commits: int = 0
    deleted: bool = False
    _counter: int = 0

    def put(self, path: str, source: Path) -> None:
        """Commit one file: readers see the old or the new one, never a part."""
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = self.directory.parent / f"{self.volume_id}.incoming"
        shutil.copy2(source, staged, follow_symlinks=False)
        staged.replace(target)
        self._counter += 1
        self.revisions[path] = self._counter

    def remove(self, path: str) -> None:
        """Commit the removal of one file."""
        with contextlib.suppress(FileNotFoundError):
            (self.directory / path).unlink()
        self.revisions.pop(path, None)
        for parent in (self.directory / path).parents:
            if parent == self.directory or any(parent.iterdir()):
                break
            parent.rmdir()

    def metadata(self) -> api_pb2.VolumeMetadata:
        """Its description for clients."""
        return api_pb2.VolumeMetadata(
            version=api_pb2.VOLUME_FS_VERSION_V1,
            name=self.name,
            creation_info=api_pb2.CreationInfo(created_at=self.created_at, created_by="fake-user"),
        )


class View:
    """One container's copy of a Volume, as of its start or its last commit or reload.

    Parameters:
        directory: mounted in the container as the Volume.
        hidden: where the files are while the Volume looks empty.
    """

    def __init__(self, volume: Volume, directory: Path, hidden: Path) -> None:
        self.volume = volume
        self.directory = directory
        self.hidden = hidden
        self.closed = False
        self._revisions: dict[str, int] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        directory.mkdir(parents=True)
        hidden.mkdir(parents=True)
        self._take(directory)

    def commit(self, root: Path) -> None:
        """Commit files written or removed here since the last commit."""
        if self.volume.deleted:
            raise GRPCError(Status.NOT_FOUND, f"Volume {self.volume.volume_id} not found")
        if self.closed:  # its files are being removed, but not by the container
            raise GRPCError(Status.FAILED_PRECONDITION, "the container is gone")
        present = set()
        for path in walk(root):
            try:
                now = fingerprint(root / path)
                present.add(path)
                if self._fingerprints.get(path) == now:
                    continue
                self.volume.put(path, root / path)
            except FileNotFoundError:
                continue  # a background commit met a file that was being renamed or removed
            self._fingerprints[path] = now
            self._revisions[path] = self.volume.revisions[path]
        for path in set(self._fingerprints) - present:
            if not (root / path).exists():
                self.volume.remove(path)
                del self._fingerprints[path]
                self._revisions.pop(path, None)

    def reload(self, root: Path) -> None:
        """Load what others committed. Uncommitted files are committed first, as Modal may do."""
        self.commit(root)
        self._take(root)

    @contextlib.contextmanager
    def empty(self) -> Iterator[Path]:
        """Make the Volume look empty to the container; yields the directory with its files."""
        for entry in list(self.directory.iterdir()):
            entry.rename(self.hidden / entry.name)
        try:
            yield self.hidden
        finally:
            for entry in list(self.hidden.iterdir()):
                target = self.directory / entry.name
                if target.is_dir():  # written to meanwhile by a process that did not wait
                    shutil.copytree(entry, target, dirs_exist_ok=True)
                    shutil.rmtree(entry)
                else:
                    entry.rename(target)

    def _take(self, root: Path) -> None:
        for path, revision in list(self.volume.revisions.items()):
            if self._revisions.get(path) == revision and (root / path).exists():
                continue
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            staged = root.parent / f".{root.name}.incoming"
            try:
                shutil.copy2(self.volume.directory / path, staged, follow_symlinks=False)
            except FileNotFoundError:
                continue  # its removal was committed just now, while a container starts
            staged.replace(root / path)
            self._revisions[path] = revision
            self._fingerprints[path] = fingerprint(root / path)
        for path in set(self._revisions) - set(self.volume.revisions):
            with contextlib.suppress(FileNotFoundError):
                (root / path).unlink()
            self._revisions.pop(path)
            self._fingerprints.pop(path, None)


@dataclass
class FailingCommit:
    """A commit that fails, before or after committing."""

    volume: str
    committed: bool
    times: int


class Volumes:
    """The calls about Volumes, from clients and from containers."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._directory = plane.directory / "volumes"
        self._directory.mkdir()
        self.by_id: dict[str, Volume] = {}
        self.failing: list[FailingCommit] = []
        self._working: set[asyncio.Future[None]] = set()
        self.window_seconds = 0.02
        """The minimum number of seconds for which a Volume looks empty during a commit or reload."""
        self.commit_seconds: dict[str, float] = {}
        """Seconds that each commit of a Volume takes, by its name; ``inf`` while the entry stays."""
        self.reload_seconds: dict[str, float] = {}
        """The same for reloads."""

    def named(self, name: str, environment: str) -> Volume | None:
        """The Volume of that name, if there is one."""
        for volume in self.by_id.values():
            if (volume.name, volume.environment) == (name, environment) and not volume.deleted:
                return volume
        return None

    def _get(self, volume_id: str) -> Volume:
        volume = self.by_id.get(volume_id)
        if volume is None or volume.deleted:
            raise GRPCError(Status.NOT_FOUND, f"Volume {volume_id} not found")
        return volume

    @rpc("VolumeGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, _: Caller
    ) -> api_pb2.VolumeGetOrCreateResponse:
        environment = self._plane.environment(request.environment_name)
        volume = self.named(request.deployment_name, environment)
        create = request.object_creation_type
        if volume is None and create == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise GRPCError(
                Status.NOT_FOUND,
                f"Volume '{request.deployment_name}' not found in environment '{environment}'",
            )
        if volume is not None and create == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Volume '{request.deployment_name}' already exists")
        if volume is None:
            if request.version == api_pb2.VOLUME_FS_VERSION_V2:
                raise GRPCError(Status.UNIMPLEMENTED, "the fake control plane has Volumes v1 only")
            volume_id = new_id("vo")
            directory = self._directory / volume_id
            directory.mkdir()
            volume = self.by_id[volume_id] = Volume(volume_id, request.deployment_name, environment, directory)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.volume_id, version=api_pb2.VOLUME_FS_VERSION_V1, metadata=volume.metadata()
        )

    @rpc("VolumeList")
    async def list(self, request: api_pb2.VolumeListRequest, _: Caller) -> api_pb2.VolumeListResponse:
        environment = self._plane.environment(request.environment_name)
        found = [v for v in self.by_id.values() if v.environment == environment and not v.deleted and v.name]
        items = [
            api_pb2.VolumeListItem(label=v.name, volume_id=v.volume_id, created_at=v.created_at, metadata=v.metadata())
            for v in found
        ]
        return api_pb2.VolumeListResponse(
            items=self._plane.page(items, request.pagination, lambda item: item.created_at),
            environment_name=environment,
        )

    @rpc("VolumeDelete")
    async def delete(self, request: api_pb2.VolumeDeleteRequest, _: Caller) -> Empty:
        volume = self._get(request.volume_id)
        volume.deleted = True
        shutil.rmtree(volume.directory)
        return Empty()

    @rpc("VolumeListFiles")
    async def list_files(
        self, request: api_pb2.VolumeListFilesRequest, _: Caller
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        volume = self._get(request.volume_id)
        start = volume.directory / request.path.strip("/")
        if not start.exists():
            raise GRPCError(Status.NOT_FOUND, f"no such file or directory: {request.path}")
        found = [start] if start.is_file() else sorted(start.rglob("*") if request.recursive else start.iterdir())
        entries = []
        for path in found:
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # its removal is being committed
            directory = stat.S_ISDIR(status.st_mode)
            entries.append(
                api_pb2.FileEntry(
                    path=path.relative_to(volume.directory).as_posix(),
                    type=api_pb2.FileEntry.DIRECTORY if directory else api_pb2.FileEntry.FILE,
                    mtime=int(status.st_mtime),
                    size=status.st_size,
                )
            )
        for first in range(0, len(entries), 500):
            yield api_pb2.VolumeListFilesResponse(entries=entries[first : first + 500])

    @rpc("VolumePutFiles")
    async def put_files(self, request: api_pb2.VolumePutFilesRequest, _: Caller) -> Empty:
        volume = self._get(request.volume_id)
        paths = [posixpath.normpath("/" + file.filename).lstrip("/") for file in request.files]
        for path in paths:
            if request.disallow_overwrite_existing_files and path in volume.revisions:
                raise GRPCError(Status.ALREADY_EXISTS, f"{path}: already exists")
        for path, file in zip(paths, request.files, strict=True):
            source = self._plane.store.path(file.sha256_hex)
            if not source.exists():
                raise GRPCError(Status.FAILED_PRECONDITION, f"{path}: content was not uploaded")
            volume.put(path, source)
        return Empty()

    @rpc("VolumeGetFile2")
    async def get_file(self, request: api_pb2.VolumeGetFile2Request, _: Caller) -> api_pb2.VolumeGetFile2Response:
        volume = self._get(request.volume_id)
        path = posixpath.normpath("/" + request.path).lstrip("/")
        if path not in volume.revisions:
            raise GRPCError(Status.NOT_FOUND, f"no such file: {request.path}")
        size = (volume.directory / path).stat().st_size
        length = request.len or size - request.start
        urls = [
            self._plane.store.block_url(volume.directory / path, begin, min(request.start + length, begin + BLOCK_SIZE))
            for begin in range(request.start, request.start + length, BLOCK_SIZE)
        ]
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=size, start=request.start, len=length)

    @rpc("VolumeRemoveFile")
    async def remove_file(self, request: api_pb2.VolumeRemoveFileRequest, _: Caller) -> Empty:
        volume = self._get(request.volume_id)
        path = posixpath.normpath("/" + request.path).lstrip("/")
        below = [known for known in list(volume.revisions) if known.startswith(path + "/")]
        if path not in volume.revisions and not below:
            raise GRPCError(Status.NOT_FOUND, f"no such file or directory: {request.path}")
        if below and not request.recursive:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{request.path} is a directory")
        for known in below or [path]:
            volume.remove(known)
        return Empty()

    @rpc("VolumeCommit")
    async def commit(self, request: api_pb2.VolumeCommitRequest, caller: Caller) -> api_pb2.VolumeCommitResponse:
        view = self._view(request.volume_id, caller)
        for failing in self.failing:
            if failing.volume == view.volume.name and failing.times:
                failing.times -= 1
                if failing.committed:
                    await self._in_window(view, view.commit, self.commit_seconds)
                raise GRPCError(Status.FAILED_PRECONDITION, "there are open files preventing the operation")
        await self._in_window(view, view.commit, self.commit_seconds)
        view.volume.commits += 1
        return api_pb2.VolumeCommitResponse()

    @rpc("VolumeReload")
    async def reload(self, request: api_pb2.VolumeReloadRequest, caller: Caller) -> Empty:
        view = self._view(request.volume_id, caller)
        assert caller.container is not None
        caller.container.reloads[view.volume.name] += 1
        mount_path = caller.container.mount_path(request.volume_id)
        if held := await asyncio.to_thread(caller.container.open_files, mount_path):
            caller.container.open_file_failures.append(held)
            raise GRPCError(Status.FAILED_PRECONDITION, "there are open files preventing the operation")
        await self._in_window(view, view.reload, self.reload_seconds)
        return Empty()

    async def background_commit(self, view: View) -> None:
        """Commit in the background, as Modal does every few seconds: nothing is reloaded or looks empty."""
        async with self._plane.volume_lock(view.volume.volume_id):
            if not view.closed and not view.volume.deleted and not any(view.hidden.iterdir()):
                await asyncio.to_thread(view.commit, view.directory)
                view.volume.background_commits += 1

    def _view(self, volume_id: str, caller: Caller) -> View:
        self._get(volume_id)
        if caller.container is None or volume_id not in caller.container.views:
            raise GRPCError(Status.FAILED_PRECONDITION, "the Volume is not mounted by the caller")
        return caller.container.views[volume_id]

    async def _in_window(self, view: View, change: object, seconds: Mapping[str, float]) -> None:
        assert callable(change)
        begun = time.monotonic()

        async def work() -> None:
            async with self._plane.volume_lock(view.volume.volume_id):
                if view.closed:
                    raise GRPCError(Status.FAILED_PRECONDITION, "the container is gone")
                with view.empty() as root:
                    await asyncio.sleep(self.window_seconds)
                    while time.monotonic() < begun + seconds.get(view.volume.name, 0.0):
                        await asyncio.sleep(0.02)
                    await asyncio.to_thread(change, root)

        # A container killed meanwhile cancels its call, but the commit is completed: if its files were
        # moved back during the scan, they would count as removed and disappear from the Volume.
        working = asyncio.ensure_future(work())
        self._working.add(working)
        working.add_done_callback(self._worked)
        await asyncio.shield(working)

    async def ended(self) -> None:
        """Wait for commits and reloads that have outlived their containers. None of them hangs by now."""
        self.commit_seconds.clear()
        self.reload_seconds.clear()
        while self._working:
            await asyncio.wait(self._working)

    def _worked(self, done: asyncio.Future[None]) -> None:
        self._working.discard(done)
        if not done.cancelled():
            done.exception()  # already reported to the caller, if there still is one
