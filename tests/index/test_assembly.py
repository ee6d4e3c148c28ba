"""An assembled server: every action over HTTP is in its audit log, and background tasks are independent."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from ops.index import create_index
from ops.index.activity import Activity
from ops.index.auth.audit import ADMIN_FOLDER, SERVER_FOLDER
from ops.index.auth.authenticator import Authenticator
from ops.index.config import Options
from ops.index.errors import LoginDelayed, PackageIndexError, Unauthorized
from ops.index.packages.repository import Repository
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import wheel, wheel_name
from tests.index.serving import PASSWORD, TOKEN, Server, ThreadServer, authorization, eventually
from tests.index.test_app import change, form, upload

NAME = wheel_name("spam", "1.0")
CONTENT = wheel("spam", "1.0")

MISTYPED = "correct horse batterie"
CAROLS = "the first words of carol"
WRONG_TOKEN = "a-token-that-has-been-replaced-last-week"


def logged(folder: Path) -> list[dict[str, Any]]:
    """The entries of an audit log, in the order of their files."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def administer(server: Server, method: str, path: str, address: str, *, token: str = TOKEN, body: object = None) -> int:
    """A request to the admin application, from an address; its status."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "X-Forwarded-For": address}
    content = None if body is None else json.dumps(body).encode()
    return server.request(method, f"/admin/{path}", user=None, headers=headers, body=content).status


def log_in(server: Server, user: str, password: str, address: str) -> int:
    headers = {"X-Forwarded-For": address}
    return server.request("GET", "/simple/", user=user, password=password, headers=headers).status


def test_each_change_and_refusal_is_logged_with_time_user_action_and_address(tmp_path: Path) -> None:
    """A change is logged before its response, a refusal after it. Neither log contains a secret."""
    server = Server(tmp_path, "--trusted-proxy", "127.0.0.1")
    changes, users = server.packages / SERVER_FOLDER, server.credentials / ADMIN_FOLDER
    digest = bcrypt.hashpw(b"the second words of carol", bcrypt.gensalt(10)).decode()
    began = datetime.now(UTC) - timedelta(milliseconds=1)  # the log truncates to milliseconds
    with server:
        assert upload(server, NAME, CONTENT, X_Forwarded_For="192.0.2.1").status == 200
        yank = {"version": "1.0", "reason": "loses money"}
        assert change(server, "/projects/Spam/yank", yank, X_Forwarded_For="192.0.2.2").status == 200
        assert change(server, "/projects/spam/unyank", {"filename": NAME}, X_Forwarded_For="192.0.2.3").status == 200
        status = {"status": "deprecated", "reason": "use eggs"}
        response = change(server, "/projects/spam/status", status, user="adam", X_Forwarded_For="192.0.2.4")
        assert response.status == 200
        headers = {"Content-Type": "multipart/form-data; boundary=b", "X-Forwarded-For": "192.0.2.5"}
        body = form(action="remove_pkg", name="spam", version="1.0")
        assert server.request("POST", "/", user="adam", headers=headers, body=body).status == 200

        carol = {"username": "carol", "password": CAROLS, "projects": ["Spam"]}
        assert administer(server, "POST", "register_user", "192.0.2.6", body=carol) == 201
        rehashed = {"username": "carol", "password_hash": digest}
        assert administer(server, "POST", "register_user", "192.0.2.7", body=rehashed) == 200
        assert administer(server, "DELETE", "users/carol", "192.0.2.8") == 204
        assert [entry["event"] for entry in logged(changes)] == ["upload", "yank", "unyank", "status", "remove"]
        assert [entry["event"] for entry in logged(users)] == ["user.created", "user.changed", "user.removed"]

        assert log_in(server, "alice", MISTYPED, "192.0.2.9") == 401
        assert log_in(server, PASSWORD, "alice", "192.0.2.10") == 401
        assert administer(server, "GET", "users", "192.0.2.11", token=WRONG_TOKEN) == 401
        # Changes are logged at once, refusals by the time the server stops.
        assert len(logged(changes)) >= 5
        assert len(logged(users)) >= 3
    ended = datetime.now(UTC)

    file = {"project": "spam", "version": "1.0", "sha256": hashlib.sha256(CONTENT).hexdigest()}
    alice, adam = {"user": "alice"}, {"user": "adam"}
    entries = logged(changes)
    times = [entry.pop("time") for entry in entries]
    assert entries == [
        {"event": "upload", **alice, "address": "192.0.2.1", "filename": NAME, **file, "size": len(CONTENT)},
        {"event": "yank", **alice, "address": "192.0.2.2", "project": "spam", "files": [NAME], "reason": "loses money"},
        {"event": "unyank", **alice, "address": "192.0.2.3", "project": "spam", "files": [NAME], "reason": None},
        {"event": "status", **adam, "address": "192.0.2.4", "project": "spam", "before": "active", **status},
        {"event": "remove", **adam, "address": "192.0.2.5", "filename": NAME, **file},
        {"event": "login.refused", **alice, "address": "192.0.2.9"},
        {"event": "login.refused", "user": "co… (unknown, 21 characters)", "address": "192.0.2.10"},
    ]
    made = {"user": "carol", "actor": "admin token"}
    limits = {"role": "publisher", "projects": ["spam"], "password_changed": True}
    entries = logged(users)
    times += [entry.pop("time") for entry in entries]
    assert entries == [
        {"event": "user.created", **made, "address": "192.0.2.6", **limits},
        {"event": "user.changed", **made, "address": "192.0.2.7", **limits},
        {"event": "user.removed", **made, "address": "192.0.2.8"},
        {"event": "admin.refused", "user": "", "address": "192.0.2.11"},
    ]
    for moments in (times[:7], times[7:]):
        assert all(moment.endswith("Z") for moment in moments)
        known = [began, *map(datetime.fromisoformat, moments), ended]
        assert known == sorted(known)

    text = "".join(path.read_text() for folder in (changes, users) for path in folder.iterdir())
    secrets = [PASSWORD, MISTYPED, CAROLS, TOKEN, WRONG_TOKEN, digest, "$2", "Basic ", "Bearer "]
    secrets += [line.partition(":")[2] for line in (server.credentials / ".htpasswd").read_text().splitlines()]
    secrets += [authorization(user, word).split()[1] for user, word in (("alice", PASSWORD), ("alice", MISTYPED))]
    assert [secret for secret in secrets if secret in text] == []


def test_a_token_appears_in_the_log_by_its_id_and_on_a_file_s_page_by_its_owner(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        wanted = json.dumps({"owner": "alice", "projects": ["spam"], "label": "release"}).encode()
        created = server.request("POST", "/admin/create_token", user=None, headers=headers, body=wanted)
        token = json.loads(created.body)
        authorized = {"Authorization": f"Bearer {token['token']}"}
        files = {"Content-Type": "multipart/form-data; boundary=b", **authorized}
        body = form(action="file_upload", name="spam", version="1.0", content=(NAME, CONTENT))
        assert server.request("POST", "/", user=None, headers=files, body=body).status == 200
        assert "<dd>alice</dd>" in server.get("/projects/spam/", user="rea").text
        assert administer(server, "DELETE", f"tokens/{token['id']}", "192.0.2.1") == 204
        eventually(lambda: server.request("GET", "/simple/", user=None, headers=authorized).status == 401)
    entries = {entry["event"]: entry for entry in logged(server.packages / SERVER_FOLDER)}
    changes = {entry["event"]: entry for entry in logged(server.credentials / ADMIN_FOLDER)}
    assert entries["upload"]["credential"] == token["id"]
    assert (entries["token.used"]["user"], entries["token.used"]["id"]) == ("alice", token["id"])
    assert token["id"] in entries["login.refused"]["why"]
    assert (changes["token.created"]["id"], changes["token.created"]["label"]) == (token["id"], "release")
    assert (changes["token.revoked"]["id"], changes["token.revoked"]["actor"]) == (token["id"], "admin token")
    kept = [path for folder in (server.packages, server.credentials) for path in folder.rglob("*") if path.is_file()]
    secret = token["token"].rpartition("_")[2].encode()
    assert [path for path in (*kept, server.log) if secret in path.read_bytes()] == []


TASKS = {
    "users": (Authenticator, "refresh"),
    "minted tokens": (Authenticator, "refresh_minted"),
    "uses of tokens": (Authenticator, "record_uses"),
    "packages": (Repository, "refresh"),
    "downloads": (Activity, "write"),
}


@pytest.mark.parametrize("hanging", [*TASKS])
def test_a_background_task_that_hangs_delays_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    """A removed user is out in time even if shared storage does not respond to something else."""
    gate, calls = threading.Event(), Counter[str]()

    def work(task: str) -> None:
        calls[task] += 1
        if task == hanging:
            gate.wait(60)

    for task, (owner, name) in TASKS.items():
        monkeypatch.setattr(owner, name, lambda *_, task=task: work(task))
    packages, credentials = DirectoryStorage(tmp_path / "packages"), DirectoryStorage(tmp_path / "credentials")
    index = create_index(packages=packages, credentials=credentials, options=Options(refresh_seconds=0.02))
    with ThreadServer(index):
        eventually(lambda: calls[hanging])
        before = calls.copy()
        eventually(lambda: all(calls[task] > before[task] + 1 for task in TASKS if task != hanging))
        assert calls[hanging] == 1
        gate.set()


@pytest.mark.parametrize(
    ("refusal", "continues"),
    [(LoginDelayed("unreadable"), True), (Unauthorized("removed", realm="pypi"), False)],
)
def test_a_download_ends_only_once_it_is_known_that_its_user_may_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: PackageIndexError, *, continues: bool
) -> None:
    async def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(Authenticator, "authenticate", refuse)
    packages, credentials = DirectoryStorage(tmp_path / "packages"), DirectoryStorage(tmp_path / "credentials")
    index = create_index(packages=packages, credentials=credentials)
    assert asyncio.run(index._still_allowed(authorization("alice").encode(), "192.0.2.1")) is continues
