"""A password is verified once and then cached, until the files change."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ops.index.auth import authenticator as authenticator_module
from ops.index.auth import throttle, user_cache
from ops.index.auth.audit import Audit
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.credential_files import GROUPS, PASSWORDS
from ops.index.auth.passwords import BasicCredentials, hashed
from ops.index.auth.roles import Identity, Role
from ops.index.auth.users import Signature, StoredLogins, Users
from ops.index.auth.verification_queue import processors
from ops.index.config import Options
from ops.index.errors import LoginDelayed, PackageIndexError, StorageError, TooManyAttempts, Unauthorized
from ops.index.storage.directory import DirectoryStorage
from tests.index.credentials_volume import volumes
from tests.index.serving import eventually
from tests.index.volume import MemoryNameLocks

CHEAP = Options(bcrypt_rounds=4, login_failures=1000)
PASSWORD = "correct horse battery"
DIGEST = hashed(PASSWORD, 4)
HERE = "192.0.2.1"

htpasswd = shutil.which("htpasswd")


def basic(username: str, password: str = PASSWORD, encoding: str = "utf-8") -> bytes:
    return b"Basic " + base64.b64encode(f"{username}:{password}".encode(encoding, "surrogatepass"))


def log_in(authenticator: Authenticator, header: bytes | None, address: str = HERE) -> Identity:
    return asyncio.run(authenticator.authenticate(header, address))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for an effect of another thread; a minute is far more than needed."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


class Work:
    """Counts calls of bcrypt, and can block them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passwords: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        real = bcrypt.checkpw

        def checkpw(password: bytes, digest: bytes) -> bool:
            self.passwords.append(password)
            assert self.gate.wait(60), "the gate was never opened"
            return real(password, digest)

        monkeypatch.setattr(bcrypt, "checkpw", checkpw)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    return Work(monkeypatch)


@pytest.fixture
def storage(tmp_path: Path) -> DirectoryStorage:
    return DirectoryStorage(tmp_path / "credentials")


@pytest.fixture
def users(storage: DirectoryStorage) -> Users:
    users = Users(storage, CHEAP)
    users.register("alice", password_hash=DIGEST)
    return users


@pytest.fixture
def authenticator(users: Users, storage: DirectoryStorage) -> Iterator[Authenticator]:
    authenticator = Authenticator(storage, CHEAP)
    yield authenticator
    authenticator.close()


# --- headers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        basic("alice"),
        basic("alice").replace(b"Basic", b"basic"),
        basic("alice").replace(b"Basic ", b"BASIC   ") + b"  ",
        basic("alice").rstrip(b"="),
    ],
)
def test_every_form_of_the_header_that_clients_send_is_accepted(authenticator: Authenticator, header: bytes) -> None:
    assert log_in(authenticator, header).username == "alice"


def test_a_name_is_the_same_user_in_latin_1_utf_8_and_both_normal_forms(
    users: Users, storage: DirectoryStorage
) -> None:
    """requests, and thus pip and twine, sends Latin-1 if possible; curl and uv send UTF-8."""
    users.register("Zoë", password="pässwörd-längth")
    authenticator = Authenticator(storage, CHEAP)
    for header in (
        basic("Zoë", "pässwörd-längth"),
        basic("Zoë", "pässwörd-längth", "latin-1"),
        basic("Zoe\u0308", "pässwörd-längth"),
    ):
        assert log_in(authenticator, header).username == "Zoë"
    authenticator.close()


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Basic", b"Basic ", b"Basic !!!", b"Bearer abc", b"Basic " + base64.b64encode(b"nocolon"), b"\xff\xfe",
     basic(""), basic("alice", ""), b"Basic " + b"A" * 20_000,
     basic("a" * 256), basic("alice", "x" * 5000), basic("alice", "\0"), basic("\0\0"), basic("alice\n")],
)  # fmt: skip
def test_a_header_without_valid_credentials_gets_a_challenge(
    authenticator: Authenticator, header: bytes | None
) -> None:
    with pytest.raises(Unauthorized) as caught:
        log_in(authenticator, header)
    assert caught.value.headers["WWW-Authenticate"].startswith('Basic realm="pypi"')


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda fields: b"Basic " + base64.b64encode(fields)),
        st.builds(basic, st.text(), st.text()),
    )
)  # fmt: skip
@example(basic("alice", "a\0b"))
@example(basic("alice", "x" * 73))
@example(b"Basic " + base64.b64encode("alice:\ud800".encode("utf-8", "surrogatepass")))
@example(b"Basic " + base64.b64encode(b"alice:" + b"x" * 5900))
def test_no_header_raises_anything_but_a_refusal(authenticator: Authenticator, header: bytes) -> None:
    assert authenticator.remembered(header) is None
    with pytest.raises((Unauthorized, TooManyAttempts)):
        log_in(authenticator, header, "\ud800")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(), st.text())
@example("alice", "\ud800")
@example("\ud800", PASSWORD)
@example("alice:x", "y")
@example("x" * 10_000, "y" * 10_000)
def test_no_credentials_raise_anything_but_a_refusal_when_confirmed(
    authenticator: Authenticator, username: str, password: str
) -> None:
    with pytest.raises(Unauthorized):
        authenticator.confirm(basic(username, password), HERE)


def test_credentials_do_not_show_in_their_repr() -> None:
    credentials = BasicCredentials.parse(basic("alice"))
    assert credentials is not None
    assert PASSWORD not in repr(credentials)
    assert "alice" not in repr(credentials)


