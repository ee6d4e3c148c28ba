"""Authentication of requests: HTTP Basic credentials (RFC 7617), verified by bcrypt once and cached."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ops.index.auth.audit import Audit, claimed
from ops.index.auth.credentials import Login
from ops.index.auth.passwords import decoded, verify
from ops.index.auth.roles import Identity, Role
from ops.index.auth.throttle import Admission, Throttle
from ops.index.auth.user_cache import UserCache
from ops.index.auth.users import Account
from ops.index.auth.verification_queue import VerificationQueue
from ops.index.config import Options
from ops.index.errors import LoginDelayed, TooManyAttempts, Unauthorized
from ops.index.storage.storage import Storage

__all__ = ["Authenticator", "Identity", "Login", "Role"]

_REMEMBERED: Final = 10_000
"""Verified logins that are kept, and as many refused ones; some 300 bytes each."""

_FLIGHTS: Final = 512
"""Logins that are looked at or wait for it; whoever comes then is asked to come again. Each has a thread meanwhile."""

_PATIENCE: Final = 12.0
"""Seconds that a request waits for its login to be looked at: pip gives up after 15. The login keeps its place, and the
request that comes next finds it there. pip comes six times and waits as it is told, uv four times as it likes: together
a minute and a half, and almost a minute."""

_PROMPT: Final = 0.5
"""Seconds for which a login waits to hear of other users' changes; known users do not wait for a volume that hangs."""

_NEVER: Final = object()

A = TypeVar("A")


@dataclass(slots=True)
class _Flight:
    """One login that is being looked at, for all requests that bring it.

    Parameters:
        digest: stands for the login.
        address: of the request that came first.
        began: when that was.
        admission: how it may be looked at.
    """

    digest: bytes
    login: Login
    address: str
    began: float
    admission: Admission
    verdict: Future[Identity] = field(default_factory=Future)


