"""pypiserver underneath: its upload API, on our storage."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any
from urllib.parse import urlencode

import pytest
from urllib3.filepost import encode_multipart_formdata

from ops.index.errors import StorageFull, Unauthorized
from ops.index.http.pypiserver_bridge import ADDRESS, RepositoryBackend, create_wsgi
from ops.index.http.upload import PIECE_BYTES, UploadReceiver
from ops.index.packages import staging
from ops.index.storage import files
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.conftest import House, Person

NAME = wheel_name("foo-bar", "1.0")
CONTENT = wheel("foo-bar", "1.0", payload=b"first")
OTHER = wheel("foo-bar", "1.0", payload=b"other")
SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\n"
PASSWORD = "secret"


class FakeAuthenticator:
    """Everybody's password is the same."""

    def __init__(self) -> None:
        self.people = {"alice": Person(), "adam": Person("adam", may_administer=True)}

    def confirm(self, authorization: bytes, address: str) -> Person:
        self.address = address
        username, _, password = base64.b64decode(authorization.partition(b" ")[2]).decode().partition(":")
        if username not in self.people or password != PASSWORD:
            raise Unauthorized("the user name or the password is wrong", realm="pypi")
        return self.people[username]


class Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.text = body.decode()

    def __repr__(self) -> str:
        return f"{self.status} {self.text!r}"


class Client:
    """Sends requests to pypiserver, through our receiver or without it."""

    def __init__(self, house: House, *, streamed: bool) -> None:
        self.house = house
        self.authenticator = FakeAuthenticator()
        self.wsgi = create_wsgi(house.publisher, house.releases, house.repository, self.authenticator, house.options)  # type: ignore[arg-type] # a fake
        self.receiver = UploadReceiver(self.wsgi, house.publisher, house.options)
        self.streamed = streamed

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        content_type: str = "application/x-www-form-urlencoded",
        user: str | None = "alice",
        password: str = PASSWORD,
        pieces: Iterable[bytes] | None = None,
        **headers: str,
    ) -> Answer:
        headers = {"host": "index.test", "content-type": content_type, **headers}
        if user is not None:
            headers["authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        if self.streamed:
            return asyncio.run(self._send_streamed(method, path, pieces or [body], headers))
        return self._send_plain(method, path, body, headers)

    async def _send_streamed(self, method: str, path: str, pieces: Iterable[bytes], headers: dict[str, str]) -> Answer:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "client": ("192.0.2.1", 50000),
        }
        whole = [{"type": "http.request", "body": b"", "more_body": False}]
        waiting = chain(({"type": "http.request", "body": piece, "more_body": True} for piece in pieces), whole)
        sent: list[Any] = []

        async def receive() -> Any:
            return next(waiting, {"type": "http.disconnect"})

        async def send(message: Any) -> None:
            sent.append(message)

        await self.receiver(scope, receive, send)
        if not sent:
            return Answer(0, {}, b"")
        start, content = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], found, content["body"])

    def _send_plain(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "index.test",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.input": io.BytesIO(body),
            "wsgi.url_scheme": "http",
            "wsgi.errors": io.StringIO(),
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": headers["content-type"],
        }
        environ.update({f"HTTP_{name.upper()}": value for name, value in headers.items() if name != "content-type"})
        started: list[Any] = []
        pieces = self.wsgi(environ, lambda status, found, exc_info=None: started.append((status, found)))
        content = b"".join(pieces)
        status, found = started[0]
        return Answer(int(status[:3]), {name.lower(): value for name, value in found}, content)

    def upload(
        self,
        filename: str = NAME,
        content: bytes = CONTENT,
        *,
        fields: Iterable[tuple[str, str]] = (),
        signature: tuple[str, bytes] | None = None,
        **more: Any,
    ) -> Answer:
        files: list[tuple[str, Any]] = [("content", (filename, content, "application/octet-stream"))]
        if signature is not None:
            files.append(("gpg_signature", signature))
        body, content_type = encode_multipart_formdata([(":action", "file_upload"), *fields, *files])
        return self.send("POST", "/", body, content_type=content_type, **more)


@pytest.fixture(params=["plain", "streamed"])
def client(request: pytest.FixtureRequest, house: House) -> Client:
    return Client(house, streamed=request.param == "streamed")


def form_of(**fields: str) -> bytes:
    return urlencode({name.replace("action", ":action"): value for name, value in fields.items()}).encode()


def test_an_upload_goes_through_pypiserver_to_the_publisher(client: Client) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    answer = client.upload(fields=[("name", "foo-bar"), ("version", "1.0"), ("sha256_digest", digest)])
    assert (answer.status, answer.body) == (200, b"")
    assert (client.house.directory / NAME).read_bytes() == CONTENT
    (event,) = client.house.audit.events
    assert (event["user"], event["address"], event["sha256"]) == ("alice", "192.0.2.1", digest)


