"""Users see who they are, and how to use this index, with its own URLs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.index.serving import TOKEN, Server, eventually


def whoami(server: Server, **headers: str) -> dict[str, object]:
    response = server.get("/whoami", **headers)
    assert response["cache-control"] == "private, no-store"
    return json.loads(response.body)  # type: ignore[no-any-return]


def test_a_user_sees_role_projects_and_expiry(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.get("/whoami", user=None).status == 401
        alice = {"username": "alice", "role": "publisher", "projects": None, "token": None, "expires": None}
        assert whoami(server) == alice
        body = json.dumps({"owner": "alice", "projects": ["Spam"], "lifetime_seconds": 3600}).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        made = json.loads(server.request("POST", "/admin/create_token", user=None, headers=headers, body=body).body)
        seen = json.loads(server.request("GET", "/whoami", user="__token__", password=made["token"]).body)
        assert seen == alice | {"projects": ["spam"], "token": made["id"], "expires": made["expires"]}


def test_the_guide_has_the_urls_of_this_index_even_behind_a_proxy(tmp_path: Path) -> None:
    with Server(tmp_path, "--trusted-proxy", "127.0.0.1") as server:
        proxied = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "index.example.com", "X_Forwarded_Prefix": "/team"}
        page = server.get("/-/help/", **proxied)
        assert page.status == 200
        assert "https://index.example.com/team/simple/" in page.text
        assert "machine <span data-host>index.example.com</span>" in page.text
        assert 'href="../../admin/account"' in page.text
        assert "ask the index&#39;s operator" not in page.text.partition("Publish</h2>")[2].partition("<pre>")[0]
        assert "notice" in server.get("/-/help/", user="rea").text
        assert 'href="./-/help/"' in server.get("/").text or 'href="-/help/"' in server.get("/").text


def test_the_guide_says_what_the_role_does_not_allow(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        groups = server.credentials / ".htgroup"
        groups.write_text(groups.read_text() + "project/spam: alice\nproject/eggs: alice\n")
        eventually(lambda: whoami(server)["projects"] == ["eggs", "spam"])
        assert "Your role allows it for eggs, spam only" in server.get("/-/help/").text
        assert "Your role does not allow it" in server.get("/-/help/", user="rea").text
        assert "Your role" not in server.get("/-/help/", user="adam").text


def test_hostile_host_headers_do_not_reach_the_guide(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert "<script>alert" not in server.get("/-/help/", Host="x<script>alert(1)</script>").text
