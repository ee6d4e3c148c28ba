"""Exchange of a CI job's ID token for a short-lived token, as on the public index (PEP 807, draft).

These paths need no login, so strangers must cost little: bodies are short, concurrency is limited, and keys are
fetched from configured issuers only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from ops.index.auth.audit import Audit
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.id_tokens import LONGEST, SKEW_SECONDS, IdToken, IdTokens
from ops.index.auth.minted_tokens import MintedTokens
from ops.index.auth.passwords import TOKEN
from ops.index.auth.roles import Role
from ops.index.auth.trust import KINDS, Trust, TrustedJob
from ops.index.errors import InvalidIdToken, LoginDelayed, PackageIndexError
from ops.index.http.representation import Headers
from ops.index.http.request import Request, headers_of

PREFIX: Final = "/_/oidc/"
DISCOVERY: Final = "/.well-known/pytp"

_UPLOAD_PATHS: Final = ("", "/", "/legacy", "/legacy/")

_THREADS: Final = 4
_MOST_WAITING: Final = 64
"""Requests that may wait for a thread; further ones get 503."""

_MOST_TOLD: Final = 5
"""Jobs of one repository whose mismatches an error lists."""

_logger = logging.getLogger(__name__)


class OidcApi:
    """Handler of ``/_/oidc/audience``, ``…/mint-token``, ``…/burn-token``, and of the discovery page.

    Parameters:
        authenticator: has the trusted jobs.
        id_tokens: verifies ID tokens.
        minted: mints tokens.
        audit: gets a line for each mint, refusal and burn.
    """

    def __init__(self, authenticator: Authenticator, id_tokens: IdTokens, minted: MintedTokens, audit: Audit) -> None:
        self._trust = authenticator.trust
        self._id_tokens = id_tokens
        self._minted = minted
        self._audit = audit
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="oidc")
        self._waiting = 0

    def close(self) -> None:
        """End the threads after their current work."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def handle(self, request: Request) -> None:
        """Respond to a request for one of these paths. Errors are JSON, as on the public index."""
        headers: Headers = []
        try:
            status, content = await self._content(request)
        except PackageIndexError as error:
            status, content = error.status, _errors(getattr(error, "code", "unavailable"), error.message)
            headers = headers_of(error)
        body = json.dumps(content).encode() + b"\n"
        await request.content(status, b"application/json", body, *headers)

    async def _content(self, request: Request) -> tuple[int, Mapping[str, Any]]:
        method, path = request.method, request.path
        if path == DISCOVERY or path.startswith(f"{DISCOVERY}/"):
            trust = await self._run(self._trust)
            if method not in {"GET", "HEAD"} or not trust.jobs or not _is_ours(request):
                return _nothing()
            root = request.index_url.rstrip("/")
            names = ("audience", "mint-token", "burn-token")
            return 200, {f"{name}-endpoint": f"{root}{PREFIX}{name}" for name in names}
        action = path.removeprefix(PREFIX)
        if action == "audience" and method in {"GET", "HEAD"}:
            trust = await self._run(self._trust)
            return (200, {"audience": trust.audience}) if trust.jobs else _nothing()
        if action in {"mint-token", "burn-token"} and method == "POST":
            token = _token(await request.body(LONGEST + 1024))
            if action == "mint-token":
                return 200, await self._run(self._mint, token, request.address)
            await self._run(self._burn, token, request.address)
            return 202, {"message": "Accepted"}
        return _nothing()

    async def _run(self, work: Any, *arguments: object) -> Any:
        if self._waiting >= _MOST_WAITING:
            raise LoginDelayed("too many CI jobs are requesting tokens")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1

    def _mint(self, token: str, address: str) -> Mapping[str, Any]:
        trust = self._trust()
        claims: dict[str, object] = {}
        try:
            id_token = self._id_tokens.verify(token, trust)
            claims = _audit_fields(id_token)
            jobs = _matching(trust, id_token)
            jti, until = id_token.claims["jti"], float(id_token.claims["exp"]) + SKEW_SECONDS
            if not _shared(self._minted.spend, id_token.issuer.url, jti, until):
                raise InvalidIdToken("invalid-token", "the ID token was used before; request a new one for each token")
        except InvalidIdToken as refused:
            self._audit.record("oidc.refused", user="", address=address, why=refused.message, **claims)
            raise
        names = [job.name for job in jobs]
        plain, minted = _shared(self._minted.mint, names, id_token.issuer.run_url(id_token.claims))
        self._audit.record("oidc.minted", user=f"oidc:{names[0]}", address=address, id=minted.id, jobs=names, **claims)
        return {"success": True, "token": plain, "expires": int(minted.expires)}

    def _burn(self, token: str, address: str) -> None:
        if not TOKEN.fullmatch(token):
            raise InvalidIdToken("invalid-payload", "this is not a token of this index")
        burnt = _shared(self._minted.burn, token)
        if burnt is not None:
            self._audit.record("oidc.burnt", user=f"oidc:{burnt.jobs[0]}", address=address, id=burnt.id)


