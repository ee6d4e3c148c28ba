"""Uploads as pypiserver interprets them, on our storage."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import urlencode

import pytest
from urllib3.filepost import encode_multipart_formdata

from ops.index.auth.roles import Identity, Role
from ops.index.errors import PackageIndexError, StorageFull
from ops.index.http.request import Request
from ops.index.http.upload import PIECE_BYTES, UploadApi
from ops.index.packages import staged
from ops.index.storage import directory
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Node

NAME = wheel_name("foo-bar", "1.0")
CONTENT = wheel("foo-bar", "1.0", payload=b"first")
OTHER = wheel("foo-bar", "1.0", payload=b"other")
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\n"


class FakeAuthenticator:
    """The password of every user."""

    def __init__(self) -> None:
        self.people = {"alice": Identity("alice"), "adam": Identity("adam", Role.ADMIN)}
        self.address = ""

    def confirm(self, authorization: bytes | None, address: str) -> Identity:
        self.address = address
        assert authorization is not None
        return self.people[base64.b64decode(authorization.partition(b" ")[2]).decode().partition(":")[0]]


class Response:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.text = body.decode()

    def __repr__(self) -> str:
        return f"{self.status} {self.text!r}"


class Client:
    """Sends uploads to our handler, without a server."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.authenticator = FakeAuthenticator()
        self.uploads = UploadApi(
            node.publisher, node.releases, node.repository, self.authenticator.confirm, node.options
        )

    def send(
        self,
        body: bytes = b"",
        *,
        content_type: str = "application/x-www-form-urlencoded",
        user: str = "alice",
        pieces: Iterable[bytes] | None = None,
        **headers: str,
    ) -> Response:
        """Send a body, and return the response; its status is 0 if there is none."""
        waiting = chain(
            ({"type": "http.request", "body": piece, "more_body": True} for piece in pieces or [body]),
            [{"type": "http.request", "body": b"", "more_body": False}],
        )
        return asyncio.run(self.receive(waiting, content_type=content_type, user=user, **headers))

    async def receive(
        self, messages: Iterable[Any], *, content_type: str, user: str = "alice", **headers: str
    ) -> Response:
        fields = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        fields[b"content-type"] = content_type.encode()
        fields[b"authorization"] = b"Basic " + base64.b64encode(f"{user}:secret".encode())
        waiting = iter(messages)
        sent: list[Any] = []

        async def receive() -> Any:
            return next(waiting, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b""}
        request = Request(scope, receive, send, fields, "192.0.2.1")
        try:
            await self.uploads.handle(request, self.authenticator.people[user])
        except PackageIndexError as error:
            await request.refuse(error)
        if not sent:
            return Response(0, {}, b"")
        start, content = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Response(start["status"], found, content["body"])

    def upload(
        self,
        filename: str = NAME,
        content: bytes = CONTENT,
        *,
        fields: Iterable[tuple[str, str]] = (),
        signature: tuple[str, bytes] | None = None,
        **more: Any,
    ) -> Response:
        files: list[tuple[str, Any]] = [("content", (filename, content, "application/octet-stream"))]
        if signature is not None:
            files.append(("gpg_signature", signature))
        body, content_type = encode_multipart_formdata([(":action", "file_upload"), *fields, *files])
        return self.send(body, content_type=content_type, **more)


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    client = Client(node)
    yield client
    client.uploads.close()


def form_of(**fields: str) -> bytes:
    return urlencode({name.replace("action", ":action"): value for name, value in fields.items()}).encode()


def test_an_upload_goes_through_pypiserver_to_the_publisher(client: Client) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    response = client.upload(fields=[("name", "foo-bar"), ("version", "1.0"), ("sha256_digest", digest)])
    assert (response.status, response.body) == (200, b"")
    assert (client.node.directory / NAME).read_bytes() == CONTENT
    (event,) = client.node.audit.events
    assert (event["user"], event["address"], event["sha256"]) == ("alice", "192.0.2.1", digest)


