"""Containers: the real runtime of the ``modal`` package in processes with their own copy of each Volume."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from google.protobuf.empty_pb2 import Empty
from grpclib.config import Configuration
from grpclib.server import Server
from modal_proto import api_pb2

from tests.standin import isolation
from tests.standin.apps import App, Function, LogLine
from tests.standin.rpc import Caller, new_id, rpc
from tests.standin.volumes import View

if TYPE_CHECKING:
    from tests.standin.control_plane import ControlPlane
    from tests.standin.web import Call

WINDOW = 16 * 1024 * 1024
GRACE_SECONDS = 30
"""Seconds between the signal that asks a container to end and SIGKILL; Modal's own figure."""


class Container:
    """One process of the container runtime, and what the control plane knows about it."""

    def __init__(self, plane: ControlPlane, app: App, function: Function, version: int) -> None:
        self.plane = plane
        self.app = app
        self.function = function
        self.version = version
        self.task_id = new_id("ta")
        self.directory = plane.directory / "containers" / self.task_id
        self.views: dict[str, View] = {}
        self.calls: dict[str, Call] = {}
        self.cancelled: list[str] = []
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.draining = asyncio.Event()
        self.started_at = time.time()
        self.idle_since = time.monotonic()
        self.served = 0
        self.failure: str | None = None
        self.open_file_failures: list[str] = []
        self.reloads: Counter[str] = Counter()
        """The number of reloads begun, by the name of the Volume."""
        self.returncode: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._server: Server | None = None
        self._root = self.directory / "root"
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int:
        """The process id of the runtime."""
        assert self._process is not None
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """Modal's variables, the image's, and the secrets' current values."""
        return isolation.base_environment(
            {
                **self.plane.image_environment(self.function.definition.image_id),
                **self.plane.secret_environment(self.function.definition.secret_ids),
                "MODAL_IS_REMOTE": "1",
                "MODAL_SERVER_URL": f"unix://{self._socket}",
                "MODAL_TASK_ID": self.task_id,
                "MODAL_IMAGE_ID": self.function.definition.image_id,
                "MODAL_ENVIRONMENT": self.app.environment,
                "MODAL_CONTAINER_ARGUMENTS_PATH": str(self.directory / "arguments"),
                "MODAL_HEARTBEAT_INTERVAL": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
            }
        )

    @property
    def _socket(self) -> Path:
        return self.plane.sockets / self.task_id[-8:]

    def mount_path(self, volume_id: str) -> str:
        """Mount point of that Volume in the container."""
        return str(next(m.mount_path for m in self.function.definition.volume_mounts if m.volume_id == volume_id))

    async def start(self) -> None:
        """Lay out the container's files and start its process. Returns before it is ready."""
        self._root.mkdir(parents=True)
        self._server = Server(
            [self.plane.router.listener(self)],
            config=Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW),
        )
        await self._server.start(path=str(self._socket))
        await asyncio.to_thread(self._lay_out)
        if self.plane.cold_start_seconds:
            await asyncio.sleep(self.plane.cold_start_seconds)
        self._process = await asyncio.create_subprocess_exec(
            *self._command(),
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=1 << 20,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._tasks = [
            asyncio.create_task(self._collect(self._process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT)),
            asyncio.create_task(self._collect(self._process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR)),
        ]

    def _lay_out(self) -> None:
        shutil.copytree(self.plane.images.files(self.function.definition.image_id), self.directory / "files")
        for mount_id in sorted(self.function.definition.mount_ids):
            self.plane.images.place(self.plane.images.mounts[mount_id], self.directory / "files")
        (self.directory / "files" / "root").mkdir(parents=True, exist_ok=True)
        for mount in self.function.definition.volume_mounts:
            volume = self.plane.volumes.by_id[mount.volume_id]
            base = self.directory / "volumes" / mount.volume_id
            self.views[mount.volume_id] = View(volume, base / "visible", base / "hidden")
        arguments = api_pb2.ContainerArguments(
            task_id=self.task_id,
            function_id=self.function.function_id,
            app_id=self.app.app_id,
            function_def=self.function.definition,
            environment_name=self.app.environment,
            app_layout=self.plane.apps.find_layout(self.app),
        )
        (self.directory / "arguments").write_bytes(arguments.SerializeToString())

    def _command(self) -> list[str]:
        python = self.plane.python
        binds = [isolation.Bind(self.directory / "files" / "root", "/root")]
        for mount in self.function.definition.volume_mounts:
            source = self.views[mount.volume_id].directory
            binds.append(isolation.Bind(source / mount.sub_path.strip("/"), mount.mount_path, mount.read_only))
        return isolation.command(
            [str(python), "-m", "modal._container_entrypoint"],
            root=self._root,
            binds=binds,
            hide=self.plane.hidden_directories,
            keep=isolation.interpreter_prefixes(python),
        )

    async def _collect(self, stream: asyncio.StreamReader, descriptor: int) -> None:
        async for line in stream:
            text = line.decode(errors="replace")
            self.app.log.append(LogLine(time.time(), self.task_id, self.function.function_id, descriptor, text))

    async def wait(self) -> int:
        """Wait until the process has ended, and release what it held."""
        assert self._process is not None
        self.returncode = await self._process.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self._server is not None
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        self.gone.set()
        for volume_id, view in self.views.items():
            async with self.plane.volume_lock(volume_id):  # nothing is scanning its files now, or will
                view.closed = True
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)
        return self.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, unless it has ended."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def preempt(self) -> None:
        """Stop a container as Modal does: SIGINT, then SIGKILL after a grace period."""
        self.draining.set()
        self.signal(signal.SIGINT)
        await self._end(GRACE_SECONDS)

    async def drain(self) -> None:
        """Give it no more calls, let it finish the current ones, and wait until it has ended."""
        self.draining.set()
        await self._end(self.function.definition.timeout_secs or 300)

    async def _end(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.gone.wait(), seconds)
        except TimeoutError:
            self.kill()
            await self.gone.wait()

    def kill(self) -> None:
        """Send SIGKILL: anything not committed is lost."""
        self.draining.set()
        if self._process is not None and self._process.returncode is None:
            for child in self._children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            self.signal(signal.SIGKILL)

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def open_files(self, mount_path: str) -> str:
        """A file or working directory below *mount_path* that a container's process has open, or ""."""
        prefixes = (mount_path, f"{self._root}{mount_path}")
        for pid in [self.pid, *(child.pid for child in self._children())]:
            for link in self._links(Path(f"/proc/{pid}")):
                if link in prefixes or link.startswith(tuple(f"{prefix}/" for prefix in prefixes)):
                    return link
        return ""

    @staticmethod
    def _links(process: Path) -> Iterable[str]:
        names = [process / "cwd"]
        with contextlib.suppress(OSError):
            names += (process / "fd").iterdir()
        for name in names:
            with contextlib.suppress(OSError):
                yield str(name.readlink())


