"""Users change their own passwords and tokens, with their own logins or with an invitation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlencode

import pytest

from ops.index import create_index
from ops.index.auth import user_cache
from ops.index.auth.credential_files import PASSWORDS, TOKENS, CredentialLocks
from ops.index.auth.invitations import InvalidInvitationError, Invitations
from ops.index.auth.password_file import PasswordFile
from ops.index.auth.passwords import hashed
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.errors import NotFound, StorageError
from ops.index.storage.directory import DirectoryStorage
from tests.index.chromium import PROGRAM, Chromium
from tests.index.credentials_volume import volumes
from tests.index.serving import PASSWORD, TOKEN, Http, Response, Server, ThreadServer, eventually

NEW = "a password of her own"
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
OWN_PAGE = FORM | {"Sec-Fetch-Site": "same-origin"}


def send(server: Http, path: str, fields: dict[str, Any], *, user: str = "alice", password: str = PASSWORD) -> Response:
    """Post JSON, as a program does."""
    headers = {"Content-Type": "application/json"}
    return server.request(
        "POST", f"/admin/{path}", user=user, password=password, headers=headers, body=json.dumps(fields).encode()
    )


def administer(server: Http, path: str, fields: dict[str, Any]) -> Response:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    return server.request("POST", f"/admin/{path}", user=None, headers=headers, body=json.dumps(fields).encode())


def register(server: Http, username: str, **fields: Any) -> None:
    assert administer(server, "register_user", {"username": username, "password": PASSWORD, **fields}).status == 201


def account(server: Server, user: str = "alice", password: str = PASSWORD) -> dict[str, Any]:
    response = server.request("GET", "/admin/account", user=user, password=password)
    assert response.status == 200
    return json.loads(response.body)  # type: ignore[no-any-return]


def may(server: Http, user: str, password: str) -> int:
    return server.request("GET", "/simple/", user=user, password=password).status


def test_a_user_creates_lists_and_revokes_tokens_with_at_most_her_own_rights(server: Server) -> None:
    register(server, "carol", projects=["spam", "eggs"])
    made = send(server, "account/tokens", {"label": "laptop", "projects": ["Spam"], "days": 1}, user="carol")
    assert made.status == 201
    token = json.loads(made.body)
    assert (token["role"], token["projects"]) == ("publisher", ["spam"])
    assert may(server, "__token__", token["token"]) == 200
    seen = account(server, "carol")
    assert [(one["id"], one["label"]) for one in seen["tokens"]] == [(token["id"], "laptop")]
    assert "token" not in seen["tokens"][0]
    for more in ({"role": "admin"}, {"projects": "bacon"}, {"days": 366}, {"days": "x"}, {"role": "king"}):
        assert send(server, "account/tokens", {"label": "more", **more}, user="carol").status in {400, 422}
    assert send(server, f"account/tokens/{token['id']}/revoke", {}).status == 404  # not alice's
    assert send(server, f"account/tokens/{token['id']}/revoke", {}, user="carol").status == 200
    eventually(lambda: may(server, "__token__", token["token"]) == 401)


def test_after_a_password_change_only_the_new_password_works(server: Server) -> None:
    register(server, "dora")
    assert send(server, "account/password", {"new_password": "short"}, user="dora").status == 422
    assert send(server, "account/password", {"new_password": NEW}, user="dora").status == 200
    assert (may(server, "dora", PASSWORD), may(server, "dora", NEW)) == (401, 200)
    log = "".join(path.read_text() for path in (server.credentials / ".audit").iterdir())
    assert '"user": "dora"' in log
    assert NEW not in log


def test_a_change_is_in_effect_once_its_response_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_cache, "_CHECK_EVERY", 3600)
    packages, credentials = DirectoryStorage(tmp_path / "packages"), DirectoryStorage(tmp_path / "credentials")
    index = create_index(
        packages=packages,
        credentials=credentials,
        options=Options(bcrypt_rounds=4, refresh_seconds=3600),
        admin_token=TOKEN,
    )
    with ThreadServer(index) as server:
        register(server, "dora")
        assert may(server, "dora", PASSWORD) == 200
        assert send(server, "account/password", {"new_password": NEW}, user="dora").status == 200
        assert (may(server, "dora", PASSWORD), may(server, "dora", NEW)) == (401, 200)
        token = json.loads(send(server, "account/tokens", {"label": "ci"}, user="dora", password=NEW).body)
        assert may(server, "__token__", token["token"]) == 200
        revoked = send(server, f"account/tokens/{token['id']}/revoke", {}, user="dora", password=NEW)
        assert (revoked.status, may(server, "__token__", token["token"])) == (200, 401)


def test_a_password_just_replaced_on_another_server_changes_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knows it could otherwise make a token that outlives it, while this server still remembers the login."""
    ours, theirs = volumes(tmp_path, 2)
    options = Options(bcrypt_rounds=4, refresh_seconds=3600)
    Users(theirs, options).register("dora", password=PASSWORD)
    index = create_index(
        packages=DirectoryStorage(tmp_path / "packages"), credentials=ours, options=options, admin_token=TOKEN
    )
    with ThreadServer(index) as server:
        assert may(server, "dora", PASSWORD) == 200
        Users(theirs, options).register("dora", password=NEW)
        wanted = {"label": "x", "new_password": "a password of someone else"}
        refused = [send(server, f"account/{page}", wanted, user="dora").status for page in ("tokens", "password")]
        assert refused == [401, 401]
        assert send(server, "account/tokens", wanted, user="dora", password=NEW).status == 201
        monkeypatch.setattr(ours, "_reload", Mock(side_effect=StorageError("unreachable")))
        assert send(server, "account/tokens", wanted, user="dora", password=NEW).status == 503