def test_a_header_of_more_than_eight_kilobytes_is_not_decoded() -> None:
    assert BasicCredentials.parse(basic("alice", "x" * 6000)) is not None
    assert BasicCredentials.parse(basic("alice", "x" * 6200)) is None


# --- caching ----------------------------------------------------------------------------------------------------


def test_fifty_connections_at_once_cost_one_bcrypt(authenticator: Authenticator, work: Work) -> None:
    """uv opens this many without a cache."""

    async def cold() -> list[Identity]:
        work.gate.clear()
        tasks = [asyncio.ensure_future(authenticator.authenticate(basic("alice"), HERE)) for _ in range(50)]
        await asyncio.sleep(0.05)
        work.gate.set()
        return await asyncio.gather(*tasks)

    assert {identity.username for identity in asyncio.run(cold())} == {"alice"}
    assert len(work.passwords) == 1
    for _ in range(10):
        assert authenticator.remembered(basic("alice")) is not None
        assert authenticator.confirm(basic("alice"), HERE).username == "alice"
    assert len(work.passwords) == 1


def test_fifty_connections_with_one_wrong_password_cost_one_bcrypt_and_repeats_none(
    authenticator: Authenticator, work: Work
) -> None:
    async def cold() -> list[Identity | BaseException]:
        tasks = [authenticator.authenticate(basic("alice", "wrong"), HERE) for _ in range(50)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    for _ in range(2):
        assert {type(response) for response in asyncio.run(cold())} == {Unauthorized}
    assert len(work.passwords) == 1


def test_a_cancelled_request_does_not_cancel_the_login_of_others(authenticator: Authenticator, work: Work) -> None:
    async def leave() -> Identity:
        work.gate.clear()
        first = asyncio.ensure_future(authenticator.authenticate(basic("alice"), HERE))
        second = asyncio.ensure_future(authenticator.authenticate(basic("alice"), HERE))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.01)
        work.gate.set()
        return await second

    assert asyncio.run(leave()).username == "alice"
    assert len(work.passwords) == 1


def test_a_refusal_that_no_request_awaits_is_not_logged_as_an_error(
    authenticator: Authenticator, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        work.gate.clear()
        task = asyncio.ensure_future(authenticator.authenticate(basic("alice", "wrong"), HERE))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        work.gate.set()
        while authenticator._pending:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    asyncio.run(leave())
    gc.collect()
    assert not caplog.records


def test_credentials_can_be_confirmed_without_prior_authentication(authenticator: Authenticator) -> None:
    assert authenticator.confirm(basic("alice"), HERE).username == "alice"
    with pytest.raises(Unauthorized):
        authenticator.confirm(basic("alice", "wrong"), HERE)
    with pytest.raises(Unauthorized):
        authenticator.confirm(basic("nobody"), HERE)
    assert authenticator.remembered(basic("alice")) is not None


def test_a_user_removed_after_the_login_cannot_be_confirmed(authenticator: Authenticator, users: Users) -> None:
    log_in(authenticator, basic("alice"))
    users.remove("alice")
    with pytest.raises(Unauthorized):
        authenticator.confirm(basic("alice"), HERE)


def test_refusing_known_and_unknown_users_costs_the_same(
    users: Users, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.register("costly", password_hash=hashed(PASSWORD, 6))
    costs: list[int] = []
    real = bcrypt.checkpw

    def counting(password: bytes, digest: bytes) -> bool:
        costs.append(2 ** int(digest[4:6]))
        return real(password, digest)

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    authenticator = Authenticator(storage, CHEAP)
    spent = {}
    for name in ("alice", "costly", "nobody"):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic(name, "wrong"))
        spent[name] = sum(costs)
        costs.clear()
    authenticator.close()
    assert spent == {"alice": 64, "costly": 64, "nobody": 64}


def test_the_caches_are_bounded_and_contain_no_password(
    users: Users, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.index.auth.authenticator._CACHED", 20)
    authenticator = Authenticator(storage, CHEAP)
    for number in range(50):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic("alice", f"wrong {number}"))
    log_in(authenticator, basic("alice"))
    assert len(authenticator._refused) == 20
    assert len(authenticator._verified) == 1
    assert PASSWORD not in str(vars(authenticator))
    assert basic("alice").decode()[6:] not in str(vars(authenticator))
    authenticator.close()


def test_each_process_has_its_own_key(storage: DirectoryStorage) -> None:
    one, two = Authenticator(storage, CHEAP), Authenticator(storage, CHEAP)
    assert one.digest(basic("alice")) != two.digest(basic("alice"))


# --- changes ----------------------------------------------------------------------------------------------------


def test_a_user_whose_password_was_changed_needs_the_new_one(authenticator: Authenticator, users: Users) -> None:
    log_in(authenticator, basic("alice"))
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice", "another password"))
    users.register("alice", password="another password")
    assert log_in(authenticator, basic("alice", "another password")).username == "alice"
    assert authenticator.remembered(basic("alice")) is None
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))


def test_a_removed_user_is_refused_and_others_stay_logged_in(authenticator: Authenticator, users: Users) -> None:
    users.register("bob", password_hash=DIGEST)
    log_in(authenticator, basic("alice"))
    log_in(authenticator, basic("bob"))
    users.remove("alice")
    eventually(lambda: authenticator.remembered(basic("alice")) is None)
    assert authenticator.remembered(basic("bob")) is not None
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))