def test_the_same_bytes_again_are_200_and_other_bytes_409_or_400_for_twine(client: Client) -> None:
    assert client.upload().status == 200
    assert client.upload().status == 200
    refused = client.upload(content=OTHER, user_agent="uv/0.13.9")
    assert refused.status == 409
    assert refused.text.count("\n") == 1
    assert "already exists" in refused.text
    assert refused.headers["content-type"] == "text/plain; charset=utf-8"
    assert client.upload(content=OTHER, user_agent="twine/7.0.0").status == 400
    assert (client.house.directory / NAME).read_bytes() == CONTENT


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
    answer = client.upload(filename, content, fields=fields)
    assert answer.status == 400
    assert says in answer.text
    assert answer.text.count("\n") == 1
    assert answer.headers["content-type"].startswith("text/plain")
    assert not client.house.listed()


def test_no_or_wrong_credentials_are_401_with_a_realm(client: Client) -> None:
    for answer in (client.upload(user=None), client.upload(password="wrong"), client.upload(user="nobody")):
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="pypi", charset="UTF-8"'
        assert answer.text.count("\n") == 1
    assert not client.house.listed()


def test_removing_is_for_admins(client: Client) -> None:
    client.upload()
    body = form_of(action="remove_pkg", name="Foo.Bar", version="1.0.0")
    refused = client.send("POST", "/", body)
    assert refused.status == 403
    assert "only yank" in refused.text
    assert client.house.listed() == {NAME}
    assert (
        client.send("POST", "/", form_of(action="remove_pkg", name="foo-bar", version="2"), user="adam").status == 404
    )
    assert client.send("POST", "/", body, user="adam").status == 200
    assert not client.house.listed()


def test_a_signature_may_come_with_its_file(client: Client) -> None:
    assert client.upload(signature=(f"{NAME}.asc", SIGNATURE)).status == 200
    assert (client.house.directory / f"{NAME}.asc").read_bytes() == SIGNATURE
    assert client.house.listed() == {NAME}
    assert client.upload(signature=("other.whl.asc", SIGNATURE)).status == 400
    assert client.upload(signature=(f"{NAME}.asc", SIGNATURE + b"x")).status == 409


def test_attestations_and_unknown_fields_are_of_no_interest(client: Client) -> None:
    fields = [("attestations", json.dumps([{"version": 1}])), ("protocol_version", "1"), ("x" * 100, "y" * 10_000)]
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
    answer = client.send("POST", "/", form_of(**fields))
    assert answer.status == status
    assert "<" not in answer.text


def test_a_full_disk_is_507(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageFull("the upload could not be kept: there is no room left")

    monkeypatch.setattr(staging.Staged, "write", full)
    answer = client.upload()
    assert answer.status == 507
    assert "no room" in answer.text


def test_an_unexpected_failure_is_500_and_tells_nothing_of_the_inside(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(client.house.publisher, "publish", fail)
    answer = client.upload()
    assert answer.status == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_what_is_not_here_is_404_and_never_asked_for_elsewhere(client: Client) -> None:
    answer = client.send("GET", "/simple/nothing/")
    assert answer.status == 404
    assert "location" not in answer.headers


def test_the_pages_of_pypiserver_agree_with_the_catalogue(client: Client) -> None:
    client.upload()
    client.upload("foo_bar-2.0.tar.gz", sdist("foo-bar", "2.0"))
    assert 'href="foo-bar/"' in client.send("GET", "/simple/").text
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert f"/packages/{NAME}#sha256={digest}" in client.send("GET", "/simple/foo-bar/").text
    assert json.loads(client.send("GET", "/foo-bar/json").body)["info"]["version"] == "2.0"
    assert NAME in client.send("GET", "/packages/").text
    query = b"<methodCall><methodName>search</methodName><params><string>foo</string></params></methodCall>"
    assert b"foo-bar" in client.send("POST", "/RPC2", query, content_type="text/xml").body


def test_a_backend_answers_what_pypiserver_may_ask(client: Client) -> None:
    client.upload()
    backend = client.wsgi._pypiserver_config.backend.backend  # type: ignore[attr-defined] # a Bottle application
    assert isinstance(backend, RepositoryBackend)
    assert backend.exists(NAME)
    assert not backend.exists("Foo_Bar-1.0-py3-none-any.whl")
    assert not backend.exists("no distribution")
    assert backend.package_count() == 1
    assert list(backend.get_projects()) == ["foo-bar"]
    (package,) = backend.find_version("Foo_Bar", "1")
    assert backend.digest(package) == f"sha256={hashlib.sha256(CONTENT).hexdigest()}"
    assert not list(backend.find_project_packages("other"))


# What only the receiver does


@pytest.fixture
def streaming(house: House) -> Client:
    return Client(house, streamed=True)


def staged_files(house: House) -> list[str]:
    folder = house.directory / ".index" / "staging"
    return [path.name for path in folder.glob("*") if not path.name.endswith("-lock")]


@pytest.mark.parametrize("size", [1000, 100_000, 5_000_000])
def test_a_large_upload_in_pieces_arrives_as_it_was_sent(streaming: Client, size: int) -> None:
    content = wheel(
        "foo-bar", "1.0", payload=bytes(range(256)) * 12_000, more={"x": hashlib.sha256(b"").digest() * 60_000}
    )
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, content))])
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    answer = streaming.send("POST", "/", pieces=pieces, content_type=content_type)
    assert answer.status == 200
    assert (streaming.house.directory / NAME).read_bytes() == content
    assert not staged_files(streaming.house)


