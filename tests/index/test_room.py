"""A server without space reports the numbers, keeps working, and lets an admin free space."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from urllib3.filepost import encode_multipart_formdata

from ops.index.__main__ import main
from tests.index.archives import wheel, wheel_name
from tests.index.full_disk import fill, mounted
from tests.index.serving import TOKEN, Response, Server, authorization, eventually

BOUNDARY = "a-boundary"


def form(project: str, version: str, size: int = 10) -> tuple[bytes, str]:
    payload = random.Random(f"{project} {version}").randbytes(size)
    content = wheel(project, version, payload=payload)
    return encode_multipart_formdata(
        {":action": "file_upload", "content": (wheel_name(project, version), content)}, BOUNDARY
    )


def upload(server: Server, project: str, version: str, size: int = 10) -> Response:
    body, content_type = form(project, version, size)
    return server.request("POST", "/", headers={"Content-Type": content_type}, body=body)


def change(server: Server, action: str, **fields: str) -> Response:
    headers = {"Content-Type": "application/json"}
    body = json.dumps(fields).encode()
    return server.request("POST", f"/projects/spam/{action}", user="adam", headers=headers, body=body)


def remove(server: Server, project: str, version: str) -> Response:
    fields = [(":action", "remove_pkg"), ("name", project), ("version", version)]
    body, content_type = encode_multipart_formdata(fields)
    return server.request("POST", "/", user="adam", headers={"Content-Type": content_type}, body=body)


def head(length: int | None, user: str = "alice") -> bytes:
    body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization(user)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n{body}\r\n\r\n"
    ).encode()


def events(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line)["event"] for file in files for line in file.read_text().splitlines()]


def scratch(server: Server) -> list[str]:
    folder = server.packages / ".index" / "staging"
    return [path.name for path in folder.iterdir() if not path.name.endswith("-lock")]


@pytest.mark.parametrize("least_free", [(), ("--least-free", "0")], ids=["as it is", "to the last byte"])
def test_on_a_full_disk_the_server_serves_accepts_logins_and_lets_an_admin_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_free: tuple[str, ...]
) -> None:
    monkeypatch.setenv("AUTH_TOKEN", TOKEN)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with mounted(tmp_path / "disk", "8m") as disk, Server(disk, *least_free) as server:
        responses = [upload(server, "spam", f"1.{number}", 500_000) for number in range(20)]
        refused = next(response for response in responses if response.status != 200)
        assert refused.status == 507, refused.text
        assert "operator for more" in refused.text
        assert responses[0].status == 200
        assert not scratch(server)
        assert server.request("GET", "/admin/users", user=None, headers=bearer).status == 200
        eventually((server.credentials / ".reserve").exists)
        give_back = fill(disk)

        assert upload(server, "spam", "2.0").status == 507
        assert not scratch(server)
        assert server.get("/simple/spam/", user="rea").status == 200
        assert server.get(f"/packages/{wheel_name('spam', '1.0')}").status == 200
        assert upload(server, "spam", "2.0").status == 507
        assert change(server, "yank", version="1.0", reason="broken").status == 200
        assert change(server, "status", status="deprecated").status == 200
        assert server.request("DELETE", "/admin/users/rea", user=None, headers=bearer).status == 204
        eventually(lambda: server.get("/simple/spam/", user="rea").status == 401)
        assert remove(server, "spam", "1.1").status == 200
        assert remove(server, "spam", "1.0").status == 200

        done = [event for event in events(server.packages / ".index" / "audit") if event != "upload"]
        assert done[:4] == ["yank", "status", "remove", "remove"]
        assert events(server.credentials / ".audit") == ["user.removed"]
        give_back()
        assert upload(server, "spam", "2.0").status == 200
        assert upload(server, "spam", "1.1", 400_000).status == 409, "its name can never be reused"


def test_a_disk_that_was_full_before_the_server_started_lets_an_admin_remove_a_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        server = Server(disk)
        server.log = tmp_path / "server.log"
        for version in ("1.0", "1.1"):
            content = wheel("spam", version, payload=random.Random(version).randbytes(500_000))
            (server.packages / wheel_name("spam", version)).write_bytes(content)
        fill(disk)
        with server:
            assert remove(server, "spam", "1.0").status == 200
            assert wheel_name("spam", "1.0") not in server.get("/simple/spam/").text
            assert events(server.packages / ".index" / "audit") == ["remove"]
            assert change(server, "yank", version="1.1", reason="broken").status == 200
            assert upload(server, "spam", "1.0").status == 409, "its name can never be reused"
        assert (server.packages / wheel_name("spam", "1.1")).stat().st_size > 500_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, "--project-quota", "1M", "--total-quota", "20M", "--uploads-per-user", "2") as server:
        yield server


def test_a_quota_refusal_gives_its_numbers_and_identical_bytes_are_still_accepted(server: Server) -> None:
    assert upload(server, "spam", "1.0", 900_000).status == 200
    refused = upload(server, "spam", "1.1", 900_000)
    assert refused.status == 507
    assert "1048576 bytes in the quota of the project 'spam'" in refused.text
    assert upload(server, "spam", "1.0", 900_000).status == 200
    assert upload(server, "eggs", "1.0", 900_000).status == 200
    assert remove(server, "spam", "1.0").status == 200
    assert upload(server, "spam", "1.1", 900_000).status == 200


def test_an_upload_announced_as_too_long_is_refused_before_it_is_sent(server: Server) -> None:
    response = server.raw(head(3_000_000_000))
    assert response.startswith(b"HTTP/1.1 507 ")
    assert b"connection: close" in response.lower()
    assert server.raw(head(100_000_000)).startswith(b"HTTP/1.1 507 ")


def test_an_upload_without_a_length_is_refused_while_it_arrives(server: Server) -> None:
    body, _ = form("spam", "1.0", 8_000_000)
    with closing(socket.create_connection((server.host, server.port), timeout=60)) as connection:
        connection.sendall(head(None))
        piece = body[:4_000_000]
        connection.sendall(
            b"%x\r\n%b\r\n" % (len(piece), piece)
        )  # and no more: the response does not wait for the rest
        response = connection.recv(65536)
    assert response.startswith(b"HTTP/1.1 507 ")
    assert b"connection: close" in response.lower()
    eventually(lambda: not scratch(server))
    assert upload(server, "spam", "1.0").status == 200


def test_a_client_that_reads_only_after_sending_everything_still_gets_the_response(server: Server) -> None:
    for size, which in ((6_000_000, "the project 'spam'"), (12_000_000, "a project")):
        refused = upload(server, "spam", "1.0", size)
        assert refused.status == 507
        assert f"1048576 bytes in the quota of {which}" in refused.text


def test_concurrent_uploads_of_one_user_are_limited_and_others_continue(server: Server) -> None:
    body, _ = form("spam", "1.0")
    with ExitStack() as stack:
        slow = []
        for _ in range(2):
            connection = stack.enter_context(closing(socket.create_connection((server.host, server.port), timeout=60)))
            connection.sendall(head(len(body)) + body[:50])
            slow.append(connection)
        assert server.get("/simple/").status == 200  # a later request: those have started
        refused = server.raw(head(len(body)) + body)
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 5" in refused.lower()
        response = server.request(
            "POST", "/", user="adam", headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body=body
        )
        assert response.status == 200
        for connection in slow:
            connection.sendall(body[50:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert upload(server, "eggs", "1.0").status == 200


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--least-free", "900000T"], "all uploads would be rejected"),
        (["--project-quota", "2G", "--total-quota", "1G"], "never apply"),
    ],
)
def test_impossible_limits_are_refused_at_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    folders = ["--packages", str(tmp_path / "packages"), "--credentials", str(tmp_path / "credentials")]
    assert main([*folders, "--port", "0", *arguments]) == 1
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--project-quota", "much"],
        ["--total-quota=-1"],
        ["--least-free", "5%"],
        ["--uploads-per-user", "1.5"],
        ["--audit-days=-1"],
        ["--audit-size", ""],
    ],
)
def test_a_limit_that_is_not_a_number_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--packages", str(tmp_path), "--credentials", str(tmp_path), *arguments])
    assert arguments[0].partition("=")[0] in capsys.readouterr().err