def test_the_stamp_changes_when_a_login_is_evicted_but_not_when_one_is_added(
    authenticator: Authenticator, users: Users
) -> None:
    users.register("bob", password_hash=DIGEST)
    log_in(authenticator, basic("alice"))
    before = authenticator.stamp()
    log_in(authenticator, basic("bob"))
    assert authenticator.stamp() == before
    users.remove("bob")
    authenticator.see_changes()
    assert authenticator.stamp() != before


def test_the_stamp_never_repeats_while_the_users_may_be_stale(tmp_path: Path) -> None:
    volume, *_ = volumes(tmp_path, 1)
    authenticator = Authenticator(volume, CHEAP)
    assert authenticator.stamp() != authenticator.stamp()
    authenticator.close()


def test_a_changed_role_takes_effect_at_once(authenticator: Authenticator, users: Users) -> None:
    assert log_in(authenticator, basic("alice")).may_upload("spam")
    users.register("alice", role=Role.READER)
    eventually(lambda: authenticator.remembered(basic("alice")) is None)
    assert not log_in(authenticator, basic("alice")).may_upload("spam")
    users.register("alice", role=Role.ADMIN)
    eventually(lambda: authenticator.remembered(basic("alice")) is None)
    assert log_in(authenticator, basic("alice")).may_administer


def test_a_user_changed_while_the_password_is_verified_gets_the_new_role(
    authenticator: Authenticator, users: Users, work: Work
) -> None:
    async def race() -> Identity:
        work.gate.clear()
        task = asyncio.ensure_future(authenticator.authenticate(basic("alice"), HERE))
        await asyncio.sleep(0.02)
        users.register("alice", role=Role.READER)
        authenticator.refresh()
        work.gate.set()
        return await task

    assert asyncio.run(race()).role is Role.READER


def test_a_new_user_can_log_in_at_once(authenticator: Authenticator, users: Users) -> None:
    for number in range(10):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic(f"new{number}"))
        users.register(f"new{number}", password_hash=DIGEST)
        assert log_in(authenticator, basic(f"new{number}")).username == f"new{number}"