@pytest.mark.parametrize("action", ["password", "tokens"])
@pytest.mark.parametrize("loss", ["removed", "given another password"])
def test_no_account_is_changed_by_a_request_that_waited_while_its_user_was(
    loss: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removed user must not come back by setting a password."""
    credentials = DirectoryStorage(tmp_path / "credentials")
    index = create_index(
        packages=DirectoryStorage(tmp_path / "packages"),
        credentials=credentials,
        options=Options(bcrypt_rounds=4),
        admin_token=TOKEN,
    )
    acquire = CredentialLocks.acquire

    def late(locks: CredentialLocks, name: str) -> bool:
        """Get the lock after another server has changed the file."""
        file = credentials.directory / PASSWORDS
        entries = PasswordFile(file.read_bytes())
        if loss == "removed":
            entries.remove("dora")
        else:
            entries.set("dora", hashed(NEW, 4))
        file.with_suffix(".new").write_bytes(bytes(entries))
        file.with_suffix(".new").replace(file)
        return acquire(locks, name)

    with ThreadServer(index) as server:
        register(server, "dora")
        assert may(server, "dora", PASSWORD) == 200
        with monkeypatch.context() as patched:
            patched.setattr(CredentialLocks, "acquire", late)
            response = send(server, f"account/{action}", {"new_password": "of an intruder", "label": "x"}, user="dora")
        assert response.status == 401
        assert may(server, "dora", "of an intruder") == 401
        assert not (credentials.directory / TOKENS).exists()
        assert PasswordFile((credentials.directory / PASSWORDS).read_bytes()).entries().keys() == (
            set() if loss == "removed" else {"dora"}
        )


def test_no_stranger_token_or_admin_token_can_change_an_account(server: Server) -> None:
    register(server, "erin")
    token = json.loads(send(server, "account/tokens", {"label": "ci"}, user="erin").body)["token"]
    wanted = {"new_password": NEW}
    assert send(server, "account/password", wanted, user="erin", password="wrong password").status == 401
    assert send(server, "account/password", wanted, user="__token__", password=token).status == 403
    assert administer(server, "account/password", wanted).status == 401
    assert server.request("GET", "/admin/account", user=None).status == 401
    assert may(server, "erin", PASSWORD) == 200


@pytest.mark.parametrize(
    "headers",
    [
        FORM,
        FORM | {"Sec-Fetch-Site": "cross-site"},
        FORM | {"Sec-Fetch-Site": "same-site"},
        FORM | {"Origin": "https://evil.example"},
        FORM | {"Origin": "null"},
        {"Content-Type": "text/plain"},
    ],
)
def test_a_form_from_another_site_changes_nothing(server: Server, headers: dict[str, str]) -> None:
    body = urlencode({"new_password": NEW}).encode()
    refused = server.request("POST", "/admin/account/password", headers=headers, body=body)
    assert refused.status == 403
    assert may(server, "alice", PASSWORD) == 200


def test_hostile_bodies_are_refused_in_one_sentence(server: Server) -> None:
    bodies = [b"[]", b"{", b"\xff", b"[" * 60_000, b'{"new_password": null}', b'{"new_password": 7}']
    for body in bodies:
        headers = {"Content-Type": "application/json"}
        refused = server.request("POST", "/admin/account/password", headers=headers, body=body)
        assert refused.status in {400, 422}, body
    huge = server.request("POST", "/admin/account/password", headers=OWN_PAGE, body=b"a=" + b"x" * 70_000)
    assert huge.status == 413


def test_hostile_labels_are_escaped_on_the_page(server: Server) -> None:
    register(server, "mallory")
    label = "<script>alert(1)</script>"
    body = urlencode({"label": label, "days": "1"}).encode()
    page = server.request("POST", "/admin/account/tokens", user="mallory", headers=OWN_PAGE, body=body)
    assert page.status == 201
    assert label not in page.text
    assert "&lt;script&gt;" in page.text
    assert "default-src 'none'" in page["content-security-policy"]
    assert page["cache-control"] == "no-store"


def test_an_invitation_works_once_and_its_user_logs_in(server: Server) -> None:
    register(server, "frida")
    assert administer(server, "invite", {"username": "nobody"}).status == 404
    first = json.loads(administer(server, "invite", {"username": "frida"}).body)["code"]
    code = json.loads(administer(server, "invite", {"username": "frida"}).body)["code"]

    def accept(code: str, password: str = NEW) -> int:
        body = json.dumps({"code": code, "new_password": password}).encode()
        headers = {"Content-Type": "application/json"}
        return server.request("POST", "/admin/invitation", user=None, headers=headers, body=body).status

    assert accept(first) == 403  # replaced by another one
    assert accept("") == accept("x" * 43) == 403
    assert accept(code, "short") == 422
    assert accept(code) == 200
    assert accept(code) == 403
    assert (may(server, "frida", PASSWORD), may(server, "frida", NEW)) == (401, 200)
    stored = (server.credentials / ".invitations").read_text()
    assert "frida" not in stored
    assert code not in "".join(path.read_text() for path in (server.credentials / ".audit").iterdir())


def test_an_invitation_ends_after_a_day_or_when_its_user_is_removed(tmp_path: Path) -> None:
    now = [1_000_000.0]
    storage, options = DirectoryStorage(tmp_path), Options(bcrypt_rounds=4)
    users, invitations = Users(storage, options), Invitations(storage, options, clock=lambda: now[0])
    users.register("gina", password=PASSWORD)
    late, _ = invitations.create("gina")
    now[0] += 86400
    with pytest.raises(InvalidInvitationError):
        invitations.accept(late, NEW)
    code, _ = invitations.create("gina")
    users.remove("gina")
    users.register("gina", password=PASSWORD)
    with pytest.raises(InvalidInvitationError):
        invitations.accept(code, NEW)
    with pytest.raises(NotFound):
        invitations.create("nobody")


def test_the_invitation_page_needs_no_login_and_reveals_nothing(server: Server) -> None:
    page = server.request("GET", "/admin/invitation", user=None, headers={"Accept": "text/html"})
    assert page.status == 200
    assert "Set your password" in page.text
    assert "alice" not in page.text


@pytest.mark.browser
@pytest.mark.skipif(not PROGRAM, reason="there is no Chromium here")
def test_in_a_browser_a_user_accepts_an_invitation_and_creates_and_revokes_a_token(
    server: Server, tmp_path: Path
) -> None:
    register(server, "hanna")
    code = json.loads(administer(server, "invite", {"username": "hanna"}).body)["code"]
    base = f"http://127.0.0.1:{server.port}/admin"
    with Chromium(tmp_path / "profile") as browser:
        browser.open(f"{base}/invitation#{code}")
        assert browser.run("document.querySelector('#code').value") == code
        assert browser.run("location.hash") == ""
        browser.type("#new-password", NEW)
        browser.type("#repeated", NEW)
        browser.run("document.querySelector('form').requestSubmit()")
        browser.until("(document.body?.textContent ?? '').includes('Welcome, hanna')")
        assert browser.complaints() == []

        login = f"http://hanna:{NEW.replace(' ', '%20')}@127.0.0.1:{server.port}/admin/account"
        browser.open(login)
        browser.type("#label", "laptop")
        browser.run("document.querySelector('form[action$=tokens]').requestSubmit()")
        browser.until("document.querySelector('#token-command') !== null")
        token = browser.run("document.querySelector('#token-command').textContent")
        assert may(server, "__token__", token) == 200
        browser.run("document.querySelector('form[action$=revoke]').requestSubmit()")
        browser.until("document.querySelector('form[action$=revoke]') === null")
        eventually(lambda: may(server, "__token__", token) == 401)
        browser.until("document.querySelector('a[href$=\"-/help/\"]') !== null")
        browser.run("document.querySelector('a[href$=\"-/help/\"]').click()")
        browser.until("document.title === 'How to use this index'")
        assert f"127.0.0.1:{server.port}/simple/" in browser.run("document.body.textContent")
        assert browser.complaints() == []
