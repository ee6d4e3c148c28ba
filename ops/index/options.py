"""What an operator may set about a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """One server's settings. The defaults are those of the documentation.

    Parameters:
        realm: what clients are asked to log in to; pip and keyrings show and store it.
        bcrypt_rounds: cost of a new password's hash, as a power of two; each step doubles the time.
        login_failures: failed logins of one user or address before further ones are slowed.
        login_window_seconds: how long a failed login counts.
        trusted_proxies: addresses whose ``X-Forwarded-*`` headers are believed; ``*`` for all.
        refresh_seconds: how often a shared storage is reloaded, and files of this machine are looked at for a change
            made in place.
        max_upload_bytes: the largest file that is taken.
        max_form_bytes: the most that the other fields of one upload may hold together.
        check_content: whether an upload must be a wheel, sdist or egg that opens and agrees with its form fields. Off
            only to compare with stock pypiserver, which takes anything.
        claim_seconds: how long an upload waits for another of the same name to end before it is sent away.
        upload_threads: uploads that are worked on at once.
        scratch_directory: where a file waits until it is checked, and where files of a shared storage are copied to be
            served; on the server's own disk. None for the system's.
        cache_bytes: how much of that disk the copies may take.
        cached_files: how many files' facts are kept in memory.
        instance: this server's name in the audit log's file name. Empty for one made of host and process.
    """

    realm: str = "pypi"
    bcrypt_rounds: int = 12
    login_failures: int = 10
    login_window_seconds: float = 60.0
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    refresh_seconds: float = 2.0
    max_upload_bytes: int = 4 * 1024**3
    max_form_bytes: int = 8 * 1024**2
    check_content: bool = True
    claim_seconds: float = 20.0
    upload_threads: int = 8
    scratch_directory: Path | None = None
    cache_bytes: int = 8 * 1024**3
    cached_files: int = 10_000
    instance: str = ""