@pytest.mark.skipif(htpasswd is None, reason="apache2-utils is not installed")
def test_no_user_is_refused_while_stock_htpasswd_rewrites_the_file(
    authenticator: Authenticator, users: Users, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_cache, "_SETTLE", 1.0)  # a busy machine may pause htpasswd in the middle of the file
    with (storage.directory / PASSWORDS).open("a") as many:  # takes a moment to write
        many.writelines(f"u{number}:{DIGEST}\n" for number in range(300))
    file = str(storage.directory / PASSWORDS)
    log_in(authenticator, basic("alice"))
    done = threading.Event()
    refused: list[Exception] = []

    def keep_logging_in() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            try:
                log_in(authenticator, basic(f"u{number % 300}"))
            except PackageIndexError as error:
                refused.append(error)

    threads = [threading.Thread(target=keep_logging_in) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(15):
        subprocess.run(
            [htpasswd or "", "-bB", "-C", "4", file, "alice", f"password {number:05}"], check=True, capture_output=True
        )
    done.set()
    for thread in threads:
        thread.join()
    assert not refused
    assert log_in(authenticator, basic("alice", "password 00014")).username == "alice"


def test_a_half_written_file_is_not_used(authenticator: Authenticator, users: Users, storage: DirectoryStorage) -> None:
    file = storage.directory / PASSWORDS
    users.register("bob", password_hash=DIGEST)
    log_in(authenticator, basic("alice"))
    log_in(authenticator, basic("bob"))
    whole = file.read_bytes()
    with file.open("r+b") as open_file:
        open_file.truncate(len(whole) // 2)
        authenticator.refresh()
        assert log_in(authenticator, basic("bob")).username == "bob"
        open_file.seek(0)
        open_file.write(whole + b"carol:" + DIGEST.encode() + b"\n")
    assert log_in(authenticator, basic("carol")).username == "carol"


def test_a_file_that_changes_while_it_is_read_is_not_used(
    authenticator: Authenticator, users: Users, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.register("bob", password_hash=DIGEST)
    log_in(authenticator, basic("bob"))
    users.register("carol", password_hash=DIGEST)
    file = storage.directory / PASSWORDS
    whole, read = file.read_bytes(), Users.logins

    def logins(users: Users) -> StoredLogins:
        file.write_bytes(whole[: len(whole) // 3])
        found = read(users)
        file.write_bytes(whole)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Users, "logins", logins)
        authenticator.refresh()
    assert set(authenticator._user_cache.accounts) == {"alice", "bob"}
    assert log_in(authenticator, basic("carol")).username == "carol"


def test_a_file_that_is_missing_for_a_second_counts_as_removed(users: Users, storage: DirectoryStorage) -> None:
    now = [1000.0]
    authenticator = Authenticator(storage, CHEAP, clock=lambda: now[0])
    file, aside = storage.directory / PASSWORDS, storage.directory / "aside"
    for _ in range(2):
        assert log_in(authenticator, basic("alice")).username == "alice"
        file.rename(aside)
        known = []
        for seconds in (0.1, 0.9, 0.2):
            now[0] += seconds
            known.append(authenticator.remembered(basic("alice")) is not None)
        assert known == [True, True, False]
        aside.rename(file)
        now[0] += 0.1
    authenticator.close()


def test_the_files_are_not_looked_at_for_every_request(
    users: Users, storage: DirectoryStorage, count_calls: Callable[[object, str], list[tuple[object, ...]]]
) -> None:
    now = [1000.0]
    authenticator = Authenticator(storage, CHEAP, clock=lambda: now[0])
    log_in(authenticator, basic("alice"))
    looks = count_calls(Users, "signature")
    for expected in (1, 2, 3):
        now[0] += 0.1
        for _ in range(5):
            assert authenticator.remembered(basic("alice")) is not None
        assert len(looks) == expected
    authenticator.close()


def test_a_server_that_started_without_users_accepts_the_first_one(storage: DirectoryStorage) -> None:
    authenticator = Authenticator(storage, CHEAP)
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))
    Users(storage, CHEAP).register("alice", password_hash=DIGEST)
    assert log_in(authenticator, basic("alice")).username == "alice"
    authenticator.close()


def test_an_unreadable_group_file_grants_nothing(users: Users, storage: DirectoryStorage) -> None:
    (storage.directory / GROUPS).unlink()
    (storage.directory / GROUPS).mkdir()
    authenticator = Authenticator(storage, CHEAP)
    assert log_in(authenticator, basic("alice")).role is Role.READER
    authenticator.close()


def test_an_unreadable_password_file_keeps_the_cached_users(
    authenticator: Authenticator, storage: DirectoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    log_in(authenticator, basic("alice"))
    (storage.directory / PASSWORDS).unlink()
    (storage.directory / PASSWORDS).mkdir()
    for _ in range(3):
        time.sleep(0.06)
        authenticator.refresh()
        assert authenticator.remembered(basic("alice")) is not None
    assert sum("cannot be read" in record.getMessage() for record in caplog.records) == 1


def test_logins_continue_while_eight_threads_register_users(authenticator: Authenticator, users: Users) -> None:
    stop = threading.Event()
    refused: list[Exception] = []
    logins = 0

    def keep_logging_in() -> None:
        nonlocal logins
        while not stop.is_set():
            try:
                if authenticator.remembered(basic("alice")) is None:
                    log_in(authenticator, basic("alice"))
                logins += 1
                time.sleep(0.001)
            except PackageIndexError as error:
                refused.append(error)

    reader = threading.Thread(target=keep_logging_in)
    reader.start()

    def register(number: int) -> None:
        for i in range(8):
            name = f"u{number}-{i}"
            users.register(name, password_hash=DIGEST)
            try:
                log_in(authenticator, basic(name))
            except PackageIndexError as error:
                refused.append(error)

    writers = [threading.Thread(target=register, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert not refused
    assert logins > 10
    assert len(users.accounts()) == 65


# --- guessing ---------------------------------------------------------------------------------------------------


def test_guessing_is_throttled_but_neither_the_user_elsewhere_nor_colleagues_here(
    users: Users, storage: DirectoryStorage
) -> None:
    users.register("bob", password_hash=DIGEST)
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=5), clock=lambda: 1000.0)
    responses = []
    for number in range(20):
        with pytest.raises((Unauthorized, TooManyAttempts)) as caught:
            log_in(authenticator, basic("alice", f"guess {number}"))
        responses.append(caught.type)
    assert responses == [Unauthorized] * 5 + [TooManyAttempts] * 15
    with pytest.raises(TooManyAttempts) as blocked:
        log_in(authenticator, basic("alice"))
    assert blocked.value.headers["Retry-After"] == "2"
    assert log_in(authenticator, basic("bob")).username == "bob"
    assert log_in(authenticator, basic("alice"), "198.51.100.7").username == "alice"
    # Her login is now cached, and cached logins are accepted from anywhere.
    assert authenticator.remembered(basic("alice")) is not None
    assert log_in(authenticator, basic("alice")).username == "alice"
    authenticator.close()


def test_one_wrong_password_repeated_costs_two_seconds(users: Users, storage: DirectoryStorage) -> None:
    """And no bcrypt: this is a client with an old password, not a guesser."""
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=3), clock=lambda: 1000.0)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic("alice", "old password"))
    with pytest.raises(TooManyAttempts) as blocked:
        log_in(authenticator, basic("alice"))
    assert blocked.value.retry_after == 2
    authenticator.close()


def test_the_right_password_is_accepted_after_retry_after(users: Users, storage: DirectoryStorage) -> None:
    now = 1000.0
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=2), clock=lambda: now)
    for number in range(2):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic("alice", f"guess {number}"))
    with pytest.raises(TooManyAttempts) as blocked:
        log_in(authenticator, basic("alice"))
    now += blocked.value.retry_after
    assert log_in(authenticator, basic("alice")).username == "alice"
    authenticator.close()


def test_an_address_that_tries_many_names_is_throttled_but_a_colleague_can_log_in(
    users: Users, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=3), clock=lambda: 1000.0)
    waited: list[float] = []

    def fake_wait(seconds: float) -> bool:
        """No time passes."""
        waited.append(seconds)
        return False

    monkeypatch.setattr(authenticator._closing, "wait", fake_wait)
    for number in range(12):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic(f"name{number}"))
    assert log_in(authenticator, basic("alice")).username == "alice"
    assert waited == [0.0] * 10 + [1.0, 2.0, 3.0]
    authenticator.close()


