"""A project or one of its releases as JSON, as bots read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ops.index.http.project_json import project_json, release_json
from ops.index.packages.models import File, Project
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.serving import Server


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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("json"), "--trusted-proxy", "127.0.0.1")
    for version in ("1.0", "1.1", "2.0rc1"):
        content = wheel("spam-and-eggs", version, lines="Requires-Python: >=3.9\n")
        (server.packages / wheel_name("spam-and-eggs", version)).write_bytes(content)
    (server.packages / "spam_and_eggs-1.0.tar.gz").write_bytes(sdist("spam-and-eggs", "1.0"))
    with server:
        headers = {"Content-Type": "application/json"}
        body = b'{"version": "1.1", "reason": "loses data"}'
        assert server.request("POST", "/projects/spam-and-eggs/yank", headers=headers, body=body).status == 200
        yield server


def get(server: Server, path: str, **headers: str) -> Any:
    answer = server.get(path, **headers)
    assert (answer.status, answer["content-type"]) == (200, "application/json")
    return json.loads(answer.body)


@pytest.mark.parametrize("path", ["/spam-and-eggs/json", "/pypi/spam-and-eggs/json"])
def test_a_project_has_all_that_a_bot_decides_by(server: Server, path: str) -> None:
    page = get(server, path)
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
        content = (server.packages / file["filename"]).read_bytes()
        assert file["digests"] == {"sha256": hashlib.sha256(content).hexdigest()}
        assert file["size"] == len(content)
        assert (file["yanked"], file["yanked_reason"]) == (False, None)
        moment = datetime.fromisoformat(file["upload_time_iso_8601"])
        assert file["upload_time"] == moment.replace(tzinfo=None).isoformat(timespec="seconds")
        assert server.get("/" + file["url"].removeprefix(server.url)).body == content


def test_a_release_has_a_page_of_its_own_under_any_spelling(server: Server) -> None:
    page = get(server, "/pypi/spam-and-eggs/1.1/json")
    assert (page["info"]["version"], page["info"]["yanked"], page["info"]["yanked_reason"]) == (
        "1.1",
        True,
        "loses data",
    )
    assert [file["filename"] for file in page["urls"]] == [wheel_name("spam-and-eggs", "1.1")]
    assert get(server, "/pypi/spam-and-eggs/v1.1.0/json") == page


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
def test_another_spelling_of_the_name_is_redirected_relatively(server: Server, path: str, location: str) -> None:
    answer = server.get(path)
    assert (answer.status, answer["location"]) == (301, location)


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
def test_what_is_not_there_is_404(server: Server, path: str) -> None:
    assert server.get(path).status == 404
    assert server.get(path, user=None).status == 401


def test_addresses_are_those_that_the_proxy_is_reached_by(server: Server, tmp_path: Path) -> None:
    headers = {
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "index.example",
        "X_Forwarded_Prefix": "/internal/pypi",
    }
    for path in ("/spam-and-eggs/json", "/pypi/spam-and-eggs/1.0/json"):
        for file in get(server, path, **headers)["urls"]:
            assert file["url"].startswith("https://index.example/internal/pypi/packages/")
    assert get(server, "/spam-and-eggs/json")["urls"][0]["url"].startswith(server.url), "another client's address"
    distrusting = Server(tmp_path)
    (distrusting.packages / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    with distrusting:
        (file,) = get(distrusting, "/spam/json", **headers)["urls"]
        assert file["url"].startswith(distrusting.url)
