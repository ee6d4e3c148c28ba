"""An ID token of a trusted job, and nothing else, is exchanged for one short-lived token."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest

from ops.index import create_index
from ops.index.auth.passwords import TOKEN
from ops.index.auth.trust import Trust, TrustStore
from ops.index.config import Options
from ops.index.storage.directory import DirectoryStorage
from tests.index.issuer import AUDIENCE, FakeIssuer, private_key, public_pem
from tests.index.serving import JSON, Http, Response, ThreadServer, eventually
from tests.index.test_sharing import publish

FAST = Options(bcrypt_rounds=4, refresh_seconds=0.05)


class Index(ThreadServer):
    """A server on two volumes."""

    def __init__(self, folder: Path) -> None:
        self.packages, self.credentials = folder / "packages", folder / "credentials"
        super().__init__(
            create_index(
                packages=DirectoryStorage(self.packages), credentials=DirectoryStorage(self.credentials), options=FAST
            )
        )

    def audit(self) -> list[dict[str, Any]]:
        found = sorted((self.packages / ".index" / "audit").glob("*.jsonl"))
        return [json.loads(line) for path in found for line in path.read_text().splitlines()]


def ask(server: Http, action: str, body: object) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.request("POST", f"/_/oidc/{action}", user=None, body=content)


def mint(server: Http, id_token: str) -> Response:
    return ask(server, "mint-token", {"token": id_token})


def error(response: Response) -> tuple[str, str]:
    (found,) = json.loads(response.body)["errors"]
    return found["code"], found["description"]


def status(server: Http, token: str) -> int:
    return server.request("GET", "/simple/", user="__token__", password=token).status


@pytest.fixture(params=["github", "gitlab"])
def issuer(request: pytest.FixtureRequest) -> Iterator[FakeIssuer]:
    with FakeIssuer(request.param) as fake:
        yield fake


@pytest.fixture
def github() -> Iterator[FakeIssuer]:
    with FakeIssuer() as fake:
        yield fake


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path) as running:
        yield running


def trusting(server: Index, document: dict[str, Any]) -> None:
    store = TrustStore(DirectoryStorage(server.credentials))
    store.replace(document, version=store.current().version)
    time.sleep(0.1)  # local files are checked every 50 ms


def test_without_trusted_jobs_the_paths_are_404_and_no_issuer_is_contacted(server: Index, github: FakeIssuer) -> None:
    assert server.get("/_/oidc/audience", user=None).status == 404
    assert server.get("/.well-known/pytp", user=None).status == 404
    assert mint(server, github.id_token()).status == 422
    assert github.requests == []


def test_an_id_token_of_a_trusted_job_is_exchanged_for_a_token_that_publishes_its_projects(
    server: Index, issuer: FakeIssuer
) -> None:
    trusting(server, issuer.trust())
    assert json.loads(server.get("/_/oidc/audience", user=None).body) == {"audience": AUDIENCE}
    before = int(time.time())
    response = mint(server, issuer.id_token())
    assert response.status == 200, response.text
    reply = json.loads(response.body)
    token = reply["token"]
    assert reply["success"] is True
    assert before + 900 <= reply["expires"] <= time.time() + 901
    assert TOKEN.fullmatch(token)
    assert response["Cache-Control"] == "private, no-store"
    assert status(server, token) == 200
    (minted,) = [line for line in server.audit() if line["event"] == "oidc.minted"]
    assert (minted["user"], minted["issuer"], minted["ref"]) == ("oidc:spam-release", issuer.url, "refs/heads/main")
    assert "4711" in minted["run"]
    kept = "".join(path.read_text() for path in server.packages.rglob("*") if path.is_file())
    assert token.rpartition("_")[2] not in kept
    assert publish(server, "spam", "1.0", login=("__token__", token)) == 200
    page = server.request("GET", "/projects/spam/", user="__token__", password=token).text
    assert f'href="{minted["run"]}"' in page


def test_a_burnt_token_is_refused_and_burning_it_again_changes_nothing(server: Index, github: FakeIssuer) -> None:
    trusting(server, github.trust())
    token = json.loads(mint(server, github.id_token()).body)["token"]
    assert status(server, token) == 200
    assert ask(server, "burn-token", {"token": token}).status == 202
    eventually(lambda: status(server, token) == 401)
    assert ask(server, "burn-token", {"token": token}).status == 202
    assert [line["event"] for line in server.audit()].count("oidc.burnt") == 1
    assert ask(server, "burn-token", {"token": "else"}).status == 422


def test_a_token_loses_its_rights_when_the_trust_is_removed(server: Index, github: FakeIssuer) -> None:
    for project in ("spam", "ham"):
        (server.packages / f"{project}-1.tar.gz").write_bytes(b"an sdist, nearly")

    def yank(project: str) -> int:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        body = b'{"version": "1"}'
        return server.request("POST", f"/projects/{project}/yank", user=None, headers=headers, body=body).status

    trusting(server, github.trust())
    token = json.loads(mint(server, github.id_token()).body)["token"]
    assert (yank("spam"), yank("ham")) == (200, 403)
    trusting(server, github.trust(projects=["ham"]))
    assert (yank("spam"), yank("ham")) == (403, 200)
    trusting(server, github.trust(name="another"))
    assert status(server, token) == 401


def test_a_reader_s_token_installs_and_does_not_publish(server: Index, github: FakeIssuer) -> None:
    trusting(server, github.trust(role="reader", projects=None, environment="", workflow="", protected_ref=False))
    token = json.loads(mint(server, github.id_token(environment=None)).body)["token"]
    assert status(server, token) == 200
    assert server.request("POST", "/", user="__token__", password=token).status == 403


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"repository_id": "1002"}, "none is for the repository acme/spam (repository_id 1002"),
        ({"repository_owner_id": "78"}, "repository_owner_id 78"),
        ({"environment": "staging"}, "the environment is 'staging' and not 'release'"),
        ({"environment": None}, "the environment is not given"),
        ({"job_workflow_ref": "acme/spam/.github/workflows/test.yaml@refs/heads/main"}, "not 'release.yaml'"),
        ({"job_workflow_ref": "evil/x/.github/workflows/release.yaml@refs/heads/main"}, "not 'release.yaml'"),
        ({"ref_protected": "false"}, "is not protected"),
        ({"repository": "acme/renamed", "job_workflow_ref": "acme/spam/.github/workflows/release.yaml@x"}, "workflow"),
    ],
)
def test_an_untrusted_job_is_told_what_did_not_match_and_where_to_fix_it(
    server: Index, github: FakeIssuer, changed: dict[str, Any], sentence: str
) -> None:
    trusting(server, github.trust())
    response = mint(server, github.id_token(**changed))
    assert response.status == 422
    code, description = error(response)
    assert code == "invalid-publisher"
    assert sentence in description
    assert "13_trusted_publishing" in description


def test_a_renamed_repository_is_still_trusted_by_its_ids(server: Index, github: FakeIssuer) -> None:
    trusting(server, github.trust())
    moved = "acme/renamed/.github/workflows/release.yaml@refs/heads/main"
    assert mint(server, github.id_token(repository="acme/renamed", job_workflow_ref=moved)).status == 200


def test_an_id_token_is_accepted_only_once_across_all_servers(tmp_path: Path, github: FakeIssuer) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(Index(tmp_path)) for _ in range(3)]
        trusting(servers[0], github.trust())
        for _ in range(100):
            assert sorted(race(servers, github.id_token())) == [200, 422, 422]


def test_a_job_that_comes_while_too_many_wait_gets_503(
    server: Index, github: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting(server, github.trust())
    with monkeypatch.context() as patch:
        patch.setattr("ops.index.http.oidc_api._MOST_WAITING", 0)
        refused = mint(server, github.id_token())
        assert (refused.status, error(refused)[0]) == (503, "unavailable")
        assert int(refused["Retry-After"]) > 0
    assert mint(server, github.id_token()).status == 200


def race(servers: list[Index], id_token: str) -> list[int]:
    """The statuses of the same request sent to all servers at once."""
    seen: list[int] = []
    start = threading.Barrier(len(servers))

    def run(server: Index) -> None:
        start.wait()
        seen.append(mint(server, id_token).status)

    threads = [threading.Thread(target=run, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def test_a_minted_token_is_known_and_burnt_on_every_server(tmp_path: Path, github: FakeIssuer) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(Index(tmp_path)) for _ in range(2))
        trusting(first, github.trust())
        token = json.loads(mint(first, github.id_token()).body)["token"]
        assert status(second, token) == 200
        ask(first, "burn-token", {"token": token})
        eventually(lambda: status(second, token) == 401)


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_new_key_is_fetched_once_and_an_outage_is_survived(server: Index, github: FakeIssuer) -> None:
    trusting(server, github.trust())
    assert mint(server, github.id_token()).status == 200
    github.outage = True
    for _ in range(5):
        assert error(mint(server, github.id_token(kid="unknown")))[0] == "invalid-token"
        assert mint(server, github.id_token()).status == 200
    assert github.requests == ["/.well-known/jwks"], "an unknown key id causes no second request within seconds"


# --- what is not an ID token ------------------------------------------------------------------------------------------


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forgeries(issuer: FakeIssuer, chance: random.Random) -> Iterator[object]:
    """Bodies of requests that must all be refused."""
    now = int(time.time())
    other = private_key(1)
    good = issuer.id_token()
    header, payload, signature = good.split(".")
    digest = hmac.new(public_pem(private_key()), digestmod=hashlib.sha256)
    confused = f"{part({'alg': 'HS256', 'kid': 'key-1'})}.{payload}"
    digest.update(confused.encode())
    swapped = list(signature)
    place = chance.randrange(len(swapped) - 4)
    swapped[place] = "A" if swapped[place] != "A" else "B"
    changed: list[dict[str, Any]] = [
        {"exp": now - 31 - chance.randrange(10**6)},
        {"nbf": now + 31 + chance.randrange(10**6)},
        {"iat": now + 31 + chance.randrange(10**6)},
        {"exp": now + 10**7},
        {"aud": chance.choice(["pypi", "pypi-tests", "", [AUDIENCE, "pypi"], [AUDIENCE]])},
        {"iss": chance.choice(["https://evil.example", issuer.url + "/", issuer.url.upper(), "", 7, None])},
        {"repository_id": str(chance.randrange(2000, 10**9))},
        {"repository_owner_id": chance.choice(["78", 770, None, ["77"]])},
        {"environment": "staging"},
        {"job_workflow_ref": chance.choice(["", 7, "acme/spam/.github/workflows/release.yaml"])},
        {"ref_protected": chance.choice(["false", "", None, 1])},
        {chance.choice(["iss", "aud", "exp", "nbf", "iat", "jti"]): None},
        {"jti": chance.choice(["", 7, [], {"a": 1}, "x" * 600])},
        {"exp": chance.choice(["soon", [], 1e400, True])},
    ]
    for claims in changed:
        yield {"token": issuer.id_token(**claims)}
    yield {"token": issuer.id_token(key=other)}
    yield {"token": issuer.id_token(kid="weak")}
    yield {"token": issuer.id_token(kid=chance.choice(["key-2", "../key-1", "", "k" * 5000]), key=other)}
    yield {"token": f"{part({'alg': 'none', 'kid': 'key-1'})}.{payload}."}
    yield {"token": f"{part({'alg': 'None'})}.{payload}.{signature}"}
    yield {"token": f"{confused}.{base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()}"}
    yield {"token": f"{part({'alg': 'RS512', 'kid': 'key-1'})}.{payload}.{signature}"}
    yield {"token": f"{part({'alg': 'RS256', 'kid': 'key-1', 'crit': ['b64'], 'b64': False})}.{payload}.{signature}"}
    yield {"token": f"{header}.{payload}.{''.join(swapped)}"}
    yield {"token": f"{header}.{part(issuer.claims(repository_id='1'))}.{signature}"}
    yield {"token": jwt.encode({**issuer.claims(), "pad": "x" * 13_000}, private_key(), "RS256", {"kid": "key-1"})}
    yield {"token": "x" * chance.choice([1, 100, 12_000])}
    yield {"token": f"{header}.{payload}"}
    yield {"token": f"{header}.{payload}.{signature}.{signature}"}
    yield {"token": "".join(chr(chance.randrange(1, 300)) for _ in range(200))}
    yield {"token": part([1]) + "." + part("text") + "." + signature}
    yield chance.choice([{"token": 7}, {"token": None}, {}, [], "text", None, 7])
    yield chance.choice(
        [b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"token": "' + b"\\ud800" * 10 + b'"}', b"x" * 14_000]
    )


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_forged_replayed_expired_future_foreign_or_malformed_id_token_is_accepted(
    server: Index, github: FakeIssuer, count: int
) -> None:
    trusting(server, github.trust())
    used = github.id_token()
    assert mint(server, used).status == 200
    chance = random.Random(1)
    sent = 0
    while sent < count:
        for body in ({"token": used}, *forgeries(github, chance)):
            response = ask(server, "mint-token", body)
            assert response.status in {400, 413, 422}, body
            assert json.loads(response.body)["errors"]
            sent += 1
    assert [line["event"] for line in server.audit()].count("oidc.minted") == 1
    assert mint(server, github.id_token()).status == 200


def test_discovery_answers_only_for_upload_urls_of_this_index(server: Index, github: FakeIssuer) -> None:
    trusting(server, github.trust())
    root = f"http://{server.host}:{server.port}"
    expected = {f"{name}-endpoint": f"{root}/_/oidc/{name}" for name in ("audience", "mint-token", "burn-token")}
    key = hashlib.sha256(b"/legacy/").hexdigest()
    for path in ("", f"?discover={key}", f"/{key}", "?discover=/", f"?discover={root}/legacy/"):
        assert json.loads(server.get(f"/.well-known/pytp{path}", user=None).body) == expected, path
    assert server.get("/.well-known/pytp?discover=/other/", user=None).status == 404
    assert server.get(f"/simple/?format={JSON}", user=None).status == 401


def test_an_unreadable_file_trusts_nothing() -> None:
    for content in (b"{", b"[]", b"7", b'{"version": 1}', b'{"version": 1, "audience": "A b", "jobs": []}', b"\xff"):
        assert Trust.read(content) == Trust()