def test_a_flood_of_guesses_does_not_delay_a_valid_login(
    users: Users, storage: DirectoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With forty concurrent guesses a login from elsewhere is next, and a cached one never waits."""
    users.register("bob", password_hash=DIGEST)
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=100), clock=lambda: 1000.0)
    asked: list[bytes] = []
    permits = threading.Semaphore(0)

    def fake_checkpw(password: bytes, _digest: bytes) -> bool:
        """Takes as long as the test decides."""
        asked.append(password)
        assert permits.acquire(timeout=60)
        return password == PASSWORD.encode()

    monkeypatch.setattr(bcrypt, "checkpw", fake_checkpw)
    queue = authenticator._verification_queue
    turns = processors()
    refused: list[str] = []

    async def guess(name: str) -> None:
        with pytest.raises(Unauthorized):
            await authenticator.authenticate(basic(name, "guess"), HERE)
        refused.append(name)

    async def flood() -> None:
        permits.release()
        await authenticator.authenticate(basic("alice"), "198.51.100.1")
        asked.clear()
        guesses = [asyncio.ensure_future(guess(f"name{n}")) for n in range(40)]
        await until(lambda: len(asked) == turns and len(queue._waiting) == 40 - turns)
        assert authenticator.remembered(basic("alice")) is not None
        bob = asyncio.ensure_future(authenticator.authenticate(basic("bob"), "198.51.100.2"))
        await until(lambda: len(queue._waiting) == 40 - turns + 1)
        # The first refusal hands on its turn before it counts; the second one's goes to an address without failures.
        permits.release()
        await until(lambda: len(refused) == 1)
        permits.release()
        await until(lambda: len(refused) == 2)
        await until(lambda: PASSWORD.encode() in asked)
        assert len(asked) <= turns + 2, "in order of arrival it would be the last"
        permits.release(1000)
        assert (await bob).username == "bob"
        await asyncio.gather(*guesses)

    try:
        asyncio.run(flood())
    finally:
        permits.release(1000)
        authenticator.close()
    assert len(refused) == 40


@pytest.mark.parametrize("addresses", [100, 1])
def test_a_hundred_concurrent_first_logins_succeed_while_a_guesser_is_throttled(
    users: Users, storage: DirectoryStorage, work: Work, addresses: int
) -> None:
    """As after a server start: no address has failed, so none is refused, however long the queue."""
    with (storage.directory / PASSWORDS).open("a") as file:
        file.writelines(f"u{number}:{DIGEST}\n" for number in range(100))
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4), clock=lambda: 1000.0)
    guesser = "203.0.113.66"

    async def start() -> tuple[list[Identity | BaseException], list[Identity | BaseException]]:
        work.gate.clear()
        guesses = [authenticator.authenticate(basic(f"u{n}", f"guess {n}"), guesser) for n in range(60)]
        logins = [authenticator.authenticate(basic(f"u{n}"), f"192.0.2.{n % addresses}") for n in range(100)]
        everything = asyncio.gather(*guesses, *logins, return_exceptions=True)
        await until(lambda: len(authenticator._verification_queue._waiting) + len(work.passwords) == 160)
        work.gate.set()
        responses = await everything
        return responses[:60], responses[60:]

    guessed, logged_in = asyncio.run(start())
    authenticator.close()
    assert [one for one in logged_in if not isinstance(one, Identity)] == []
    assert {type(response) for response in guessed} == {Unauthorized, TooManyAttempts}
    # Thirty, plus those whose turn came before the last of the thirty was counted.
    assert sum(isinstance(response, Unauthorized) for response in guessed) < 50


@pytest.mark.parametrize("proxied", [False, True])
def test_a_login_that_waits_too_long_gets_503_and_keeps_its_place_in_the_queue(
    authenticator: Authenticator, work: Work, monkeypatch: pytest.MonkeyPatch, *, proxied: bool
) -> None:
    """With Retry-After, so that pip and uv retry automatically. Proxies wait for less time."""
    assert authenticator_module._MAX_WAIT_PROXIED < 60 < authenticator_module._MAX_WAIT < 150
    monkeypatch.setattr(authenticator_module, "_MAX_WAIT", 60.0 if proxied else 0.05)
    monkeypatch.setattr(authenticator_module, "_MAX_WAIT_PROXIED", 0.05 if proxied else 60.0)
    work.gate.clear()
    for _ in range(2):
        with pytest.raises(LoginDelayed) as delayed:
            asyncio.run(authenticator.authenticate(basic("alice"), HERE, proxied=proxied))
        assert delayed.value.status == 503
        assert int(delayed.value.headers["Retry-After"]) > 0
    work.gate.set()
    eventually(lambda: authenticator.remembered(basic("alice")) is not None)
    assert len(work.passwords) == 1


def test_a_login_waits_for_an_existing_thread_if_no_new_one_can_be_started(
    users: Users, authenticator: Authenticator, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    users.register("bob", password_hash=DIGEST)

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def both() -> list[Identity]:
        work.gate.clear()
        first = asyncio.ensure_future(authenticator.authenticate(basic("alice"), HERE))
        await asyncio.sleep(0.05)
        monkeypatch.setattr(threading.Thread, "start", fail)
        second = asyncio.ensure_future(authenticator.authenticate(basic("bob"), HERE))
        await asyncio.sleep(0.05)
        work.gate.set()
        return [await first, await second]

    assert [identity.username for identity in asyncio.run(both())] == ["alice", "bob"]
    monkeypatch.undo()


def test_a_team_of_four_hundred_logs_in_at_once_from_one_address(
    storage: DirectoryStorage, users: Users, authenticator: Authenticator, work: Work
) -> None:
    names = [f"user{number}" for number in range(400)]
    (storage.directory / PASSWORDS).write_text("".join(f"{name}:{DIGEST}\n" for name in names))

    async def all_at_once() -> list[Identity]:
        work.gate.clear()
        logins = [asyncio.ensure_future(authenticator.authenticate(basic(name), HERE)) for name in names]
        await until(lambda: len(authenticator._pending) == 400)
        work.gate.set()
        return await asyncio.gather(*logins)

    assert [identity.username for identity in asyncio.run(all_at_once())] == names


def test_half_of_the_pending_logins_are_kept_for_other_addresses(
    authenticator: Authenticator, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MAX_PENDING", 8)

    async def crowd() -> Identity:
        work.gate.clear()
        flood = [asyncio.ensure_future(authenticator.authenticate(basic(f"n{n}"), "2001:db8::1")) for n in range(20)]
        mine = asyncio.ensure_future(authenticator.authenticate(basic("alice"), HERE))
        await until(lambda: sum(each.done() for each in flood) == 16)
        assert not mine.done()
        work.gate.set()
        await asyncio.gather(*flood, return_exceptions=True)
        return await mine

    assert asyncio.run(crowd()).username == "alice"


def test_no_login_starts_a_thread_on_the_event_loop(
    users: Users, authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    starters = set()
    start = threading.Thread.start

    def noted_start(thread: threading.Thread) -> None:
        if thread.name.startswith("login_"):
            starters.add(threading.current_thread().name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted_start)
    assert log_in(authenticator, basic("alice")).username == "alice"
    assert {name.rstrip("_0") for name in starters} == {"login-starter"}


def test_when_too_many_logins_are_pending_the_next_one_gets_503(
    users: Users, authenticator: Authenticator, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MAX_PENDING", 2)

    async def crowd() -> Identity:
        work.gate.clear()
        waiting = [asyncio.ensure_future(authenticator.authenticate(basic(f"n{n}"), f"192.0.2.{n}")) for n in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(LoginDelayed):
            await authenticator.authenticate(basic("alice"), "198.51.100.7")
        assert len(authenticator._pending) == 2
        work.gate.set()
        await asyncio.gather(*waiting, return_exceptions=True)
        return await authenticator.authenticate(basic("alice"), "198.51.100.7")

    assert asyncio.run(crowd()).username == "alice"


# --- on a shared volume -----------------------------------------------------------------------------------------

SHARED = Options(bcrypt_rounds=4, login_failures=1000, refresh_seconds=0.2)


def test_a_user_registered_on_another_server_can_log_in_at_once(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    authenticator = Authenticator(ours, SHARED)
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))
    Users(theirs, CHEAP).register("alice", password_hash=DIGEST)
    assert log_in(authenticator, basic("alice")).username == "alice"
    Users(theirs, CHEAP).register("alice", password="another password")
    assert log_in(authenticator, basic("alice", "another password")).username == "alice"
    authenticator.close()


def test_forty_concurrent_wrong_logins_share_a_reload(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    Users(theirs, CHEAP).register("alice", password_hash=DIGEST)
    authenticator = Authenticator(ours, SHARED)

    async def guess() -> None:
        tasks = [authenticator.authenticate(basic("alice", f"wrong {n}"), HERE) for n in range(40)]
        await asyncio.gather(*tasks, return_exceptions=True)

    ours.reloads = 0
    asyncio.run(guess())
    asyncio.run(guess())
    assert 2 <= ours.reloads <= 8
    authenticator.close()


def test_a_server_that_is_never_refreshed_reloads_and_drops_a_removed_user(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    Users(theirs, CHEAP).register("alice", password_hash=DIGEST)
    ours.reload()
    authenticator = Authenticator(ours, SHARED)
    log_in(authenticator, basic("alice"))
    assert authenticator.remembered(basic("alice")) is not None
    Users(theirs, CHEAP).remove("alice")
    eventually(lambda: authenticator.remembered(basic("alice")) is None)
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))
    authenticator.close()


def without_its_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authenticator:
    """An authenticator that knows alice, and whose volume can no longer be reloaded."""
    (ours,) = volumes(tmp_path, 1)
    Users(ours, CHEAP).register("alice", password_hash=DIGEST)
    authenticator = Authenticator(ours, SHARED)
    log_in(authenticator, basic("alice"))

    def broken() -> None:
        raise StorageError("the volume is unavailable")

    monkeypatch.setattr(ours, "reload", broken)
    return authenticator


def test_a_volume_that_cannot_be_reloaded_keeps_the_cached_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = without_its_volume(tmp_path, monkeypatch)
    time.sleep(0.5)
    assert log_in(authenticator, basic("alice")).username == "alice"
    assert authenticator.remembered(basic("alice")) is not None
    authenticator.close()


def test_a_login_that_fails_while_the_volume_cannot_be_reloaded_is_delayed_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may have been registered on another server."""
    authenticator = without_its_volume(tmp_path, monkeypatch)
    with pytest.raises(LoginDelayed, match="another server"):
        log_in(authenticator, basic("new"))
    authenticator.close()


def test_the_files_are_only_read_while_no_reload_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours,) = volumes(tmp_path, 1)
    Users(ours, CHEAP).register("alice", password_hash=DIGEST)
    looks: list[bool] = []
    held = 0
    reading, look = ours.reading, Users.signature

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        nonlocal held
        with reading():
            held += 1
            yield
            held -= 1

    def signature(users: Users) -> Signature:
        looks.append(held > 0)
        return look(users)

    monkeypatch.setattr(ours, "reading", counted)

    monkeypatch.setattr(Users, "signature", signature)
    authenticator = Authenticator(ours, SHARED)
    log_in(authenticator, basic("alice"))
    ours.reload()
    authenticator.refresh()
    authenticator.close()
    assert looks
    assert all(looks)


