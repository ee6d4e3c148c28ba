"""ID tokens of CI jobs (OpenID Connect), verified with their issuers' public keys.

Strangers trigger everything here: only configured issuers are ever contacted, one at a time, with limits on time and
size, and at most once every few seconds. PyJWT and cryptography are imported with the first ID token.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn

from ops.index.auth.trust import Issuer, Trust
from ops.index.errors import InvalidIdToken

LONGEST: Final = 12 * 1024
"""Bytes of an ID token; GitHub's and GitLab's have less than a quarter of that."""

SKEW_SECONDS: Final = 30
"""The largest difference between the issuer's clock and ours."""

_LONGEST_LIFE: Final = 86_400
"""Seconds between ``iat`` and ``exp``. Each ``jti`` is remembered that long."""

_FRESH: Final = 600.0
"""Seconds after which keys are fetched again."""

_OUTAGE: Final = 3600.0
"""Seconds for which the last keys are used while the issuer does not respond."""

_PAUSE: Final = 30.0
"""Seconds between two requests to one issuer, whatever key ids are sent."""

_FETCH_SECONDS: Final = 10.0
_KEYS_BYTES: Final = 256 * 1024
_MOST_KEYS: Final = 100
_KEY_BITS: Final = range(2048, 8193)

_log = logging.getLogger(__name__)

_REQUIRED: Final = ["iss", "aud", "exp", "nbf", "iat", "jti"]


class IdToken(NamedTuple):
    """A verified ID token.

    Parameters:
        issuer: its issuer.
        claims: all of them.
    """

    issuer: Issuer
    claims: Mapping[str, Any]


@dataclass
class _Keys:
    """The keys of one issuer, as JSON Web Keys by their ids."""

    by_id: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    fetched: float = float("-inf")
    tried: float = float("-inf")


class IdTokens:
    """Verifies ID tokens: RS256 only, with the issuer's keys; ``iss aud exp nbf iat jti`` are all required.

    Parameters:
        fetch: returns the bytes of a URL, or raises OSError.
        clock: seconds since the epoch.
    """

    def __init__(self, *, fetch: Callable[[str], bytes] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch or fetch_keys
        self._clock = clock
        self._fetching = threading.Lock()
        self._keys: dict[str, _Keys] = {}

    def verify(self, token: str, trust: Trust) -> IdToken:
        """Verify an ID token. Blocks, for some seconds if keys must be fetched.

        Raises:
            InvalidIdToken: it is not accepted.
        """
        import jwt

        if len(token) > LONGEST or not token.isascii():
            _refuse("invalid-payload", "the ID token is too long, or not ASCII")
        try:
            header = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            _refuse("invalid-payload", "the ID token is not a JSON Web Token; send the one that the CI gives the job")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm != "RS256" or not isinstance(key_id, str) or "crit" in header:
            _refuse("invalid-token", "the ID token is not signed with RS256 by a key with an id")
        issuer = trust.issuer(unverified.get("iss"))
        if issuer is None:
            _refuse(
                "invalid-publisher",
                "this index does not trust the issuer of the ID token; its operator adds it with 13_trusted_publishing",
            )
        key = self._key(issuer, key_id)
        try:
            claims = jwt.decode(
                token,
                jwt.PyJWK(dict(key), algorithm="RS256").key,
                algorithms=["RS256"],
                audience=trust.audience,
                issuer=issuer.url,
                leeway=SKEW_SECONDS,
                options={"require": _REQUIRED, "strict_aud": True, "verify_nbf": True, "verify_iat": True},
            )
        except jwt.InvalidAudienceError:
            _refuse(
                "invalid-token", f"the ID token is not for this index: request one for the audience {trust.audience}"
            )
        except jwt.ExpiredSignatureError:
            _refuse("invalid-token", "the ID token has expired; request a new one")
        except jwt.ImmatureSignatureError:
            _refuse("invalid-token", "the ID token is not valid yet; check the clocks of the issuer and the index")
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            _refuse("invalid-token", f"the ID token cannot be verified ({type(error).__name__})")
        if not isinstance(claims["jti"], str) or not 0 < len(claims["jti"]) <= 512:
            _refuse("invalid-token", "the ID token has no usable jti")
        if not 0 <= int(claims["exp"]) - int(claims["iat"]) <= _LONGEST_LIFE:
            _refuse("invalid-token", "the ID token is valid for more than a day; request one for a few minutes")
        return IdToken(issuer, claims)

    def _key(self, issuer: Issuer, key_id: str) -> Mapping[str, Any]:
        keys = self._keys.setdefault(issuer.keys_url, _Keys())
        # A request whose key is cached does not wait for others that fetch keys.
        if self._outdated(keys, key_id) and self._fetching.acquire(blocking=key_id not in keys.by_id):
            try:
                if self._outdated(keys, key_id) and self._clock() > keys.tried + _PAUSE:
                    self._renew(keys, issuer.keys_url)
            finally:
                self._fetching.release()
        if self._clock() > keys.fetched + _FRESH + _OUTAGE:
            _refuse("issuer-unavailable", f"the keys of {issuer.url} cannot be fetched; try again in a minute")
        key = keys.by_id.get(key_id)
        if key is None:
            _refuse("invalid-token", "the ID token is signed by a key that its issuer does not publish")
        return key

    def _outdated(self, keys: _Keys, key_id: str) -> bool:
        return key_id not in keys.by_id or self._clock() > keys.fetched + _FRESH

    def _renew(self, keys: _Keys, url: str) -> None:
        """Fetch the keys; the last ones are used for a while if that fails."""
        keys.tried = self._clock()
        try:
            keys.by_id = _parsed(self._fetch(url))
            keys.fetched = self._clock()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("the keys at %s could not be fetched: %s", url, error)


def fetch_keys(url: str) -> bytes:
    """The bytes of a short document of an issuer.

    Raises:
        OSError: it does not arrive in time, is too long, or is not HTTP.
    """
    # Imported here: few servers trust issuers.
    from http.client import HTTPException
    from urllib.request import HTTPRedirectHandler, build_opener

    class NoRedirects(HTTPRedirectHandler):
        """Refuses redirects: an issuer's keys are at its own address or nowhere."""

        def redirect_request(self, *_: object, **__: object) -> None:
            """Refuse to follow."""

    end = time.monotonic() + _FETCH_SECONDS
    content = bytearray()
    try:
        with build_opener(NoRedirects).open(url, timeout=_FETCH_SECONDS / 2) as response:
            while piece := response.read1(65536):
                content += piece
                if len(content) > _KEYS_BYTES or time.monotonic() > end:
                    raise OSError("the document is too long or too slow")
    except HTTPException as error:
        raise OSError(f"the response is not HTTP: {error}") from error
    return bytes(content)


def _parsed(content: bytes) -> dict[str, Mapping[str, Any]]:
    """The RSA signature keys in a JSON Web Key Set (RFC 7517)."""
    found: dict[str, Mapping[str, Any]] = {}
    for key in json.loads(content)["keys"][:_MOST_KEYS]:
        usable = key.get("kty") == "RSA" and key.get("use", "sig") == "sig" and key.get("alg", "RS256") == "RS256"
        if usable and isinstance(key.get("kid"), str) and _bits(key) in _KEY_BITS:
            found[key["kid"]] = {"kty": "RSA", "n": key["n"], "e": key["e"]}
    return found


def _bits(key: Mapping[str, Any]) -> int:
    modulus = str(key["n"])
    return int.from_bytes(base64.urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4))).bit_length()


def _refuse(code: str, message: str) -> NoReturn:
    raise InvalidIdToken(code, message) from None
