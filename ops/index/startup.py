"""Checks of a server's directories and token at start."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

TOKEN_KEY: Final = "AUTH_TOKEN"  # noqa: S105 - the name of a secret, not its value

_SHORTEST_TOKEN: Final = 16
_LARGEST_TOKEN_FILE: Final = 64 * 1024
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
"""Characters that a header can hold without quoting or encoding (RFC 9110, section 5.5)."""

_READ_ONLY: Final = {
    "packages": "uploads, yanks and deletions are refused; the metadata of the files is computed again after each "
    "start; no audit log of uploads and logins is written",
    "credentials": "the admin application cannot change users, and writes no audit log",
}

MAKE_TOKEN_HINT: Final = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"  # noqa: S105 - a hint

_UNSENDABLE: Final = "holds a space or a character that is not ASCII, and cannot be sent in a header"

_log = logging.getLogger(__name__)


class CannotStartError(Exception):
    """The server cannot start; the message says why and what to do."""


def served_directory(path: Path, what: str) -> Path:
    """The directory, created if missing; that of credentials for this user alone.

    A read-only one is served; the log says what that disables.

    Parameters:
        path: given by the operator.
        what: ``packages`` or ``credentials``.

    Raises:
        CannotStartError: it is not a readable directory, or the index's own files would be written elsewhere.
    """
    from ops.index.storage.directory import INDEX_FOLDER  # takes a while to import: the server listens first

    path = path.expanduser().absolute()
    try:
        # Whoever can write the folder of the credentials is an admin, whatever the umask.
        path.mkdir(0o777 if what == "packages" else 0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise CannotStartError(f"{path} is not a directory and cannot hold the {what}: name another one") from None
    except OSError as error:
        raise CannotStartError(
            f"the directory {path} for the {what} cannot be created: {error.strerror or error}; "
            "create it yourself or name another one"
        ) from None
    if not os.access(path, os.R_OK | os.X_OK):
        raise CannotStartError(
            f"the directory {path} for the {what} cannot be read by this user: "
            "change its owner or mode, or name another one"
        )
    own = path / INDEX_FOLDER
    _check_links(own)
    if what == "packages" and own.exists() and not os.access(own, os.R_OK | os.X_OK):
        raise CannotStartError(
            f"{own} cannot be read by this user, so nobody knows which files are yanked or revoked: "
            "change its owner or mode"
        )
    if what == "packages" and os.access(path, os.W_OK) and own.exists():
        if not os.access(own, os.W_OK):
            _log.warning("%s cannot be written by this user: %s", own, _READ_ONLY[what])
    elif not os.access(path, os.W_OK):
        _log.warning("%s cannot be written by this user and is served read-only: %s", path, _READ_ONLY[what])
    return path


def _check_links(own: Path) -> None:
    """Refuse links in a folder that somebody may have handed over: files at their destination would be replaced.

    Raises:
        CannotStartError: there is one.
    """
    try:
        linked = next((each for each in (own, *own.iterdir()) if each.is_symlink()), None)
    except OSError:  # missing, or not readable
        return
    if linked is not None:
        raise CannotStartError(
            f"{linked} is a symbolic link, and the server would write to its destination: replace it by a folder"
        )


def check_apart(packages: Path, credentials: Path) -> None:
    """Refuse overlapping packages and credentials: each may be shared, backed up or emptied without the other.

    Credentials may be below the packages in a folder whose name begins with a dot, which an index does not read.

    Raises:
        CannotStartError: they overlap.
    """
    packages, credentials = packages.resolve(), credentials.resolve()
    inside = credentials.is_relative_to(packages)
    hidden = inside and any(part.startswith(".") for part in credentials.relative_to(packages).parts)
    if packages.is_relative_to(credentials) or (inside and not hidden):
        raise CannotStartError(
            f"the packages in {packages} and the credentials in {credentials} overlap: "
            "name a directory for the credentials that neither contains the other nor is inside it"
        )


def check_least_free(packages: Path, least: int | None) -> None:
    """Refuse a minimum of free space that would reject every upload.

    Parameters:
        packages: the directory.
        least: bytes that uploads leave free; None for the default.

    Raises:
        CannotStartError: it is at least as large as the disk.
    """
    disk = os.statvfs(packages)
    size = disk.f_blocks * disk.f_frsize
    if least and 0 < size <= least:
        raise CannotStartError(
            f"the disk of {packages} has {size} bytes, and {least} must stay free, so all uploads would be rejected: "
            "name a smaller --least-free"
        )


def check_trusted_root(path: Path) -> None:
    """Refuse a Sigstore trusted root that would reject every attestation. Takes about a second.

    Raises:
        CannotStartError: it cannot be used.
    """
    from ops.index.errors import PackageIndexError
    from ops.index.packages.signatures import SignatureVerifier

    try:
        verifier = SignatureVerifier(path)
        try:
            verifier.check()
        finally:
            verifier.close()
    except (PackageIndexError, ValueError) as error:
        raise CannotStartError(str(error)) from None


def admin_token(path: Path | None) -> str | None:
    """The admin token, from the file or else from the environment; None if there is none.

    It is removed from the environment, because child processes inherit that.

    Raises:
        CannotStartError: the file is unreadable or holds no token, or the token is too short or cannot be sent.
    """
    token = os.environ.pop(TOKEN_KEY, "").strip()
    where = f"the environment variable {TOKEN_KEY}"
    if path is not None:
        token, where = _token_in(path), str(path)
    if not token:
        return None
    problem = token_problem(token)
    if problem is not None:
        raise CannotStartError(f"the admin token in {where} {problem}: {MAKE_TOKEN_HINT}")
    return token


def check_sendable(token: str) -> None:
    """Refuse an admin token that no client can send.

    Raises:
        ValueError: it contains a space or a character that is not ASCII.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"the admin token {_UNSENDABLE}: {MAKE_TOKEN_HINT}")


def token_problem(token: str) -> str | None:
    """The reason why a text cannot be the admin token, as the end of a sentence; None if it can."""
    if not _TOKEN.fullmatch(token):
        return _UNSENDABLE
    if len(token) < _SHORTEST_TOKEN:
        return f"has fewer than {_SHORTEST_TOKEN} characters, and could be guessed"
    return None


def _token_in(path: Path) -> str:
    line = f"{TOKEN_KEY}=…"
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_TOKEN_FILE).decode("utf-8-sig")
            shared = os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise CannotStartError(
            f"the file {path} for the admin token cannot be read: {reason}; name a file with a line {line} in it"
        ) from None
    if shared:
        _log.warning("%s can be read by others: chmod 600 it", path)
    lines = (line.strip().removeprefix("export ").partition("=") for line in content.splitlines())
    token = next((value.strip().strip("\"'") for key, _, value in lines if key.strip() == TOKEN_KEY), "")
    if not token:
        raise CannotStartError(f"there is no line {line} in {path}: write one, or omit the option")
    return token