def test_no_valid_login_is_refused_during_commits_and_reloads(tmp_path: Path) -> None:
    """The volume looks empty during each of them."""
    ours, theirs = volumes(tmp_path, 2)
    Users(theirs, CHEAP).register("alice", password_hash=DIGEST)
    ours.reload()
    authenticator = Authenticator(ours, SHARED)
    stop = threading.Event()
    failures: list[Exception] = []

    def disturb() -> None:
        users = Users(theirs, CHEAP, name_locks=MemoryNameLocks())
        for number in itertools.count():
            if stop.is_set():
                return
            users.register(f"u{number % 30}", password_hash=DIGEST, role=[Role.READER, Role.ADMIN][number // 30 % 2])

    def refresh() -> None:
        while not stop.wait(0.005):
            try:
                ours.reload()
                authenticator._user_cache.refresh()
            except Exception as error:  # noqa: BLE001 - including assertions of the fake volume
                failures.append(error)

    threads = [threading.Thread(target=disturb), threading.Thread(target=refresh)]
    for thread in threads:
        thread.start()

    async def log_in_often() -> int:
        count = 0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline or count < 1000:
            if authenticator.remembered(basic("alice")) is None:
                assert (await authenticator.authenticate(basic("alice"), HERE)).username == "alice"
            authenticator._verified.clear()
            count += 1
            await asyncio.sleep(0)
        return count

    try:
        assert asyncio.run(log_in_often()) >= 1000
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        authenticator.close()
    assert not failures


def test_users_that_cannot_be_reloaded_are_trusted_for_five_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = volumes(tmp_path, 1)
    Users(ours, CHEAP).register("alice", password_hash=DIGEST)
    now = [1000.0]
    authenticator = Authenticator(ours, SHARED, clock=lambda: now[0])
    log_in(authenticator, basic("alice"))
    working = ours.reload

    def broken() -> None:
        raise StorageError("the volume is unavailable")

    monkeypatch.setattr(ours, "reload", broken)
    for _ in range(29):
        now[0] += 10
        assert log_in(authenticator, basic("alice")).username == "alice"
    now[0] += 11
    assert authenticator.remembered(basic("alice")) is None
    for header in (basic("alice"), basic("alice", "wrong")):
        now[0] += 1
        with pytest.raises(LoginDelayed) as delayed:
            log_in(authenticator, header)
        assert delayed.value.status == 503
    monkeypatch.setattr(ours, "reload", working)
    now[0] += 1
    assert log_in(authenticator, basic("alice")).username == "alice"
    assert authenticator.remembered(basic("alice")) is not None
    authenticator.close()


def test_a_removed_user_is_refused_within_five_seconds_however_rarely_the_volume_reloads(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    Users(theirs, CHEAP).register("alice", password_hash=DIGEST)
    ours.reload()
    now = [1000.0]
    authenticator = Authenticator(ours, Options(bcrypt_rounds=4, refresh_seconds=600), clock=lambda: now[0])
    log_in(authenticator, basic("alice"))
    Users(theirs, CHEAP).remove("alice")
    now[0] += 4.5
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))
    authenticator.close()


# --- secrets ----------------------------------------------------------------------------------------------------

CANARY = "canary-9f3b-secret"
NO_CREDENTIALS = "neither a user name and password (RFC 7617) nor a token of this index (RFC 6750)"


def test_no_password_reaches_log_audit_or_error_even_if_typed_as_the_name(
    users: Users, storage: DirectoryStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    packages = DirectoryStorage(tmp_path / "packages")
    audit = Audit(packages)
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=2), audit)
    said = []
    for header in [basic("alice", CANARY), basic(CANARY, "alice"), basic(CANARY, CANARY)] * 3:
        with pytest.raises((Unauthorized, TooManyAttempts)) as caught:
            log_in(authenticator, header)
        said.append(repr(caught.value) + str(caught.value) + str(caught.value.headers))
    authenticator.close()
    audit.close()
    written = b"".join(path.read_bytes() for path in packages.directory.rglob("*") if path.is_file())
    assert b'"user": "alice"' in written
    everything = [*said, caplog.text, written.decode(), repr(vars(authenticator))]
    for form in (CANARY, base64.b64encode(CANARY.encode()).decode()[:-4], basic("alice", CANARY).decode()[6:]):
        assert not any(form in text for text in everything)


