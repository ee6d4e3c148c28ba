"""Passwords as an ``.htpasswd`` keeps them: made with bcrypt only, read in every format that stock tools write."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import bcrypt

from ops.index.errors import BadRequest

if TYPE_CHECKING:
    from passlib.context import CryptContext

PASSWORD_BYTES: Final = range(12, 73)
"""Fewer can be guessed; bcrypt would ignore what follows the 72nd byte, and bcrypt 5 refuses it."""

NAME_BYTES: Final = 255
"""What stock ``htpasswd`` and passlib take."""

ROUNDS: Final = range(10, 15)
"""The costs of a hash that is handed in: a lower one protects too little, a higher one holds up everybody's login."""

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-7])\$[./A-Za-z0-9]{53}")
_OTHERS = re.compile(
    r"\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}"  # htpasswd -m, still the default of many
    r"|\{SHA\}[A-Za-z0-9+/]{27}="  # htpasswd -s
    r"|\$[56]\$(rounds=\d{4,6}\$)?[./A-Za-z0-9]{0,16}\$[./A-Za-z0-9]{43,86}"  # htpasswd -2 and -5
    r"|[./A-Za-z0-9]{13}"  # htpasswd -d
)
"""Everything but plain text: passlib would take a locked entry such as ``!$2y$…`` for a password in the clear."""


_LAST_OF_SALT: Final = ".Oeu"
"""The last of 22 characters of a bcrypt salt has two bits."""


class InvalidCredentials(BadRequest):
    """A user name, password, hash or project that cannot be stored. The sentence never holds the secret itself."""

    status = 422


def decoded(field: bytes) -> str:
    """A field of a file or of a header, in Unicode NFC.

    Bytes that are no UTF-8 are read as Latin-1, which pip and twine send when they can, so that no bytes are an error.
    """
    try:
        text = field.decode()
    except UnicodeDecodeError:
        text = field.decode("latin-1")
    return unicodedata.normalize("NFC", text)


def validated_name(name: str) -> str:
    """The user name in its one spelling (Unicode NFC), fit for ``.htpasswd``, ``.htgroup``, a URL and a folder.

    Parameters:
        name: as a person typed it; 1 to 255 bytes in UTF-8.

    Raises:
        InvalidCredentials: it has a colon (RFC 7617 ends the name there), a character that ends a field or a line in
            the files, one that cannot be seen, or a separator of paths.
    """
    if not name:
        raise InvalidCredentials("the user name is empty: give one of 1 to 255 bytes")
    for character in name:
        category = unicodedata.category(character)
        if category[0] == "C" or (category[0] == "Z" and character != " "):
            raise InvalidCredentials(
                f"the user name holds the character U+{ord(character):04X}, which cannot be seen or ends a line: "
                "use letters, digits, and signs such as . _ - @ +"
            )
        if character in ":#/\\":
            raise InvalidCredentials(
                f"the user name holds {character!r}, which separates fields or paths: leave it out"
            )
    if name != name.strip(" ") or name in {".", ".."}:
        raise InvalidCredentials("the user name begins or ends with a space, or is a path: leave that out")
    spelled = unicodedata.normalize("NFC", name)
    if len(spelled.encode()) > NAME_BYTES:
        raise InvalidCredentials(f"the user name is longer than {NAME_BYTES} bytes: use a shorter one")
    return spelled


def validated_password(password: str) -> bytes:
    """The bytes of a new password.

    Raises:
        InvalidCredentials: it is not 12 to 72 bytes long in UTF-8, or holds a control character or half a character.
            The sentence never contains the password.
    """
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in password):
        raise InvalidCredentials("the password holds a control character: leave it out")
    encoded = password.encode()
    if len(encoded) not in PASSWORD_BYTES:
        raise InvalidCredentials(
            f"the password has {len(encoded)} bytes in UTF-8: use {PASSWORD_BYTES.start} to {PASSWORD_BYTES.stop - 1}"
        )
    return encoded


def validated_hash(digest: str, *, least_rounds: int = ROUNDS.start) -> str:
    """A bcrypt hash that somebody else computed, as it will stand in the file.

    Parameters:
        digest: ``$2a$``, ``$2b$`` or ``$2y$``, the cost, and 53 characters.
        least_rounds: the lowest cost (a power of two) that is taken.

    Raises:
        InvalidCredentials: it is not one, or its cost is out of bounds. The sentence never contains the hash.
    """
    found = _BCRYPT.fullmatch(digest)
    if found is None or not _usable(digest):
        raise InvalidCredentials(
            "the password hash is not a bcrypt hash ($2b$, $2y$ or $2a$): make one with htpasswd -nBC 12"
        )
    if not least_rounds <= int(found[1]) < ROUNDS.stop:
        raise InvalidCredentials(
            f"the password hash has cost {int(found[1])}: use {least_rounds} to {ROUNDS.stop - 1} (htpasswd -nBC 12)"
        )
    return digest


def hashed(password: str, rounds: int) -> str:
    """A new bcrypt hash, in the ``$2y$`` form that Apache's, passlib's and bcrypt's readers all take.

    Parameters:
        rounds: the cost, a power of two; 12 takes about a quarter of a second.

    Raises:
        InvalidCredentials: as :func:`validated_password`.
    """
    # $2y$ and $2b$ name the same algorithm; older Apache libraries know only the first.
    return "$2y$" + bcrypt.hashpw(validated_password(password), bcrypt.gensalt(rounds)).decode("ascii")[4:]


def cost(digest: str) -> int | None:
    """The bcrypt cost of an entry, or None for another format."""
    found = _BCRYPT.fullmatch(digest)
    return int(found[1]) if found else None


def useless(digest: str) -> str | None:
    """Why :func:`verify` can never say yes for this entry, and what to do; None when it can."""
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
    return f"the password is in the clear, or hashed in a form that is unknown here: {remedy}"


def verify(password: str, digest: str | None, level: int) -> bool:
    """Whether the password belongs to the entry. Never raises: what cannot be read matches nothing.

    Names that exist and names that do not take the same time to refuse, also when the entry was written by
    ``htpasswd -B`` with its default cost of 5: the rest is made up, as 2^5 + 2^5 + 2^6 + … + 2^11 = 2^12.

    Parameters:
        password: as the client sent it.
        digest: the entry, or None for a user who has none.
        level: the bcrypt cost that every refusal amounts to.
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
    except (ValueError, TypeError):  # longer than 72 bytes, NUL, half a character, bits that no salt has
        spent = None
    for rounds in (level,) if spent is None else range(spent, level):
        bcrypt.checkpw(b"", _decoy(rounds))
    return False


@lru_cache(maxsize=32)
def _decoy(rounds: int) -> bytes:
    """A hash of the given cost that belongs to nothing; only its cost matters."""
    return b"$2y$%02d$" % rounds + b"." * 53


@lru_cache(maxsize=64)
def _usable(digest: str) -> bool:
    """Whether bcrypt takes the salt: not all strings of the alphabet are one. Tried at the lowest cost."""
    try:
        bcrypt.checkpw(b"", f"{digest[:4]}04{digest[6:]}".encode("ascii"))
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1)
def _context() -> CryptContext:
    # passlib takes a tenth of a second to import, and an index whose entries are all bcrypt never needs it.
    from passlib.context import CryptContext

    return CryptContext(schemes=["apr_md5_crypt", "ldap_sha1", "sha256_crypt", "sha512_crypt", "des_crypt"])
