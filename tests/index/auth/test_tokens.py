"""A token stands for its owner, with no more rights than the owner has now, until it is revoked or expires."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import bcrypt
import pytest

from ops.index.auth import minted_tokens
from ops.index.auth.audit import ADMIN_FOLDER, SERVER_FOLDER, Audit
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.credential_files import PASSWORDS, TOKENS
from ops.index.auth.minted_tokens import LIFETIME, MintedTokens
from ops.index.auth.passwords import TOKEN, InvalidCredentials, hashed, token_of, validated_name
from ops.index.auth.roles import Identity, Role
from ops.index.auth.throttle import Throttle
from ops.index.auth.token_file import TokenFile, token_digest
from ops.index.auth.token_uses import TokenUses
from ops.index.auth.tokens import MOST, Tokens
from ops.index.auth.trust import Trust, TrustStore
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.errors import LoginDelayed, NotFound, TooManyAttempts, Unauthorized
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.shared_entries import FolderEntries
from ops.index.storage.storage import Storage
from tests.index.conftest import FakeClock
from tests.index.credentials_volume import volumes

CHEAP = Options(bcrypt_rounds=4, login_failures=3)
DIGEST = hashed("correct horse battery", 4)
HERE = "192.0.2.1"
DAY = 86400


def basic(token: str, username: str = "__token__") -> bytes:
    return b"Basic " + base64.b64encode(f"{username}:{token}".encode())


def bearer(token: str) -> bytes:
    return b"Bearer " + token.encode()


class Parts:
    """Users, tokens and one server on a credentials volume."""

    def __init__(self, storage: Storage, entries: FolderEntries, clock: FakeClock, packages: Storage) -> None:
        self.clock = clock
        self.storage = storage
        self.packages = packages
        self.log = Audit(storage, ADMIN_FOLDER)
        self.server_log = Audit(packages)
        self.users = Users(storage, CHEAP, audit=self.log)
        uses = TokenUses(entries, self.server_log, clock=clock)
        self.tokens = Tokens(storage, audit=self.log, uses=TokenUses(entries, clock=clock), clock=clock)
        self.minted = MintedTokens(entries, clock=clock)
        self.authenticator = Authenticator(
            storage,
            CHEAP,
            self.server_log,
            uses=uses,
            minted=self.minted,
            clock=lambda: clock.now,
            wall_clock=clock,
        )

    def who(self, header: bytes, address: str = HERE) -> Identity:
        return asyncio.run(self.authenticator.authenticate(header, address))

    def known_token(self, header: bytes) -> Identity | None:
        return self.authenticator.known_token(self.authenticator.digest(header), header, HERE)

    def refused(self, header: bytes) -> bool:
        try:
            self.who(header)
        except Unauthorized:
            return True
        return False

    def close(self) -> None:
        self.authenticator.close()
        self.log.close()
        self.server_log.close()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    packages = DirectoryStorage(tmp_path / "packages")
    entries = FolderEntries(tmp_path / "entries")
    made = Parts(DirectoryStorage(tmp_path / "credentials"), entries, FakeClock(1_800_000_000.0), packages)
    made.users.register("alice", password_hash=DIGEST)
    yield made
    made.close()


def lines(storage: Storage, folder: str) -> list[dict[str, object]]:
    found = sorted((storage.directory / folder).glob("*.jsonl"))
    return [json.loads(line) for path in found for line in path.read_text().splitlines()]


@pytest.mark.parametrize("header", [basic, bearer])
def test_a_token_logs_its_owner_in_by_basic_and_by_bearer(parts: Parts, header: object) -> None:
    plain, token = parts.tokens.create("alice")
    assert TOKEN.fullmatch(plain)
    assert callable(header)
    assert parts.who(header(plain)) == Identity("alice", Role.PUBLISHER, token=token.id, expires=token.expires)
    assert parts.authenticator.remembered(header(plain)) == Identity(
        "alice", Role.PUBLISHER, token=token.id, expires=token.expires
    )


def test_a_token_under_another_user_name_or_with_one_digit_changed_is_refused(parts: Parts) -> None:
    plain, _ = parts.tokens.create("alice")
    assert parts.refused(basic(plain, "alice"))
    assert parts.refused(basic(plain[:-1] + ("0" if plain[-1] != "0" else "1")))
    assert parts.refused(bearer(plain + "0"))
    assert parts.refused(bearer("whatever"))
    assert not parts.refused(basic(plain))


def test_a_valid_token_needs_no_bcrypt_throttle_or_thread(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [parts.tokens.create("alice") for _ in range(20)]
    parts.authenticator.refresh()

    def never(*_: object) -> None:
        pytest.fail("a token must not get here")

    monkeypatch.setattr(bcrypt, "checkpw", never)
    monkeypatch.setattr(Throttle, "admit", never)
    monkeypatch.setattr(Authenticator, "_finish", never)
    assert [parts.who(basic(plain)).token for plain, _ in made] == [token.id for _, token in made]


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Basic X190b2tlbl9fOmFiYw==", "abc"),
        (b"Basic X190b2tlbl9fOmFiYw", "abc"),
        (b"basic  X190b2tlbl9fOmFiYw==", "abc"),
        (b"Basic X190b2tlbl9fOg==", ""),
        (basic("abc", "__token__x"), None),
        (basic("abc", "alice"), None),
        (b"Basic X190b2tlbl9f", None),
        (b"Basic X190b2tlbl9fOmF", "a"),
        (b"Basic X190b2tlbl9f!", None),
        (bearer("abc"), None),
    ],
)
def test_a_header_with_the_user_name_of_tokens_is_read_in_every_spelling(header: bytes, token: str | None) -> None:
    assert token_of(header) == token


def test_the_owner_of_a_token_counts_as_active_once_its_use_is_recorded(parts: Parts) -> None:
    plain, _ = parts.tokens.create("alice")
    parts.authenticator.refresh()
    assert parts.known_token(basic(plain)) is not None
    parts.authenticator.record_uses()
    assert parts.authenticator.take_active_users() == {"alice"}


def test_the_owner_of_a_token_counts_as_active_if_the_server_stops_before_that(parts: Parts) -> None:
    plain, _ = parts.tokens.create("alice")
    parts.authenticator.refresh()
    assert parts.known_token(basic(plain)) is not None
    parts.authenticator.close()
    assert parts.authenticator.take_active_users() == {"alice"}


def test_uses_that_cannot_be_written_are_bounded_and_the_latest_are_kept(tmp_path: Path) -> None:
    uses = TokenUses(FolderEntries(tmp_path))
    for number in range(10_001):
        uses.note(Identity(f"user-{number}", token="a"), HERE)
    owners = uses.write()
    assert len(owners) == 10_000
    assert "user-10000" in owners


def test_a_valid_token_is_known_at_its_first_request_and_anything_else_takes_the_usual_way(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice")
    parts.authenticator.refresh()
    for header in (b"", b"Basic", basic("0" * 64), basic(plain, "alice"), bearer(plain[:-1] + "x"), basic("", "alice")):
        assert parts.known_token(header) is None
    for _ in range(2):
        assert parts.authenticator.remembered(basic(plain)) is None, "it is remembered when it comes again"
        found = parts.known_token(basic(plain))
        assert found is not None
        assert found.token == token.id
    assert parts.authenticator.remembered(basic(plain)) == found
    parts.tokens.revoke(token.id)
    parts.authenticator.refresh()
    assert parts.known_token(basic(plain)) is None


def test_wrong_tokens_cost_no_bcrypt_and_are_throttled(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: pytest.fail("a token must not get here"))
    outcomes = []
    for number in range(12):
        try:
            parts.who(basic(f"pyidx_{number:012x}_{number:064x}"))
        except (Unauthorized, TooManyAttempts) as error:
            outcomes.append(type(error))
    assert outcomes[0] is Unauthorized
    assert outcomes[-1] is TooManyAttempts


def test_two_tokens_are_valid_at_once_and_revoked_separately(parts: Parts) -> None:
    first, second = (parts.tokens.create("alice", label="ci") for _ in range(2))
    assert {parts.who(basic(made.plain)).token for made in (first, second)} == {first.token.id, second.token.id}
    assert parts.tokens.revoke(first.token.id)
    parts.clock.now += 1
    assert parts.authenticator.remembered(basic(first.plain)) is None
    assert parts.refused(basic(first.plain))
    assert parts.who(basic(second.plain)).token == second.token.id


def test_a_token_revoked_during_an_upload_is_refused_once_the_body_has_arrived(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice")
    assert parts.authenticator.confirm(basic(plain), HERE).token == token.id
    parts.tokens.revoke(token.id)
    with pytest.raises(Unauthorized, match="revoked or expired"):
        parts.authenticator.confirm(basic(plain), HERE)


def test_a_token_expires_even_while_cached(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice", lifetime=3600)
    assert token.expires == parts.clock.now + 3600
    parts.clock.now += 3599
    assert parts.who(basic(plain))
    parts.clock.now += 1
    assert parts.authenticator.remembered(basic(plain)) is None
    assert parts.refused(basic(plain))


def test_a_token_never_has_more_rights_than_its_owner_has_now(parts: Parts) -> None:
    parts.users.register("alice", role=Role.ADMIN)
    plain, token = parts.tokens.create("alice", role=Role.ADMIN)
    limited, _ = parts.tokens.create("alice", projects=["Spam.X", "eggs"])
    parts.clock.now += 1
    assert parts.who(basic(plain)).role is Role.ADMIN
    assert parts.who(basic(limited)).projects == frozenset({"spam-x", "eggs"})
    parts.users.register("alice", role=Role.PUBLISHER, projects=["eggs", "ham"])
    parts.clock.now += 1
    limits = frozenset({"eggs", "ham"})
    assert parts.who(basic(plain)) == Identity("alice", Role.PUBLISHER, limits, token=token.id, expires=token.expires)
    assert parts.who(basic(limited)).projects == frozenset({"eggs"})
    parts.users.register("alice", role=Role.READER)
    parts.clock.now += 1
    assert parts.who(basic(plain)).role is Role.READER
    assert not parts.who(basic(limited)).may_upload("eggs")


@pytest.mark.parametrize("asked", [{"role": Role.ADMIN}, {"projects": ["eggs"]}, {"projects": ["spam", "eggs"]}])
def test_a_token_with_more_rights_than_its_owner_is_not_created(parts: Parts, asked: dict[str, Any]) -> None:
    parts.users.register("alice", role=Role.PUBLISHER, projects=["spam"])
    with pytest.raises(InvalidCredentials, match="'alice' is publisher of spam, and a token can do no more"):
        parts.tokens.create("alice", **asked)
    assert parts.tokens.all() == []
    assert parts.tokens.create("alice", projects=["Spam"]).token.projects == frozenset({"spam"})


def test_the_tokens_of_a_removed_user_end_and_do_not_return_with_the_name(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice")
    assert parts.who(basic(plain))
    parts.users.remove("alice")
    parts.clock.now += 1
    assert parts.refused(basic(plain))
    parts.users.register("alice", password_hash=DIGEST)
    assert parts.refused(basic(plain))
    assert lines(parts.storage, ADMIN_FOLDER)[-2]["revoked"] == [token.id]


def test_the_tokens_of_a_user_locked_in_the_file_are_refused(parts: Parts) -> None:
    plain, _ = parts.tokens.create("alice")
    file = parts.storage.directory / PASSWORDS
    file.write_text(file.read_text().replace("alice:", "alice:!"))
    parts.clock.now += 1
    assert parts.refused(basic(plain))


def test_a_token_is_known_on_another_server_at_once_and_revoked_there_after_a_reload(tmp_path: Path) -> None:
    ours, theirs = volumes(tmp_path, 2)
    packages = DirectoryStorage(tmp_path / "packages")
    clock, entries = FakeClock(1_800_000_000.0), FolderEntries(tmp_path / "entries")
    admin = Parts(ours, entries, clock, packages)
    admin.users.register("alice", password_hash=DIGEST)
    server = Parts(theirs, entries, clock, packages)
    assert server.refused(basic(f"pyidx_{0:012x}_{0:064x}"))
    plain, token = admin.tokens.create("alice")
    clock.now += 1
    assert server.who(basic(plain)).token == token.id
    admin.tokens.revoke(token.id)
    clock.now += 5
    assert server.authenticator.remembered(basic(plain)) is None
    assert server.refused(basic(plain))
    admin.close()
    server.close()


def test_a_use_is_listed_and_in_the_log_once_an_hour(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice")
    assert parts.tokens.all()[0].last_used is None
    for minutes, noted in ((0, 0), (10, 0), (70, 70)):
        parts.clock.now = 1_800_000_000.0 + 60 * minutes
        parts.authenticator.record_uses()
        for header in (basic(plain), bearer(plain)):
            parts.who(header)
            parts.authenticator.record_uses()
        assert parts.tokens.all()[0].last_used == 1_800_000_000.0 + 60 * noted
    parts.authenticator.close()
    used = [line for line in lines(parts.packages, SERVER_FOLDER) if line["event"] == "token.used"]
    assert [(line["user"], line["id"], line["address"]) for line in used] == [("alice", token.id, HERE)] * 2
    parts.tokens.create("alice")
    (stored, _) = TokenFile((parts.storage.directory / TOKENS).read_bytes()).tokens()
    assert stored.last_used == parts.clock.now


def test_creation_and_revocation_are_logged_by_id_without_the_token(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice", label="release", actor="admin token", address=HERE)
    parts.tokens.revoke(token.id, actor="admin token", address=HERE)
    created, revoked = lines(parts.storage, ADMIN_FOLDER)[-2:]
    assert (created["event"], created["user"], created["id"]) == ("token.created", "alice", token.id)
    assert (revoked["event"], revoked["user"], revoked["id"]) == ("token.revoked", "alice", token.id)
    secret = plain.rpartition("_")[2]
    kept = "".join(path.read_text() for path in parts.storage.directory.rglob("*") if path.is_file())
    assert secret not in kept
    assert secret not in repr(parts.tokens.create("alice")) + repr(token)


def test_a_use_noted_while_others_are_written_is_written_the_next_time(tmp_path: Path) -> None:
    entries = FolderEntries(tmp_path)
    uses = TokenUses(entries)

    class Interrupted:
        """An identity whose id is asked for last when another thread has begun to write."""

        username = "alice"
        asked = 0

        @property
        def token(self) -> str:
            self.asked += 1
            if self.asked == 1:
                uses.write()
            return "b"

    uses.note(Identity("alice", token="a"), HERE)
    uses.note(cast("Identity", Interrupted()), HERE)
    uses.write()
    assert None not in (uses.last("a"), uses.last("b"))


def test_while_shared_entries_fail_uses_are_still_logged_and_tokens_listed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("the service is down")

    plain, token = parts.tokens.create("alice")
    monkeypatch.setattr(FolderEntries, "put", fail)
    monkeypatch.setattr(FolderEntries, "get", fail)
    parts.who(basic(plain))
    parts.authenticator.record_uses()
    assert parts.tokens.all() == [token]
    parts.authenticator.close()
    assert [line["id"] for line in lines(parts.packages, SERVER_FOLDER) if line["event"] == "token.used"] == [token.id]
    assert [message for message in caplog.messages if "the use of a token could not be" in message] == [
        "the use of a token could not be recorded: the service is down",
        "the use of a token could not be read: the service is down",
    ]


def test_a_refused_token_is_logged_by_its_id(parts: Parts) -> None:
    plain, token = parts.tokens.create("alice")
    parts.tokens.revoke(token.id)
    assert parts.refused(basic(plain))
    parts.server_log.flush()
    (line,) = [line for line in lines(parts.packages, SERVER_FOLDER) if line["event"] == "login.refused"]
    assert (line["user"], token.id in str(line["why"])) == ("__token__", True)


def test_the_number_of_tokens_per_user_is_bounded_not_counting_expired_ones(parts: Parts) -> None:
    for _ in range(MOST):
        parts.tokens.create("alice", lifetime=3600)
    with pytest.raises(InvalidCredentials, match="revoke those"):
        parts.tokens.create("alice")
    parts.clock.now += 3601
    parts.tokens.create("alice")
    assert len(parts.tokens.all()) == MOST + 1
    parts.clock.now += 31 * DAY
    parts.tokens.create("alice")
    assert len(parts.tokens.all()) == 2


def test_a_token_lasts_90_days_or_from_an_hour_to_a_year(parts: Parts) -> None:
    now = parts.clock.now
    assert parts.tokens.create("alice").token.expires == now + 90 * DAY
    for lifetime in (3600, 365 * DAY):
        assert parts.tokens.create("alice", lifetime=lifetime).token.expires == now + lifetime
    for lifetime in (3599, 365 * DAY + 1):
        with pytest.raises(InvalidCredentials, match="one hour to one year"):
            parts.tokens.create("alice", lifetime=lifetime)


def test_an_owner_cannot_revoke_another_user_s_token(parts: Parts) -> None:
    _, token = parts.tokens.create("alice")
    assert not parts.tokens.revoke(token.id, owner="bob")
    assert parts.tokens.revoke(token.id, owner="alice")


def test_a_token_needs_an_owner_and_no_user_can_be_named_like_the_client_s_user_name(parts: Parts) -> None:
    with pytest.raises(NotFound, match="register"):
        parts.tokens.create("bob")
    with pytest.raises(InvalidCredentials, match="__token__"):
        validated_name("__token__")


def test_unreadable_lines_are_preserved_and_give_no_access(parts: Parts) -> None:
    path = parts.storage.directory / TOKENS
    plain, token = parts.tokens.create("alice")
    good = path.read_bytes()
    bad = [b"# a comment", b"{", b"[]", b"null", good.strip().replace(b'"publisher"', b'"root"'), b"\xff" * 40]
    path.write_bytes(b"\n".join([*bad, good]))
    parts.clock.now += 1
    assert parts.who(basic(plain)).token == token.id
    parts.tokens.revoke(token.id)
    assert path.read_bytes().split(b"\n")[:-1] == bad
    assert list(TokenFile(path.read_bytes()).unreadable()) == [1, 2, 3, 4, 5, 6]


# --- minted tokens ----------------------------------------------------------------------------------------------


_JOB = {"issuer": "https://ci.example", "repository_id": "1", "owner_id": "2"}
TRUSTED = {
    "audience": "pypi-a",
    "issuers": [{"url": "https://ci.example", "kind": "gitlab"}],
    "jobs": [
        {"name": "release", **_JOB, "role": "publisher", "projects": ["spam"]},
        {"name": "install", **_JOB, "role": "reader"},
    ],
}


@pytest.fixture
def elsewhere(parts: Parts, tmp_path: Path) -> MintedTokens:
    """Another server, with a trusted job."""
    TrustStore(parts.storage).replace(TRUSTED, version=0)
    return MintedTokens(FolderEntries(tmp_path / "entries"), clock=parts.clock)


def test_a_token_minted_elsewhere_has_the_rights_of_its_jobs(parts: Parts, elsewhere: MintedTokens) -> None:
    plain, token = elsewhere.mint(["release", "install"], "https://ci.example/run/7")
    identity = parts.who(basic(plain))
    assert (identity.username, identity.role, identity.projects) == (
        "oidc:release",
        Role.PUBLISHER,
        frozenset({"spam"}),
    )
    assert identity.origin == {"credential": token.id, "run": "https://ci.example/run/7"}
    reader, _ = elsewhere.mint(["install"], "")
    assert not parts.who(bearer(reader)).may_upload("spam")
    nobody, _ = elsewhere.mint(["unknown"], "")
    assert parts.refused(basic(nobody))


def test_a_token_burnt_elsewhere_is_refused_once_the_body_has_arrived(parts: Parts, elsewhere: MintedTokens) -> None:
    plain, _ = elsewhere.mint(["release"], "")
    assert parts.who(basic(plain))
    assert elsewhere.burn(plain)
    assert parts.authenticator.remembered(basic(plain)), "it is noticed in the background"
    with pytest.raises(Unauthorized):
        parts.authenticator.confirm(basic(plain), HERE)
    parts.authenticator.refresh_minted()
    assert parts.authenticator.remembered(basic(plain)) is None


def test_a_minted_token_ends_after_a_quarter_of_an_hour(parts: Parts, elsewhere: MintedTokens) -> None:
    plain, _ = elsewhere.mint(["release"], "")
    assert parts.who(basic(plain))
    parts.clock.now += LIFETIME
    parts.authenticator.refresh_minted()
    assert parts.authenticator.remembered(basic(plain)) is None
    assert parts.refused(basic(plain))


def test_no_minted_token_is_trusted_while_the_shared_entries_do_not_respond(
    parts: Parts, elsewhere: MintedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = elsewhere.mint(["release"], "")
    assert parts.who(basic(plain))

    def away(*_: object) -> str:
        raise OSError("the storage is unavailable")

    monkeypatch.setattr(FolderEntries, "get", away)
    with pytest.raises(OSError, match="unavailable"):
        parts.authenticator.refresh_minted()
    assert parts.authenticator.remembered(basic(plain)) is None
    with pytest.raises(LoginDelayed):
        parts.who(basic(plain))


class StuckEntries(FolderEntries):
    """Entries that do not respond while the gate is closed."""

    def __init__(self, folder: Path, *, clock: FakeClock) -> None:
        super().__init__(folder, clock=clock)
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key: str) -> str | None:
        value = super().get(key)  # what was stored when it was requested
        assert self.gate.wait(60)
        return value


def test_one_background_check_drops_burnt_tokens_and_keeps_the_others(parts: Parts, elsewhere: MintedTokens) -> None:
    burnt, kept = (basic(elsewhere.mint(["release"], "")[0]) for _ in range(2))
    assert parts.who(burnt)
    assert parts.who(kept)
    elsewhere.burn(base64.b64decode(burnt[6:]).partition(b":")[2].decode())
    parts.authenticator.refresh_minted()
    assert parts.authenticator.remembered(burnt) is None
    assert parts.authenticator.remembered(kept) is not None
    assert parts.refused(burnt)


def test_a_check_of_minted_tokens_that_hangs_ends_after_a_moment_and_drops_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred tokens and a storage without response: none stays known, however long it hangs."""
    monkeypatch.setattr(minted_tokens, "_CHECK_SECONDS", 0.1)
    entries, trust = StuckEntries(tmp_path / "entries", clock=FakeClock()), Trust.of(TRUSTED, version=1)
    minted = MintedTokens(entries, clock=FakeClock())
    digests = [token_digest(minted.mint(["release"], "")[0]) for _ in range(100)]
    assert all(minted.known(digest, trust) for digest in digests)
    entries.gate.clear()
    minted.refresh()
    assert not any(minted.known(digest, trust) for digest in digests)
    entries.gate.set()
    monkeypatch.undo()
    assert minted.exists(digests[0])
    assert minted.known(digests[0], trust)


def test_a_late_answer_about_a_minted_token_is_not_believed(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token may have been burnt since."""
    monkeypatch.setattr(minted_tokens, "_CHECK_SECONDS", -1.0)
    minted = MintedTokens(FolderEntries(tmp_path / "entries", clock=parts.clock), clock=parts.clock)
    plain, _ = minted.mint(["release"], "")
    with pytest.raises(TimeoutError, match="looked up"):
        minted.exists(token_digest(plain))
    with pytest.raises(LoginDelayed):
        parts.who(basic(plain))


def test_a_revocation_is_noticed_while_uses_cannot_be_recorded(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, token = parts.tokens.create("alice")
    assert parts.who(basic(plain))
    gate = threading.Event()
    monkeypatch.setattr(FolderEntries, "put", lambda *_, **__: gate.wait(60))
    recording = threading.Thread(target=parts.authenticator.record_uses)
    recording.start()
    parts.tokens.revoke(token.id)
    parts.authenticator.refresh()
    assert parts.authenticator.remembered(basic(plain)) is None
    assert recording.is_alive()
    gate.set()
    recording.join()
