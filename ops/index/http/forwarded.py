"""Trusted proxies and their headers X-Forwarded-For, -Proto, -Host and -Prefix.

Hardly any proxy sends the Forwarded header of RFC 7239 instead.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

EVERYBODY: Final = "*"
"""Trusts every peer. Safe only if nothing but the proxy can reach the server."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_REMEMBERED: Final = 4096
_PORT: Final = re.compile(r"\[(?P<bracketed>[0-9A-Fa-f:.%]+)\](?::\d{1,5})?|(?P<plain>\d+\.\d+\.\d+\.\d+):\d{1,5}")

_log = logging.getLogger(__name__)


def trusted_network(entry: str) -> IPv4Network | IPv6Network:
    """Parse a trusted address, or a network in CIDR form.

    Raises:
        ValueError: it is neither; the message says what to write instead.
    """
    try:
        network = ip_network(entry)
    except ValueError:
        raise ValueError(f"{entry!r} is not an IP address or network: {_remedy(entry)}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None  # noqa: S101 - it is in the network of mapped addresses
        return IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    return network


class TrustedProxies:
    """Peers whose ``X-Forwarded-*`` headers are believed.

    Parameters:
        entries: addresses, networks in CIDR form, or ``*`` for every peer.

    Raises:
        ValueError: an entry is invalid.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = tuple(entries)
        self._everybody = EVERYBODY in entries
        self._networks = [trusted_network(entry) for entry in entries if entry != EVERYBODY]
        self._known: dict[str, bool] = {}
        self._warned = False

    def __contains__(self, address: str) -> bool:
        """True for the address of a trusted proxy. Cached, because proxies are few and requests many."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[address] = self._look_up(address)
        return known

    def route(self, peer: str, forwarded: bytes | None) -> tuple[str, int]:
        """The client's address, and the number of trusted proxies between it and this server.

        The client is the last address in the chain that is not a trusted proxy: anything before it may be forged.

        Parameters:
            peer: the address at the other end of the connection.
            forwarded: the X-Forwarded-For header, if the request has one.
        """
        if peer not in self:
            if forwarded is not None:
                self._warn(peer)
            return peer, 0
        address, hops = peer, 1
        for hop in reversed(forwarded.decode("latin-1").split(",")) if forwarded else ():
            claimed = _address(hop)
            if claimed is None:
                break
            address = claimed
            if address not in self:
                break
            hops += 1
        return address, hops

    def _look_up(self, address: str) -> bool:
        if self._everybody:
            return True
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)

    def _warn(self, peer: str) -> None:
        """Warn the operator, once, about a proxy that is probably theirs."""
        if self._warned:
            return
        self._warned = True
        _log.warning(
            "X-Forwarded-For from %s is ignored, because it is not a trusted proxy: its clients are throttled "
            "together, and logged under its address. If it is your proxy, start the server with --trusted-proxy %s or "
            "its network; otherwise someone is forging headers. This is logged once",
            peer or "a peer without an address",
            peer or "ADDRESS",
        )


def chosen(value: bytes, hops: int) -> str:
    """The item of a forwarded header that the outermost trusted proxy wrote: each appends one, or replaces all.

    Parameters:
        value: the header.
        hops: number of trusted proxies on the path; at least 1.
    """
    items = [item.strip() for item in value.decode("latin-1").split(",")]
    return items[-min(hops, len(items))]


def _address(hop: str) -> str | None:
    """An address in its canonical form, without the port that some proxies add; None for anything else."""
    hop = hop.strip()
    with_port = _PORT.fullmatch(hop)
    if with_port is not None:
        hop = with_port["bracketed"] or with_port["plain"]
    try:
        parsed = ip_address(hop)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def _remedy(entry: str) -> str:
    try:
        return f"write {ip_network(entry, strict=False)} for its network"
    except ValueError:
        pass
    if "," in entry:
        return "name each proxy separately, by repeating the option"
    if _address(entry) is not None:
        return f"write {_address(entry)}, with nothing before or after it"
    return "write 10.0.0.5, 172.16.0.0/12 or fd00::/8 for example (no host names), or * for every peer"
