"""HTTP for web functions: each has a loopback URL whose requests queue for containers."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import pickle
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.standin.apps import App, Function
from tests.standin.containers import Container
from tests.standin.rpc import Caller, new_id, rpc

if TYPE_CHECKING:
    from tests.standin.control_plane import ControlPlane

PIECE = 2 * 1024 * 1024
"""The maximum size in bytes of a chunk of a body."""
CALL_ID = "__modal_function_call_id"
POLL_SECONDS = 20
UNLIMITED = 8
"""The limit for a function without ``max_containers``."""


@dataclass(frozen=True)
class Request:
    """One line of the proxy's log."""

    function: str
    method: str
    target: str
    status: int
    task_id: str
    seconds: float


class Call:
    """One HTTP request to a container or, without a scope, the call of a scheduled function."""

    def __init__(self, scope: dict[str, Any] | None = None) -> None:
        self.call_id = new_id("fc")
        self.input_id = new_id("in")
        self.container: Container | None = None
        self._scope = scope
        self._to_app: asyncio.Queue[api_pb2.Asgi] = asyncio.Queue(2)
        self._from_app: asyncio.Queue[api_pb2.Asgi | None] = asyncio.Queue(32)
        self._ended = asyncio.Event()
        self._sent = 0
        self.error = ""

    def item(self) -> api_pb2.FunctionGetInputsItem:
        """The input as a container receives it: the pickled scope."""
        return api_pb2.FunctionGetInputsItem(
            input_id=self.input_id,
            function_call_id=self.call_id,
            function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC,
            input=api_pb2.FunctionInput(
                args=pickle.dumps(((self._scope,) if self._scope else (), {})), data_format=api_pb2.DATA_FORMAT_PICKLE
            ),
        )

    async def send(self, message: api_pb2.Asgi) -> None:
        """Pass a message to the application; blocks while it does not receive."""
        await self._to_app.put(message)

    async def data_in(self) -> AsyncIterator[api_pb2.DataChunk]:
        """Messages for the application, in order. Endless: the runtime closes it."""
        while True:
            message = await self._to_app.get()
            self._sent += 1
            yield api_pb2.DataChunk(
                data_format=api_pb2.DATA_FORMAT_ASGI, data=message.SerializeToString(), index=self._sent
            )

    async def receive(self) -> api_pb2.Asgi | None:
        """The application's next message, or None after the last."""
        return await self._from_app.get()

    async def put(self, message: api_pb2.Asgi | None) -> None:
        """Accept a message from the application; blocks while the client does not read."""
        if not self._ended.is_set():
            await self._from_app.put(message)

    async def wait(self) -> str:
        """Wait until the container has finished the call, and return its error."""
        await self._ended.wait()
        return self.error

    def end(self, error: str = "") -> None:
        """Mark the end of the container's messages."""
        self.error = self.error or error
        if not self._ended.is_set():
            self._ended.set()
            asyncio.ensure_future(self._from_app.put(None))  # noqa: RUF006 - ends with the queue

    @property
    def ended(self) -> bool:
        """True if the container has finished the call."""
        return self._ended.is_set()


