"""The admin application, over HTTP: its token gives access to users, and no response contains a secret."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
import uvicorn
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from passlib.apache import HtpasswdFile

from ops.index import create_index
from ops.index.admin.app import create_admin
from ops.index.auth.audit import ADMIN_FOLDER
from ops.index.auth.credential_files import GROUPS, PASSWORDS, TOKENS
from ops.index.auth.passwords import hashed
from ops.index.auth.roles import Identity
from ops.index.auth.throttle import Throttle
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.storage import Storage
from tests.index.credentials_volume import volumes
from tests.index.serving import eventually

TOKEN = "token-of-the-operator-5d41402abc4b2a76"
PASSWORD = "correct horse battery"
CHEAP = Options(bcrypt_rounds=4)
JSON = {"Content-Type": "application/json"}


class Admin(requests.Session):
    """The application on a real server, on its own port."""

    def __init__(self, storage: Storage, *, token: str = TOKEN, options: Options = CHEAP, root_path: str = "") -> None:
        super().__init__()
        self.trust_env = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        app = create_admin(credentials=storage, token=token, options=options, root_path=root_path)
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="debug", lifespan="off", ws="none", log_config=None)
        )
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        self.headers["Authorization"] = f"Bearer {token}"

    def request(self, method: str | bytes, url: str | bytes, *arguments: Any, **options: Any) -> requests.Response:
        options["timeout"] = 60
        return super().request(method, f"{self.url}{url!s}", *arguments, **options)

    def register(self, **body: object) -> requests.Response:
        return self.post("/register_user", json=body)

    def stop(self) -> None:
        self.close()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path / "credentials")


@pytest.fixture
def admin(storage: DirectoryStorage) -> Iterator[Admin]:
    admin = Admin(storage)
    yield admin
    admin.stop()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """A shared server without throttling, for tests that leave no users behind."""
    options = Options(bcrypt_rounds=4, login_failures=10_000)
    admin = Admin(DirectoryStorage(tmp_path_factory.mktemp("steady")), options=options)
    yield admin
    admin.stop()


# --- users ------------------------------------------------------------------------------------------------------


def test_a_user_is_created_then_changed_listed_and_removed(admin: Admin, storage: DirectoryStorage) -> None:
    assert admin.get("/users").json() == []
    created = admin.register(username="alice", password=PASSWORD)
    assert (created.status_code, created.json()) == (
        201,
        {"username": "alice", "role": "publisher", "projects": None, "created": True},
    )
    changed = admin.register(username="alice", role="publisher", projects=["Spam_Eggs"])
    assert (changed.status_code, changed.json()) == (
        200,
        {"username": "alice", "role": "publisher", "projects": ["spam-eggs"], "created": False},
    )
    admin.register(username="bob", password_hash=hashed(PASSWORD, 10), role="reader")
    assert admin.get("/users").json() == [
        {"username": "alice", "role": "publisher", "projects": ["spam-eggs"]},
        {"username": "bob", "role": "reader", "projects": None},
    ]
    stock = HtpasswdFile(storage.directory / PASSWORDS)
    assert stock.check_password("alice", PASSWORD)
    assert stock.check_password("bob", PASSWORD)
    assert admin.delete("/users/alice").status_code == 204
    assert admin.delete("/users/alice").status_code == 404
    assert [user["username"] for user in admin.get("/users").json()] == ["bob"]


def test_omitted_fields_are_kept_and_null_lifts_a_limit(admin: Admin) -> None:
    admin.register(username="alice", password=PASSWORD, projects=["spam"])
    assert admin.register(username="alice", password=PASSWORD).json()["projects"] == ["spam"]
    assert admin.register(username="alice", projects=None).json()["projects"] is None
    admin.register(username="alice", role="admin")
    assert admin.register(username="alice", password=PASSWORD).json()["role"] == "admin"


def test_a_name_with_spaces_and_umlauts_can_be_removed_by_its_url(admin: Admin) -> None:
    assert admin.register(username="Zoë B", password=PASSWORD).status_code == 201
    assert admin.delete("/users/Zo%C3%AB%20B").status_code == 204


def test_a_name_that_only_stock_tools_accept_can_be_removed(admin: Admin, storage: DirectoryStorage) -> None:
    (storage.directory / PASSWORDS).write_text("team/ci:x\n")
    assert admin.delete("/users/team%2Fci").status_code == 204


# --- access -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        "Bearer \xff",
        f"Bearer {TOKEN} x",
    ],
)
def test_without_the_token_nothing_is_revealed(steady: Admin, header: str) -> None:
    for method, path in (("GET", "/users"), ("POST", "/register_user"), ("DELETE", "/users/a"), ("GET", "/nothing")):
        response = steady.request(method, path, headers={"Authorization": header.encode("latin-1")}, data=b"{")
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        assert response.json() == {"detail": "the admin token is missing or wrong"}


def test_health_and_documentation_need_no_token_and_load_nothing_from_elsewhere(steady: Admin) -> None:
    nobody = {"Authorization": ""}
    assert steady.get("/health", headers=nobody).json() == {"status": "ok"}
    page = steady.get("/docs", headers=nobody).text
    assert "Create or change a user" in page
    assert "/register_user" in page
    for foreign in ("http://", "https://", "//cdn", "<script", "<link"):
        assert foreign not in page
    schema = steady.get("/openapi.json", headers=nobody).json()
    assert set(schema["paths"]) == {
        "/register_user",
        "/users",
        "/users/{username}",
        "/create_token",
        "/invite",
        "/reservations",
        "/reserve",
        "/tokens",
        "/tokens/{token_id}",
        "/trust",
        "/replace_trust",
        "/health",
    }


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait of the throttle ends, however slow the machine."""
    monkeypatch.setattr("ops.index.admin.token.Throttle", partial(Throttle, clock=lambda: 1000.0))


