"""The fake control plane as a whole: a thread with a gRPC server, an HTTP server and the containers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_pb2

from tests.standin.apps import App, Apps, Function
from tests.standin.containers import Container, Runtime, image_environment
from tests.standin.images import ContentStore, Images
from tests.standin.objects import Dicts, Secrets
from tests.standin.rpc import Caller, Router, rpc
from tests.standin.volumes import FailingCommit, Volumes
from tests.standin.web import Call, Pool, Request, Web

Result = TypeVar("Result")
Item = TypeVar("Item")
PROJECT_ROOT = Path(__file__).resolve().parents[2]
TOKEN_CREATED = 1_750_000_000
"""Seconds since the epoch; the token ends 30 days later."""


class _Pagination(Protocol):
    @property
    def created_before(self) -> float: ...
    @property
    def max_objects(self) -> int: ...


class Workspace:
    """The calls about the workspace and its environments."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    @rpc("ClientHello")
    async def hello(self, _request: Empty, _: Caller) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version="2025.06")

    @rpc("TokenInfoGet")
    async def token_info(self, _request: api_pb2.TokenInfoGetRequest, caller: Caller) -> api_pb2.TokenInfoGetResponse:
        return api_pb2.TokenInfoGetResponse(
            created_at=Timestamp(seconds=TOKEN_CREATED),
            expires_at=Timestamp(seconds=TOKEN_CREATED + 30 * 86400),
            token_id=caller.headers.get("x-modal-token-id", ""),
            workspace_name="fake-workspace",
            user_identity=api_pb2.UserIdentity(username="fake-user"),
        )

    @rpc("WorkspaceNameLookup")
    async def workspace_name(self, _request: Empty, _: Caller) -> api_pb2.WorkspaceNameLookupResponse:
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="fake-workspace", username="fake-user")

    @rpc("EnvironmentGetOrCreate")
    async def get_environment(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, _: Caller
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = self._plane.environment(request.deployment_name)
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=f"en-{name}", metadata=api_pb2.EnvironmentMetadata(name=name, settings=settings)
        )

    @rpc("EnvironmentList")
    async def list_environments(self, _request: Empty, _: Caller) -> api_pb2.EnvironmentListResponse:
        return api_pb2.EnvironmentListResponse(
            items=[
                api_pb2.EnvironmentListItem(name=name, default=name == "main", environment_id=f"en-{name}")
                for name in self._plane.environments
            ]
        )

    @rpc("EnvironmentCreate")
    async def create_environment(self, request: api_pb2.EnvironmentCreateRequest, _: Caller) -> Empty:
        self._plane.environments.append(request.name)
        return Empty()

    @rpc("EnvironmentBillingSummary")
    async def billing(
        self, request: api_pb2.EnvironmentBillingSummaryRequest, _: Caller
    ) -> api_pb2.EnvironmentBillingSummaryResponse:
        costs = self._plane.costs
        if costs is None:
            raise GRPCError(Status.PERMISSION_DENIED, "billing is not told to this token")
        return api_pb2.EnvironmentBillingSummaryResponse(
            start_timestamp=request.start_timestamp,
            end_timestamp=request.start_timestamp,
            metered_cost=str(sum(map(float, costs.values()))),
            metered_cost_breakdown=costs,
        )

    @rpc("ObjectSuggest")
    async def suggest(self, _request: api_pb2.ObjectSuggestRequest, _: Caller) -> api_pb2.ObjectSuggestResponse:
        return api_pb2.ObjectSuggestResponse()