def test_identical_bytes_again_are_200_and_different_ones_409_or_400_for_twine(client: Client) -> None:
    assert client.upload().status == 200
    assert client.upload().status == 200
    refused = client.upload(content=OTHER, user_agent="uv/0.13.9")
    assert refused.status == 409
    assert refused.text.count("\n") == 1
    assert "already exists" in refused.text
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"
    assert client.upload(content=OTHER, user_agent="twine/7.0.0").status == 400
    assert (client.node.directory / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("filename", "content", "fields", "says"),
    [
        (NAME, b"text", [], "not a zip file"),
        (NAME, CONTENT, [("sha256_digest", "0" * 64)], "sha256"),
        (NAME, CONTENT, [("name", "other")], "the form says"),
        ("../" + NAME, CONTENT, [], "Bad filename"),
        ("foo bar.whl", CONTENT, [], "Bad filename"),
        ("", CONTENT, [], ""),
    ],
)
def test_a_bad_upload_is_400_with_one_line_of_plain_text(
    client: Client, filename: str, content: bytes, fields: list[tuple[str, str]], says: str
) -> None:
    response = client.upload(filename, content, fields=fields)
    assert response.status == 400
    assert says in response.text
    assert response.text.count("\n") == 1
    assert response.headers["content-type"].startswith("text/plain")
    assert not client.node.listed()


def test_removing_is_for_admins(client: Client) -> None:
    client.upload()
    body = form_of(action="remove_pkg", name="Foo.Bar", version="1.0.0")
    refused = client.send(body)
    assert refused.status == 403
    assert "only yank" in refused.text
    assert client.node.listed() == {NAME}
    assert client.send(form_of(action="remove_pkg", name="foo-bar", version="2"), user="adam").status == 404
    assert client.send(body, user="adam").status == 200
    assert not client.node.listed()


def test_a_signature_may_come_with_its_file(client: Client) -> None:
    assert client.upload(signature=(f"{NAME}.asc", SIGNATURE)).status == 200
    assert (client.node.directory / f"{NAME}.asc").read_bytes() == SIGNATURE
    assert client.node.listed() == {NAME}
    assert client.upload(signature=("other.whl.asc", SIGNATURE)).status == 400
    assert client.upload(signature=(f"{NAME}.asc", SIGNATURE + b"x")).status == 409


def test_unknown_fields_are_ignored_but_attestations_are_not(client: Client) -> None:
    fields = [("protocol_version", "1"), ("x" * 100, "y" * 10_000)]
    assert client.upload(fields=[*fields, ("attestations", json.dumps([{"version": 1}]))]).status == 400
    assert client.upload(fields=fields).status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"action": "unknown"}, 400),
        ({"action": "file_upload"}, 400),
        ({"action": "verify"}, 200),
        ({"action": "remove_pkg"}, 400),
        ({"action": "doc_upload"}, 400),
    ],
)
def test_other_actions_are_answered_as_stock_pypiserver_does(
    client: Client, fields: dict[str, str], status: int
) -> None:
    response = client.send(form_of(**fields))
    assert response.status == status
    assert "<" not in response.text


def test_a_full_disk_is_507(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageFull("the upload could not be stored: there is no space left")

    monkeypatch.setattr(staged.Staged, "write", full)
    response = client.upload()
    assert response.status == 507
    assert "no space" in response.text


def test_an_unexpected_failure_is_500_and_reveals_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(client.node.publisher, "publish", fail)
    response = client.upload()
    assert response.status == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def staged_files(node: Node) -> list[str]:
    folder = node.directory / ".index" / "staging"
    return [path.name for path in folder.glob("*") if not path.name.endswith("-lock")]


@pytest.mark.parametrize("size", [1000, 100_000, 5_000_000])
def test_a_large_upload_in_pieces_arrives_unchanged(client: Client, size: int) -> None:
    content = wheel(
        "foo-bar", "1.0", payload=bytes(range(256)) * 12_000, more={"x": hashlib.sha256(b"").digest() * 60_000}
    )
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, content))])
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    response = client.send(pieces=pieces, content_type=content_type)
    assert response.status == 200
    assert (client.node.directory / NAME).read_bytes() == content
    assert not staged_files(client.node)