class Runtime:
    """The calls of containers, except those about Volumes, Dicts and blobs."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    @rpc("ContainerHello")
    async def hello(self, _request: Empty, _: Caller) -> Empty:
        return Empty()

    @rpc("ContainerHeartbeat")
    async def heartbeat(
        self, _request: api_pb2.ContainerHeartbeatRequest, caller: Caller
    ) -> api_pb2.ContainerHeartbeatResponse:
        assert caller.container is not None
        cancelled, caller.container.cancelled = caller.container.cancelled, []
        if not cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=api_pb2.CancelInputEvent(input_ids=cancelled))

    @rpc("ContainerStop")
    async def stop(self, request: api_pb2.ContainerStopRequest, _: Caller) -> api_pb2.ContainerStopResponse:
        for container in self._plane.containers():
            if container.task_id == request.task_id:
                self._plane.spawn(container.drain() if request.graceful else container.preempt())
        return api_pb2.ContainerStopResponse()

    @rpc("TaskResult")
    async def result(self, request: api_pb2.TaskResultRequest, caller: Caller) -> Empty:
        assert caller.container is not None
        caller.container.failure = request.result.exception or request.result.traceback
        return Empty()

    @rpc("FunctionGetInputs")
    async def get_inputs(
        self, _request: api_pb2.FunctionGetInputsRequest, caller: Caller
    ) -> api_pb2.FunctionGetInputsResponse:
        container = caller.container
        assert container is not None
        container.ready.set()
        call = await self._plane.pool(container.function.function_id).next_call(container)
        if call is None:
            ends = container.draining.is_set()
            items = [api_pb2.FunctionGetInputsItem(kill_switch=True)] if ends else []
            return api_pb2.FunctionGetInputsResponse(inputs=items)
        return api_pb2.FunctionGetInputsResponse(inputs=[call.item()])

    @rpc("FunctionGetDynamicConcurrency")
    async def concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, _: Caller
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)


def image_environment(commands: Iterable[str]) -> dict[str, str]:
    """The variables that ``ENV`` lines of a Dockerfile set."""
    variables = {}
    for command in commands:
        if command.startswith("ENV "):
            for word in shlex.split(command.removeprefix("ENV ")):
                name, _, value = word.partition("=")
                variables[name] = value
    variables.pop("PATH", None)
    return variables