def test_a_refused_login_is_recorded_with_user_and_address(users: Users, storage: DirectoryStorage) -> None:
    class FakeAudit(Audit):
        def __init__(self) -> None:
            super().__init__(storage)
            self.events: list[tuple[str, str, str]] = []

        def record(self, event: str, *, user: str, address: str, **details: object) -> None:
            self.events.append((event, user, address))

    audit = FakeAudit()
    authenticator = Authenticator(storage, CHEAP, audit)
    for name in ("alice", "mallory"):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic(name, "wrong"))
    log_in(authenticator, basic("alice"))
    authenticator.close()
    assert audit.events == [("login.refused", "alice", HERE), ("login.refused", "ma… (unknown, 7 characters)", HERE)]


def test_only_the_audit_log_says_that_a_user_s_entry_is_unusable(storage: DirectoryStorage, tmp_path: Path) -> None:
    storage.directory.mkdir(exist_ok=True)
    (storage.directory / PASSWORDS).write_text(f"alice:{DIGEST}\nbob:!{DIGEST}\n")
    packages = DirectoryStorage(tmp_path / "packages")
    audit = Audit(packages)
    authenticator = Authenticator(storage, CHEAP, audit)
    messages = set()
    for name, password in (("alice", "wrong"), ("bob", PASSWORD)):
        with pytest.raises(Unauthorized) as refused:
            log_in(authenticator, basic(name, password))
        messages.add(str(refused.value))
    authenticator.close()
    audit.close()
    (file,) = (packages.directory / ".index" / "audit").iterdir()
    alice, bob = (json.loads(line) for line in file.read_text().splitlines())
    assert "why" not in alice
    assert bob["why"].startswith("the entry is locked by its first character: set the password anew")
    assert DIGEST not in file.read_text()
    assert len(messages) == 1  # the client learns no more than from a wrong password