@pytest.mark.usefixtures("stopped_clock")
def test_wrong_tokens_are_throttled_but_the_right_one_still_works(storage: DirectoryStorage) -> None:
    admin = Admin(storage, options=Options(bcrypt_rounds=4, login_failures=3))
    responses = [admin.get("/users", headers={"Authorization": f"Bearer wrong{n}"}) for n in range(6)]
    assert [response.status_code for response in responses] == [401, 401, 401, 429, 429, 429]
    assert int(responses[-1].headers["Retry-After"]) >= 1
    assert admin.get("/users").status_code == 200
    admin.stop()


@pytest.mark.usefixtures("stopped_clock")
def test_every_wrong_token_is_logged_even_while_throttled_but_a_missing_one_is_not(storage: DirectoryStorage) -> None:
    admin = Admin(storage, options=Options(bcrypt_rounds=4, login_failures=2))
    assert admin.get("/users", headers={"Authorization": ""}).status_code == 401
    responses = [admin.get("/users", headers={"Authorization": f"Bearer wrong{n}"}).status_code for n in range(5)]
    assert responses == [401, 401, 429, 429, 429]
    assert admin.get("/users", headers={"Authorization": ""}).status_code == 429
    admin.stop()

    def lines() -> list[str]:
        return [line for path in storage.directory.rglob("*.jsonl") for line in path.read_text().splitlines()]

    eventually(lambda: len(lines()) == 2)
    assert [json.loads(line)["event"] for line in lines()] == ["admin.refused", "admin.throttled"]
    assert "wrong" not in str(lines())


@pytest.mark.usefixtures("stopped_clock")
def test_a_guessable_admin_token_is_throttled_too(storage: DirectoryStorage) -> None:
    admin = Admin(storage, token="hunter2", options=Options(bcrypt_rounds=4, login_failures=3))
    for number in range(3):
        admin.get("/users", headers={"Authorization": f"Bearer wrong{number}"})
    assert admin.get("/users").status_code == 429
    admin.stop()


def test_an_empty_admin_token_gives_no_access(storage: DirectoryStorage) -> None:
    with pytest.raises(ValueError, match="AUTH_TOKEN"):
        create_admin(credentials=storage, token=" \n")


