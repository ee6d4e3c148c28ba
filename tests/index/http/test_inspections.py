"""Long inspections: in a child process, in parallel with other uploads, and only while a client waits for them."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from urllib3.filepost import encode_multipart_formdata

from ops.index.auth.roles import Identity
from ops.index.errors import InvalidArchive, PackageIndexError, WorkCancelled
from ops.index.http import upload
from ops.index.http.request import Request
from ops.index.http.upload import UploadApi
from ops.index.packages.archive import OutOfBoundsError
from ops.index.packages.filenames import Name, parse
from ops.index.packages.inspection import AT_ONCE, inspect
from ops.index.packages.inspector import LIMITS, DeferredError, Inspector
from ops.index.packages.staged import Staged
from ops.index.packages.uploads import UploadResult
from ops.index.sandbox.sandbox import Cancellation
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.conftest import Node, Person
from tests.index.http.test_pypiserver_bridge import FakeAuthenticator
from tests.index.serving import Server

NAME = wheel_name("big", "1.0")
MEMBERS = {f"big/{number}.py": b"" for number in range(AT_ONCE.members + 1)}
BIG = wheel("big", "1.0", lines="Requires-Python: >=3.9\n", more=MEMBERS)
BAD = wheel("big", "1.0", lines="Requires-Dist: a = b\n", more=MEMBERS)
SMALL = wheel("small", "1.0")


def name_of(filename: str) -> Name:
    name = parse(filename)
    assert name is not None
    return name


def staged_in(node: Node, content: bytes) -> Staged:
    staged = node.publisher.stage(NAME, identity=Person())
    staged.write(content)
    return staged


@pytest.fixture
def inspector() -> Iterator[Inspector]:
    made = Inspector()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        (NAME, BIG),
        (NAME, wheel("big", "1.0", payload=bytes(AT_ONCE.unpacked_bytes))),
        (NAME, wheel("big", "1.0", body="x" * (AT_ONCE.read_bytes + 1))),
        (NAME, wheel("big", "1.0", lines="Requires-Dist: spam>=1\n" * 2000)),
        ("big-1.0.tar.gz", sdist("big", "1.0", payload=bytes(AT_ONCE.unpacked_bytes))),
        ("big-1.0.tar.gz", sdist("big", "1.0", body="x" * (AT_ONCE.read_bytes + 1))),
    ],
    ids=["members", "bytes", "description", "requirements", "sdist bytes", "sdist description"],
)
def test_a_long_inspection_is_deferred_but_still_done(
    node: Node, inspector: Inspector, filename: str, content: bytes
) -> None:
    with pytest.raises(OutOfBoundsError):
        inspect(io.BytesIO(content), name_of(filename), bounds=AT_ONCE)
    staged = staged_in(node, content)
    with pytest.raises(DeferredError):
        inspector.at_once(name_of(filename), staged, {})
    assert inspector.at_length(name_of(filename), staged) == inspect(io.BytesIO(content), name_of(filename))
    staged.discard()


def test_a_long_inspection_refuses_with_the_same_message(node: Node, inspector: Inspector) -> None:
    staged = staged_in(node, BAD)
    with pytest.raises(InvalidArchive) as expected:
        inspect(io.BytesIO(BAD), name_of(NAME))
    with pytest.raises(InvalidArchive) as refused:
        inspector.at_length(name_of(NAME), staged)
    assert str(refused.value) == str(expected.value)
    assert "'Requires-Dist: a = b'" in str(refused.value)
    staged.discard()


def test_an_upload_that_exceeds_a_limit_is_refused(node: Node) -> None:
    staged = staged_in(node, BIG)
    with (
        closing(Inspector(replace(LIMITS, wall_seconds=0.001))) as inspector,
        pytest.raises(InvalidArchive, match="it cannot be inspected: it takes more than"),
    ):
        inspector.at_length(name_of(NAME), staged)
    staged.discard()


def test_no_long_inspection_starts_once_the_server_is_stopping(node: Node, inspector: Inspector) -> None:
    staged = staged_in(node, BIG)
    inspector.close()
    with pytest.raises(WorkCancelled):
        inspector.at_length(name_of(NAME), staged)
    staged.discard()


def test_a_caller_can_run_a_long_inspection_itself(node: Node) -> None:
    assert node.publish(NAME, io.BytesIO(BIG), identity=Person()) is UploadResult.CREATED
    with pytest.raises(InvalidArchive, match="Requires-Dist"):
        node.publish(wheel_name("big", "1.0", "py2-none-any"), io.BytesIO(BAD), identity=Person())


def test_a_large_wheel_is_accepted_by_a_real_server(request: pytest.FixtureRequest) -> None:
    with Server(request.getfixturevalue("tmp_path")) as server:
        assert upload_to(server, NAME, BAD) == 400
        assert upload_to(server, NAME, BIG) == 200
        assert upload_to(server, NAME, BIG) == 200
        assert server.get("/simple/big/").status == 200


def upload_to(server: Server, filename: str, content: bytes) -> int:
    body, content_type = encode_multipart_formdata({":action": "file_upload", "content": (filename, content)})
    return server.request("POST", "/", headers={"Content-Type": content_type}, body=body).status


class Client:
    """A client that stays until it is told to leave."""

    def __init__(self, uploads: UploadApi, filename: str, content: bytes) -> None:
        body, content_type = encode_multipart_formdata({":action": "file_upload", "content": (filename, content)})
        self.leaving = asyncio.Event()
        self.sent: list[Any] = []
        self._messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
        token = base64.b64encode(b"alice:secret")
        headers = {b"content-type": content_type.encode(), b"authorization": b"Basic " + token}
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/"}
        request = Request(scope, self._receive, self._send, headers, "")
        self.task = asyncio.ensure_future(uploads.handle(request, Identity("alice")))

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.leaving.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def status(self) -> int:
        try:
            await self.task
        except PackageIndexError as error:
            return error.status
        return int(self.sent[0]["status"])


class Endless:
    """Fake inspections that run until they are cancelled."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.closing = Cancellation()
        self.over: list[Name] = []
        monkeypatch.setattr(node.publisher._inspector, "at_length", self.inspect)
        monkeypatch.setattr(node.publisher._inspector, "close", self.closing.cancel)

    async def client(self, uploads: UploadApi) -> Client:
        """A client whose upload is being inspected."""
        client = Client(uploads, NAME, BIG)
        await asyncio.to_thread(self.begun.acquire)
        return client

    def inspect(self, name: Name, staged: Staged, cancellation: Cancellation) -> None:
        ended = threading.Event()
        with cancellation.calling(ended.set), self.closing.calling(ended.set):
            self.begun.release()
            assert ended.wait(30)
        self.over.append(name)
        raise WorkCancelled


