"""A publisher limited to named projects, enforced over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, PASSWORD, TOKEN, Response, Server
from tests.index.test_app import change, upload

OTHERS = ["spam", "spam-plugins-extra", "plugins", "new"]
"""Projects outside the publisher's limits; the last has no file yet."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the user ci, who may publish two projects."""
    with Server(tmp_path_factory.mktemp("rights")) as server:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        user = {"username": "ci", "password": PASSWORD, "projects": ["Spam.Plugins", "ham"]}
        body = json.dumps(user).encode()
        assert server.request("POST", "/admin/register_user", user=None, headers=headers, body=body).status == 201
        for project in (*OTHERS[:-1], "ham"):
            assert publish(server, project, "1.0", user="alice").status == 200
        yield server


def publish(server: Server, name: str, version: str, *, user: str = "ci") -> Response:
    return upload(server, wheel_name(name, version), wheel(name, version), user=user)


def yanked(server: Server, project: str) -> list[str | bool]:
    """The reason for each yanked file of a project."""
    files = json.loads(server.get(f"/simple/{project}/", user="ci", Accept=JSON).body)["files"]
    return [file["yanked"] for file in files if file.get("yanked")]


def assert_forbidden(response: Response, action: str, project: str) -> None:
    """It is refused with a sentence that names the user and the action."""
    assert response.status == 403
    assert response.text == f"the user 'ci' may not {action} {project!r}; ask the index's operator for the right\n"


@pytest.mark.parametrize("name", ["spam-plugins", "Spam_Plugins", "ham"])
def test_a_named_project_accepts_the_upload_in_any_spelling(server: Server, name: str) -> None:
    version = f"2.{len(name)}" if name.islower() else "3.0"
    assert publish(server, name, version).status == 200
    assert f"-{version}-" in server.get(f"/simple/{name.lower().replace('_', '-')}/", user="ci").text


@pytest.mark.parametrize("project", OTHERS)
def test_another_project_refuses_the_upload_and_does_not_change(server: Server, project: str) -> None:
    before = server.get(f"/simple/{project}/").body
    assert_forbidden(publish(server, project, "2.0"), "upload to the project", project)
    assert server.get(f"/simple/{project}/").body == before
    assert not (server.packages / wheel_name(project, "2.0")).exists()


def test_a_file_of_a_named_project_is_yanked_and_unyanked_whoever_uploaded_it(server: Server) -> None:
    assert change(server, "/projects/Ham/yank", {"version": "1.0", "reason": "bad"}, user="ci").status == 200
    assert yanked(server, "ham") == ["bad"]
    assert change(server, "/projects/ham/unyank", {"version": "1.0"}, user="ci").status == 200
    assert yanked(server, "ham") == []


@pytest.mark.parametrize("project", OTHERS[:-1])
def test_another_project_refuses_the_yank_and_the_unyank(server: Server, project: str) -> None:
    refused = change(server, f"/projects/{project}/yank", {"version": "1.0", "reason": "bad"}, user="ci")
    assert_forbidden(refused, "yank files of the project", project)
    assert yanked(server, project) == []
    assert change(server, f"/projects/{project}/yank", {"version": "1.0", "reason": "worse"}).status == 200
    refused = change(server, f"/projects/{project}/unyank", {"version": "1.0"}, user="ci")
    assert_forbidden(refused, "yank files of the project", project)
    assert yanked(server, project) == ["worse"]


def test_another_project_keeps_its_status(server: Server) -> None:
    assert change(server, "/projects/ham/status", {"status": "deprecated"}, user="ci").status == 200
    refused = change(server, "/projects/spam/status", {"status": "archived"}, user="ci")
    assert_forbidden(refused, "change the project", "spam")
    assert "project-status" not in json.loads(server.get("/simple/spam/", Accept=JSON).body)
