"""A reserved prefix keeps new projects for its owners (PEP 752), and does not affect existing ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.index.auth.roles import GroupFile, Roles
from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, PASSWORD, TOKEN, Response, Server, eventually
from tests.index.test_app import form, upload


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("reserved")) as server:
        yield server


def administer(server: Server, method: str, path: str, body: object = None) -> Response:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    return server.request(method, f"/admin/{path}", user=None, headers=headers, body=content)


def publish(server: Server, project: str, *, user: str = "alice", version: str = "1.0") -> Response:
    return upload(server, wheel_name(project, version), wheel(project, version), user=user)


def test_only_the_owners_create_projects_under_a_prefix(server: Server) -> None:
    assert publish(server, "acme-old").status == 200
    reserved = administer(server, "POST", "reserve", {"prefix": "Acme", "owners": ["adam"]})
    assert json.loads(reserved.body) == [{"prefix": "acme", "owners": ["adam"]}]
    eventually(lambda: publish(server, "acme-new").status == 409)
    refused = publish(server, "acme")
    assert (refused.status, "reserved for adam" in refused.text) == (409, True)
    assert publish(server, "acme-new", user="adam").status == 200
    assert publish(server, "acme-new", version="2.0").status == 200  # it exists now, like any project
    assert publish(server, "acme-old", version="2.0").status == 200
    assert publish(server, "acmeter").status == 200
    token = json.loads(administer(server, "POST", "create_token", {"owner": "alice", "label": "ci"}).body)["token"]
    name = wheel_name("acme-ci", "1.0")
    body = form(action="file_upload", name="acme-ci", version="1.0", content=(name, wheel("acme-ci", "1.0")))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert server.request("POST", "/", user="__token__", password=token, headers=headers, body=body).status == 409

    administer(server, "POST", "reserve", {"prefix": "acme", "owners": []})
    eventually(lambda: publish(server, "acme-free").status == 200)
    assert json.loads(administer(server, "GET", "reservations").body) == []


def test_with_the_option_pages_declare_namespaces(tmp_path: Path) -> None:
    with Server(tmp_path, "--namespaces") as server:

        def namespaces(project: str) -> Any:
            page = json.loads(server.get(f"/simple/{project}/", Accept=JSON).body)
            assert page["meta"] == {"api-version": "1.5"}
            return page["namespaces"]

        assert publish(server, "acme-old").status == 200
        assert namespaces("acme-old") is None
        for prefix, owner in (("acme", "adam"), ("acme-labs", "adam"), ("acme-labs-x-y", "alice")):
            administer(server, "POST", "reserve", {"prefix": prefix, "owners": [owner]})
        eventually(lambda: publish(server, "acme-labs-new").status == 409)
        assert publish(server, "acme-labs-new", user="adam").status == 200
        assert publish(server, "acmeter").status == 200
        eventually(lambda: namespaces("acme-old") == [{"name": "acme", "owned": False}])
        both = [{"name": "acme-labs", "owned": True}, {"name": "acme", "owned": True}]
        assert namespaces("acme-labs-new") == both
        assert namespaces("acmeter") is None
        assert json.loads(server.get("/simple/", Accept=JSON).body)["meta"] == {"api-version": "1.5"}
        assert 'content="1.4"' in server.get("/simple/acme-old/").text

        assert json.loads(server.get("/namespaces").body) == [
            {"name": "acme"},
            {"name": "acme-labs"},
            {"name": "acme-labs-x-y"},
        ]
        labs = json.loads(server.get("/namespace/acme-labs").body)
        assert labs == {"name": "acme-labs", "parent": "acme", "children": [], "owner": "adam"}
        acme = json.loads(server.get("/namespace/acme").body)
        assert (acme["parent"], acme["children"]) == (None, ["acme-labs"])
        assert server.get("/namespace/spam").status == 404
        assert server.get("/namespaces", user=None).status == 401

        administer(server, "POST", "reserve", {"prefix": "acme", "owners": []})
        eventually(lambda: namespaces("acme-old") is None)


def test_without_the_option_pages_do_not_declare_them(server: Server) -> None:
    """A client that only knows 1.4 warns about a higher version."""
    assert publish(server, "spam").status == 200
    page = json.loads(server.get("/simple/spam/", Accept=JSON).body)
    assert page["meta"] == {"api-version": "1.4"}
    assert "namespaces" not in page
    assert server.get("/namespaces").status == server.get("/namespace/spam").status == 404


def test_a_removed_owner_leaves_nothing_to_a_later_user_of_that_name(server: Server) -> None:
    new = {"username": "erin", "password": PASSWORD}
    administer(server, "POST", "register_user", new)
    administer(server, "POST", "reserve", {"prefix": "acme", "owners": ["erin", "adam"]})
    assert administer(server, "DELETE", "users/erin").status == 204
    administer(server, "POST", "register_user", new)
    assert json.loads(administer(server, "GET", "reservations").body) == [{"prefix": "acme", "owners": ["adam"]}]


def test_a_prefix_stays_reserved_when_its_last_owner_is_removed_until_it_is_freed(server: Server) -> None:
    """Else anyone could publish under a name that installers trust, as soon as its owner has left."""
    administer(server, "POST", "register_user", {"username": "erin", "password": PASSWORD})
    administer(server, "POST", "reserve", {"prefix": "acme", "owners": ["erin"]})
    assert administer(server, "DELETE", "users/erin").status == 204
    assert json.loads(administer(server, "GET", "reservations").body) == [{"prefix": "acme", "owners": []}]
    refused = publish(server, "acme-core")
    assert (refused.status, "name new owners" in refused.text) == (409, True)
    assert json.loads(administer(server, "POST", "reserve", {"prefix": "acme", "owners": []}).body) == []
    eventually(lambda: publish(server, "acme-core").status == 200)


@pytest.mark.parametrize(
    "body",
    [
        {"prefix": "acme", "owners": ["nobody"]},
        {"prefix": "-acme", "owners": ["adam"]},
        {"prefix": "a: b\nc", "owners": ["adam"]},
        {"prefix": "", "owners": []},
        {"prefix": "acme"},
        {"prefix": "acme", "owners": "adam"},
    ],
)
def test_invalid_reservations_are_refused(server: Server, body: dict[str, object]) -> None:
    assert administer(server, "POST", "reserve", body).status == 422


def test_the_longest_prefix_counts_and_a_role_change_keeps_reservations() -> None:
    groups = GroupFile(b"# ours\nreserved/acme: alice\nreserved/Acme.Labs: bob\nother: x\n")
    groups.assign("alice", {"reader"})
    roles = Roles(bytes(groups))
    alice, bob, eve = (roles.identity(name) for name in ("alice", "bob", "eve"))
    assert (alice.owner_of("acme-core"), alice.owner_of("acme-labs-x")) == ("", "bob")
    assert (bob.owner_of("acme-core"), bob.owner_of("acme-labs")) == ("alice", "")
    assert (eve.owner_of("acme"), eve.owner_of("acmex"), eve.owner_of("other")) == ("alice", "", "")
    groups.reserve("acme", ["carol"])
    assert b"# ours" in bytes(groups)
    assert b"reserved/Acme.Labs: bob" in bytes(groups)
    assert dict(groups.grants())["acme"] == {"carol"}