@pytest.fixture
def uploads(node: Node) -> Iterator[UploadApi]:
    made = UploadApi(node.publisher, node.releases, node.repository, FakeAuthenticator().confirm, node.options)
    yield made
    made.close()


def staging(node: Node) -> list[str]:
    return [path.name for path in (node.directory / ".index" / "staging").glob("*") if not path.name.endswith("-lock")]


def run(work: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


def test_the_inspection_of_a_disconnected_client_s_upload_is_cancelled(
    node: Node, uploads: UploadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(node, monkeypatch)

    async def work() -> None:
        client = await endless.client(uploads)
        client.leaving.set()
        await client.task
        assert client.sent == []

    run(work)
    uploads.close()  # waits for its threads
    assert [name.filename for name in endless.over] == [NAME]
    assert staging(node) == []
    assert not (node.directory / NAME).exists()


def test_long_inspections_delay_no_other_upload(
    node: Node, uploads: UploadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(node, monkeypatch)

    async def work() -> None:
        clients = [await endless.client(uploads) for _ in range(node.options.upload_threads + 2)]
        assert await Client(uploads, wheel_name("small", "1.0"), SMALL).status() == 200
        for client in clients:
            client.leaving.set()
            await client.task

    run(work)


def test_a_stopping_server_answers_long_uploads_at_once(
    node: Node, uploads: UploadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless(node, monkeypatch)

    async def work() -> None:
        client = await endless.client(uploads)
        uploads.stop()
        assert await client.status() == 503

    run(work)
    assert not (node.directory / NAME).exists()


def test_a_client_waiting_for_an_inspection_is_not_mistaken_for_one_that_stopped_sending(
    node: Node, uploads: UploadApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE_SECONDS", 0.01)
    endless = Endless(node, monkeypatch)

    async def work() -> None:
        client = await endless.client(uploads)
        done, _ = await asyncio.wait({client.task}, timeout=0.1)
        assert not done
        client.leaving.set()
        await client.task
        assert client.sent == []

    run(work)
