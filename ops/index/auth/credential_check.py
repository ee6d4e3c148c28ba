"""Warnings about lines of ``.htpasswd``, ``.htgroup`` and ``.tokens`` that have no effect.

Users who cannot log in see only a 401; the reason is in the server's log, and in the refusal's line in the audit log.
The server's log gives the number of the line, never its content, which may be a misplaced password.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from ops.index.auth.credential_files import GROUPS, PASSWORDS, TOKENS, TRUST, CredentialFiles
from ops.index.auth.password_file import PasswordFile, entry_of
from ops.index.auth.passwords import NAME_BYTES, decoded, defect
from ops.index.auth.roles import PROJECT, RESERVED, Role, group_of
from ops.index.auth.token_file import TokenFile
from ops.index.auth.trust import Trust
from ops.index.auth.users import Signature, Users
from ops.index.config import Options
from ops.index.packages.filenames import is_project
from ops.index.storage.storage import Storage

_TOLD: Final = 20
"""Warnings about single lines of one file."""

_log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """One line without effect.

    Parameters:
        line: its number, from 1.
        reason: the cause, and what to do.
    """

    line: int
    reason: str


class CredentialCheck:
    """Logs problems in the files of a credentials volume, once for each content.

    Parameters:
        credentials: the volume; the files may be missing.
        options: passed on to :class:`~ops.index.auth.users.Users`.
    """

    def __init__(self, credentials: Storage, options: Options) -> None:
        self._storage = credentials
        self._users = Users(credentials, options)
        self._credential_files = CredentialFiles(credentials)
        self._looking = threading.Lock()
        self._looked = False
        self._seen: Signature | None = None
        self._checked: Signature | None = None
        self._told = b""

    def start(self) -> None:
        """Check for the first time, in a thread."""
        threading.Thread(target=self.look, name="credentials", daemon=True).start()

    def look(self) -> None:
        """Check the files if they have changed.

        After a change, waits for the next call: a file may be half written, and the other one not yet.
        """
        with self._looking, self._storage.reading():
            signature = self._users.signature()
            settled = not self._looked or signature == self._seen
            self._seen, self._looked = signature, True
            if settled and signature != self._checked:
                self._checked = signature
                self._check()

    def _check(self) -> None:
        contents = {}
        for name in (PASSWORDS, GROUPS, TOKENS, TRUST):
            try:
                contents[name] = self._credential_files.read(name) or b""
            except OSError as error:
                _log.warning("%s cannot be read, and %s: %s", self._path(name), _UNREAD[name], error.strerror or error)
                return
        content = hashlib.sha256(b"\0\0".join(contents.values())).digest()
        if content == self._told:
            return
        self._told = content
        passwords = contents[PASSWORDS]
        users = PasswordFile(passwords).entries()
        self._tell(PASSWORDS, list(password_problems(passwords)))
        self._tell(GROUPS, list(group_problems(contents[GROUPS], users)))
        if contents[TRUST] and not Trust.read(contents[TRUST]).version:
            self._tell(TRUST, [Problem(1, "it cannot be read, and no CI job is trusted: run 13_trusted_publishing")])
        self._tell(TOKENS, [Problem(number, _NOT_A_TOKEN) for number in TokenFile(contents[TOKENS]).unreadable()])

    def _tell(self, name: str, problems: list[Problem]) -> None:
        path = self._path(name)
        for problem in problems[:_TOLD]:
            _log.warning("%s, line %d: %s", path, problem.line, problem.reason)
        if len(problems) > _TOLD:
            _log.warning("%s: %d further lines have no effect", path, len(problems) - _TOLD)

    def _path(self, name: str) -> str:
        return str(self._storage.directory / name)


def password_problems(content: bytes) -> Iterator[Problem]:
    """The lines of an ``.htpasswd`` that let no one log in.

    Parameters:
        content: the file's bytes; any bytes will do.
    """
    if _is_utf_16(content):
        yield Problem(1, _UTF_16)
        return
    first: dict[str, int] = {}
    for number, line in enumerate(_lines(content), 1):
        if not line.strip() or line.strip().startswith(b"#"):
            continue
        if b"\r" in line.strip():
            yield Problem(number, _JOINED)
            continue
        name, digest = entry_of(line)
        if name is None:
            yield Problem(number, "there is no colon after a user name: write NAME:HASH, as htpasswd -B does")
            continue
        username = decoded(name)
        reason = _unsendable(username) or defect(digest)
        if username in first:
            yield Problem(number, f"it repeats the user of line {first[username]}, which counts: remove one of them")
        elif reason is not None:
            yield Problem(number, reason)
        first.setdefault(username, number)


def group_problems(content: bytes, users: Collection[str]) -> Iterator[Problem]:
    """The lines of an ``.htgroup`` that have no effect.

    Parameters:
        content: the file's bytes; any bytes will do.
        users: the names in ``.htpasswd``.
    """
    if _is_utf_16(content):
        yield Problem(1, _UTF_16)
        return
    for number, line in enumerate(_lines(content), 1):
        if not line.strip() or line.strip().startswith(b"#"):
            continue
        name, members = group_of(line)
        unknown = [member for member in members if member not in users]
        if b"\r" in line.strip():
            yield Problem(number, _JOINED)
        elif name is None:
            yield Problem(number, "there is no colon after a group's name: write GROUP: NAME NAME")
        elif not _is_known(name):
            yield Problem(number, f"the group is unknown here: use {', '.join(Role)}, {PROJECT}NAME or {RESERVED}NAME")
        elif not members and not name.startswith(RESERVED):  # a prefix without owners is reserved for nobody
            yield Problem(number, "the group has no members: add them, or remove the line")
        elif unknown:
            yield Problem(
                number, f"{len(unknown)} of {len(members)} members have no line in {PASSWORDS}: add or remove"
            )


def _is_known(group: str) -> bool:
    named = (group.removeprefix(folder) for folder in (PROJECT, RESERVED) if group.startswith(folder))
    return group in set(Role) or any(map(is_project, named))


_UNREAD: Final = {
    PASSWORDS: "no one can log in",
    GROUPS: "all users can only read",
    TOKENS: "no token is accepted",
    TRUST: "no CI job is trusted",
}
_NOT_A_TOKEN: Final = "it is not a token: create tokens with `runbook token create`, and remove the line"  # noqa: S105 - a sentence
_JOINED: Final = "lines end in a bare carriage return, and are read as one: end them in a line feed"
_UTF_16: Final = "the file is in UTF-16 or UTF-32, and nothing in it can be read: save it as UTF-8"


def _is_utf_16(content: bytes) -> bool:
    """True for text as some editors and shells write it: with a byte order mark, or with every other byte zero."""
    return content.startswith((b"\xff\xfe", b"\xfe\xff")) or 4 * content.count(0) > len(content)


def _lines(content: bytes) -> list[bytes]:
    return content.removeprefix(BOM_UTF8).split(b"\n")


def _unsendable(username: str) -> str | None:
    """The reason why no client can send a name; None if one can."""
    if not username:
        return "there is no user name before the colon: write NAME:HASH"
    if len(username.encode()) > NAME_BYTES:
        return f"the user name is longer than {NAME_BYTES} bytes: use a shorter one"
    if username != username.strip() or any(unicodedata.category(character)[0] == "C" for character in username):
        return "the user name ends in a space or has an invisible character: write it again"
    return None
