"""Uploads over HTTP: refusals by a real server, concurrent uploads by one user, and slow clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from urllib3.filepost import encode_multipart_formdata

from ops.index.errors import RequestTimeout, TooManyUploads
from ops.index.http import upload as module
from ops.index.http.request import Request
from ops.index.http.upload import TimedBody, UploadSlots
from ops.index.packages.uploads import MAX_SIGNATURE_BYTES
from tests.index.archives import wheel, wheel_name
from tests.index.http.test_request import SCOPE, dribble, unsent
from tests.index.serving import PASSWORD, Response, Server, authorization

NAME = wheel_name("spam", "1.0")
CONTENT = wheel("spam", "1.0")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.getfixturevalue("tmp_path")) as server:
        yield server


def post(server: Server, body: bytes, content_type: str, *, user: str = "alice") -> Response:
    return server.request("POST", "/", user=user, headers={"Content-Type": content_type}, body=body)


@pytest.mark.parametrize(
    "signature",
    [
        (f"{NAME}.asc", b"no armour"),
        (NAME, b"-----BEGIN PGP SIGNATURE-----\n"),
        ("../x.asc", b"-----BEGIN PGP SIGNATURE-----\n"),
        (f"{NAME}.asc", b"-----BEGIN PGP SIGNATURE-----\n" + b"x" * MAX_SIGNATURE_BYTES),
    ],
)
def test_a_file_with_an_invalid_signature_is_not_published(server: Server, signature: tuple[str, bytes]) -> None:
    body, content_type = encode_multipart_formdata(
        {":action": "file_upload", "content": (NAME, CONTENT), "gpg_signature": signature}
    )
    response = post(server, body, content_type)
    assert response.status == 400
    assert server.get("/simple/spam/").status == 404


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/mixed",
        "multipart/mixed; boundary=b",
        "multipart/byteranges; boundary=b",
        "multipart/form-data",
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=nothing",
    ],
)
@pytest.mark.parametrize("body", [b"", b"x", b"--b\r\n", b":action=doc_upload", b":action=file_upload&content=x"])
def test_a_body_that_is_not_an_upload_form_is_refused(server_of_all: Server, content_type: str, body: bytes) -> None:
    assert post(server_of_all, body, content_type).status == 400


@pytest.fixture(scope="module")
def server_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("uploads")) as server:
        yield server


def test_a_file_in_two_folders_is_removed_from_both(server: Server) -> None:
    for folder in ("a", "b"):
        (server.packages / folder).mkdir()
        (server.packages / folder / NAME).write_bytes(CONTENT)
    fields = [(":action", "remove_pkg"), ("name", "spam"), ("version", "1.0")]
    response = post(server, *encode_multipart_formdata(fields), user="adam")
    assert response.status == 200, response.text
    assert not list(server.packages.glob("*/*.whl"))


def test_a_readers_upload_is_refused_before_its_body_is_sent(server_of_all: Server) -> None:
    head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization('rea')}\r\nContent-Length: 4000000000\r\n\r\n"
    response = server_of_all.raw(head.encode())
    assert response.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    ("change", "status"),
    [("demoted", 403), ("removed", 401), ("nothing", 200)],
)
def test_a_right_lost_while_an_upload_arrives_is_lost_for_it(server: Server, change: str, status: int) -> None:
    body, content_type = encode_multipart_formdata({":action": "file_upload", "content": (NAME, CONTENT)})
    assert server.get("/simple/").status == 200  # from now on a known user
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization('alice', PASSWORD)}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with closing(socket.create_connection((server.host, server.port), timeout=60)) as connection:
        connection.sendall(head.encode() + body[:100])
        assert server.get("/simple/", user="rea").status == 200  # a later request: the upload has started
        if change == "demoted":
            (server.credentials / ".htgroup").write_text("reader: rea alice\nadmin: adam\n")
        elif change == "removed":
            users = (server.credentials / ".htpasswd").read_text().splitlines(keepends=True)
            (server.credentials / ".htpasswd").write_text("".join(line for line in users if "alice" not in line))
        connection.sendall(body[100:])
        response = b""
        while piece := connection.recv(65536):
            response += piece
    assert response.startswith(f"HTTP/1.1 {status} ".encode()), response
    assert server.get("/simple/spam/", user="rea").status == (200 if status == 200 else 404)


# --- slots, and slow clients ------------------------------------------------------------------------------------


def test_an_upload_that_gets_no_slot_is_refused_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOT_SECONDS", 0.01)

    async def scene() -> None:
        uploads = UploadSlots(2)
        async with uploads.slot("alice"), uploads.slot("alice"):
            with pytest.raises(TooManyUploads, match="2 uploads in progress") as refused:
                async with uploads.slot("alice"):
                    pytest.fail("there was no slot")
            assert refused.value.status == 429
            assert refused.value.headers == {"Retry-After": "5"}
            async with uploads.slot("bob"):
                pass
        async with uploads.slot("alice"), uploads.slot("alice"):
            pass
        assert uploads._users == {}

    asyncio.run(scene())


def test_a_waiting_upload_gets_the_slot_of_a_finished_one() -> None:
    async def scene() -> None:
        uploads, order = UploadSlots(1), []

        async def upload(number: int) -> None:
            async with uploads.slot("alice"):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(upload(number) for number in range(20)))
        assert order == list(range(20))

    asyncio.run(scene())


def test_an_upload_abandoned_while_waiting_takes_no_slot() -> None:
    async def scene() -> None:
        uploads = UploadSlots(1)

        async def upload() -> None:
            async with uploads.slot("alice"):
                pass

        async with uploads.slot("alice"):
            task = asyncio.ensure_future(upload())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await upload()
        assert uploads._users == {}

    asyncio.run(scene())


def test_a_limit_of_0_means_no_limit() -> None:
    async def scene() -> None:
        uploads = UploadSlots(0)
        async with uploads.slot("alice"), uploads.slot("alice"):
            assert uploads._users == {}

    asyncio.run(scene())


def test_a_too_slow_upload_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_SECONDS", 0.05)
    monkeypatch.setattr(module, "LEAST_RATE", 1_000_000)

    async def receive_all() -> None:
        body = TimedBody(Request(SCOPE, dribble, unsent, {}, ""))
        while await body.receive() is not None:
            pass

    with pytest.raises(RequestTimeout) as refused:
        asyncio.run(receive_all())
    assert refused.value.status == 408
