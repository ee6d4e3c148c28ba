"""No token is in a log, a file of the server, the process list or a page, in any form; not even a misplaced one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.index.auth.trust import TrustStore
from ops.index.storage.directory import DirectoryStorage
from ops.redaction import Redactor
from tests.index.issuer import FakeIssuer
from tests.index.serving import JSON, TOKEN, Server, eventually
from tests.index.test_app import change, upload
from tests.index.test_sharing import publish
from tests.process_list import ProcessList

PAGES = ("/", "/simple/", "/simple/spam/", "/projects/spam/", "/packages/", "/spam/json", "/whoami", "/-/help/")
OTHERS_PAGES = (*PAGES, "/metrics", "/admin/account")


def administer(server: Server, path: str, fields: dict[str, object] | None = None, method: str = "POST") -> bytes:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    body = None if fields is None else json.dumps(fields).encode()
    response = server.request(method, f"/admin/{path}", user=None, headers=headers, body=body)
    assert response.status < 300, response.text
    return response.body


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, "--log-level", "debug") as server:
        yield server


def tokens_of(server: Server, issuer: FakeIssuer) -> dict[str, str]:
    """A user's token and a minted one, by their ids."""
    TrustStore(DirectoryStorage(server.credentials)).replace(issuer.trust(), version=0)
    eventually(lambda: server.get("/_/oidc/audience", user=None).status == 200)
    made = json.loads(administer(server, "create_token", {"owner": "alice", "label": "ci"}))["token"]
    body = json.dumps({"token": issuer.id_token()}).encode()
    minted = json.loads(server.request("POST", "/_/oidc/mint-token", user=None, body=body).body)["token"]
    return {token.split("_")[1]: token for token in (made, minted)}


def misplace(server: Server, token: str) -> None:
    """Send a token where none belongs."""
    server.request("GET", "/simple/", user="alice", password=token)
    server.request("GET", "/simple/", user=token, password="x")
    server.request("GET", "/simple/", user=token, password=token)
    for authorization in (f"Token {token}", token, f"Bearer {token}x", f"Basic {token}"):
        server.request("GET", "/simple/", user=None, headers={"Authorization": authorization})
    for path in (f"/simple/{token}/", f"/simple/?token={token}", f"/packages/{token}", f"/{token}/json"):
        assert server.get(path).status < 500
        assert server.get(path, user=None).status == 401
    assert change(server, f"/projects/{token}/yank", {"version": "1.0"}).status == 404
    assert upload(server, f"{token}-1.0-py3-none-any.whl", b"").status == 400
    server.raw(f"GET /{token}\x00 HTTP/1.1\r\nHost: x\r\nX: {token}\r\n\r\n".encode())
    body = json.dumps({"token": token}).encode()
    server.request("POST", "/_/oidc/mint-token", user=None, body=body)
    server.request("DELETE", f"/admin/tokens/{token}", user=None, headers={"Authorization": f"Bearer {TOKEN}"})


def test_no_token_is_logged_stored_listed_or_shown_in_any_form(server: Server) -> None:
    with FakeIssuer() as issuer, ProcessList() as processes:
        tokens = tokens_of(server, issuer)
        shown: list[bytes] = []
        for number, (token_id, token) in enumerate(tokens.items()):
            assert publish(server, "spam", f"{number}.0", login=("__token__", token)) == 200
            shown += [server.request("GET", path, user="__token__", password=token).body for path in PAGES]
            bearer = {"Authorization": f"Bearer {token}", "Accept": JSON}
            assert server.request("GET", "/simple/spam/", user=None, headers=bearer).status == 200
            install = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "got", "spam"]
            netrc = server.packages.parent / f"netrc-{token_id}"
            netrc.write_text(f"machine {server.host} login __token__ password {token}\n")
            variables = {"PIP_INDEX_URL": f"{server.url}simple/", "NETRC": str(netrc), "PIP_NO_CACHE_DIR": "1"}
            subprocess.run(install, env=variables, cwd=server.packages.parent, check=True, timeout=120)
            netrc.unlink()
            misplace(server, token)
        for user in ("rea", "adam", "alice"):
            shown += [server.get(path, user=user).body for path in OTHERS_PAGES]
        shown.append(administer(server, "tokens", method="GET"))
        made, minted = tokens
        administer(server, f"tokens/{made}", method="DELETE")
        body = json.dumps({"token": tokens[minted]}).encode()
        assert server.request("POST", "/_/oidc/burn-token", user=None, body=body).status == 202
        for token in tokens.values():
            eventually(
                lambda token=token: server.request("GET", "/simple/", user="__token__", password=token).status != 200
            )
    server.stop()
    kept = [path for folder in (server.packages, server.credentials) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == ".tokens" for path in kept)
    texts = [path.read_text("latin-1") for path in (*kept, server.log)]
    logged = "".join(texts)
    assert made in logged, "its id names it in the audit log"
    assert minted in logged
    redactor = Redactor(tokens.values())
    assert redactor.finds(f"Basic {token}")
    for text in [*texts, *processes.command_lines, *(body.decode("latin-1") for body in shown)]:
        assert not redactor.finds(text), text[:2000]
    server.start()  # for its fixture