@pytest.mark.parametrize("token", ["two words", "a line\nbreak", "ümlaut", "nul\0"])
def test_a_token_that_no_client_can_send_is_refused_without_being_repeated(
    storage: DirectoryStorage, token: str
) -> None:
    for create in (
        lambda: create_admin(credentials=storage, token=token),
        lambda: create_index(packages=storage, credentials=storage, admin_token=token),
    ):
        with pytest.raises(ValueError, match="cannot be sent in a header") as caught:
            create()
        assert token not in str(caught.value)


def test_web_pages_of_other_origins_are_refused(steady: Admin) -> None:
    response = steady.options(
        "/register_user", headers={"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    )
    assert not any(name.lower().startswith("access-control") for name in response.headers)


# --- what is taken ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "username"),
        ({"username": "alice"}, "give a password"),
        ({"username": "a:b", "password": PASSWORD}, "user name"),
        ({"username": "a\nroot", "password": PASSWORD}, "U+000A"),
        ({"username": "alice", "password": "short"}, "12 to 72"),
        ({"username": "alice", "password": "x" * 73}, "12 to 72"),
        ({"username": "alice", "password": PASSWORD + "\0"}, "control character"),
        ({"username": "alice", "password": PASSWORD, "password_hash": hashed(PASSWORD, 10)}, "give only one"),
        ({"username": "alice", "password_hash": hashed(PASSWORD, 4).replace("$04$", "$03$")}, "no"),
        ({"username": "alice", "password_hash": "hunter2-hunter2"}, "bcrypt"),
        ({"username": "alice", "password": PASSWORD, "role": "root"}, "'reader', 'publisher' or 'admin'"),
        ({"username": "alice", "password": PASSWORD, "role": "reader", "projects": ["a"]}, "only a publisher"),
        ({"username": "alice", "password": PASSWORD, "projects": []}, "empty"),
        ({"username": "alice", "password": PASSWORD, "projects": ["../x"]}, "not a project name"),
        ({"username": "alice", "password": PASSWORD, "projects": "spam"}, "projects"),
        ({"username": 5, "password": PASSWORD}, "username"),
        ({"username": "alice", "password": [PASSWORD]}, "password"),
        ({"username": "alice", "passwort": PASSWORD}, "an unknown field"),
        ([], "the body"),
        ("alice", "the body"),
        (None, "the body"),
    ],
)
def test_invalid_input_is_refused_with_one_sentence_that_repeats_no_secret(steady: Admin, body: Any, said: str) -> None:
    response = steady.post("/register_user", data=json.dumps(body), headers=JSON)
    assert response.status_code == 422
    assert said in response.json()["detail"]
    for secret in (PASSWORD, "hunter2", "x" * 73, "$2y$10$"):
        assert secret not in response.text
    assert steady.get("/users").json() == []


def test_credentials_are_accepted_only_in_a_json_body(admin: Admin, storage: DirectoryStorage) -> None:
    fields = {"username": "alice", "password": PASSWORD}
    assert admin.post("/register_user", params=fields).status_code == 415
    assert admin.post("/register_user", data=fields).status_code == 415
    assert admin.post("/register_user", data=json.dumps(fields)).status_code == 415
    assert admin.post("/register_user", params=fields, headers=JSON).status_code == 422
    assert admin.get("/register_user", params=fields).status_code == 405
    assert not (storage.directory / PASSWORDS).exists()


def test_a_too_long_body_is_refused_with_and_without_content_length(steady: Admin) -> None:
    long = b'{"username": "alice", "password": "' + b"x" * 200_000 + b'"}'
    assert steady.post("/register_user", data=long, headers=JSON).status_code == 413
    assert steady.post("/register_user", data=iter([long[:100_000], long[100_000:]]), headers=JSON).status_code == 413


def test_a_body_that_does_not_arrive_in_time_is_refused(steady: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.index.http.request.SHORT_BODY_SECONDS", 0.1)
    head = f"POST /register_user HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", urlsplit(steady.url).port or 0), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"username":"\\ud800","password":"\\ud800aaaaaaaaaaaa"}',
        b"NaN",
        b'{"a":1e999}',
    ],
)
def test_invalid_json_is_a_client_error(steady: Admin, body: bytes) -> None:
    response = steady.post("/register_user", data=body, headers=JSON)
    assert response.status_code in {400, 422}
    assert "detail" in response.json()


