"""Keys are fetched only from configured issuers, rarely, one request at a time, and survive an outage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ops.index.auth.id_tokens import IdTokens, fetch_keys
from ops.index.auth.trust import Trust
from ops.index.errors import InvalidIdToken
from tests.index.issuer import FakeIssuer, private_key, public_jwk


class World:
    """An issuer with a clock, keys and outages controlled by the test."""

    def __init__(self) -> None:
        self.issuer = FakeIssuer()
        self.now = float(self.issuer.claims()["iat"])
        self.keys: object = {"keys": [public_jwk("key-1", private_key())]}
        self.fetched: list[str] = []
        self.outage = False
        self.trust = Trust.of(self.issuer.trust(), version=1)
        self.id_tokens = IdTokens(fetch=self.fetch, clock=lambda: self.now)

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        if self.outage:
            raise OSError("the issuer is unavailable")
        return json.dumps(self.keys).encode()

    def accepted(self, kid: str = "key-1", number: int = 0) -> bool:
        try:
            self.id_tokens.verify(self.issuer.id_token(kid=kid, key=private_key(number)), self.trust)
        except InvalidIdToken:
            return False
        return True


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.issuer.close()


def test_keys_are_fetched_once_per_ten_minutes(world: World) -> None:
    for _ in range(5):
        assert world.accepted()
        world.now += 119
    assert len(world.fetched) == 1
    world.now += 10
    assert world.accepted()
    assert world.fetched == [f"{world.issuer.url}/.well-known/jwks"] * 2


def test_a_new_key_works_at_once_and_a_removed_one_stops_within_ten_minutes(world: World) -> None:
    assert world.accepted()
    world.now += 31
    world.keys = {"keys": [public_jwk("key-2", private_key(1))]}
    assert world.accepted("key-2", 1)
    assert not world.accepted("key-1")


def test_unknown_key_ids_cause_at_most_two_requests_a_minute(world: World) -> None:
    for number in range(100):
        assert not world.accepted(f"invented-{number}")
        world.now += 0.6
    assert len(world.fetched) == 2


def test_the_last_keys_are_used_for_an_hour_of_outage_and_no_longer(world: World) -> None:
    assert world.accepted()
    world.outage = True
    for _ in range(69):
        world.now += 60
        assert world.accepted()
    world.now += 120
    assert not world.accepted()
    world.outage = False
    world.now += 31
    assert world.accepted()


@pytest.mark.parametrize(
    "keys", [None, [], {}, {"keys": 7}, {"keys": ["text"]}, {"keys": [{"kty": "EC", "kid": "key-1"}]}]
)
def test_unreadable_keys_refuse_everyone_and_raise_nothing(world: World, keys: object) -> None:
    world.keys = keys
    assert not world.accepted()


def test_a_token_with_a_known_key_does_not_wait_for_others_requests(world: World) -> None:
    assert world.accepted()
    world.now += 31
    asked, answered = threading.Event(), threading.Event()
    ordinary = world.id_tokens._fetch

    def hanging(url: str) -> bytes:
        asked.set()
        assert answered.wait(60)
        return ordinary(url)

    world.id_tokens._fetch = hanging
    stranger = threading.Thread(target=world.accepted, args=("invented",))
    stranger.start()
    assert asked.wait(60)
    assert world.accepted(), "a known key had to wait for another request"
    answered.set()
    stranger.join()


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [(302, {"Location": "/elsewhere"}, b""), (200, {}, b"x" * 300_000), (500, {}, b"{}")],
)
def test_only_a_short_document_at_the_exact_url_is_read(status: int, headers: dict[str, str], body: bytes) -> None:
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        log_message: Callable[..., None] = lambda *_: None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with pytest.raises(OSError, match=r"too long|HTTP Error"):
            fetch_keys(f"http://127.0.0.1:{server.server_port}/keys")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert paths == ["/keys"]
