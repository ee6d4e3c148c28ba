"""The text of ``.htpasswd``, which stock ``htpasswd`` and pypiserver read and write too."""

from __future__ import annotations

from codecs import BOM_UTF8

from ops.index.auth.passwords import decoded


class CredentialLines:
    """The text of a credentials file. A byte order mark, which some editors write, is dropped.

    Parameters:
        content: the file's bytes; any bytes will do.
    """

    def __init__(self, content: bytes) -> None:
        self._lines = content.removeprefix(BOM_UTF8).split(b"\n")
        if self._lines[-1] == b"":
            self._lines.pop()

    def __bytes__(self) -> bytes:
        return b"".join(line + b"\n" for line in self._lines)


class PasswordFile(CredentialLines):
    """The text of an ``.htpasswd``. Comments, empty lines and invalid lines are preserved.

    As in nginx and Apache, the hash ends at a second colon.
    """

    def entries(self) -> dict[str, str]:
        """The hash of each user. The first of several entries counts, as in Apache and passlib."""
        found: dict[str, str] = {}
        for line in self._lines:
            username, digest = _parsed(line)
            if username is not None:
                found.setdefault(username, digest)
        return found

    def set(self, username: str, digest: str) -> bool:
        """Replace the user's first entry, or add one at the end. True if there was none."""
        entry = f"{username}:{digest}".encode()
        places = [place for place, line in enumerate(self._lines) if _parsed(line)[0] == username]
        if not places:
            self._lines.append(entry)
            return True
        _, _, further = self._lines[places[0]].strip().partition(b":")[2].partition(b":")
        self._lines[places[0]] = entry + (b":" + further if further else b"")
        for place in reversed(places[1:]):
            del self._lines[place]
        return False

    def remove(self, username: str) -> bool:
        """Remove all of the user's entries. False if there was none."""
        kept = [line for line in self._lines if _parsed(line)[0] != username]
        removed = len(kept) < len(self._lines)
        self._lines = kept
        return removed


def entry_of(line: bytes) -> tuple[bytes | None, str]:
    """The user name and hash of a line; no name for a comment, or a line without a colon."""
    name, colon, rest = line.strip().partition(b":")
    if not colon or name.startswith(b"#"):
        return None, ""
    return name, rest.partition(b":")[0].decode("latin-1")


def _parsed(line: bytes) -> tuple[str | None, str]:
    """The decoded user name and hash of a line; no name if it is not an entry."""
    name, digest = entry_of(line)
    return (decoded(name), digest) if name else (None, "")