class Authenticator:
    """Says who sent a request.

    A password is verified by bcrypt in a thread, once for all requests that bring it at the same time; then a keyed
    hash of the header stands for it in memory, until the user's entry or role changes. A refusal is remembered too.

    Parameters:
        credentials: the volume with ``.htpasswd`` and ``.htgroup``.
        options: realm, cost of a refusal, limits.
        audit: where refused logins are noted.
        clock: seconds, for instance ``time.monotonic``.
    """

    def __init__(
        self,
        credentials: Storage,
        options: Options,
        audit: Audit | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._realm = options.realm
        self._audit = audit
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._verified: dict[bytes, Account] = {}
        self._refused: dict[bytes, Account | None] = {}
        self._flights: dict[bytes, _Flight] = {}
        self._throttle = Throttle(options.login_failures, options.login_window_seconds, clock=clock)
        self._verification_queue = VerificationQueue(self._throttle.suspicion)
        self._threads = ThreadPoolExecutor(_FLIGHTS + 2, thread_name_prefix="login")
        self._shared = credentials.shared
        self._renewing: Future[None] | None = None
        self._prompt_until = 0.0
        self._user_cache = UserCache(credentials, options, changed=self._forget, clock=clock)

    def remembered(self, authorization: bytes, address: str) -> Identity | None:  # noqa: ARG002 - the same from anywhere
        """The user whom this header is known to belong to, or None, which says nothing. Takes some microseconds."""
        return self.holder(self.digest(authorization))

    def holder(self, digest: bytes) -> Identity | None:
        """The user whom the header with this :meth:`digest` is known to belong to, or None, which says nothing."""
        if not self._user_cache.current():
            return None
        account = self._verified.get(digest)
        return None if account is None else account.identity

    async def authenticate(self, authorization: bytes | None, address: str) -> Identity:
        """The user whom the header belongs to.

        Parameters:
            authorization: the header's value, or None when the request has none.
            address: where the request comes from; failures are counted by it.

        Raises:
            Unauthorized: no or wrong credentials. Wrong ones have their line in the audit log; a request without any,
                as pip sends it first, is no refused login.
            TooManyAttempts: too many wrong ones from there, or for this user from there.
            LoginDelayed: nobody there has failed, but there are too many to be looked at in time; or nobody knows any
                more who the users are.
        """
        login = Login.parse(authorization) if authorization is not None else None
        if login is None:
            if authorization is not None and authorization.strip():
                # What it holds may be a secret in the wrong place: none of it is written down.
                self._record("login.refused", "", address, why="no user name and password (RFC 7617)")
            raise Unauthorized(realm=self._realm)
        if not self._user_cache.current() and not self._closing.is_set():
            renewal, seconds = self._renewal()
            if not renewal.done():
                await asyncio.wait([asyncio.wrap_future(renewal)], timeout=seconds)
            if self._user_cache.outdated:
                raise LoginDelayed("the index cannot find out who its users are", retry_after=10)
        found = self._begin(login, address)
        if isinstance(found, Identity):
            return found
        verdict = asyncio.wrap_future(found)
        verdict.add_done_callback(lambda heard: heard.cancelled() or heard.exception())  # though nobody may be left
        # Others wait for the same verdict: one of them who goes away does not take it with him.
        await asyncio.wait([verdict], timeout=_PATIENCE)
        if not verdict.done():
            raise LoginDelayed("many logins are waiting to be looked at, this one among them")
        return verdict.result()

    def confirm(self, username: str, password: str, address: str = "") -> Identity:
        """The user to whom the password belongs now: for pypiserver's ``auther``, in a thread of its own.

        Whoever comes here has passed :meth:`authenticate`, before the body of an upload arrived, which may have taken
        minutes. So it nearly always costs a look into the memory.

        Raises:
            Unauthorized: the password belongs to nobody, or to nobody any more.
            TooManyAttempts: too many wrong ones came from there.
        """
        self._settle()
        found = self._begin(Login(decoded(username.encode("utf-8", "replace")), password), address)
        return found if isinstance(found, Identity) else found.result()

    def _settle(self) -> None:
        """See who was registered or removed; on a shared volume until a few seconds ago. Blocks, for a moment."""
        if not self._shared:
            self._user_cache.renew()
        elif not self._user_cache.current() and not self._closing.is_set():
            renewal, seconds = self._renewal()
            wait([renewal], timeout=seconds)

    def _renewal(self) -> tuple[Future[None], float]:
        """What brings the accounts up to date, for all who need that at once, and the seconds to wait for it."""
        with self._lock:
            now = time.monotonic()
            if self._renewing is None or self._renewing.done():
                self._renewing = self._threads.submit(self._user_cache.renew)
                self._prompt_until = now + _PROMPT
            return self._renewing, max(0.0, self._prompt_until - now)

    def refresh(self) -> None:
        """Read the files again if they have changed. After a reload of a shared volume, in a thread."""
        self._user_cache.refresh()

    def close(self) -> None:
        """End the threads; who still waits for them is refused."""
        with self._lock:  # whoever is about to take off either does so before, or not at all
            self._closing.set()
            flights = list(self._flights.values())
        self._verification_queue.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for flight in flights:
            flight.verdict.cancel()

    def digest(self, secret: bytes) -> bytes:
        """What may stand for a secret in memory: a hash of it, keyed with what this process alone knows."""
        return hashlib.blake2b(secret, digest_size=16, key=self._key).digest()

    def _begin(self, login: Login, address: str) -> Identity | Future[Identity]:
        """The user, or what will become the user once a thread has found out.

        What nobody can have, such as an empty password, is refused without work, and not counted: it teaches a guesser
        nothing, and whoever wants to have counted failures forgotten would have it for free.
        """
        if not login.plausible:
            self._note("login.refused", login, address, why="" if login.password else "an empty password")
            raise self._unauthorized()
        digest = self.digest(login.header)
        account = self._verified.get(digest)
        if account is not None:
            return account.identity
        try:
            with self._lock:
                flight = self._flights.get(digest)
                if flight is None:
                    if len(self._flights) >= _FLIGHTS or self._closing.is_set():
                        raise LoginDelayed("more logins are waiting than can be looked at now")
                    began = self._clock()
                    admission = self._throttle.admit(login.username, address)
                    flight = self._flights[digest] = _Flight(digest, login, address, began, admission)
                    with contextlib.suppress(RuntimeError):  # no further thread can be had: one of those there takes it
                        self._threads.submit(self._fly, flight)
        except TooManyAttempts:
            self._note("login.throttled", login, address)
            raise
        return flight.verdict

    def _fly(self, flight: _Flight) -> None:
        """Find out, in a thread, and let everybody know who waits for it."""
        name, address = flight.login.username, flight.address
        guessed = False
        try:
            if self._closing.wait(flight.admission.delay):
                raise LoginDelayed("the server is stopping", retry_after=1)
            account, guessed = self._verify(flight)
            if account is None:
                if self._user_cache.behind:
                    raise LoginDelayed("it cannot be seen now whether another server has registered this user")
                raise self._unauthorized()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            if guessed:
                self._throttle.failed(name, address)
            else:
                self._throttle.abandoned(name, address)
            if isinstance(error, Unauthorized):
                if not guessed:
                    self._throttle.repeated(name, address)
                self._note("login.refused", flight.login, address)
            elif isinstance(error, TooManyAttempts):
                self._note("login.throttled", flight.login, address)
            self._land(flight)
            flight.verdict.set_exception(error)
        else:
            self._throttle.succeeded(name, address)
            self._land(flight)
            flight.verdict.set_result(account.identity)

    def _verify(self, flight: _Flight) -> tuple[Account | None, bool]:
        """The account, or None; and whether anything could be learnt from the attempt.

        Nobody is refused by an old view: who was registered a moment ago gets in at once.
        """
        digest, login = flight.digest, flight.login
        guessed = False
        for fresh in (False, True, True, True):
            if fresh:
                self._user_cache.renew(flight.began)
            account = self._user_cache.accounts.get(login.username)
            if self._refused.get(digest, _NEVER) == account:
                if fresh:
                    break
            elif account is not None or fresh:
                with self._verification_queue.turn(flight.address):
                    if not flight.admission.paced:
                        self._throttle.proceed(flight.address)
                    right = verify(login.password, account.digest if account else None, self._user_cache.level)
                if not right or account is None:
                    guessed = True
                    self._keep(self._refused, digest, account)
                elif self._remember(digest, account):
                    return account, False
        return None, guessed

    def _remember(self, digest: bytes, account: Account) -> bool:
        """Take the digest for the account from now on; False when the account has changed meanwhile."""
        with self._lock:
            if self._user_cache.accounts.get(account.identity.username) != account:
                return False
            self._keep(self._verified, digest, account)
            self._refused.pop(digest, None)
        return True

    @staticmethod
    def _keep(memory: dict[bytes, A], digest: bytes, account: A) -> None:
        memory[digest] = account
        while len(memory) > _REMEMBERED:
            memory.pop(next(iter(memory)), None)

    def _forget(self, accounts: Mapping[str, Account]) -> None:
        """Forget the logins of accounts that have changed or gone."""
        with self._lock:
            for digest, account in list(self._verified.items()):
                if accounts.get(account.identity.username) != account:
                    del self._verified[digest]

    def _land(self, flight: _Flight) -> None:
        with self._lock:
            self._flights.pop(flight.digest, None)

    def _unauthorized(self) -> Unauthorized:
        return Unauthorized(
            "the user name or the password is wrong; ask the index's operator for a new one if it is lost",
            realm=self._realm,
        )

    def _note(self, event: str, login: Login, address: str, *, why: str = "") -> None:
        known = login.username in self._user_cache.accounts
        self._record(event, login.username if known else claimed(login.username), address, why=why)

    def _record(self, event: str, user: str, address: str, *, why: str = "") -> None:
        if self._audit is not None:
            self._audit.record(event, user=user, address=address, **({"why": why} if why else {}))