def test_the_bytes_of_an_upload_are_written_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary file in the framework, no copy in the publisher."""
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    written = 0

    def count(descriptor: int, *pieces: Any) -> None:
        nonlocal written
        written += sum(len(piece) for piece in pieces)
        directory.write_all(descriptor, *pieces)

    monkeypatch.setattr(staged, "write_all", count)
    content = wheel("foo-bar", "1.0", more={"x": b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(50_000))})
    assert len(content) > PIECE_BYTES
    assert client.upload(content=content).status == 200
    assert written == len(content)


@pytest.mark.parametrize(("size", "has_turn"), [(1, True), (PIECE_BYTES, False)])
def test_only_small_uploads_take_turns(
    client: Client, monkeypatch: pytest.MonkeyPatch, size: int, has_turn: bool
) -> None:
    """A large one takes too long."""
    storage, found = client.node.storage, []
    assert isinstance(storage, DirectoryStorage)
    confirm = client.authenticator.confirm

    def noted(*arguments: Any) -> Any:
        found.append(storage._turns._lock.locked())
        return confirm(*arguments)

    monkeypatch.setattr(client.uploads, "_confirm", noted)
    content = wheel("foo-bar", "1.0", more={"x": random.Random(1).randbytes(size)})
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, content))])
    pieces = [body[:PIECE_BYTES], body[PIECE_BYTES:]]
    assert client.send(content_type=content_type, pieces=pieces).status == 200
    assert found[0] is has_turn
    assert not storage._turns._lock.locked()


def test_a_client_that_disconnects_leaves_nothing_behind(client: Client) -> None:
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, b"x" * 3_000_000))])

    def begun() -> Iterator[Any]:
        yield {"type": "http.request", "body": body[:2_000_000], "more_body": True}
        assert staged_files(client.node)

    assert asyncio.run(client.receive(begun(), content_type=content_type)).status == 0
    assert not staged_files(client.node)


def test_a_slow_upload_occupies_no_thread(client: Client) -> None:
    client.upload()
    before = threading.active_count()

    async def run() -> None:
        gate = asyncio.Event()

        async def receive() -> Any:
            await gate.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": "/"}
        requests = [Request(scope, receive, send, {b"content-type": b"multipart/form-data; boundary=b"}, "")]
        alice = client.authenticator.people["alice"]
        tasks = [asyncio.ensure_future(client.uploads.handle(each, alice)) for each in requests * 30]
        await asyncio.sleep(0.05)
        assert threading.active_count() <= before
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_form_refused_halfway_is_received_to_its_end(client: Client, node: Node) -> None:
    """A client that is still sending does not read a response."""
    small = Node(node.storage, node.name_locks, type(node.options)(max_upload_bytes=1000))
    client = Client(small)
    response = client.upload(content=b"x" * 5_000_000)
    assert response.status == 413
    assert "1000 bytes" in response.text
    assert not staged_files(node)


def test_a_form_that_ends_early_is_400(client: Client) -> None:
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, CONTENT))])
    response = client.send(body[:-20], content_type=content_type)
    assert response.status == 400
    assert "ended early" in response.text
    assert not staged_files(client.node)
    assert client.send(body, content_type="multipart/form-data").status == 400


def test_only_the_first_file_of_a_field_counts_and_unknown_ones_are_dropped(client: Client) -> None:
    body, content_type = encode_multipart_formdata(
        [
            (":action", "file_upload"),
            ("unknown", ("x", b"y" * 100)),
            ("content", (NAME, CONTENT)),
            ("content", (NAME, OTHER)),
        ]
    )
    assert client.send(body, content_type=content_type).status == 200
    assert (client.node.directory / NAME).read_bytes() == CONTENT
    assert not staged_files(client.node)


def test_the_user_is_checked_again_after_the_body_has_arrived(client: Client) -> None:
    people = client.authenticator.people
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, CONTENT))])

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        people["alice"] = Identity("alice", projects=frozenset())
        yield body[100:]

    response = client.send(content_type=content_type, pieces=slowly())
    assert response.status == 403
    assert not client.node.listed()