def _matching(trust: Trust, id_token: IdToken) -> list[TrustedJob]:
    """The trusted jobs that match an ID token.

    Raises:
        InvalidIdToken: none matches; the message says which claims did not.
    """
    issuer, claims = id_token
    kind = KINDS[issuer.kind]
    found = [job for job in trust.jobs if job.issuer == issuer.url and job.is_of(kind, claims)]
    matching = [job for job in found if not job.mismatches(issuer, claims)]
    if matching:
        return sorted(matching, key=lambda job: job.role is not Role.PUBLISHER)
    if found:
        why = "; ".join(f"{job.name}: {', '.join(job.mismatches(issuer, claims))}" for job in found[:_MOST_TOLD])
    else:
        numbers = f"{kind.repository_id} {_claim(claims, kind.repository_id)}, {kind.owner_id} "
        why = f"none is for the repository {_claim(claims, kind.repository)} ({numbers}{_claim(claims, kind.owner_id)})"
    raise InvalidIdToken(
        "invalid-publisher",
        f"the ID token is valid, but no trusted job matches it: {why}. The index's operator corrects the list of jobs "
        "with the notebook 13_trusted_publishing",
    )


def _audit_fields(id_token: IdToken) -> dict[str, object]:
    """The relevant claims, for the audit log."""
    issuer, claims = id_token
    kind = KINDS[issuer.kind]
    names = (kind.repository, kind.repository_id, kind.workflow, "ref", "sha", "environment", "run_id", "job_id")
    fields = {name: _claim(claims, name) for name in (*names, "actor", "user_login") if claims.get(name)}
    return {"issuer": issuer.url, **fields, "run": issuer.run_url(claims)}


def _claim(claims: Mapping[str, Any], name: str) -> str:
    text = str(claims.get(name, "not given"))[:255]
    return text if text.isprintable() else ascii(text)


def _shared(work: Any, *arguments: object) -> Any:
    """The result of a call to the shared entries.

    Raises:
        LoginDelayed: they do not respond.
    """
    try:
        return work(*arguments)
    except Exception as error:
        _logger.warning("tokens of CI jobs cannot be stored: %s", error)
        raise LoginDelayed("the index cannot store tokens of CI jobs now", retry_after=5) from error


def _token(body: bytes) -> str:
    try:
        token = json.loads(body)["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token:
        raise InvalidIdToken("invalid-payload", 'the body must be a JSON object with one string: {"token": …}')
    return token


def _is_ours(request: Request) -> bool:
    """True if a discovery request names an upload URL of this index, or none."""
    query = parse_qs((request.scope.get("query_string") or b"").decode("latin-1")).get("discover", [])
    asked = [*query, *([request.path.removeprefix(f"{DISCOVERY}/")] if request.path != DISCOVERY else [])]
    known = {*_UPLOAD_PATHS, *(hashlib.sha256(path.encode()).hexdigest() for path in _UPLOAD_PATHS)}
    return all(key in known or urlsplit(key).path in known for key in asked)


def _errors(code: str, description: str) -> Mapping[str, Any]:
    return {"message": "Token request failed", "errors": [{"code": code, "description": description}]}


def _nothing() -> tuple[int, Mapping[str, Any]]:
    return 404, _errors("not-found", "this index trusts no CI jobs, or has nothing at this path")