hostile = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=100), st.lists(st.text(max_size=20), max_size=3)
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.one_of(st.sampled_from(["username", "password", "password_hash", "role", "projects"]), st.text(max_size=10)),
        hostile,
    ).map(lambda fields: {"username": "alice", "password": PASSWORD, **fields})
)
@example({"username": "a\0", "password": "\ud800" * 20})
@example({"username": "x" * 10_000, "password": "y" * 10_000})
@example({"username": "alice", "password": PASSWORD, "\ud800": 1})
def test_no_body_causes_a_server_error(steady: Admin, body: dict[str, Any]) -> None:
    response = steady.post("/register_user", data=json.dumps(body), headers=JSON)
    assert response.status_code in {200, 201, 422}
    if response.status_code != 422:
        assert steady.delete(f"/users/{quote(response.json()['username'], safe='')}").status_code == 204


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300))
@example(".")
@example("a" * 5000)
def test_no_name_in_a_url_causes_a_server_error(steady: Admin, name: str) -> None:
    response = steady.delete(f"/users/{quote(name, safe='')}")
    assert response.status_code in {404, 405, 422}


def test_every_response_is_declared_in_the_schema(admin: Admin) -> None:
    schema = admin.get("/openapi.json").json()
    said = {path: {method: set(op["responses"]) for method, op in ops.items()} for path, ops in schema["paths"].items()}
    assert {"200", "201", "401", "413", "415", "422", "429", "500"} <= said["/register_user"]["post"]
    assert {"204", "401", "404"} <= said["/users/{username}"]["delete"]
    security = schema["components"]["securitySchemes"]
    assert [scheme["scheme"] for scheme in security.values()] == ["bearer"]
    for example_body in schema["components"]["schemas"]["RegisterUser"]["examples"][:1]:
        response = admin.register(**example_body)
        assert str(response.status_code) in said["/register_user"]["post"]
        model = schema["components"]["schemas"]["RegisteredUser"]
        assert set(model["required"]) <= set(response.json()) <= set(model["properties"])


def test_an_unexpected_error_is_reported_without_its_cause(storage: DirectoryStorage) -> None:
    class Broken(Users):
        """Raises an unexpected error."""

        def identities(self) -> list[Identity]:
            raise RuntimeError(PASSWORD)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ops.index.admin.app.Users", Broken)
        admin = Admin(storage)
    response = admin.get("/users")
    admin.stop()
    assert response.status_code == 500
    assert "log" in response.json()["detail"]
    assert PASSWORD not in response.text
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.slow
def test_schemathesis_finds_no_undeclared_response(tmp_path: Path) -> None:
    """All its checks in all its phases, with random requests, with and without the token."""
    options = Options(bcrypt_rounds=4, login_failures=1_000_000)
    admin = Admin(DirectoryStorage(tmp_path / "credentials"), options=options)
    program = Path(sys.executable).with_name("st")
    command = [str(program), "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run"]
    command += [f"{admin.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}", "--checks", "all"]
    command += ["--max-examples", "30", "--generation-deterministic", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    admin.stop()
    assert done.returncode == 0, done.stdout + done.stderr


# --- tokens -----------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_then_listed_without_its_value_and_revoked(
    admin: Admin, storage: DirectoryStorage
) -> None:
    admin.register(username="ci", password=PASSWORD)
    made = admin.post("/create_token", json={"owner": "ci", "projects": ["Spam"], "label": "release"})
    assert made.status_code == 201
    assert made.headers["Cache-Control"].endswith("no-store")
    token = made.json().pop("token")
    (listed,) = admin.get("/tokens").json()
    assert {**listed, "token": token} == made.json()
    assert (listed["owner"], listed["role"], listed["projects"]) == ("ci", "publisher", ["spam"])
    assert token.encode() not in (storage.directory / TOKENS).read_bytes()
    assert admin.get("/tokens", params={"owner": "else"}).json() == []
    assert admin.delete(f"/tokens/{listed['id']}").status_code == 204
    assert admin.delete(f"/tokens/{listed['id']}").status_code == 404
    assert admin.get("/tokens").json() == []


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({"owner": "nobody"}, 404, "register the user first"),
        ({"owner": "ci", "role": "admin"}, 422, "a token can do no more"),
        ({"owner": "ci", "role": "reader", "projects": ["spam"]}, 422, "the role publisher only"),
        ({"owner": "ci", "lifetime_seconds": 3599}, 422, "one hour to one year"),
        ({"owner": "ci", "lifetime_seconds": 365 * 86400 + 1}, 422, "one hour to one year"),
        ({"owner": "ci", "label": "two\nlines"}, 422, "one line"),
        ({"owner": "ci", "projects": ["no project!"]}, 422, "not a project name"),
        ({"owner": "ci", "days": 3}, 422, "the fields are owner, role, projects, lifetime_seconds, label"),
    ],
)
def test_an_invalid_token_request_is_refused_with_one_sentence(
    admin: Admin, asked: dict[str, object], status: int, sentence: str
) -> None:
    admin.register(username="ci", password=PASSWORD)
    refused = admin.post("/create_token", json=asked)
    assert refused.status_code == status
    assert sentence in refused.json()["detail"]
    assert admin.get("/tokens").json() == []


