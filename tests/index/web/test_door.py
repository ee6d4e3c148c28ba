"""Where a request comes from, and whether another site made a browser send it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.access.authentication import Authenticator
from ops.index.disk.storage import DirectoryStorage
from ops.index.options import Options
from ops.index.web.door import Door, OtherSite, refuse_other_sites
from ops.index.web.exchange import Exchange


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
    door = Door(authenticator, Options(trusted_proxies=proxies))
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode()}
    assert door.route((peer, 1), headers)[0] == address


@given(st.binary(max_size=200))
def test_no_header_makes_the_address_fail(authenticator: Authenticator, forwarded: bytes) -> None:
    door = Door(authenticator, Options(trusted_proxies=("*",)))
    assert door.route(("192.0.2.1", 1), {b"x-forwarded-for": forwarded})[0]
    assert door.route(None, {b"x-forwarded-for": forwarded})[0] is not None


@pytest.mark.parametrize(
    ("refused", "headers"),
    [
        (False, {}),
        (False, {"host": "x:1", "origin": "http://x:1"}),
        (False, {"host": "X:1", "origin": "https://x:1"}),
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
    exchange = Exchange({"method": "POST", "path": "/"}, None, None, fields, "")  # type: ignore[arg-type]  # unused
    if refused:
        with pytest.raises(OtherSite):
            refuse_other_sites(exchange)
    else:
        refuse_other_sites(exchange)
