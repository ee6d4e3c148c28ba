"""Secrets of a workspace: their sources, and the scan of records for them."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ops.private_files import replace_file
from ops.redaction import Redactor, SecretSource
from ops.workspace import Workspace

_STEMS = ("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "APIKEY")
_LAST_WORDS = frozenset({"KEY", "PAT", "AUTH", "PWD", "PW", "PASS"})
_URL_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@'\"]*:([^\s/@'\"]+)@")
_FILE_PASSWORD = re.compile(r"^\s*(?:password|passwd)\s*[=:]\s*(?P<value>.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_NETRC_PASSWORD = re.compile(r"(?:^|\s)password\s+(?P<value>\"(?:[^\"\\]|\\.)*\"|[^\s=:]\S*)")
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*?)\s*$", re.MULTILINE)

MAXIMUM_SIZE = 1_000_000
"""Bytes; larger files are not read."""


def is_secret_variable(name: str) -> bool:
    """True if a variable of this name holds a secret.

    True if a word ends in password, passwd, passphrase, secret, token, credential or apikey, singular or plural
    (``PGPASSWORD``, ``MODAL_TOKEN_SECRET``, ``UV_INDEX_TEAM_PASSWORD``), or if the last of several words is key, pat,
    auth, pwd, pw or pass (``AWS_ACCESS_KEY``). False if the last word says that the value only describes a secret:
    ``TOKEN_FILE``, ``SECRET_NAME``.
    """
    words = name.upper().split("_")
    if words[-1] in {
        "FILE",
        "PATH",
        "DIR",
        "NAME",
        "URL",
        "SOCK",
        "HELPER",
        "COMMAND",
        "CMD",
        "TYPE",
        "VARIABLE",
        "ENV",
    }:
        return False
    stems = any(word.removesuffix("S").endswith(_STEMS) for word in words)
    return stems or (len(words) > 1 and words[-1] in _LAST_WORDS)


def passwords_in_urls(text: str) -> Iterator[str]:
    """The passwords in all ``scheme://user:password@host`` of *text* (RFC 3986, section 3.2.1), quoted and unquoted."""
    for match in _URL_PASSWORD.finditer(text):
        yield match[1]
        yield urllib.parse.unquote(match[1])


def environment_secrets(variables: Mapping[str, str]) -> Iterable[str]:
    """The values of variables named like secrets, and the passwords of URLs in all the others."""
    for name, value in variables.items():
        if is_secret_variable(name) and not value.startswith("/"):
            yield value
        else:
            yield from passwords_in_urls(value)


def recorded_secrets(path: Path) -> SecretSource:
    """The secrets that :class:`ops.secret.Secret` recorded in the file *path*, one per line in base64."""

    def read(text: str) -> Iterator[str]:
        for line in text.splitlines():
            try:
                yield base64.b64decode(line, validate=True).decode("utf-8", "surrogatepass")
            except (binascii.Error, UnicodeDecodeError):
                # The last line may be incomplete; the next read finds it complete.
                continue

    return _Files(lambda: (path,), read)


def secret_files(workspace: Workspace) -> SecretSource:
    """The values in the workspace's secret files: lines ``KEY=value``, or whole lines without a key."""

    def paths() -> Iterator[Path]:
        return workspace.home.glob("*/secrets/*")

    def read(text: str) -> Iterator[str]:
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if line.strip() and not line.lstrip().startswith("#"):
                yield _unquoted(value) if equals and key.strip().isidentifier() else line

    return _Files(paths, read)


def client_files(workspace: Workspace) -> SecretSource:
    """The passwords in the client files of the workspace's users: pip, uv, twine, netrc and env.sh."""

    def paths() -> Iterator[Path]:
        return workspace.home.glob("users/*/*/*")

    def read(text: str) -> Iterator[str]:
        yield from passwords_in_urls(text)
        for pattern in (_FILE_PASSWORD, _NETRC_PASSWORD):
            yield from (_unquoted(match["value"]) for match in pattern.finditer(text))
        for match in _ASSIGNMENT.finditer(text):
            if is_secret_variable(match["name"]):
                yield _unquoted(match["value"])

    return _Files(paths, read)


def workspace_sources(workspace: Workspace, variables: Mapping[str, str]) -> tuple[SecretSource, ...]:
    """All sources known before a notebook runs."""
    known = tuple(environment_secrets(variables))
    return (lambda: known, secret_files(workspace), client_files(workspace))


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


class _Files:
    """A source that reads files again only if they have changed."""

    def __init__(self, paths: Callable[[], Iterable[Path]], read: Callable[[str], Iterable[str]]) -> None:
        self._paths = paths
        self._read = read
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def __call__(self) -> Iterable[str]:
        for path in tuple(self._paths()):
            try:
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if not stat.S_ISREG(status.st_mode) or status.st_size > MAXIMUM_SIZE or self._seen.get(path) == stamp:
                    continue
                text = path.read_text(encoding="utf-8", errors="surrogateescape")
            except OSError:
                # Removed meanwhile, or owned by another user: our kernel cannot show its content either.
                continue
            self._seen[path] = stamp
            yield from self._read(text)


def scan(folder: Path, redactor: Redactor) -> tuple[Path, ...]:
    """Search a finished record for every known secret, and remove what is found.

    Finds secrets that became known after the last masking, and files that a notebook wrote there itself. Notebooks
    and texts are masked in place; any other file is deleted.

    Parameters:
        folder: the record.
        redactor: has the secrets; its sources are read again.

    Returns:
        the files that contained a secret.
    """
    redactor.refresh()
    spoiled = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("utf-8", "surrogateescape")
            if redactor.finds(text):
                spoiled.append(path)
                path.unlink()
            continue
        masked = _masked_file(path, text, redactor)
        if masked is not None:
            spoiled.append(path)
            replace_file(path, masked)
    return tuple(spoiled)


def scan_all(workspace: Workspace) -> tuple[Path, ...]:
    """Scan all records of a workspace for secrets of the environment and workspace; return the files that had one."""
    if not workspace.records.is_dir():
        return ()
    return scan(workspace.records, Redactor(sources=workspace_sources(workspace, os.environ)))


def _masked_file(path: Path, text: str, redactor: Redactor) -> str | None:
    """The text without its secrets; None if there are none."""
    if path.suffix in {".ipynb", ".json"}:
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if document is not None:
            if not redactor.finds_in(document):
                return None
            masked = redactor.notebook(document) if "cells" in document else redactor.tree(document)
            return json.dumps(masked, indent=1, ensure_ascii=False) + "\n"
    masked_text = redactor.text(text)
    return None if masked_text == text else masked_text
