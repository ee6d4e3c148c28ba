"""Command that serves an index: ``python -m ops.index --packages DIR --credentials DIR``.

Its address is printed as one line on stdout once the server accepts requests; everything else goes to stderr. SIGTERM
and SIGINT stop it. Exit codes: 0 stopped, 1 could not start, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import errno
import functools
import gc
import ipaddress
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ops.index.config import LONGEST_PAGE_AGE, PUBLIC_URL_VARIABLE, REALM, TRUSTED_ROOT_VARIABLE, Options
from ops.index.connection_limits import FEWEST_CONNECTIONS, ConnectionLimits, allowed_connections
from ops.index.http.forwarded import TrustedProxies
from ops.index.startup import (
    TOKEN_KEY,
    CannotStartError,
    admin_token,
    check_apart,
    check_least_free,
    check_trusted_root,
    served_directory,
)

if TYPE_CHECKING:
    from ops.index.early_login import EarlyLogin

_BACKLOG = 2048
"""Maximum length of the queue of connections that are not accepted yet."""

_YOUNG_OBJECTS = 10_000
"""Allocations between two runs of the cyclic garbage collector."""

_SHORTEST_REFRESH, _LONGEST_REFRESH = 0.1, 60.0
"""Seconds. Shorter intervals cost more than they gain; longer ones surprise users who have changed a file."""

_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}

_logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve an index until stopped, and return the exit code."""
    asked = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=asked.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with ExitStack() as stack:
        try:
            total, per_address = allowed_connections(asked.max_connections, asked.max_connections_per_address)
            options = Options(
                realm=asked.realm,
                bcrypt_rounds=asked.bcrypt_rounds,
                max_upload_bytes=asked.max_upload_size,
                project_quota_bytes=asked.project_quota,
                total_quota_bytes=asked.total_quota,
                least_free_bytes=asked.least_free,
                uploads_per_user=asked.uploads_per_user,
                audit_days=asked.audit_days,
                audit_bytes=asked.audit_size,
                page_max_age_seconds=asked.page_max_age,
                refresh_seconds=asked.refresh_seconds,
                trusted_proxies=tuple(asked.trusted_proxy),
                public_url=asked.public_url,
                trusted_root=asked.trusted_root,
                namespaces=asked.namespaces,
                max_connections=total,
                max_connections_per_address=per_address,
            )
            # First, because the rest takes as long as verifying a first login, which can start meanwhile.
            listener = stack.enter_context(_listen(asked.host, asked.port, min(_BACKLOG, total)))
            from ops.index.early_login import EarlyLogin

            early_login = EarlyLogin(listener, asked.credentials, rounds=options.bcrypt_rounds)
            stack.callback(early_login.close)
            packages = served_directory(asked.packages, "packages")
            credentials = served_directory(asked.credentials, "credentials")
            check_apart(packages, credentials)
            check_least_free(packages, asked.least_free)
            token = admin_token(asked.admin_token_file)
            if options.trusted_root is not None:
                check_trusted_root(options.trusted_root)
        except (CannotStartError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - for a person at a terminal
            return 1
        _serve(packages, credentials, token, options, listener=listener, early_login=early_login)
    return 0


def _serve(
    packages: Path,
    credentials: Path,
    token: str | None,
    options: Options,
    *,
    listener: socket.socket,
    early_login: EarlyLogin,
) -> None:
    gc.disable()  # until the server has started: imports create no garbage, and looking for it takes 10 ms
    # Imported here, so that --help and a wrong option respond at once.
    from ops.index import DirectoryStorage, create_index
    from ops.index.server import Server

    index = create_index(
        packages=DirectoryStorage(packages),
        credentials=DirectoryStorage(credentials),
        options=options,
        admin_token=token,
        verify=early_login.verify_password,
    )
    address = _address(listener)
    _logger.info("serving %s with the users of %s at %s", packages, credentials, address)
    announce = functools.partial(print, address, flush=True)  # read by programs
    limits = ConnectionLimits(
        options.max_connections,
        options.max_connections_per_address,
        exempt=TrustedProxies(options.trusted_proxies).__contains__,
    )
    backlog = min(_BACKLOG, options.max_connections)
    server = Server(
        index,
        ready=announce,
        settled=functools.partial(_settle, early_login),
        stopping=index.stop,
        limits=limits,
        backlog=backlog,
        accepted=early_login.connections,
    )
    server.run(sockets=[listener])


def _settle(early_login: EarlyLogin) -> None:
    early_login.close()
    _spare_the_collector()


def _spare_the_collector() -> None:
    """Exclude from garbage collection the 100,000 or so objects that live as long as the process.

    Otherwise each full collection would stop the server for some 30 ms.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ops.index",
        description="A private Python package index: pypiserver underneath, HTTP Basic auth, PEP 503 to 792 on top.",
        epilog=f"The admin application is served at /admin/ when there is a token for it: in --admin-token-file, or in "
        f"the environment variable {TOKEN_KEY}. Without users every request but /health gets 401; create the first "
        "one with the admin application, or with htpasswd -B.",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--packages",
        "--directory",
        type=_path,
        required=True,
        metavar="DIR",
        help="directory of the distributions, created if missing. A directory of stock pypiserver is served unchanged, "
        "even if it is read-only",
    )
    files.add_argument(
        "--credentials",
        type=_path,
        required=True,
        metavar="DIR",
        help="directory of .htpasswd and .htgroup, created if missing",
    )
    files.add_argument(
        "--admin-token-file",
        type=_path,
        metavar="FILE",
        help=f"a file that only you can read, with a line {TOKEN_KEY}=…",
    )
    files.add_argument(
        "--trusted-root",
        type=_path,
        default=os.environ.get(TRUSTED_ROOT_VARIABLE) or None,
        metavar="FILE",
        help="Sigstore's trusted_root.json, or that of your own instance, with which the signatures of attestations "
        "are verified without the network (PEP 740). Needs the extra 'attestations' (default: the environment variable "
        f"{TRUSTED_ROOT_VARIABLE})",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; this machine only by default (%(default)s)"
    )
    network.add_argument(
        "--port", type=_port, default=8765, help="the TCP port; 0 for any free one (default: %(default)s)"
    )
    network.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        type=_proxy,
        metavar="ADDRESS",
        help="believe X-Forwarded-For, -Proto, -Host and -Prefix from this address or network (10.0.0.5, "
        "172.16.0.0/12), or from anyone (*); may be repeated",
    )
    network.add_argument(
        "--public-url",
        default=os.environ.get(PUBLIC_URL_VARIABLE, ""),
        metavar="URL",
        help="the index's address as clients know it, with a slash at the end: project pages give the addresses of "
        f"attestations only with it (PEP 740; default: the environment variable {PUBLIC_URL_VARIABLE})",
    )
    network.add_argument(
        "--namespaces",
        action="store_true",
        help="show reserved prefixes to installers: version 1.5 of the simple API (PEP 752). Some clients warn "
        "about it",
    )
    limits = parser.add_argument_group("limits")
    defaults = Options()
    limits.add_argument(
        "--max-upload-size",
        type=_size,
        default=defaults.max_upload_bytes,
        metavar="SIZE",
        help="the largest file to accept, such as 500M or 4G (default: 4G)",
    )
    limits.add_argument(
        "--max-connections",
        type=_connections,
        metavar="NUMBER",
        help="the most connections at once. Beyond it, a new one replaces the oldest that has not logged in "
        f"(default: {defaults.max_connections}, or as many as the hard limit of open files allows: each takes two)",
    )
    limits.add_argument(
        "--max-connections-per-address",
        type=_connections,
        metavar="NUMBER",
        help="the most connections from one IPv4 address or IPv6 /64 network; does not apply to trusted proxies "
        "(default: half of --max-connections)",
    )
    limits.add_argument(
        "--bcrypt-rounds",
        type=int,
        choices=range(10, 15),
        default=defaults.bcrypt_rounds,
        metavar="10-14",
        help="the cost of new password hashes; each step doubles the time (default: %(default)s)",
    )
    limits.add_argument(
        "--page-max-age",
        type=_page_age,
        metavar="SECONDS",
        default=defaults.page_max_age_seconds,
        help="time for which clients may reuse a simple page without asking, up to an hour. They do not see "
        "uploads, yanks and removals meanwhile (default: 0, they always ask)",
    )
    limits.add_argument(
        "--refresh-seconds",
        type=_seconds,
        default=defaults.refresh_seconds,
        metavar="SECONDS",
        help="interval of checks for files that were changed in place, from "
        f"{_SHORTEST_REFRESH:g} to {_LONGEST_REFRESH:g}; changed users and new files are noticed at once "
        "(default: %(default)s)",
    )
    limits.add_argument(
        "--realm",
        default=defaults.realm,
        type=_realm,
        help="realm of the login, which clients show and store (%(default)s)",
    )
    limits.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], default="warning", help="default: %(default)s"
    )
    _add_space(parser.add_argument_group("space"), defaults)
    return parser


def _add_space(space: argparse._ArgumentGroup, defaults: Options) -> None:
    space.add_argument(
        "--project-quota",
        type=_size_or_none,
        metavar="SIZE",
        default=defaults.project_quota_bytes,
        help="total size of the files of one project, such as 10G; 0 for no limit (default)",
    )
    space.add_argument(
        "--total-quota",
        type=_size_or_none,
        metavar="SIZE",
        default=defaults.total_quota_bytes,
        help="total size of the files of all projects; 0 for no limit (default)",
    )
    space.add_argument(
        "--least-free",
        type=_size_or_none,
        metavar="SIZE",
        default=defaults.least_free_bytes,
        help="space that uploads leave free on the disk of the packages; 0 to let them fill it (default: 64M, or a "
        "twentieth of a smaller disk)",
    )
    space.add_argument(
        "--uploads-per-user",
        type=_count,
        default=defaults.uploads_per_user,
        metavar="NUMBER",
        help="concurrent uploads by one user; further ones wait five seconds, then get 429; 0 for no limit "
        "(default: %(default)s)",
    )
    space.add_argument(
        "--audit-days",
        type=_count,
        default=defaults.audit_days,
        metavar="DAYS",
        help="days for which the audit log and the counts of downloads are kept; 0 for forever (default: %(default)s)",
    )
    space.add_argument(
        "--audit-size",
        type=_size_or_none,
        metavar="SIZE",
        default=defaults.audit_bytes,
        help="total size of its files in a directory before the oldest are deleted; 0 for no limit (default: 1G)",
    )


def _path(text: str) -> Path:
    if not text:  # from an unset shell variable; it would mean the current directory
        raise argparse.ArgumentTypeError("the path is empty: name one, or '.' for the current directory")
    return Path(text)


def _whole(low: int, high: int, use: str) -> Callable[[str], int]:
    """Parser for an integer from *low* to *high*; *use* is the hint in its error."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,7}", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is invalid: use {use}")
        return int(text)

    return read


_port = _whole(0, 65_535, "a port from 0 to 65535")
_count = _whole(0, 999_999, "a whole number, or 0 for no limit")
_page_age = _whole(0, LONGEST_PAGE_AGE, f"seconds from 0 to {LONGEST_PAGE_AGE}")
_connections = _whole(FEWEST_CONNECTIONS, 9_999_999, f"a number of {FEWEST_CONNECTIONS} or more")


def _size(text: str) -> int:
    matched = re.fullmatch(r"([0-9]{1,15})\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if matched is None or int(matched[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: use a number of bytes, or one with K, M, G or T")
    return int(matched[1]) * _UNITS[matched[2]]


def _size_or_none(text: str) -> int:
    return 0 if text.strip() == "0" else _size(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not _SHORTEST_REFRESH <= float(text) <= _LONGEST_REFRESH:
        raise argparse.ArgumentTypeError(
            f"{text!r} is invalid: use {_SHORTEST_REFRESH:g} to {_LONGEST_REFRESH:g} seconds"
        )
    return float(text)


def _proxy(text: str) -> str:
    try:
        TrustedProxies([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _realm(text: str) -> str:
    if REALM.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("use letters, digits, spaces and . _ : / -")
    return text


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    if not host.strip():
        raise CannotStartError("the address to listen on is empty: name one, such as 127.0.0.1, or 0.0.0.0 for all")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise CannotStartError(f"{host!r} is not an address of this machine: {error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} of {host} is in use by another program: name another port, or 0 for any free one"
        elif error.errno == errno.EACCES:
            why = f"this user may not listen on port {port}: name one above 1023"
        else:
            why = f"cannot listen on port {port} of {host}: {error.strerror or error}"
        raise CannotStartError(why) from None
    return listener


def _address(listener: socket.socket) -> str:
    """A URL that reaches the server from this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


if __name__ == "__main__":
    sys.exit(main())