class ControlPlane:
    """A control plane on loopback. Closing it ends everything it started.

    Parameters:
        python: the interpreter that containers run; this one by default.
        tokens: accepted pairs of token id and secret; None accepts any pair.

    Attributes that a test can set while it runs:
        redirect_seconds: how long a client waits for a response before it is redirected with 303; Modal's is 150.
        cold_start_seconds: how long the image takes to arrive before a container's process starts.
        overlap_seconds: how long old and new containers both serve after the new ones are warm.
        costs: dollars of this month by resource; None if not reported.
        background_commit_seconds: how often writable Volumes are committed in the background.
    """

    def __init__(self, *, python: Path | None = None, tokens: Sequence[tuple[str, str]] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fake-modal-"))
        self.sockets = Path(tempfile.mkdtemp(prefix="fm-", dir="/tmp"))  # the path of a socket must be short
        (self.directory / "containers").mkdir()
        self.python = python or Path(sys.executable)
        self.tokens = tokens
        self.proxy_tokens: set[tuple[str, str]] = set()
        self.environments = ["main"]
        self.redirect_seconds = 150.0
        self.cold_start_seconds = 0.0
        self.overlap_seconds = 0.0
        self.background_commit_seconds = 2.0
        self.costs: dict[str, str] | None = None
        self.minimum_client_version = (0,)
        self.hidden_directories = [PROJECT_ROOT / name for name in ("ops", "deployments", "tests")]
        self.server_url = ""
        self.http_url = ""
        self.called: list[str] = []
        self.requests: list[Request] = []
        self.exceptions: list[str] = []
        self.problems: list[BaseException] = []
        self.calls: dict[str, Call] = {}
        self.pools: dict[str, Pool] = {}
        self._failures: dict[str, list[tuple[Status, str]]] = {}
        self._ports: dict[int, tuple[str, str]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.store = ContentStore(self)
        self.volumes = Volumes(self)
        self.secrets = Secrets(self)
        self.dicts = Dicts(self)
        self.images = Images(self)
        self.apps = Apps(self)
        self.web = Web(self)
        services = (self.store, self.volumes, self.secrets, self.dicts, self.images, self.apps, self.web)
        self.router = Router([*services, Runtime(self), Workspace(self)], self._admit)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-modal", daemon=True)
        self._functions: web.AppRunner | None = None
        self._files: web.AppRunner | None = None
        self._grpc: Server | None = None

    # --- for tests -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every container and server, and remove every file."""
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def run(self, work: Coroutine[Any, Any, Result], seconds: float = 120) -> Result:
        """Run a coroutine on the control plane's event loop and wait for it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that point a client at this control plane."""
        token_id, token_secret = self.tokens[0] if self.tokens else ("ak-fake", "as-fake")
        return {
            "MODAL_SERVER_URL": self.server_url,
            "MODAL_TOKEN_ID": token_id,
            "MODAL_TOKEN_SECRET": token_secret,
            "MODAL_CONFIG_PATH": str(self.directory / "modal.toml"),
        }

    def fail(self, name: str, status: Status, message: str, times: int = 1) -> None:
        """Make the next *times* calls of *name* fail."""
        self._failures.setdefault(name, []).extend([(status, message)] * times)

    def fail_commits(self, volume: str, *, committed: bool = False, times: int = 1) -> None:
        """Make the next explicit commits of a Volume fail, before or after committing."""
        self.volumes.failing.append(FailingCommit(volume, committed, times))

    def function(self, name: str, *, app: str = "pypiserver", environment: str = "main") -> Function:
        """A function as it is deployed."""
        found = self.apps.named(app, environment)
        assert found is not None, f"no app {app} is deployed in {environment}"
        return found.layout[name]

    def live(self, name: str = "server") -> list[Container]:
        """The function's containers that take calls or soon will."""
        return [c for pool in self.pools.values() if pool.function.name == name for c in pool.live()]

    def scale(self, name: str, count: int, seconds: float = 60) -> list[Container]:
        """Keep *count* containers of a function, even beyond its limit, and wait until they are ready."""
        pool = next(pool for pool in self.pools.values() if pool.function.name == name)

        def set_scale() -> None:
            pool.scaled_to = count
            pool.scale()

        self._loop.call_soon_threadsafe(set_scale)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ready = [c for c in pool.live() if c.ready.is_set()]
            if len(ready) >= count:
                return ready
            time.sleep(0.05)
        raise AssertionError(f"{count} containers of {name} were not ready in {seconds} s: {pool.failures}")

    def call(self, name: str) -> str:
        """Call a scheduled function now, and return its error, or an empty string."""
        pool = next(pool for pool in self.pools.values() if pool.function.name == name and not pool.stopped)

        async def call() -> str:
            submitted = Call()
            pool.submit(submitted)
            return await submitted.wait()

        return self.run(call())

    def preempt(self, container: Container) -> None:
        """Send SIGINT, as when Modal needs the machine; returns when the container has ended."""
        self.run(container.preempt())

    def kill(self, container: Container) -> None:
        """Send SIGKILL; returns when the container has ended."""
        self._loop.call_soon_threadsafe(container.kill)
        self.run(container.gone.wait())

    def log(self, app: str = "pypiserver", environment: str = "main") -> str:
        """The output of an App's containers."""
        return "".join(
            line.text
            for a in self.apps.by_id.values()
            if (a.name, a.environment) == (app, environment)
            for line in a.log
        )

    # --- for the services ------------------------------------------------------------------------------------------

    def environment(self, name: str) -> str:
        """The name of an environment that exists; the default for an empty one."""
        if name and name not in self.environments:
            raise GRPCError(Status.NOT_FOUND, f"Environment '{name}' not found")
        return name or "main"

    def volume_lock(self, volume_id: str) -> asyncio.Lock:
        """The lock that serialises commits and reloads of one Volume."""
        return self._locks.setdefault(volume_id, asyncio.Lock())

    @staticmethod
    def page(items: Iterable[Item], asked: _Pagination, when: Callable[[Item], float]) -> list[Item]:
        """One page of a listing, newest first."""
        before = asked.created_before or float("inf")
        chosen = sorted((item for item in items if when(item) < before), key=when, reverse=True)
        return chosen[: asked.max_objects or 100]

    def containers(self) -> list[Container]:
        """Every running container."""
        return [container for pool in self.pools.values() for container in pool.containers]

    def containers_of(self, app: App) -> list[Container]:
        """Every container of an App."""
        return [container for container in self.containers() if container.app is app]

    def pool(self, function_id: str) -> Pool:
        """The containers of a function."""
        return self.pools[function_id]

    def pool_named(self, app: str, function: str) -> Pool | None:
        """The containers of a deployed function, by name."""
        for pool in self.pools.values():
            if (f"{pool.app.environment}/{pool.app.name}", pool.function.name) == (app, function) and not pool.stopped:
                return pool
        return None

    def function_at(self, request: web.Request) -> tuple[str, str]:
        """App and function of a request."""
        assert request.transport is not None
        return self._ports[request.transport.get_extra_info("sockname")[1]]

    def image_environment(self, image_id: str) -> Mapping[str, str]:
        """The variables that an image sets."""
        return image_environment(command for image in self.images.lineage(image_id) for command in image.commands)

    def secret_environment(self, secret_ids: Iterable[str]) -> dict[str, str]:
        """The current values of secrets."""
        return {k: v for secret_id in secret_ids for k, v in self.secrets.by_id[secret_id].values.items()}

    def spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run a coroutine in the background; its exception is kept for tests."""
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def done(finished: asyncio.Task[Result]) -> None:
            self._tasks.discard(finished)
            if not finished.cancelled() and (problem := finished.exception()):
                self.problems.append(problem)

        task.add_done_callback(done)
        return task

    async def listen(self, app: str, function: str) -> str:
        """A loopback URL for a web function."""
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        self._ports[port] = (app, function)
        assert self._functions is not None
        await web.SockSite(self._functions, listening).start()
        return f"http://127.0.0.1:{port}"

    async def publish(self, app: App) -> None:
        """Roll the containers of an App to its newest version."""
        version = app.versions[-1]
        for function in version.layout.values():
            pool = self.pools.get(function.function_id)
            if pool is None:
                pool = self.pools[function.function_id] = Pool(self, app, function)
            await pool.replace(function, version.number)
        for pool in self.pools.values():
            if pool.app is app and pool.function.name not in version.layout:
                pool.stopped = True
                for container in pool.live():
                    self.spawn(container.drain())

    async def stop_app(self, app: App) -> None:
        """End an App's containers."""
        for pool in self.pools.values():
            if pool.app is app:
                pool.stopped = True
        await asyncio.gather(*(container.preempt() for container in self.containers_of(app)))

    async def _admit(self, name: str, caller: Caller) -> None:
        self.called.append(name)
        if pending := self._failures.get(name):
            raise GRPCError(*pending.pop(0))
        if caller.container is not None:
            return
        pair = (caller.headers.get("x-modal-token-id", ""), caller.headers.get("x-modal-token-secret", ""))
        if not all(pair) or (self.tokens is not None and pair not in self.tokens):
            raise GRPCError(Status.UNAUTHENTICATED, "Token validation failed")
        version = tuple(int(part) for part in caller.headers["x-modal-client-version"].split(".")[:3] if part.isdigit())
        if version < self.minimum_client_version:
            raise GRPCError(Status.FAILED_PRECONDITION, "The client version is too old, please upgrade modal")

    async def _start(self) -> None:
        functions = web.Application()
        functions.router.add_route("*", "/{path:.*}", self.web.handle)
        self._functions = web.AppRunner(functions, handler_cancellation=True, access_log=None)
        await self._functions.setup()
        files = web.Application()
        files.add_routes(self.store.routes())
        self._files = web.AppRunner(files, access_log=None)
        await self._files.setup()
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.http_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        await web.SockSite(self._files, listening).start()
        self._grpc = Server([self.router.listener()])
        grpc_socket = socket.socket()
        grpc_socket.bind(("127.0.0.1", 0))
        self.server_url = f"http://127.0.0.1:{grpc_socket.getsockname()[1]}"
        await self._grpc.start(sock=grpc_socket)
        self.spawn(self._tick())

    async def _tick(self) -> None:
        committed = time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            now = time.monotonic()
            for pool in list(self.pools.values()):
                pool.scale_down(now)
            if now - committed < self.background_commit_seconds:
                continue
            committed = now
            for container in self.containers():
                for mount in container.function.definition.volume_mounts:
                    if mount.allow_background_commits and not mount.read_only and mount.volume_id in container.views:
                        with contextlib.suppress(GRPCError, FileNotFoundError):
                            await self.volumes.background_commit(container.views[mount.volume_id])

    async def _stop(self) -> None:
        for pool in self.pools.values():
            pool.stopped = True
        for container in self.containers():
            container.kill()
        await asyncio.gather(*(container.gone.wait() for container in self.containers()))
        if self._grpc is not None:
            self._grpc.close()
            with contextlib.suppress(TimeoutError):  # a client that still holds its connection
                await asyncio.wait_for(self._grpc.wait_closed(), 2)
        for runner in (self._functions, self._files):
            if runner is not None:
                await runner.cleanup()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.volumes.ended()


def main() -> None:
    """Print the variables that a client needs, and run a control plane until interrupted."""
    with ControlPlane() as plane:
        for name, value in plane.variables.items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.flush()
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait(float(os.environ.get("FAKE_MODAL_SECONDS", "3600")))