def test_the_bytes_of_an_upload_are_written_once(streaming: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary file of the framework, no copy of the publisher."""
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    written = 0

    def count(descriptor: int, *pieces: Any) -> None:
        nonlocal written
        written += sum(len(piece) for piece in pieces)
        files.write_all(descriptor, *pieces)

    monkeypatch.setattr(staging, "write_all", count)
    content = wheel("foo-bar", "1.0", more={"x": b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(50_000))})
    assert len(content) > PIECE_BYTES
    assert streaming.upload(content=content).status == 200
    assert written == len(content)


def test_a_client_that_goes_away_leaves_nothing(streaming: Client) -> None:
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, b"x" * 3_000_000))])
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"content-type", content_type.encode())],
        "client": None,
    }
    waiting: list[Any] = [
        {"type": "http.request", "body": body[:2_000_000], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        if len(waiting) == 1:
            assert staged_files(streaming.house)
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(streaming.receiver(scope, receive, send))
    assert not sent
    assert not staged_files(streaming.house)


def test_a_form_that_is_refused_half_way_is_received_to_its_end(streaming: Client, house: House) -> None:
    """A client that is still sending does not read an answer."""
    small = House(house.storage, house.name_locks, type(house.options)(max_upload_bytes=1000))
    client = Client(small, streamed=True)
    answer = client.upload(content=b"x" * 5_000_000)
    assert answer.status == 413
    assert "1000 bytes" in answer.text
    assert not staged_files(house)


def test_a_form_that_ends_early_is_400(streaming: Client) -> None:
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, CONTENT))])
    answer = streaming.send("POST", "/", body[:-20], content_type=content_type)
    assert answer.status == 400
    assert "ended early" in answer.text
    assert not staged_files(streaming.house)
    assert streaming.send("POST", "/", body, content_type="multipart/form-data").status == 400


def test_of_two_files_in_one_field_the_first_counts_and_strange_ones_are_dropped(streaming: Client) -> None:
    body, content_type = encode_multipart_formdata(
        [
            (":action", "file_upload"),
            ("unknown", ("x", b"y" * 100)),
            ("content", (NAME, CONTENT)),
            ("content", (NAME, OTHER)),
        ]
    )
    assert streaming.send("POST", "/", body, content_type=content_type).status == 200
    assert (streaming.house.directory / NAME).read_bytes() == CONTENT
    assert not staged_files(streaming.house)


def test_a_layer_in_front_says_from_where_it_is_asked(streaming: Client) -> None:
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, CONTENT))])
    credentials = base64.b64encode(f"alice:{PASSWORD}".encode())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [(b"content-type", content_type.encode()), (b"authorization", b"Basic " + credentials)],
        "client": ("127.0.0.1", 1),
        "ops.index.environ": {ADDRESS: "192.0.2.9"},
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(streaming.receiver(scope, receive, send))
    assert sent[0]["status"] == 200
    assert streaming.authenticator.address == "192.0.2.9"
    assert streaming.house.audit.events[-1]["address"] == "192.0.2.9"


def test_who_asks_is_looked_at_after_the_body_has_come(streaming: Client) -> None:
    people = streaming.authenticator.people
    body, content_type = encode_multipart_formdata([(":action", "file_upload"), ("content", (NAME, CONTENT))])

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        people["alice"] = Person(projects=frozenset())
        yield body[100:]

    answer = streaming.send("POST", "/", content_type=content_type, pieces=slowly())
    assert answer.status == 403
    assert not streaming.house.listed()


def test_an_upload_that_is_slow_to_arrive_holds_no_thread(streaming: Client) -> None:
    before = threading.active_count()

    async def run() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
            "client": None,
        }
        gate = asyncio.Event()

        async def receive() -> Any:
            await gate.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        tasks = [asyncio.ensure_future(streaming.receiver(scope, receive, send)) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert threading.active_count() <= before
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
