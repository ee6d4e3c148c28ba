"""What stock pypiserver answers besides the simple pages, over HTTP."""

from __future__ import annotations

import gzip
import json
import xmlrpc.client
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.index.http.legacy_api import MOST_HITS
from tests.index.archives import wheel, wheel_name
from tests.index.serving import Response, Server, eventually

XML = {"Content-Type": "text/xml"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("inventory"))
    (server.packages / "older").mkdir()
    for name, version, folder in [
        ("spam", "1.0", "older"),
        ("spam", "1.10", ""),
        ("spam", "1.9", ""),
        ("closed", "1.0", ""),
        ("eggs-and-ham", "1!2.0+local.1", ""),
        *((f"filler-{number}", "1.0", "") for number in range(40)),
        *(("many", f"1.{number}", "") for number in range(MOST_HITS + 10)),
    ]:
        (server.packages / folder / wheel_name(name, version)).write_bytes(wheel(name, version))
    with server:
        answer = server.request(
            "POST",
            "/projects/closed/status",
            user="adam",
            headers={"Content-Type": "application/json"},
            body=b'{"status": "quarantined"}',
        )
        assert answer.status == 200
        yield server


def call(server: Server, body: bytes, *, user: str | None = "rea") -> Response:
    return server.request("POST", "/RPC2", user=user, headers=XML, body=body)


def search(server: Server, text: str) -> list[dict[str, object]]:
    # As pip asks: {"name": text, "summary": text}, "or".
    asked = xmlrpc.client.dumps(({"name": text, "summary": text}, "or"), "search").encode()
    answer = call(server, asked)
    assert answer.status == 200
    (hits,), _ = xmlrpc.client.loads(answer.text)
    assert isinstance(hits, list)
    return hits


def test_every_file_has_a_link_that_leads_to_it(server: Server) -> None:
    page = server.get("/packages/").text
    for path, href in [
        ("older/spam-1.0-py3-none-any.whl", "older/spam-1.0-py3-none-any.whl"),
        ("eggs_and_ham-1!2.0+local.1-py3-none-any.whl", "eggs_and_ham-1%212.0%2Blocal.1-py3-none-any.whl"),
    ]:
        assert f'<a href="{href}">{path}</a>' in page
        assert server.get(f"/packages/{href}").status == 200
    assert page.count("<a ") == len([path for path in server.packages.rglob("*.whl") if ".index" not in path.parts]) - 1


def test_a_project_is_described_with_addresses_that_lead_to_its_files(server: Server) -> None:
    described = json.loads(server.get("/spam/json").body)
    assert described["info"]["version"] == "1.10"
    assert list(described["releases"]) == ["1.10", "1.9", "1.0"]
    (old,) = described["releases"]["1.0"]
    assert old["url"] == f"{server.url}packages/older/spam-1.0-py3-none-any.whl"
    assert server.get("/Spam/json")["location"] == "../spam/json"
    assert server.get("/nothing/json").status == 404


def test_what_is_under_quarantine_is_not_offered(server: Server) -> None:
    assert "closed-1.0" not in server.get("/packages/").text
    assert json.loads(server.get("/closed/json").body)["releases"] == {}
    assert search(server, "closed") == []


@pytest.mark.parametrize("path", ["/packages/", "/spam/json"])
def test_these_pages_too_are_conditional_private_and_whole_for_head(server: Server, path: str) -> None:
    plain, packed = server.get(path), server.get(path, Accept_Encoding="gzip")
    if packed["content-encoding"]:
        assert gzip.decompress(packed.body) == plain.body
    assert "private" in plain["cache-control"]
    assert "Authorization" in plain["vary"]
    assert server.get(path, If_None_Match=plain["etag"]).status == 304
    head = server.request("HEAD", path)
    assert (head.status, head.body, head["content-length"]) == (200, b"", str(len(plain.body)))


def test_a_file_that_comes_behind_the_servers_back_is_on_these_pages(server: Server) -> None:
    server.get("/packages/")
    server.get("/late/json")
    (server.packages / wheel_name("late", "1.0")).write_bytes(wheel("late", "1.0"))
    eventually(lambda: "late-1.0" in server.get("/packages/").text)
    assert json.loads(server.get("/late/json").body)["info"]["version"] == "1.0"


def test_no_host_makes_an_address_of_another_kind(server: Server) -> None:
    for host in ("[", "[::1", "a b", "evil.example/x", '"', "\xff", "x" * 5000):
        for path in ("/packages/", "/spam/json", "/", "/projects/spam/"):
            answer = server.request("GET", path, headers={"Host": host})
            assert answer.status in {200, 400}, (host, path)
            assert "evil.example/x" not in answer.text


def test_a_search_finds_the_releases_of_projects_by_a_part_of_their_names(server: Server) -> None:
    assert [(hit["name"], hit["version"]) for hit in search(server, "SPA")] == [
        ("spam", "1.0"),
        ("spam", "1.9"),
        ("spam", "1.10"),
    ]
    assert [hit["name"] for hit in search(server, "and.ham")] == ["eggs-and-ham"]
    assert search(server, "nothing-like-it") == []
    assert len(search(server, "many")) == MOST_HITS
    assert call(server, b"", user=None).status == 401


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<x/>",
        b"text",
        b"<methodCall/>",
        b"<methodCall><methodName/></methodCall>",
        b"<methodCall><methodName>search</methodName></methodCall>",
        b"<methodCall><methodName>search</methodName><params><string/></params></methodCall>",
        b"<methodCall><methodName>release_data</methodName><params><string>spam</string></params></methodCall>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><methodCall><methodName>&b;</methodName></methodCall>',
        b"\xff\xfe<",
        b'<?xml version="1.0" encoding="nothing"?><x/>',
    ],
)
def test_a_call_that_is_no_search_is_refused(server: Server, body: bytes) -> None:
    answer = call(server, body)
    assert answer.status == 400
    assert len(answer.text.splitlines()) == 1


def test_a_call_that_is_too_long_is_refused(server: Server) -> None:
    before = server.memory()
    assert call(server, b"<a>" + b"<a/>" * 1_000_000).status == 413
    assert server.memory() - before < 16 * 1024**2


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(["<methodCall>", "<methodName>search", "</", ">", "<string>", "&amp;", "a", "\0"])))
def test_no_call_makes_the_server_fail(server: Server, pieces: list[str]) -> None:
    assert call(server, "".join(pieces).encode()).status in {200, 400}
