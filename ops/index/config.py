"""Settings of one server."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ops.index.http.forwarded import TrustedProxies

_LEAST: Final[Mapping[str, float]] = {
    "login_failures": 1,
    "max_upload_bytes": 1,
    "max_form_bytes": 1,
    "upload_threads": 1,
    "max_connections": 1,
    "max_connections_per_address": 1,
}
"""Smallest working values; 0 for all other settings."""

FIRST_REQUESTS_SECONDS: Final = 1.0
"""Time after a start in which imports and reading the info of files would slow down the first requests."""

LONGEST_PAGE_AGE: Final = 3600
"""Seconds within which every client sees that a file was removed or quarantined."""

_ROUNDS: Final = range(4, 18)
"""Costs of bcrypt whose hashes can be verified here."""

REALM: Final = re.compile(r"[A-Za-z0-9 ._:/-]{1,100}")
"""Characters that need no escaping in a header, a keyring or a configuration file."""


PUBLIC_URL_VARIABLE: Final = "PYPI_PUBLIC_URL"
TRUSTED_ROOT_VARIABLE: Final = "PYPI_TRUSTED_ROOT"
"""Environment variables, so that older versions of the server, which do not know these settings, still start."""

PUBLIC_URL: Final = re.compile(r"(https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~@+=\-]+)*/)?")
"""Empty, or an address with a final slash."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One server's settings. The defaults are those of the documentation.

    Parameters:
        realm: of the login; pip and keyrings show and store it.
        bcrypt_rounds: cost of a new password's hash, as a power of two; each step doubles the time.
        login_failures: failed logins of one user or address before further ones are delayed.
        login_window_seconds: how long a failed login counts.
        trusted_proxies: addresses and networks (CIDR) whose ``X-Forwarded-*`` headers are believed; ``*`` for all.
        refresh_seconds: interval of reloads of shared storage, and of checks for files of this machine that were
            changed in place.
        max_upload_bytes: the largest file to accept.
        project_quota_bytes: total size of the files of one project, with their signatures. 0 for no limit.
        total_quota_bytes: the same of all projects together.
        least_free_bytes: space that uploads leave free on the disk of the packages. 0 lets them fill it; None is 64
            MiB, or a twentieth of a smaller disk. Ignored on shared storage, whose free space is unknown.
        uploads_per_user: concurrent uploads by one user. Further ones wait a few seconds, unread, and are then refused.
            0 for no limit.
        audit_days: days for which the audit log is kept. 0 for forever.
        audit_bytes: total size of its files before the oldest are deleted. 0 for no limit. Files of today and yesterday
            stay.
        page_max_age_seconds: time for which a client may reuse a simple page without asking, up to an hour. It does
            not see uploads, yanks, removals and quarantines meanwhile. With 0 it asks each time.
        max_form_bytes: total size of the other fields of one upload.
        claim_seconds: longest wait of an upload for another with the same name.
        upload_threads: uploads processed at once.
        scratch_directory: for uploads that are not yet checked, and for copies of files of shared storage; on the
            server's own disk. None for the system's.
        cached_files: files whose metadata is kept in memory.
        max_connections: the most connections at once; fewer if the limit of open files requires it.
        max_connections_per_address: the most of them from one address that is not a trusted proxy.
        public_url: the index's own address as clients know it, with a final slash, where a URL must be absolute:
            for provenances (PEP 740), which pages omit without it.
        account_url: where users change their passwords and tokens, if not below this index.
        trusted_root: the file of a Sigstore trusted root, with which the signatures of attestations are verified
            (PEP 740). None leaves that to installers.
        namespaces: true to show reserved prefixes to installers: version 1.5 of the simple API (PEP 752), which some
            clients warn about.
        instance: this server's name in the file name of the audit log. Empty for host and process.

    Raises:
        ValueError: a setting cannot work; the message says which, why, and what to use.
    """

    realm: str = "pypi"
    bcrypt_rounds: int = 12
    login_failures: int = 10
    login_window_seconds: float = 60.0
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    refresh_seconds: float = 2.0
    max_upload_bytes: int = 4 * 1024**3
    project_quota_bytes: int = 0
    total_quota_bytes: int = 0
    least_free_bytes: int | None = None
    uploads_per_user: int = 32
    audit_days: int = 400
    audit_bytes: int = 1024**3
    page_max_age_seconds: int = 0
    max_form_bytes: int = 8 * 1024**2
    claim_seconds: float = 20.0
    upload_threads: int = 8
    scratch_directory: Path | None = None
    cached_files: int = 10_000
    max_connections: int = 4096
    max_connections_per_address: int = 2048
    public_url: str = ""
    account_url: str = ""
    trusted_root: Path | None = None
    namespaces: bool = False
    instance: str = ""

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                _require(type(value) is int, field.name, value, "use a whole number")
            elif field.type == "float":
                _require(type(value) in {int, float} and math.isfinite(value), field.name, value, "use a number")
            elif field.type in {"str", "bool"}:
                _require(type(value).__name__ == field.type, field.name, value, f"use a {field.type}")
            if field.type in {"int", "float"}:
                least = _LEAST.get(field.name, 0)
                _require(value >= least, field.name, value, f"use {least:g} or more")
        for name in ("login_window_seconds", "refresh_seconds"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "use more than 0 seconds")
        age = self.page_max_age_seconds
        _require(age <= LONGEST_PAGE_AGE, "page_max_age_seconds", age, f"use {LONGEST_PAGE_AGE} or less")
        least_free = self.least_free_bytes
        usable = least_free is None or (type(least_free) is int and least_free >= 0)
        _require(usable, "least_free_bytes", least_free, "use a whole number from 0, or None")
        total = self.total_quota_bytes
        remedy = f"it would never apply beside a total_quota_bytes of {total}; lower it or leave it out"
        _require(not 0 < total < self.project_quota_bytes, "project_quota_bytes", self.project_quota_bytes, remedy)
        rounds = f"use {_ROUNDS.start} to {_ROUNDS.stop - 1}"
        _require(self.bcrypt_rounds in _ROUNDS, "bcrypt_rounds", self.bcrypt_rounds, rounds)
        realm = "use 1 to 100 letters, digits, spaces and . _ : / -"
        _require(REALM.fullmatch(self.realm) is not None, "realm", self.realm, realm)
        address = "use an address such as https://index.example/, with a slash at the end, or leave it out"
        _require(PUBLIC_URL.fullmatch(self.public_url) is not None, "public_url", self.public_url, address)
        proxies = self.trusted_proxies
        strings = isinstance(proxies, tuple) and all(isinstance(proxy, str) for proxy in proxies)
        _require(strings, "trusted_proxies", proxies, 'use a tuple of strings, such as ("10.0.0.5",)')
        try:
            TrustedProxies(proxies)
        except ValueError as error:
            raise ValueError(f"trusted_proxies: {error}") from None
        scratch = self.scratch_directory
        usable = scratch is None or (isinstance(scratch, Path) and scratch.is_dir())
        _require(usable, "scratch_directory", scratch, "use the path of an existing directory, or None")
        root = self.trusted_root
        usable = root is None or (isinstance(root, Path) and root.is_file())
        _require(usable, "trusted_root", root, "use the path of an existing file, or None")


def _require(condition: bool, name: str, value: Any, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{name} cannot be {value!r}: {remedy}")