# --- where it runs ----------------------------------------------------------------------------------------------


def test_below_a_path_prefix_it_knows_its_own_url(storage: DirectoryStorage) -> None:
    admin = Admin(storage, root_path="/admin")
    assert admin.get("/admin/health").json() == {"status": "ok"}
    assert admin.get("/admin/users").json() == []
    assert "/admin/register_user" in admin.get("/admin/docs").text
    assert admin.get("/admin/openapi.json").json()["servers"] == [{"url": "/admin"}]
    assert admin.get("/admin/users", headers={"Authorization": ""}).status_code == 401
    admin.stop()


def test_a_failed_commit_is_an_error_and_the_user_stays_invisible(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    admin = Admin(ours)
    assert admin.register(username="alice", password=PASSWORD).status_code == 201
    ours.failures.append(RuntimeError("the volume is away"))
    failed = admin.register(username="bob", password=PASSWORD)
    assert failed.status_code == 500
    assert "commit" in failed.json()["detail"]
    assert [user["username"] for user in admin.get("/users").json()] == ["alice"]
    theirs.reload()
    assert b"bob:" not in (theirs.directory / PASSWORDS).read_bytes()
    assert b"bob" not in (theirs.directory / GROUPS).read_bytes()
    admin.stop()


def test_eight_concurrent_registrations_lose_no_user(admin: Admin) -> None:
    def register(number: int) -> None:
        for i in range(5):
            assert admin.register(username=f"u{number}-{i}", password=PASSWORD).status_code == 201

    threads = [threading.Thread(target=register, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admin.get("/users").json()) == 40


def test_no_secret_is_in_a_log_a_response_or_the_audit_log(
    storage: DirectoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    handled = io.StringIO()
    logging.getLogger().addHandler(handler := logging.StreamHandler(handled))
    admin = Admin(storage)
    canary = "canary-2b7e151628aed2a6"
    digest = hashed(canary, 10)
    said = [
        admin.register(username="alice", password=canary),
        admin.register(username="alice", password_hash=digest),
        admin.register(username="alice", password=canary, role=canary),
        admin.register(username="alice", password=[canary]),
        admin.register(username="alice", password=canary + "\0"),
        admin.register(username="bob", password=canary, projects=[]),
        admin.post("/register_user", data=f'{{"username": "x", "password": "{canary}"', headers=JSON),
        admin.get("/users"),
        admin.get("/users", headers={"Authorization": f"Bearer {canary}"}),
        admin.get("/nothing"),
    ]  # fmt: skip
    admin.stop()
    logging.getLogger().removeHandler(handler)
    audit = "".join(path.read_text() for path in (storage.directory / ADMIN_FOLDER).iterdir())
    assert '"user.created"' in audit
    everything = [response.text + str(response.headers) for response in said] + [audit, caplog.text, handled.getvalue()]
    for secret in (canary, TOKEN, digest, base64.b64encode(canary.encode()).decode()[:-4]):
        assert not any(secret in text for text in everything)
