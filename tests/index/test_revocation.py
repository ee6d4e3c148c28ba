"""A revoked file cannot be obtained from any server, by any user or path; its name stays used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.index.auth.audit import SERVER_FOLDER
from ops.index.storage.directory import INDEX_FOLDER
from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, PASSWORD, Http, Server, eventually
from tests.index.test_app import change, upload
from tests.index.test_assembly import logged
from tests.index.test_sharing import opened, publish, register

BAD, GOOD = wheel_name("spam", "1.1"), wheel_name("spam", "1.0")
CONTENT = wheel("spam", "1.1", payload=b"malware")
WHY = "it sends passwords away"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    with server:
        assert upload(server, GOOD, wheel("spam", "1.0")).status == 200
        assert upload(server, BAD, CONTENT).status == 200
        for path in (f"/packages/{BAD}", f"/packages/{BAD}.metadata", "/simple/spam/", "/projects/spam/", "/spam/json"):
            for _ in range(2):  # also from the caches
                assert server.get(path).status == 200
        assert change(server, "/projects/spam/revoke", {"filename": BAD, "reason": WHY}, user="adam").status == 200
        yield server


def offered(server: Http) -> list[str]:
    return [file["filename"] for file in json.loads(server.get("/simple/spam/", Accept=JSON).body)["files"]]


def test_no_page_lists_it_and_its_urls_give_the_reason(server: Server) -> None:
    for path in (f"/packages/{BAD}", f"/packages/{BAD}.metadata", f"/packages/{BAD}.asc"):
        for method in ("GET", "HEAD"):
            assert server.request(method, path).status == 403
        assert WHY in server.get(path).text
    eventually(lambda: offered(server) == [GOOD])
    for path in ("/simple/spam/", "/packages/", "/spam/json", "/projects/spam/"):
        assert BAD not in server.get(path).text
    assert server.get(f"/packages/{GOOD}").status == 200


def test_its_bytes_cannot_return_under_any_name(server: Server) -> None:
    """Neither by an upload, nor by someone with write access to the directory."""
    assert upload(server, BAD, CONTENT).status == 403
    assert upload(server, BAD, wheel("spam", "1.1", payload=b"harmless")).status == 403
    copy = wheel_name("spam", "1.1", "py3-none-manylinux2014_x86_64")
    (server.packages / copy).write_bytes(CONTENT)
    (server.packages / wheel_name("spam", "1.2")).write_bytes(wheel("spam", "1.2"))
    eventually(lambda: offered(server) == [GOOD, wheel_name("spam", "1.2")])
    eventually(lambda: server.get(f"/packages/{copy}").status == 403)


def test_a_refused_upload_of_its_bytes_does_not_taint_the_name_it_was_sent_under(server: Server) -> None:
    """Else a publisher could close a name to its owners by sending revoked bytes under it."""
    name = wheel_name("spam", "1.1", "py2-none-any")
    assert upload(server, name, CONTENT).status == 403
    assert upload(server, name, wheel("spam", "1.1")).status == 200
    eventually(lambda: offered(server) == [GOOD, name])


def test_only_an_admin_revokes_and_restores_and_both_are_logged(server: Server) -> None:
    for action, fields in (("revoke", {"version": "1.0"}), ("unrevoke", {"filename": BAD})):
        assert change(server, f"/projects/spam/{action}", fields).status == 403
    assert change(server, "/projects/spam/unrevoke", {"filename": GOOD}, user="adam").status == 404
    assert change(server, "/projects/other/unrevoke", {"filename": BAD}, user="adam").status == 404
    assert change(server, "/projects/spam/unrevoke", {"version": "1.1"}, user="adam").status == 400
    assert json.loads(change(server, "/projects/spam/unrevoke", {"filename": BAD}, user="adam").body)["files"] == [BAD]
    assert server.get(f"/packages/{BAD}").status == 200
    eventually(lambda: offered(server) == [GOOD, BAD])
    lines = [entry for entry in logged(server.packages / SERVER_FOLDER) if entry["event"].endswith("revoke")]
    assert [(line["event"], line["user"], line["files"]) for line in lines] == [
        ("revoke", "adam", [BAD]),
        ("unrevoke", "adam", [BAD]),
    ]


def test_a_revocation_outlives_a_restart_and_damage_to_its_file(server: Server) -> None:
    (mark,) = (server.packages / INDEX_FOLDER / "revoked").iterdir()
    server.stop()
    mark.write_text("{")
    server.start()
    eventually(lambda: offered(server) == [GOOD])
    assert server.get(f"/packages/{BAD}").status == 403


def test_other_servers_of_a_volume_refuse_it_after_one_reload(tmp_path: Path) -> None:
    """They reload every two seconds by default."""
    with opened(tmp_path, ["first", "second", "third"], 0.2) as servers:
        assert publish(servers[0], "eggs", "1.0") == 200
        name = wheel_name("eggs", "1.0")
        for server in servers:
            eventually(lambda server=server: server.get(f"/packages/{name}").status == 200)
        assert register(servers[0], username="adam", password=PASSWORD, role="admin") == 201
        body, headers = b'{"version": "1.0"}', {"Content-Type": "application/json"}
        revoked = servers[0].request("POST", "/projects/eggs/revoke", user="adam", headers=headers, body=body)
        assert revoked.status == 200
        for server in servers:
            before = server.packages.reloads
            # The first one has been acted on when the second one begins.
            eventually(lambda server=server, before=before: server.packages.reloads >= before + 2)
            assert server.get(f"/packages/{name}").status == 403
            assert server.get(f"/packages/{name}.metadata").status == 403
