"""Trusted proxies, and their headers."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.forwarded import TrustedProxies, chosen
from ops.index.http.request import Request


@pytest.mark.parametrize(
    ("entry", "trusted", "others"),
    [
        ("10.0.0.5", ["10.0.0.5", "::ffff:10.0.0.5"], ["10.0.0.6", "", "nonsense"]),
        ("172.16.0.0/12", ["172.16.0.1", "172.31.255.254"], ["172.32.0.1"]),
        ("172.16.0.0/255.240.0.0", ["172.31.255.254"], ["172.32.0.1"]),
        ("fd00::/8", ["fd12::1", "fd12::1%eth0"], ["fe80::1", "10.0.0.1"]),
        ("FD00:0:0::1", ["fd00::1"], ["fd00::2"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.1.2.3"]),
        ("*", ["10.0.0.5", "fe80::1", ""], []),
    ],
)
def test_an_entry_is_an_address_a_network_or_everyone(entry: str, trusted: list[str], others: list[str]) -> None:
    proxies = TrustedProxies([entry])
    for _ in range(2):  # the second response comes from the cache
        assert [address in proxies for address in trusted] == [True] * len(trusted)
        assert [address in proxies for address in others] == [False] * len(others)


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [
        ("proxy.internal", "no host names"),
        ("", "write 10.0.0.5, 172.16.0.0/12"),
        (" 10.0.0.1", "write 10.0.0.1, "),
        ("10.0.0.300", "write 10.0.0.5, 172.16.0.0/12"),
        ("10.0.0.1/33", "write 10.0.0.5, 172.16.0.0/12"),
        ("10.0.0.*", "write 10.0.0.5, 172.16.0.0/12"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("127.0.0.1:443", "write 127.0.0.1"),
        ("[::1]:443", "write ::1"),
        ("10.0.0.1,10.0.0.2", "by repeating"),
    ],
)
def test_anything_else_is_refused_with_what_to_write_instead(entry: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address or network") as caught:
        TrustedProxies(["127.0.0.1", entry])
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("forwarded", "route"),
    [
        (None, ("10.0.0.1", 1)),
        (b"203.0.113.9", ("203.0.113.9", 1)),
        (b"made up, 203.0.113.9, 10.9.9.9", ("203.0.113.9", 2)),
        (b"203.0.113.9:4711", ("203.0.113.9", 1)),
        (b"[2001:db8::1]:4711", ("2001:db8::1", 1)),
        (b"::ffff:203.0.113.9", ("203.0.113.9", 1)),
        (b"made up", ("10.0.0.1", 1)),
        (b"203.0.113.9, ", ("10.0.0.1", 1)),
        (b"10.0.0.7, 10.0.0.8", ("10.0.0.7", 3)),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_trusted_proxy(
    forwarded: bytes | None, route: tuple[str, int]
) -> None:
    assert TrustedProxies(["10.0.0.0/8"]).route("10.0.0.1", forwarded) == route


def test_a_header_from_an_untrusted_peer_is_ignored_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    with caplog.at_level(logging.WARNING):
        assert proxies.route("192.0.2.1", None) == ("192.0.2.1", 0)
        assert caplog.records == []
        for peer in ("192.0.2.1", "192.0.2.2"):
            assert proxies.route(peer, b"203.0.113.9") == (peer, 0)
    (record,) = caplog.records
    assert "--trusted-proxy 192.0.2.1 " in record.getMessage()
    assert "203.0.113.9" not in record.getMessage(), "anyone can write anything there"


@given(st.binary(max_size=200), st.integers(1, 5))
def test_no_header_raises_an_error(value: bytes, hops: int) -> None:
    assert TrustedProxies(["*"]).route("192.0.2.1", value)[0]
    chosen(value, hops)


def test_the_cache_of_addresses_is_bounded() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    for number in range(10_000):
        assert f"192.0.{number // 256}.{number % 256}" not in proxies
    assert len(proxies._known) < 5000


@pytest.mark.parametrize(
    ("hops", "headers", "address"),
    [
        (0, {"x-forwarded-proto": "https", "x-forwarded-prefix": "/a", "x-forwarded-host": "b"}, "http://inner:1/"),
        (1, {}, "http://inner:1/"),
        (1, {"x-forwarded-proto": "https"}, "https://inner:1/"),
        (1, {"x-forwarded-proto": "HTTPS", "x-forwarded-host": "outer"}, "https://outer/"),
        (1, {"x-forwarded-prefix": "/a/b/", "x-forwarded-host": "[::1]:8080"}, "http://[::1]:8080/a/b/"),
        (1, {"x-forwarded-proto": "http, https"}, "https://inner:1/"),
        (2, {"x-forwarded-proto": "https, http", "x-forwarded-host": "outer, middle"}, "https://outer/"),
        (2, {"x-forwarded-proto": "https"}, "https://inner:1/"),
        (
            1,
            {"x-forwarded-proto": "javascript", "x-forwarded-host": "a/b", "x-forwarded-prefix": "a"},
            "http://inner:1/",
        ),
        (1, {"x-forwarded-prefix": "/../x"}, "http://inner:1/"),
        (1, {"x-forwarded-prefix": "//elsewhere"}, "http://inner:1/"),
        (1, {"x-forwarded-prefix": "/a'b"}, "http://inner:1/"),
        (1, {"x-forwarded-prefix": "/"}, "http://inner:1/"),
    ],
)
def test_the_index_url_is_taken_from_a_trusted_proxy(hops: int, headers: dict[str, str], address: str) -> None:
    fields = {name.encode(): value.encode() for name, value in headers.items()}
    scope = {"method": "GET", "path": "/", "scheme": "http"}
    request = Request(scope, None, None, {b"host": b"inner:1", **fields}, "", hops=hops)  # type: ignore[arg-type]  # unused
    assert request.index_url == address


def test_without_a_valid_host_the_url_is_that_of_this_machine() -> None:
    for host in (b"<b>", b'x"onclick=', b"a b", b""):
        request = Request({"method": "GET", "path": "/"}, None, None, {b"host": host}, "")  # type: ignore[arg-type]  # unused
        assert request.index_url == "http://localhost/"


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
def test_the_client_address_is_the_last_untrusted_one(
    proxies: tuple[str, ...], peer: str, forwarded: str | None, address: str
) -> None:
    value = None if forwarded is None else forwarded.encode()
    assert TrustedProxies(proxies).route(peer, value)[0] == address


@given(st.binary(max_size=200))
def test_no_header_breaks_the_client_address(forwarded: bytes) -> None:
    proxies = TrustedProxies(("*",))
    assert proxies.route("192.0.2.1", forwarded)[0]
    assert proxies.route("", forwarded)[0] is not None
