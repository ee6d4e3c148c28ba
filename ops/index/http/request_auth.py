"""Authentication of each request before anything else is looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from ops.index.auth.authenticator import Authenticator
from ops.index.auth.roles import Identity
from ops.index.config import Options
from ops.index.errors import PackageIndexError
from ops.index.http.forwarded import TrustedProxies
from ops.index.http.request import Request

_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_PORTS: Final = {"http": 80, "https": 443}


class OtherSite(PackageIndexError):  # noqa: N818 - named as the errors of this package are
    """A browser was made to send the request by a page of another origin."""

    status = 403


class RequestAuth:
    """Lets those in whom the authenticator knows.

    Parameters:
        authenticator: verifies credentials.
        options: says which proxies are believed.
    """

    def __init__(self, authenticator: Authenticator, options: Options) -> None:
        self.remembered = authenticator.remembered
        self.holder = authenticator.holder
        self.digest = authenticator.digest
        self._authenticator = authenticator
        self._proxies = TrustedProxies(options.trusted_proxies)

    def route(self, client: tuple[str, int] | None, headers: Mapping[bytes, bytes]) -> tuple[str, int]:
        """The address that the request comes from, and the number of trusted proxies in between.

        Parameters:
            client: address and port of the peer.
            headers: of the request, by name.
        """
        return self._proxies.route(client[0] if client else "", headers.get(b"x-forwarded-for"))

    async def identify(self, exchange: Request) -> Identity:
        """The user whose credentials the request has; from memory when they were verified before.

        Raises:
            Unauthorized: it has none, or wrong ones.
            TooManyAttempts: too many wrong ones came from there.
        """
        authorization = exchange.headers.get(b"authorization")
        identity = None if authorization is None else self.remembered(authorization)
        if identity is None:
            identity = await self._authenticator.authenticate(authorization, exchange.address)
        exchange.logged_in()
        return identity

    async def confirm(self, exchange: Request) -> Identity:
        """The user whose credentials the request has, by what is stored now: for a change whose body has come.

        While it came, which may have taken long, the user may have been removed, or lost a right.

        Raises:
            Unauthorized: the credentials are wrong by now.
            TooManyAttempts: too many wrong ones came from there.
        """
        authorization = exchange.headers.get(b"authorization")
        return await asyncio.to_thread(self._authenticator.confirm, authorization, exchange.address)


def refuse_other_sites(exchange: Request) -> None:
    """Refuse a request that another web site made a browser send.

    A browser adds Basic credentials by itself, wherever the form or script comes from. pip, uv and twine send none of
    these headers.

    Without Sec-Fetch-Site, which no browser sends over plain HTTP but to loopback, the Origin is compared as a whole
    (RFC 6454): scheme, host and port, as the client wrote them. Behind a trusted proxy they are what the proxy says.

    Raises:
        OtherSite: the request comes from a page of another origin.
    """
    site = exchange.header(b"sec-fetch-site")
    origin = exchange.header(b"origin")
    if site is not None:
        strange = site.strip().lower() not in {"same-origin", "none"}
    else:
        own = _origin(f"{exchange.scheme}://{exchange.host}")
        strange = origin is not None and (own is None or _origin(origin) != own)
    if strange:
        raise OtherSite("nothing is changed at the request of another web site's page; use the index's own address")


def _origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin; None for what is none, such as ``null``."""
    found = _ORIGIN.fullmatch(text.strip().lower())
    if found is None:
        return None
    return found["scheme"], found["host"], int(found["port"] or _PORTS[found["scheme"]])
