"""Where a request comes from, and whether another site made a browser send it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.auth.authenticator import Authenticator
from ops.index.config import Options
from ops.index.http.request import Request
from ops.index.http.request_auth import OtherSite, RequestAuth, refuse_other_sites
from ops.index.storage.directory import DirectoryStorage
from tests.index.serving import Server


@pytest.fixture(scope="module")
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Authenticator:
    return Authenticator(DirectoryStorage(tmp_path_factory.mktemp("credentials")), Options())


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "address"),
    [
        ((), "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", None, "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", "203.0.113.9", "203.0.113.9"),
        (("192.0.2.1",), "198.51.100.7", "203.0.113.9", "198.51.100.7"),
        (("192.0.2.1",), "192.0.2.1", "made up, 203.0.113.9", "203.0.113.9"),
        (("192.0.2.1", "192.0.2.2"), "192.0.2.1", "1.1.1.1, 203.0.113.9, 192.0.2.2", "203.0.113.9"),
        (("192.0.2.1",), "192.0.2.1", "made up", "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", "203.0.113.9, made up", "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", "2001:DB8::1", "2001:db8::1"),
        (("*",), "192.0.2.1", "203.0.113.9, 198.51.100.7", "203.0.113.9"),
    ],
)
def test_the_address_is_the_last_one_that_no_trusted_proxy_has(
    authenticator: Authenticator, proxies: tuple[str, ...], peer: str, forwarded: str | None, address: str
) -> None:
    request_auth = RequestAuth(authenticator, Options(trusted_proxies=proxies))
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode()}
    assert request_auth.route((peer, 1), headers)[0] == address


@given(st.binary(max_size=200))
def test_no_header_makes_the_address_fail(authenticator: Authenticator, forwarded: bytes) -> None:
    request_auth = RequestAuth(authenticator, Options(trusted_proxies=("*",)))
    assert request_auth.route(("192.0.2.1", 1), {b"x-forwarded-for": forwarded})[0]
    assert request_auth.route(None, {b"x-forwarded-for": forwarded})[0] is not None


@pytest.mark.parametrize(
    ("refused", "headers"),
    [
        (False, {}),
        (False, {"host": "x:1", "origin": "http://x:1"}),
        (False, {"host": "X:1", "origin": "HTTP://x:1"}),
        (False, {"host": "x", "origin": "http://x:80"}),
        (False, {"host": "x:80", "origin": "http://x"}),
        (False, {"host": "[::1]:1", "origin": "http://[::1]:1"}),
        (True, {"host": "x:1", "origin": "https://x:1"}),
        (True, {"host": "x", "origin": "https://x"}),
        (True, {"host": "x:443", "origin": "https://x"}),
        (True, {"host": "x", "origin": "http://x, http://y"}),
        (True, {"host": "x", "origin": "http://x/path"}),
        (True, {"host": "x", "origin": "http://y@x"}),
        (True, {"host": "", "origin": "http://"}),
        (True, {"host": "x y", "origin": "http://x y"}),
        (True, {"host": "x", "origin": "moz-extension://x"}),
        (True, {"host": "x", "origin": "https://x", "x-forwarded-proto": "https"}),  # nobody is trusted to say so
        (True, {"host": "x:1", "origin": "http://x"}),
        (True, {"host": "x", "origin": "null"}),
        (True, {"host": "x", "origin": ""}),
        (True, {"host": "x", "origin": "http://["}),
        (True, {"origin": "http://x"}),
        (False, {"sec-fetch-site": "same-origin", "origin": "http://outside", "host": "inside"}),
        (False, {"sec-fetch-site": "none"}),
        (True, {"sec-fetch-site": "same-site"}),
        (True, {"sec-fetch-site": "cross-site"}),
        (True, {"sec-fetch-site": "nonsense"}),
    ],
)
def test_a_request_that_another_site_caused_is_refused(refused: bool, headers: dict[str, str]) -> None:
    fields = {name.encode(): value.encode() for name, value in headers.items()}
    exchange = Request({"method": "POST", "path": "/"}, None, None, fields, "")  # type: ignore[arg-type]  # unused
    if refused:
        with pytest.raises(OtherSite):
            refuse_other_sites(exchange)
    else:
        refuse_other_sites(exchange)


@pytest.mark.parametrize(
    ("refused", "origin", "forwarded"),
    [
        (False, "https://index.example", {"proto": "https", "host": "index.example"}),
        (False, "https://index.example:8443", {"proto": "https", "host": "index.example:8443"}),
        (False, "https://inside", {"proto": "https"}),
        (False, "http://inside", {}),
        (True, "http://index.example", {"proto": "https", "host": "index.example"}),
        (True, "https://index.example", {"proto": "http", "host": "index.example"}),
        (True, "https://index.example", {"proto": "https", "host": "other.example"}),
        (True, "https://inside", {}),
        (True, "https://made-up", {"proto": "https", "host": "made-up, index.example"}),
    ],
)
def test_behind_a_trusted_proxy_the_origin_is_the_one_that_the_proxy_tells(
    refused: bool, origin: str, forwarded: dict[str, str]
) -> None:
    fields = {f"x-forwarded-{name}".encode(): value.encode() for name, value in forwarded.items()}
    fields |= {b"host": b"inside", b"origin": origin.encode()}
    scope = {"method": "POST", "path": "/", "scheme": "http"}
    exchange = Request(scope, None, None, fields, "", hops=1)  # type: ignore[arg-type]  # unused
    with pytest.raises(OtherSite) if refused else contextlib.nullcontext():
        refuse_other_sites(exchange)


def test_a_page_of_the_same_host_over_another_scheme_changes_nothing(tmp_path: Path) -> None:
    """Over loopback, through the server: whoever can alter plain HTTP must not act for a page over TLS."""
    with Server(tmp_path, "--trusted-proxy", "127.0.0.1") as server:
        body = json.dumps({"status": "archived"}).encode()

        def change(**headers: str) -> int:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            fields |= {"Content-Type": "application/json", "Host": "index.example"}
            return server.request("POST", "/projects/spam/status", headers=fields, body=body).status

        assert change(Origin="http://index.example") == 404, "there is no such project, which is beyond the check"
        assert change(Origin="https://index.example") == 403
        assert change(Origin="https://index.example", X_Forwarded_Proto="https") == 404
        assert change(Origin="http://index.example", X_Forwarded_Proto="https") == 403
