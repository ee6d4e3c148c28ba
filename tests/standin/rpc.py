"""Dispatch of gRPC calls to the methods that handle them."""

from __future__ import annotations

import inspect
import secrets
import string
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from grpclib import GRPCError, Status
from grpclib.const import Handler
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

if TYPE_CHECKING:
    from tests.standin.containers import Container

Method = TypeVar("Method", bound=Callable[..., Any])
_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    """An object id in Modal's format: a two-letter prefix and 22 letters or digits."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def rpc(name: str) -> Callable[[Method], Method]:
    """Mark a method as the handler of the call *name*."""

    def mark(method: Method) -> Method:
        method.rpc_name = name  # type: ignore[attr-defined]  # read back by Router
        return method

    return mark


@dataclass(frozen=True)
class Caller:
    """Sender of a call: a client with its headers, or a container over its own socket."""

    container: Container | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


Gate = Callable[[str, Caller], Awaitable[None]]


class Router:
    """The calls handled by the services; all others fail with UNIMPLEMENTED and are recorded.

    Parameters:
        services: objects with methods marked by :func:`rpc`, called with the request and the :class:`Caller`.
        gate: called before each call with its name; it may raise ``GRPCError``.
    """

    def __init__(self, services: Iterable[object], gate: Gate) -> None:
        self.gate = gate
        self.unimplemented: list[str] = []
        self.methods: dict[str, Callable[..., Any]] = {}
        for service in services:
            for _, method in inspect.getmembers(service, callable):
                if name := getattr(method, "rpc_name", None):
                    self.methods[name] = method

    def listener(self, container: Container | None = None) -> Listener:
        """A grpclib service whose calls come from *container*, or from clients."""
        return Listener(self, container)

    async def handle(self, name: str, stream: Stream[Any, Any], container: Container | None) -> None:
        """Receive one request from *stream* and send its reply."""
        caller = Caller(container, {str(k): str(v) for k, v in (stream.metadata or {}).items()})
        request = await stream.recv_message()
        await self.gate(name, caller)
        method = self.methods.get(name)
        if method is None:
            self.unimplemented.append(name)
            raise GRPCError(Status.UNIMPLEMENTED, f"the fake control plane does not serve {name}")
        if inspect.isasyncgenfunction(method):
            async for reply in method(request, caller):
                await stream.send_message(reply)
        else:
            await stream.send_message(await method(request, caller))


class Listener:
    """The table of calls, for grpclib."""

    def __init__(self, router: Router, container: Container | None) -> None:
        self._router = router
        self._container = container

    def __mapping__(self) -> dict[str, Handler]:
        return {
            path: Handler(self._bind(path.rpartition("/")[2]), known.cardinality, known.request_type, known.reply_type)
            for path, known in _KNOWN.items()
        }

    def _bind(self, name: str) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
        async def handle(stream: Stream[Any, Any]) -> None:
            await self._router.handle(name, stream, self._container)

        return handle


async def _never(_self: object, _stream: Stream[Any, Any]) -> None:
    raise AssertionError("replaced by Listener")


_KNOWN: Mapping[str, Handler] = type(
    "KnownCalls", (ModalClientBase,), dict.fromkeys(ModalClientBase.__abstractmethods__, _never)
)().__mapping__()
"""Every call of the protocol with its cardinality and message types, from the client's own definitions."""