@pytest.mark.parametrize(
    ("header", "user", "why"),
    [
        (basic("alice", ""), "alice", "an empty password"),  # curl -u alice: and an empty variable of a CI job
        (basic(CANARY, ""), "ca… (unknown, 18 characters)", "an empty password"),
        (basic("", CANARY), "", "no user name"),
        (basic("x" * 300, "y"), "xx… (unknown, 300 characters)", "a user name longer than 255 bytes"),
        (basic("__token__", CANARY), "__token__", "the password is not a token of this index"),
        (basic("__token__", ""), "__token__", "an empty password"),
        (b"Basic " + base64.b64encode(CANARY.encode()), "", NO_CREDENTIALS),
        (b"Basic " + CANARY.encode(), "", NO_CREDENTIALS),
        (b"Bearer " + CANARY.encode(), "", NO_CREDENTIALS),
        (CANARY.encode(), "", NO_CREDENTIALS),
        (b"Basic", "", NO_CREDENTIALS),
        (b"Basic " + b"A" * 20_000, "", NO_CREDENTIALS),
    ],
)
def test_a_login_that_no_user_can_have_is_recorded_with_the_reason_and_without_secrets(
    users: Users, storage: DirectoryStorage, tmp_path: Path, header: bytes, user: str, why: str
) -> None:
    packages = DirectoryStorage(tmp_path / "packages")
    audit = Audit(packages)
    authenticator = Authenticator(storage, CHEAP, audit)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            log_in(authenticator, header)
    authenticator.close()
    audit.close()
    (file,) = packages.directory.rglob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["event"], line["user"], line["address"]) for line in lines] == [("login.refused", user, HERE)] * 2
    assert (lines[0]["why"], lines[1]["more"]) == (why, 2)
    assert CANARY not in file.read_text()


@pytest.mark.parametrize("header", [None, b"", b"  "])
def test_a_request_without_credentials_is_not_recorded(
    users: Users, storage: DirectoryStorage, tmp_path: Path, header: bytes | None
) -> None:
    packages = DirectoryStorage(tmp_path / "packages")
    audit = Audit(packages)
    authenticator = Authenticator(storage, CHEAP, audit)
    with pytest.raises(Unauthorized):
        log_in(authenticator, header)
    authenticator.close()
    audit.close()
    assert not list(packages.directory.rglob("*.jsonl"))


def test_empty_passwords_do_not_throttle_the_right_one(users: Users, storage: DirectoryStorage) -> None:
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=2))
    for _ in range(20):
        with pytest.raises(Unauthorized):
            log_in(authenticator, basic("alice", ""))
    assert log_in(authenticator, basic("alice")).username == "alice"
    authenticator.close()


def test_logins_waiting_when_the_server_stops_get_503(users: Users, storage: DirectoryStorage, work: Work) -> None:
    """A minute's worth of passwords may be waiting; stopping the server must not wait for them."""
    with (storage.directory / PASSWORDS).open("a") as file:
        file.writelines(f"u{number}:{DIGEST}\n" for number in range(20))
    authenticator = Authenticator(storage, CHEAP)

    async def crowd_and_close() -> list[Identity | BaseException]:
        work.gate.clear()
        logins = asyncio.gather(
            *(authenticator.authenticate(basic(f"u{n}"), HERE) for n in range(20)), return_exceptions=True
        )
        while len(work.passwords) < processors():
            await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(asyncio.to_thread(authenticator.close))
        while not authenticator._verification_queue._closed:
            await asyncio.sleep(0.01)
        work.gate.set()
        await closing
        return await logins

    responses = asyncio.run(crowd_and_close())
    assert len(work.passwords) == processors()
    assert [type(response) for response in responses].count(LoginDelayed) == 20 - processors()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_a_password_is_verified_at_a_lower_priority_than_requests(users: Users, storage: DirectoryStorage) -> None:
    nice: list[int] = []

    def observed(password: str, digest: str | None, level: int) -> bool:
        nice.append(os.getpriority(os.PRIO_PROCESS, 0))  # of the calling thread
        return True

    authenticator = Authenticator(storage, CHEAP, verify=observed)
    asyncio.run(authenticator.authenticate(basic("alice"), HERE))
    authenticator.close()
    assert nice == [os.getpriority(os.PRIO_PROCESS, 0) + 5]


def test_closing_does_not_wait_for_delayed_logins(users: Users, storage: DirectoryStorage) -> None:
    authenticator = Authenticator(storage, Options(bcrypt_rounds=4, login_failures=1))

    async def guess_and_close() -> float:
        for number in range(3):
            with pytest.raises(Unauthorized):
                await authenticator.authenticate(basic(f"first{number}"), HERE)
        guesses = [asyncio.ensure_future(authenticator.authenticate(basic(f"n{n}"), HERE)) for n in range(8)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.to_thread(authenticator.close)
        await asyncio.gather(*guesses, return_exceptions=True)
        return time.monotonic() - began

    assert asyncio.run(guess_and_close()) < 3  # the last of them would wait four seconds
