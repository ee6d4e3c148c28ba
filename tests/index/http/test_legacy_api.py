"""Endpoints of stock pypiserver besides the simple pages, over HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import xmlrpc.client
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.index.http.legacy_api import MOST_HITS, project_json, release_json
from ops.index.packages.models import File, Project
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.serving import JSON, Response, Server, eventually
from tests.index.test_app import change

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
        response = server.request(
            "POST",
            "/projects/closed/status",
            user="adam",
            headers={"Content-Type": "application/json"},
            body=b'{"status": "quarantined"}',
        )
        assert response.status == 200
        yield server


def call(server: Server, body: bytes, *, user: str | None = "rea") -> Response:
    return server.request("POST", "/RPC2", user=user, headers=XML, body=body)


def search(server: Server, text: str) -> list[dict[str, object]]:
    # As sent by pip: {"name": text, "summary": text}, "or".
    asked = xmlrpc.client.dumps(({"name": text, "summary": text}, "or"), "search").encode()
    response = call(server, asked)
    assert response.status == 200
    (hits,), _ = xmlrpc.client.loads(response.text)
    assert isinstance(hits, list)
    return hits


def test_every_file_has_a_working_link(server: Server) -> None:
    page = server.get("/packages/").text
    for path, href in [
        ("older/spam-1.0-py3-none-any.whl", "older/spam-1.0-py3-none-any.whl"),
        ("eggs_and_ham-1!2.0+local.1-py3-none-any.whl", "eggs_and_ham-1%212.0%2Blocal.1-py3-none-any.whl"),
    ]:
        assert f'<a href="{href}">{path}</a>' in page
        assert server.get(f"/packages/{href}").status == 200
    assert page.count("<a ") == len([path for path in server.packages.rglob("*.whl") if ".index" not in path.parts]) - 1


def test_files_in_a_folder_whose_name_is_not_utf_8_are_listed_served_and_yanked(tmp_path: Path) -> None:
    """Files copied from an old disk, say; a folder is listed as it is."""
    server, name = Server(tmp_path), wheel_name("old", "1.0")
    folder = server.packages / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / name).write_bytes(wheel("old", "1.0"))
    with server:
        assert f'<a href="caf%E9/{name}">' in server.get("/packages/").text
        assert server.get(f"/packages/caf%E9/{name}").status == 200
        for action, yanked in (("yank", True), ("unyank", False)):
            assert change(server, f"/projects/old/{action}", {"version": "1.0"}, user="adam").status == 200
            server.stop()
            server.start()
            (file,) = json.loads(server.get("/simple/old/", Accept=JSON).body)["files"]
            assert ("yanked" in file) == yanked


def test_a_project_s_json_has_working_file_urls(server: Server) -> None:
    described = json.loads(server.get("/spam/json").body)
    assert described["info"]["version"] == "1.10"
    assert list(described["releases"]) == ["1.10", "1.9", "1.0"]
    (old,) = described["releases"]["1.0"]
    assert old["url"] == f"{server.url}packages/older/spam-1.0-py3-none-any.whl"
    assert server.get("/Spam/json")["location"] == "../spam/json"
    assert server.get("/nothing/json").status == 404


def test_quarantined_files_are_not_offered(server: Server) -> None:
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


def test_a_file_added_behind_the_server_s_back_is_on_these_pages(server: Server) -> None:
    server.get("/packages/")
    server.get("/late/json")
    (server.packages / wheel_name("late", "1.0")).write_bytes(wheel("late", "1.0"))
    eventually(lambda: "late-1.0" in server.get("/packages/").text)
    assert json.loads(server.get("/late/json").body)["info"]["version"] == "1.0"


def test_no_host_header_can_inject_another_kind_of_url(server: Server) -> None:
    for host in ("[", "[::1", "a b", "evil.example/x", '"', "\xff", "x" * 5000):
        for path in ("/packages/", "/spam/json", "/", "/projects/spam/"):
            response = server.request("GET", path, headers={"Host": host})
            assert response.status in {200, 400}, (host, path)
            assert "evil.example/x" not in response.text


def test_a_search_finds_releases_by_a_part_of_the_project_name(server: Server) -> None:
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
def test_a_call_other_than_search_is_refused(server: Server, body: bytes) -> None:
    response = call(server, body)
    assert response.status == 400
    assert len(response.text.splitlines()) == 1


def test_a_too_long_call_is_refused(server: Server) -> None:
    before = server.memory()
    assert call(server, b"<a>" + b"<a/>" * 1_000_000).status == 413
    assert server.memory() - before < 16 * 1024**2


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(["<methodCall>", "<methodName>search", "</", ">", "<string>", "&amp;", "a", "\0"])))
def test_no_call_makes_the_server_fail(server: Server, pieces: list[str]) -> None:
    assert call(server, "".join(pieces).encode()).status in {200, 400}


def project(*releases: tuple[str, str | None], status: str = "active") -> Project:
    """A project of wheels: version, and why it was yanked."""
    moment = datetime(2026, 2, 3, 4, 5, 6, 700, tzinfo=UTC)
    return Project(
        "spam",
        tuple(
            File(
                wheel_name("spam", version),
                wheel_name("spam", version),
                "spam",
                version,
                1,
                "0" * 64,
                moment,
                yanked=why,
            )
            for version, why in releases
        ),
        status,
    )


@pytest.mark.parametrize(
    ("releases", "newest"),
    [
        ([("1.0", None), ("1.9", None), ("1.10", None)], "1.10"),
        ([("1.0", None), ("2.0rc1", None), ("3.0.dev1", None)], "1.0"),
        ([("1.0", None), ("2.0", "broken")], "1.0"),
        ([("1.0", None), ("2.0", "")], "1.0"),
        ([("1.0", "broken"), ("2.0rc1", None)], "2.0rc1"),
        ([("1.0", "broken"), ("2.0rc1", "broken")], "1.0"),
        ([("1.0", "broken"), ("1.1", "broken")], "1.1"),
        ([("not-a-version", None), ("0.1rc1", None)], "0.1rc1"),
        ([("1.0", None), ("1.0.post1", None), ("1!0.1", None)], "1!0.1"),
    ],
)
def test_the_newest_version_is_neither_yanked_nor_a_pre_release_if_there_is_one(
    releases: list[tuple[str, str | None]], newest: str
) -> None:
    assert json.loads(project_json(project(*releases), "/"))["info"]["version"] == newest


def test_a_release_is_yanked_when_all_its_files_are() -> None:
    half = project(("1.0", None), ("1.0", "broken"))
    page = json.loads(release_json(half, "1", "/") or b"")
    assert (page["info"]["yanked"], page["info"]["yanked_reason"]) == (False, None)
    assert sorted(file["yanked"] for file in page["urls"]) == [False, True]


def test_a_quarantined_project_offers_no_file() -> None:
    assert json.loads(release_json(project(("1.0", None), status="quarantined"), "1.0", "/") or b"")["urls"] == []


@pytest.fixture(scope="module")
def json_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    json_server = Server(tmp_path_factory.mktemp("json"), "--trusted-proxy", "127.0.0.1")
    for version in ("1.0", "1.1", "2.0rc1"):
        content = wheel("spam-and-eggs", version, lines="Requires-Python: >=3.9\n")
        (json_server.packages / wheel_name("spam-and-eggs", version)).write_bytes(content)
    (json_server.packages / "spam_and_eggs-1.0.tar.gz").write_bytes(sdist("spam-and-eggs", "1.0"))
    with json_server:
        headers = {"Content-Type": "application/json"}
        body = b'{"version": "1.1", "reason": "loses data"}'
        assert json_server.request("POST", "/projects/spam-and-eggs/yank", headers=headers, body=body).status == 200
        yield json_server


def get(json_server: Server, path: str, **headers: str) -> Any:
    response = json_server.get(path, **headers)
    assert (response.status, response["content-type"]) == (200, "application/json")
    return json.loads(response.body)


@pytest.mark.parametrize("path", ["/spam-and-eggs/json", "/pypi/spam-and-eggs/json"])
def test_a_project_s_json_has_everything_that_a_bot_needs(json_server: Server, path: str) -> None:
    page = get(json_server, path)
    assert page["info"]["name"] == "spam-and-eggs"
    assert page["info"]["version"] == "1.0"
    assert page["info"]["requires_python"] == ">=3.9"
    assert list(page["releases"]) == ["2.0rc1", "1.1", "1.0"]
    (yanked,) = page["releases"]["1.1"]
    assert (yanked["yanked"], yanked["yanked_reason"]) == (True, "loses data")
    assert page["urls"] == page["releases"]["1.0"]
    by_type = {file["packagetype"]: file for file in page["urls"]}
    assert by_type.keys() == {"bdist_wheel", "sdist"}
    assert [by_type[kind]["python_version"] for kind in ("bdist_wheel", "sdist")] == ["py3", "source"]
    for file in page["urls"]:
        content = (json_server.packages / file["filename"]).read_bytes()
        assert file["digests"] == {"sha256": hashlib.sha256(content).hexdigest()}
        assert file["size"] == len(content)
        assert (file["yanked"], file["yanked_reason"]) == (False, None)
        moment = datetime.fromisoformat(file["upload_time_iso_8601"])
        assert file["upload_time"] == moment.replace(tzinfo=None).isoformat(timespec="seconds")
        assert json_server.get("/" + file["url"].removeprefix(json_server.url)).body == content


def test_a_release_has_its_own_page_in_any_spelling(json_server: Server) -> None:
    page = get(json_server, "/pypi/spam-and-eggs/1.1/json")
    assert (page["info"]["version"], page["info"]["yanked"], page["info"]["yanked_reason"]) == (
        "1.1",
        True,
        "loses data",
    )
    assert [file["filename"] for file in page["urls"]] == [wheel_name("spam-and-eggs", "1.1")]
    assert get(json_server, "/pypi/spam-and-eggs/v1.1.0/json") == page


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/Spam_and.Eggs/json", "../spam-and-eggs/json"),
        ("/pypi/Spam_and.Eggs/json", "../spam-and-eggs/json"),
        ("/pypi/Spam_and.Eggs/1!1.0/json", "../../spam-and-eggs/1%211.0/json"),
        ("/pypi/Spam_and.Eggs/%ff/json", "../../spam-and-eggs/%FF/json"),
        ("/pypi/spam-and-eggs/json/", "../json"),
    ],
)
def test_another_spelling_of_the_name_is_redirected_relatively(json_server: Server, path: str, location: str) -> None:
    response = json_server.get(path)
    assert (response.status, response["location"]) == (301, location)


@pytest.mark.parametrize(
    "path",
    [
        "/pypi/nothing/json",
        "/pypi/spam-and-eggs/9/json",
        "/pypi/spam-and-eggs/%ff/json",
        f"/pypi/spam-and-eggs/{'9' * 3000}/json",
        "/pypi/spam-and-eggs/1.0/x/json",
        "/pypi//json",
        "/pypi/json",
    ],
)
def test_missing_things_are_404(json_server: Server, path: str) -> None:
    assert json_server.get(path).status == 404
    assert json_server.get(path, user=None).status == 401


def test_urls_are_those_of_the_proxy(json_server: Server, tmp_path: Path) -> None:
    headers = {
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "index.example",
        "X_Forwarded_Prefix": "/internal/pypi",
    }
    for path in ("/spam-and-eggs/json", "/pypi/spam-and-eggs/1.0/json"):
        for file in get(json_server, path, **headers)["urls"]:
            assert file["url"].startswith("https://index.example/internal/pypi/packages/")
    assert get(json_server, "/spam-and-eggs/json")["urls"][0]["url"].startswith(json_server.url), (
        "another client's address"
    )
    distrusting = Server(tmp_path)
    (distrusting.packages / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    with distrusting:
        (file,) = get(distrusting, "/spam/json", **headers)["urls"]
        assert file["url"].startswith(distrusting.url)