class Pool:
    """The containers of one function, and the calls waiting for one."""

    def __init__(self, plane: ControlPlane, app: App, function: Function) -> None:
        self._plane = plane
        self.app = app
        self.function = function
        self.version = 0
        self.containers: list[Container] = []
        self.failures: list[str] = []
        self.scaled_to = 0
        self._waiting: collections.deque[Call] = collections.deque()
        self._idle: collections.deque[tuple[Container, asyncio.Future[Call | None]]] = collections.deque()
        self._starting = 0
        self.stopped = False

    @property
    def limits(self) -> tuple[int, int, int]:
        """The minimum and maximum number of containers, and the target number of calls for each."""
        asked = self.function.definition
        settings = asked.autoscaler_settings
        concurrency = asked.target_concurrent_inputs or asked.max_concurrent_inputs or 1
        return (
            max(settings.min_containers, asked.warm_pool_size, self.scaled_to),
            max(settings.max_containers or asked.concurrency_limit or UNLIMITED, self.scaled_to),
            concurrency,
        )

    @property
    def scaledown_seconds(self) -> float:
        """Seconds after which an idle container ends."""
        asked = self.function.definition
        return asked.autoscaler_settings.scaledown_window or asked.task_idle_timeout_secs or 60

    def live(self) -> list[Container]:
        """Containers that take calls or soon will."""
        return [c for c in self.containers if not c.draining.is_set() and not c.gone.is_set()]

    def current(self) -> list[Container]:
        """Those of the deployed version."""
        return [c for c in self.live() if c.version == self.version]

    def submit(self, call: Call) -> None:
        """Queue a call; start a container if all are busy."""
        while self._idle:
            container, future = self._idle.popleft()
            if not future.done() and not container.draining.is_set():
                self._assign(call, container)
                future.set_result(call)
                return
        self._waiting.append(call)
        self.scale()

    def scale(self) -> None:
        """Start missing containers."""
        if self.stopped:
            return
        least, most, concurrency = self.limits
        load = len(self._waiting) + sum(len(c.calls) for c in self.live())
        wanted = min(most, max(least, -(-load // concurrency)))
        for _ in range(wanted - len(self.live()) - self._starting):
            self._plane.spawn(self.start_container())

    async def start_container(self) -> Container | None:
        """Start one container and watch it until it ends, in the background."""
        self._starting += 1
        container = Container(self._plane, self.app, self.function, self.version)
        try:
            await container.start()
        except Exception as problem:
            self._failed(repr(problem))
            raise
        finally:
            self._starting -= 1
        self.containers.append(container)
        self._plane.spawn(self._follow(container))
        return container

    async def next_call(self, container: Container) -> Call | None:
        """The next call for *container*; None if it should poll again or end."""
        if container.draining.is_set():
            return None
        if self._waiting:
            call = self._waiting.popleft()
            self._assign(call, container)
            return call
        future: asyncio.Future[Call | None] = asyncio.get_running_loop().create_future()
        self._idle.append((container, future))
        leaves = asyncio.ensure_future(container.draining.wait())
        waited: set[asyncio.Future[Any]] = {future, leaves}
        try:
            await asyncio.wait(waited, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            return future.result() if future.done() else None
        finally:
            leaves.cancel()
            future.cancel()

    def finish(self, call: Call, error: str = "") -> None:
        """Record that a container has finished a call."""
        if call.container is not None:
            call.container.calls.pop(call.input_id, None)
            call.container.idle_since = time.monotonic()
        self._plane.calls.pop(call.call_id, None)
        call.end(error)

    async def replace(self, function: Function, version: int) -> None:
        """Roll to another version: old containers end once as many new ones are warm."""
        old = self.live()
        self.function, self.version = function, version
        least, most, _ = self.limits
        fresh = [await self.start_container() for _ in range(min(most, max(least, min(len(old), most))))]
        self._plane.spawn(self._retire(old, [c for c in fresh if c is not None]))

    async def _retire(self, old: list[Container], fresh: list[Container]) -> None:
        for container in fresh:
            done, pending = await asyncio.wait(
                {asyncio.ensure_future(container.ready.wait()), asyncio.ensure_future(container.gone.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in pending:
                task.cancel()
            del done
        await asyncio.sleep(self._plane.overlap_seconds)
        await asyncio.gather(*(container.drain() for container in old))

    def scale_down(self, now: float) -> None:
        """End containers that have been idle for long enough."""
        least = self.limits[0]
        for container in self.current():
            idle = now - container.idle_since
            if container.ready.is_set() and not container.calls and idle > self.scaledown_seconds:
                if len(self.live()) <= least:
                    return
                container.draining.set()

    def _assign(self, call: Call, container: Container) -> None:
        call.container = container
        container.calls[call.input_id] = call
        container.served += 1

    async def _follow(self, container: Container) -> None:
        code = await container.wait()
        self.containers.remove(container)
        for call in list(container.calls.values()):
            self.finish(call, "modal-http: internal error: the container was terminated")
        if not container.ready.is_set() and not container.draining.is_set():
            self._failed(container.failure or f"the container ended with code {code} before it was ready")
        elif self._waiting or self.limits[0]:
            self.scale()

    def _failed(self, reason: str) -> None:
        self.failures.append(reason)
        while self._waiting:
            self.finish(self._waiting.popleft(), f"modal-http: internal error: function failed to start: {reason}")


class Web:
    """The proxy in front of web functions, and the calls by which containers take and answer requests."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._redirected: dict[str, Call] = {}

    @rpc("FunctionCallGetDataIn")
    async def get_data_in(
        self, request: api_pb2.FunctionCallGetDataRequest, _: Caller
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._plane.calls.get(request.function_call_id)
        if call is not None:
            async for chunk in call.data_in():
                yield chunk

    @rpc("FunctionCallPutDataOut")
    async def put_data_out(self, request: api_pb2.FunctionCallPutDataRequest, _: Caller) -> Empty:
        call = self._plane.calls.get(request.function_call_id)
        for chunk in request.data_chunks:
            data = chunk.data
            if chunk.data_blob_id:
                data = await asyncio.to_thread(self._plane.store.blob(chunk.data_blob_id).read_bytes)
            if call is not None:
                await call.put(api_pb2.Asgi.FromString(data))
        return Empty()

    @rpc("FunctionPutOutputs")
    async def put_outputs(self, request: api_pb2.FunctionPutOutputsRequest, caller: Caller) -> Empty:
        assert caller.container is not None
        pool = self._plane.pool(caller.container.function.function_id)
        for item in request.outputs:
            call = caller.container.calls.get(item.input_id)
            if call is None:
                continue
            failed = item.result.status != api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
            if failed and item.result.exception:
                self._plane.exceptions.append(item.result.exception)
            pool.finish(call, "modal-http: internal error: the function raised" if failed else "")
        return Empty()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one HTTP request."""
        started = time.monotonic()
        app_name, function_name = self._plane.function_at(request)
        pool = self._plane.pool_named(app_name, function_name)
        if pool is None:
            return web.Response(status=404, text="modal-http: app for invoked web endpoint is stopped\n")
        if pool.function.definition.webhook_config.requires_proxy_auth:
            pair = (request.headers.get("Modal-Key", ""), request.headers.get("Modal-Secret", ""))
            if pair not in self._plane.proxy_tokens:
                return web.Response(status=401, text="modal-http: missing credentials for proxy authorization\n")
        if call_id := request.query.get(CALL_ID):
            if request.method not in {"GET", "HEAD"}:
                return web.Response(status=400, text="modal-http: bad redirect method\n")
            call = self._redirected.pop(call_id, None)
            if call is None:
                return web.Response(status=404, text="modal-http: no such call\n")
        else:
            call = self._new_call(request)
            pool.submit(call)
        response: web.StreamResponse | None = None
        try:
            response = await self._respond(request, pool, call)
            return response
        finally:
            self._plane.requests.append(
                Request(
                    function_name,
                    request.method,
                    request.path_qs,
                    response.status if response is not None else 0,
                    call.container.task_id if call.container else "",
                    time.monotonic() - started,
                )
            )

    def _new_call(self, request: web.Request) -> Call:
        # Modal strips X-Forwarded-For and puts the client's address into the scope
        headers = [(name.lower(), value) for name, value in request.raw_headers if name.lower() != b"x-forwarded-for"]
        client = request.transport.get_extra_info("peername") if request.transport else None
        call = Call(
            {
                "type": "http",
                "http_version": "1.1",
                "method": request.method,
                "scheme": request.scheme,
                "path": request.path,
                "query_string": request.raw_path.partition("?")[2].encode(),
                "headers": headers,
                "client": tuple(client[:2]) if client else ("127.0.0.1", 0),
                "extensions": {"http.response.trailers": {}},
            }
        )
        self._plane.calls[call.call_id] = call
        return call

    async def _feed(self, request: web.Request, call: Call) -> None:
        """The request's body, followed by the client's disconnect."""
        try:
            if request.can_read_body:
                while True:
                    piece = await request.content.readany()
                    last = request.content.at_eof()
                    for begin in range(0, max(len(piece), 1), PIECE):
                        part = piece[begin : begin + PIECE]
                        more = not (last and begin + PIECE >= len(piece))
                        await call.send(_message(api_pb2.Asgi.HttpRequest(body=part, more_body=more)))
                    if last:
                        return
            else:
                await call.send(_message(api_pb2.Asgi.HttpRequest(body=b"", more_body=False)))
        except (web.RequestPayloadError, ConnectionError, OSError):
            await call.send(api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect()))

    async def _respond(self, request: web.Request, pool: Pool, call: Call) -> web.StreamResponse:
        feeder = self._plane.spawn(self._feed(request, call))
        limit = pool.function.definition.timeout_secs or 300
        kept = False
        try:
            async with asyncio.timeout(limit):
                try:
                    async with asyncio.timeout(self._plane.redirect_seconds):
                        start = await call.receive()
                except TimeoutError:
                    self._redirected[call.call_id] = call
                    kept = True
                    target = request.url.update_query({CALL_ID: call.call_id})
                    return web.Response(status=303, headers={"Location": str(target.relative())})
                return await self._relay(request, call, start)
        except TimeoutError:
            self._cancel(call)
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        except (asyncio.CancelledError, ConnectionResetError):
            self._plane.spawn(self._tell_of_disconnect(call))
            raise asyncio.CancelledError from None
        finally:
            if not kept:
                feeder.cancel()

    async def _relay(self, request: web.Request, call: Call, start: api_pb2.Asgi | None) -> web.StreamResponse:
        if start is None or start.WhichOneof("type") != "http_response_start":
            text = (call.error or "modal-http: internal error: the function gave no response") + "\n"
            return web.Response(status=500, text=text)
        flat = list(start.http_response_start.headers)
        response = web.StreamResponse(status=start.http_response_start.status)
        length = None
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            if name.lower() == b"content-length":
                length = int(value)
            elif name.lower() not in {b"transfer-encoding", b"connection"}:
                response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        if length is not None:
            response.content_length = length
        elif response.status >= 200 and response.status not in {204, 304}:
            response.enable_chunked_encoding()
        await response.prepare(request)
        while message := await call.receive():
            if message.WhichOneof("type") != "http_response_body":
                continue
            if message.http_response_body.body and request.method != "HEAD":
                await response.write(message.http_response_body.body)
            if not message.http_response_body.more_body:
                break
        else:
            if call.error and request.transport is not None:
                request.transport.abort()  # the announced length will not arrive
        await response.write_eof()
        return response

    @staticmethod
    async def _tell_of_disconnect(call: Call) -> None:
        with contextlib.suppress(TimeoutError):  # an application that no longer receives
            async with asyncio.timeout(5):
                await call.send(api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect()))

    @staticmethod
    def _cancel(call: Call) -> None:
        if call.container is not None:
            call.container.cancelled.append(call.input_id)


def _message(request: api_pb2.Asgi.HttpRequest) -> api_pb2.Asgi:
    return api_pb2.Asgi(http_request=request)
