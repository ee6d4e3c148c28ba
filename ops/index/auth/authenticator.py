"""Authentication of requests: tokens, and passwords, which are verified by bcrypt once and then cached."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from ops.index.auth.audit import Audit, masked_name
from ops.index.auth.minted_tokens import MintedTokens
from ops.index.auth.passwords import (
    TOKEN,
    TOKEN_USER,
    BasicCredentials,
    PasswordCheck,
    defect,
    token_of,
    verify_password,
)
from ops.index.auth.roles import Grants, Identity
from ops.index.auth.throttle import MAX_PENDING, Admission, Throttle
from ops.index.auth.token_file import token_digest
from ops.index.auth.token_uses import TokenUses
from ops.index.auth.trust import Trust
from ops.index.auth.user_cache import UserCache
from ops.index.auth.users import Account
from ops.index.auth.verification_queue import VerificationQueue, lower_priority
from ops.index.bounded_dict import BoundedDict
from ops.index.config import Options
from ops.index.errors import LoginDelayed, TooManyAttempts, Unauthorized
from ops.index.storage.storage import Storage

_CACHED: Final = 10_000
"""Verified logins in memory, and as many refused ones; some 300 bytes each."""

_MAX_WAIT: Final = 140.0
"""Seconds that a request waits for its login to be verified: as long as a full queue takes on two processors, but less
than the time after which Modal redirects clients. The login keeps its place in the queue, where the client's next
request finds it: pip asks six times, every 15 s, and uv four times, every 30 s."""

_MAX_WAIT_PROXIED: Final = 50.0
"""The same for a request through a proxy; most proxies give up after 60."""

_START_SECONDS: Final = 0.001
"""Pause after starting a thread, so that known users are served while hundreds log in."""

_RENEWAL_WAIT: Final = 0.5
"""Seconds that logins wait for changed users to be read: a hanging volume must not block known users."""

_NO_CREDENTIALS: Final = "neither a user name and password (RFC 7617) nor a token of this index (RFC 6750)"

_NEVER: Final = object()

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _PendingLogin:
    """A login that is being verified, shared by all requests that send it.

    Parameters:
        digest: of the Authorization header.
        address: of the first of the requests.
        began: when that request arrived.
        admission: by the throttle.
    """

    digest: bytes
    credentials: BasicCredentials
    address: str
    began: float
    admission: Admission
    result: Future[Identity] = field(default_factory=Future)


class Authenticator:
    """Finds the user who sent a request.

    Each password is verified by bcrypt in a thread, once for all requests that send it at the same time. After that, a
    keyed hash of the header stands for it in memory, until the user's entry or role changes. Refusals are cached too.
    A token is found by its SHA-256: it needs no thread and no queue unless it is unknown.

    Parameters:
        credentials: the volume with ``.htpasswd`` and ``.htgroup``.
        options: realm, cost of a refusal, limits.
        audit: records refused logins, and the use of tokens.
        uses: records when tokens were used.
        minted: the tokens of CI jobs; None for none.
        verify: compares a password with a user's entry.
        clock: seconds, such as ``time.monotonic``.
        wall_clock: seconds since the epoch, by which tokens expire.
    """

    def __init__(
        self,
        credentials: Storage,
        options: Options,
        audit: Audit | None = None,
        *,
        uses: TokenUses | None = None,
        minted: MintedTokens | None = None,
        verify: PasswordCheck = verify_password,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._realm = options.realm
        self._audit = audit
        self._uses = uses
        self._minted = minted
        self._matches = verify
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._verified: BoundedDict[bytes, Account] = BoundedDict(_CACHED)
        self._met: set[str] = set()  # SHA-256 of valid tokens that came before
        self._forgotten = 0  # number of cached logins dropped because they ceased to be valid
        self._active_users: set[str] = set()
        self._account_of = self._verified.get  # bound once: looked up for every request
        self._refused: BoundedDict[bytes, Account | None] = BoundedDict(_CACHED)
        self._pending: dict[bytes, _PendingLogin] = {}
        self._throttle = Throttle(options.login_failures, options.login_window_seconds, clock=clock)
        self._verification_queue = VerificationQueue(self._throttle.suspicion)
        self._threads = ThreadPoolExecutor(MAX_PENDING + 2, thread_name_prefix="login", initializer=lower_priority)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="login-starter")
        self._renewing: Future[None] | None = None
        self._renewal_deadline = 0.0
        self._user_cache = UserCache(credentials, options, changed=self._forget, clock=clock, wall_clock=wall_clock)

    def remembered(self, authorization: bytes) -> Identity | None:
        """The user of an Authorization header verified before; None if not cached. Takes microseconds."""
        return self.holder(self.digest(authorization))

    def holder(self, digest: bytes) -> Identity | None:
        """The same for the header's :meth:`digest`."""
        if not self._user_cache.current():
            return None
        account = self._account_of(digest)
        if account is None:
            return None
        identity = account.identity
        self._active_users.add(identity.username)
        return identity

    def stamp(self) -> Hashable:
        """A value that changes when a login may have ceased to be valid. Takes microseconds."""
        return self._forgotten if self._user_cache.current() else object()

    def known_token(self, digest: bytes, authorization: bytes, address: str) -> Identity | None:
        """The user of a valid token; None for anything else. Takes microseconds.

        A token is cached by its header when it comes again. Many jobs of a pipeline send theirs once, and to remember
        it, and then its request, takes longer than to verify it.

        Parameters:
            digest: the header's :meth:`digest`.
            authorization: the header's value.
            address: where the request comes from.
        """
        token = token_of(authorization)
        if token is None or not self._user_cache.current():
            return None
        sha256 = token_digest(token)
        account = None if sha256 in self._met else self._user_cache.token(sha256)
        if account is None:
            account = self._known_token(digest, sha256, address)
            return None if account is None else account.identity
        if len(self._met) >= _CACHED:
            self._met.clear()
        self._met.add(sha256)
        if self._uses is not None:
            self._uses.note(account.identity, address)
        return account.identity

    def take_active_users(self) -> set[str]:
        """The users who sent a request since the last call."""
        active, self._active_users = self._active_users, set()
        return active.copy()  # a login in another thread may still be about to add its user

    def digest(self, secret: bytes) -> bytes:
        """Hash a secret with a key that only this process has. The digest may be kept in memory instead."""
        return hashlib.blake2b(secret, digest_size=16, key=self._key).digest()

    async def authenticate(self, authorization: bytes | None, address: str, *, proxied: bool = False) -> Identity:
        """Find the user of an Authorization header.

        Parameters:
            authorization: the header's value, or None if the request has none.
            address: where the request comes from; failures are counted by it.
            proxied: true if it came through a proxy.

        Raises:
            Unauthorized: no or wrong credentials. Wrong ones are recorded in the audit log; a request without any, as
                pip sends first, is not.
            TooManyAttempts: too many wrong ones from this address, or for this user from this address.
            LoginDelayed: too many logins are waiting to be verified, or the users could not be read for too long.
        """
        credentials = self.parse(authorization, address)
        if not self._user_cache.current() and not self._closing.is_set():
            renewal, seconds = self._renewal()
            if not renewal.done():
                await asyncio.wait([asyncio.wrap_future(renewal)], timeout=seconds)
            if self._user_cache.outdated:
                raise LoginDelayed("the index cannot read its users", retry_after=10)
        found = self._begin(self.digest(authorization or b""), credentials, address)
        if isinstance(found, Identity):
            return found
        result = asyncio.wrap_future(found)
        result.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved even if unawaited
        # Not awaited directly: a cancelled request would cancel it for all others.
        await asyncio.wait([result], timeout=_MAX_WAIT_PROXIED if proxied else _MAX_WAIT)
        if not result.done():
            raise LoginDelayed("too many logins are waiting to be verified, including this one")
        return result.result()

    def confirm(self, authorization: bytes | None, address: str, *, thoroughly: bool = False) -> Identity:
        """Find the user of an Authorization header in what is stored now. Blocks; call it from a thread.

        For a request that passed :meth:`authenticate` before its body arrived, perhaps minutes ago. Nearly always a
        lookup in memory. The identity can be confirmed once more, when its change no longer waits for others.

        Parameters:
            thoroughly: read all changes up to now, also those that another server has just made; else, on a shared
                volume, those of the last few seconds may be missing.

        Raises:
            Unauthorized: the credentials are wrong, or no longer valid.
            TooManyAttempts: too many wrong ones came from this address.
            LoginDelayed: the changes could not be read.
        """
        identity = self._confirmed(authorization, address, thoroughly=thoroughly)
        return replace(identity, confirm=partial(self._confirm_again, identity, authorization, address))

    def _confirmed(self, authorization: bytes | None, address: str, *, thoroughly: bool) -> Identity:
        if thoroughly:
            self._user_cache.renew()
            if self._user_cache.behind:
                raise LoginDelayed("the index cannot read its users now, so nothing was changed", retry_after=5)
        else:
            self.see_changes()
        digest = self.digest(authorization or b"")
        account = self._verified.get(digest)
        if account is not None and account.identity.minted:
            self._check_minted(account.digest)
            account = self._stored(account)
            if account is None:
                self._verified.pop(digest, None)
        if account is None:
            credentials = self.parse(authorization, address)
            found = self._begin(digest, credentials, address)
            if not isinstance(found, Identity):
                found.result()
            account = self._verified.get(digest)
            if account is None:  # changed this moment
                raise self._unauthorized(credentials)
        return account.identity

    def refresh(self) -> None:
        """Read the users again if their files have changed, after reloading a shared volume. Called in a thread."""
        self._user_cache.poll()

    def record_uses(self) -> None:
        """Write when tokens were used. Called in a thread of its own: shared storage may not respond."""
        if self._uses is not None:
            self._active_users.update(self._uses.write())
            if self._uses.due():
                with self._lock:  # tokens are looked up again, and their use recorded
                    for digest, account in list(self._verified.items()):
                        if account.identity.token:
                            del self._verified[digest]

    def refresh_minted(self) -> None:
        """Forget the minted tokens that were burnt or have expired. Called in a thread."""
        if self._minted is not None:
            try:
                self._minted.refresh()
            finally:
                self._forget()

    def trust(self) -> Trust:
        """The trusted jobs as of now, read like the users in :meth:`confirm`. Blocks."""
        self.see_changes()
        return self._user_cache.trust

    def grants(self) -> Grants:
        """All reserved prefixes: every user's identity has them, and without users there are none. Does not block."""
        return next((account.identity.grants for account in self._user_cache.accounts.values()), ())

    def see_changes(self) -> None:
        """Read changed users; on a shared volume, those changed more than a few seconds ago. Blocks."""
        if not self._user_cache.caught_up() and not self._closing.is_set():
            renewal, seconds = self._renewal()
            wait([renewal], timeout=seconds)

    def close(self) -> None:
        """End the threads, and refuse the logins still waiting for one."""
        with self._lock:  # a login about to begin either begins before, or not at all
            self._closing.set()
            pending = list(self._pending.values())
        self._verification_queue.close()
        if self._uses is not None:
            self._active_users.update(self._uses.write())
        self._starter.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        for login in pending:
            if not login.result.done():
                login.result.set_exception(LoginDelayed("the server is stopping", retry_after=1))

    def parse(self, authorization: bytes | None, address: str) -> BasicCredentials:
        """Read the credentials of an Authorization header.

        Raises:
            Unauthorized: it has none. If it has something else, that is recorded; see :meth:`authenticate`.
        """
        credentials = BasicCredentials.parse(authorization or b"")
        if credentials is None:
            if authorization is not None and authorization.strip():
                # It may be a misplaced secret: no part of it is recorded.
                self._record("login.refused", "", address, why=_NO_CREDENTIALS)
            raise Unauthorized(realm=self._realm)
        return credentials

    def _renewal(self) -> tuple[Future[None], float]:
        """The refresh of the user cache shared by all logins, and the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            if self._renewing is None or self._renewing.done():
                self._renewing = self._threads.submit(self._user_cache.renew)
                self._renewal_deadline = now + _RENEWAL_WAIT
            return self._renewing, max(0.0, self._renewal_deadline - now)

    def _begin(self, digest: bytes, credentials: BasicCredentials, address: str) -> Identity | Future[Identity]:
        """Return the user if cached, else join or start the verification.

        Credentials that no user can have, such as an empty password, are refused at once and not counted as a failure:
        they tell a guesser nothing, and counting them would let a guesser evict other failures for free.
        """
        if flaw := credentials.flaw:
            self._refuse("login.refused", credentials, address, why=flaw)
            raise self._unauthorized(credentials)
        account = self._verified.get(digest)
        if account is not None:
            return account.identity
        if credentials.token is not None:
            account = self._known_token(digest, token_digest(credentials.token), address)
            if account is not None:
                return account.identity
        try:
            with self._lock:
                login = self._pending.get(digest)
                if login is None:
                    if self._closing.is_set():
                        raise LoginDelayed("the server is stopping", retry_after=1)
                    began = self._clock()
                    admission = self._throttle.admit(credentials.username, address)
                    login = self._pending[digest] = _PendingLogin(digest, credentials, address, began, admission)
                    # Starting a thread blocks until it runs, which the event loop must not do.
                    self._starter.submit(self._start, login)
        except TooManyAttempts:
            self._refuse("login.throttled", credentials, address)
            raise
        return login.result

    def _start(self, login: _PendingLogin) -> None:
        with contextlib.suppress(RuntimeError):  # no new thread now: an existing one takes it later
            self._threads.submit(self._finish, login)
        time.sleep(_START_SECONDS)

    def _finish(self, login: _PendingLogin) -> None:
        """Verify a pending login, in a thread, and notify all requests waiting for it."""
        name, address = login.credentials.username, login.address
        guessed = False
        try:
            if self._closing.wait(login.admission.delay):
                raise LoginDelayed("the server is stopping", retry_after=1)
            account, guessed = self._verify(login)
            if account is None:
                if self._user_cache.behind:
                    raise LoginDelayed("the index cannot check now whether another server has registered this user")
                raise self._unauthorized(login.credentials)
        except BaseException as error:  # noqa: BLE001 - the waiting requests must learn of it, whatever it is
            if guessed:
                self._throttle.failed(name, address)
            else:
                self._throttle.abandoned(name, address)
            if isinstance(error, Unauthorized):
                if not guessed:
                    self._throttle.repeated(name, address)
                self._refuse("login.refused", login.credentials, address, why=self._unusable(name))
            elif isinstance(error, TooManyAttempts):
                self._refuse("login.throttled", login.credentials, address)
            self._pending.pop(login.digest, None)
            login.result.set_exception(error)
        else:
            self._throttle.succeeded(name, address)
            self._pending.pop(login.digest, None)
            login.result.set_result(account.identity)

    def _verify(self, login: _PendingLogin) -> tuple[Account | None, bool]:
        """Return the account or None, and True if a refusal would tell the client something.

        No login is refused because of stale entries: a user who was just registered can log in at once.
        """
        digest, password, token = login.digest, login.credentials.password, login.credentials.token
        if token is not None:
            # Its job may have been trusted a moment ago, which this server has not read yet.
            sha256 = token_digest(token)
            if not login.credentials.minted or self._check_minted(sha256):
                self._user_cache.renew(login.began)
            account = self._known_token(digest, sha256, login.address)
            guessed = account is None and digest not in self._refused
            if account is None:
                self._refused[digest] = None
            return account, guessed
        guessed = False
        for renewed in (False, True, True, True):
            if renewed:
                self._user_cache.renew(login.began)
            account = self._user_cache.accounts.get(login.credentials.username)
            if self._refused.get(digest, _NEVER) == account:
                if renewed:
                    break
            elif account is not None or renewed:
                with self._verification_queue.turn(login.address):
                    if not login.admission.paced:
                        self._throttle.proceed(login.address)
                    right = self._matches(password, account.digest if account else None, self._user_cache.level)
                if not right or account is None:
                    guessed = True
                    self._refused[digest] = account
                elif self._remember(digest, account):
                    return account, False
        return None, guessed

    def _known_token(self, digest: bytes, sha256: str, address: str) -> Account | None:
        """The account of a token in memory, then cached by its header."""
        account = self._token(sha256)
        if account is None or not self._remember(digest, account):
            return None
        if self._uses is not None and not account.identity.minted:
            self._uses.note(account.identity, address)
        return account

    def _token(self, sha256: str) -> Account | None:
        """The account of a token in memory."""
        account = self._user_cache.token(sha256)
        if account is None and self._minted is not None:
            account = self._minted.known(sha256, self._user_cache.trust)
        return account

    def _check_minted(self, sha256: str) -> bool:
        """Check whether a minted token exists now.

        Raises:
            LoginDelayed: the lookup failed.
        """
        try:
            return self._minted is not None and self._minted.exists(sha256)
        except Exception as error:
            _log.warning("minted tokens cannot be looked up: %s", error)
            raise LoginDelayed("the index cannot look up tokens of CI jobs", retry_after=5) from error

    def _confirm_again(self, identity: Identity, authorization: bytes | None, address: str) -> None:
        if self._confirmed(authorization, address, thoroughly=False) != identity:
            raise Unauthorized(
                "the user's rights were changed while the request waited; nothing was changed", realm=self._realm
            )

    def _stored(self, account: Account) -> Account | None:
        """An account as of now; None if the user, or the token, is gone."""
        if account.identity.token:
            return self._token(account.digest)
        return self._user_cache.accounts.get(account.identity.username)

    def _remember(self, digest: bytes, account: Account) -> bool:
        """Cache a verified login; False if the account has changed meanwhile."""
        with self._lock:
            if self._stored(account) != account:
                return False
            self._verified[digest] = account
        self._active_users.add(account.identity.username)
        return True

    def _forget(self) -> None:
        """Forget the logins of accounts that have changed or are gone."""
        with self._lock:
            for digest, account in list(self._verified.items()):
                if self._stored(account) != account:
                    del self._verified[digest]
                    self._forgotten += 1

    def _unauthorized(self, credentials: BasicCredentials) -> Unauthorized:
        if credentials.username == TOKEN_USER:
            return Unauthorized(
                "the token is unknown, revoked or expired, or its owner may no longer log in; create another one with "
                "`runbook token create`, or ask the index's operator for one",
                realm=self._realm,
            )
        return Unauthorized(
            "the user name or the password is wrong; ask the index's operator for a new one if it is lost",
            realm=self._realm,
        )

    def _unusable(self, username: str) -> str:
        """The reason why no password can match the user's entry, for the audit log only; empty if one can."""
        account = self._user_cache.accounts.get(username)
        return (defect(account.digest) or "") if account else ""

    def _refuse(self, event: str, credentials: BasicCredentials, address: str, *, why: str = "") -> None:
        name = credentials.username
        if name == TOKEN_USER and not why:
            found = TOKEN.fullmatch(credentials.password)
            why = f"no valid token; its id is {found['id']}" if found else "the password is not a token of this index"
        known = name == TOKEN_USER or name in self._user_cache.accounts
        self._record(event, name if known else masked_name(name), address, why=why)

    def _record(self, event: str, user: str, address: str, *, why: str = "") -> None:
        if self._audit is not None:
            self._audit.record(event, user=user, address=address, **({"why": why} if why else {}))
