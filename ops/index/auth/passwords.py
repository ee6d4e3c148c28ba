"""Passwords and tokens as clients send them (RFC 7617, RFC 6750), and the passwords' hashes in ``.htpasswd``.

Hashes are written as bcrypt, and verified in every format that stock tools write.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import bcrypt

from ops.index.errors import BadRequest

if TYPE_CHECKING:
    from passlib.context import CryptContext

PASSWORD_BYTES: Final = range(12, 73)
"""Shorter ones can be guessed; bcrypt accepts at most 72 bytes."""

NAME_BYTES: Final = 255
"""The limit of stock ``htpasswd`` and passlib."""

ROUNDS: Final = range(10, 15)
"""Accepted costs of a hash: lower ones protect too little, higher ones slow down every login."""

PasswordCheck: TypeAlias = Callable[[str, "str | None", int], bool]
"""The signature of :func:`verify_password`."""

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-7])\$[./A-Za-z0-9]{53}")
_OTHERS = re.compile(
    r"\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}"  # htpasswd -m, still the default of many
    r"|\{SHA\}[A-Za-z0-9+/]{27}="  # htpasswd -s
    r"|\$[56]\$(rounds=\d{4,6}\$)?[./A-Za-z0-9]{0,16}\$[./A-Za-z0-9]{43,86}"  # htpasswd -2 and -5
    r"|[./A-Za-z0-9]{13}"  # htpasswd -d
)
"""Every format but plain text: passlib would take a locked entry such as ``!$2y$…`` for a plain-text password."""

_LAST_OF_SALT: Final = ".Oeu"
"""The last of the 22 characters of a bcrypt salt has only two bits."""


class InvalidCredentials(BadRequest):
    """A user name, password, hash or project that cannot be stored. The message never contains a secret."""

    status = 422


def decoded(field: bytes) -> str:
    """Decode a field of a file, to Unicode NFC. Never raises: bytes that are not UTF-8 are read as Latin-1."""
    try:
        text = field.decode()
    except UnicodeDecodeError:
        text = field.decode("latin-1")
    return unicodedata.normalize("NFC", text)


def validated_name(name: str) -> str:
    """Check a user name, and return it in Unicode NFC: safe in ``.htpasswd``, ``.htgroup``, a URL and a path.

    Parameters:
        name: as typed; 1 to 255 bytes in UTF-8.

    Raises:
        InvalidCredentials: it contains a colon (RFC 7617 ends the name there), a character that ends a field or a line
            of the files, an invisible one, or a path separator.
    """
    if not name:
        raise InvalidCredentials("the user name is empty: use 1 to 255 bytes")
    if name == TOKEN_USER:
        raise InvalidCredentials("the user name __token__ is reserved for tokens: choose another")
    for character in name:
        category = unicodedata.category(character)
        if category[0] == "C" or (category[0] == "Z" and character != " "):
            raise InvalidCredentials(
                f"the user name contains the character U+{ord(character):04X}, which is invisible or ends a line: "
                "use letters, digits, and signs such as . _ - @ +"
            )
        if character in ":#/\\":
            raise InvalidCredentials(
                f"the user name contains {character!r}, which separates fields or paths: leave it out"
            )
    if name != name.strip(" ") or name in {".", ".."}:
        raise InvalidCredentials("the user name begins or ends with a space, or is a path: remove that")
    spelled = unicodedata.normalize("NFC", name)
    if len(spelled.encode()) > NAME_BYTES:
        raise InvalidCredentials(f"the user name is longer than {NAME_BYTES} bytes: use a shorter one")
    return spelled


def validated_password(password: str) -> bytes:
    """Check a new password, and encode it.

    Raises:
        InvalidCredentials: it is not 12 to 72 bytes long in UTF-8, or contains a control character or a lone surrogate.
    """
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in password):
        raise InvalidCredentials("the password contains a control character: remove it")
    encoded = password.encode()
    if len(encoded) not in PASSWORD_BYTES:
        raise InvalidCredentials(
            f"the password has {len(encoded)} bytes in UTF-8: "
            f"use one of {PASSWORD_BYTES.start} to {PASSWORD_BYTES.stop - 1} bytes"
        )
    return encoded


def validated_hash(digest: str, *, least_rounds: int = ROUNDS.start) -> str:
    """Check a bcrypt hash that was computed elsewhere.

    Parameters:
        digest: ``$2a$``, ``$2b$`` or ``$2y$``, the cost, and 53 characters.
        least_rounds: the lowest cost that is accepted, as a power of two.

    Raises:
        InvalidCredentials: it is not a bcrypt hash, or its cost is out of range.
    """
    found = _BCRYPT.fullmatch(digest)
    if found is None or not _usable(digest):
        raise InvalidCredentials(
            "the password hash is not a bcrypt hash ($2b$, $2y$ or $2a$): create one with htpasswd -nBC 12"
        )
    if not least_rounds <= int(found[1]) < ROUNDS.stop:
        raise InvalidCredentials(
            f"the password hash has cost {int(found[1])}: use {least_rounds} to {ROUNDS.stop - 1} (htpasswd -nBC 12)"
        )
    return digest


def hashed(password: str, rounds: int) -> str:
    """Hash a new password with bcrypt, in the ``$2y$`` form that Apache, passlib and bcrypt all read.

    Parameters:
        rounds: the cost, a power of two; 12 takes about a quarter of a second.

    Raises:
        InvalidCredentials: as :func:`validated_password`.
    """
    # $2y$ and $2b$ name the same algorithm; older Apache libraries know only $2y$.
    return "$2y$" + bcrypt.hashpw(validated_password(password), bcrypt.gensalt(rounds)).decode("ascii")[4:]


def cost(digest: str) -> int | None:
    """The bcrypt cost of an entry; None for another format."""
    found = _BCRYPT.fullmatch(digest)
    return int(found[1]) if found else None


def refusal_cost(digests: Iterable[str], least: int) -> int:
    """The bcrypt cost of every refusal: the highest of all entries, and *least* at least."""
    return max([least, *(cost(digest) or 0 for digest in digests)])


def defect(digest: str) -> str | None:
    """The reason why no password can match this entry, and what to do; None if one can."""
    found = _BCRYPT.fullmatch(digest)
    if (found is not None and digest[28] in _LAST_OF_SALT) or _OTHERS.fullmatch(digest) is not None:
        return None
    remedy = "set the password anew, for instance with htpasswd -B"
    if not digest:
        return f"there is no password hash: {remedy}"
    if digest[0] in "!*":
        return f"the entry is locked by its first character: {remedy}, or remove the line"
    if digest.startswith("$2"):
        return f"the bcrypt hash is damaged, or its cost is not 4 to 17: {remedy}"
    return f"the password is in plain text, or hashed in an unknown format: {remedy}"


def verify_password(password: str, digest: str | None, level: int) -> bool:
    """True if the password matches the entry. Never raises.

    A refusal takes the same time whether or not the user exists, even if ``htpasswd -B`` wrote the entry with its
    default cost of 5: decoys make up the difference, because 2^5 + 2^5 + 2^6 + … + 2^11 = 2^12.

    Parameters:
        password: as the client sent it.
        digest: the entry; None for an unknown user.
        level: the bcrypt cost of every refusal.
    """
    spent = None
    try:
        if digest is None:
            pass
        elif (found := _BCRYPT.fullmatch(digest)) is not None:
            if bcrypt.checkpw(password.encode(), digest.encode("ascii")):
                return True
            spent = int(found[1])
        elif _OTHERS.fullmatch(digest) is not None and _context().verify(password, digest):
            return True
    except (ValueError, TypeError):  # over 72 bytes, NUL, a lone surrogate, an impossible salt
        spent = None
    for rounds in (level,) if spent is None else range(spent, level):
        bcrypt.checkpw(b"", _decoy(rounds))
    return False


@lru_cache(maxsize=32)
def _decoy(rounds: int) -> bytes:
    """A hash of the given cost that no password matches."""
    return b"$2y$%02d$" % rounds + b"." * 53


@lru_cache(maxsize=64)
def _usable(digest: str) -> bool:
    """True if bcrypt accepts the salt; some strings of its alphabet are invalid. Tried at the lowest cost."""
    try:
        bcrypt.checkpw(b"", f"{digest[:4]}04{digest[6:]}".encode("ascii"))
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1)
def _context() -> CryptContext:
    # Importing passlib takes a tenth of a second, and most indexes have only bcrypt entries.
    from passlib.context import CryptContext

    return CryptContext(schemes=["apr_md5_crypt", "ldap_sha1", "sha256_crypt", "sha512_crypt", "des_crypt"])


TOKEN_USER: Final = "__token__"  # noqa: S105 - a name
"""The user name that goes with a token in HTTP Basic auth, as on the public index."""

TOKEN: Final = re.compile(r"pyidx_(?P<id>m?[0-9a-f]{12})_[0-9a-f]{64}")
"""A token: prefix, id, and 256 random bits. The pattern for secret scanners. The id of a minted token begins with m."""

_TOKEN_LOGIN: Final = b"Basic " + binascii.b2a_base64(TOKEN_USER.encode(), newline=False)
"""Start of an Authorization header with a token. A colon follows, in base64 a new group of four letters."""

_HEADER_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """User name and password, as a client sent them. A bearer token is the password of ``__token__``.

    Parameters:
        username: in Unicode NFC, as names are stored.
        password: unchanged.
    """

    username: str
    password: str

    def __repr__(self) -> str:
        return "BasicCredentials(********)"  # people type their passwords into the user name

    @classmethod
    def parse(cls, authorization: bytes) -> BasicCredentials | None:
        """Read the value of an Authorization header; None if it holds no credentials. Never raises."""
        if len(authorization) > _HEADER_BYTES:
            return None
        scheme, _, encoded = authorization.strip().partition(b" ")
        scheme = scheme.lower()
        if scheme == b"bearer":
            bearer = cls(TOKEN_USER, encoded.strip().decode("latin-1"))
            return None if bearer.token is None else bearer
        if scheme != b"basic":
            return None
        encoded = encoded.strip().rstrip(b"=")
        try:
            fields = binascii.a2b_base64(encoded + b"==="[: -len(encoded) % 4], strict_mode=True)
        except binascii.Error:
            return None
        try:
            text = fields.decode()
        except UnicodeDecodeError:  # requests, and with it pip and twine, sends Latin-1 if it can
            text = fields.decode("latin-1")
        username, colon, password = text.partition(":")
        return cls(unicodedata.normalize("NFC", username), password) if colon else None

    @property
    def flaw(self) -> str:
        """The reason why no user can have these credentials, for the audit log; empty if one could."""
        if not self.username:
            return "no user name"
        if len(self.username.encode()) > NAME_BYTES:
            return f"a user name longer than {NAME_BYTES} bytes"
        return "" if self.password else "an empty password"

    @property
    def token(self) -> str | None:
        """The token; None if the password is not one."""
        return self.password if self.username == TOKEN_USER and TOKEN.fullmatch(self.password) else None

    @property
    def minted(self) -> bool:
        """True if the token was minted for a CI job."""
        found = TOKEN.fullmatch(self.token or "")
        return found is not None and found["id"].startswith("m")


def token_of(authorization: bytes) -> str | None:
    """The password that goes with the user name of tokens; None if an Authorization header has another user name."""
    if authorization.startswith(_TOKEN_LOGIN):  # as most clients write it: much faster
        try:
            rest = binascii.a2b_base64(authorization[len(_TOKEN_LOGIN) :], strict_mode=True).decode("ascii")
        except ValueError:
            rest = ""
        if rest.startswith(":"):
            return rest[1:]
    credentials = BasicCredentials.parse(authorization)
    return credentials.password if credentials is not None and credentials.username == TOKEN_USER else None
