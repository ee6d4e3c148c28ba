"""A change is in effect on every server within five seconds, by the cache's own clock and by counted reloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.index.auth import authenticator as authenticator_module
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.roles import Identity, Role
from ops.index.auth.tokens import Tokens
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.errors import LoginDelayed, StorageError, Unauthorized
from tests.index.auth.test_authenticator import CHEAP, DIGEST, HERE, PASSWORD, basic, log_in
from tests.index.conftest import FakeClock
from tests.index.credentials_volume import Volume, volumes

NEW = "another password"


@dataclass
class Servers:
    """A Volume with alice and a token of hers, a writer, and a server that knows both by a reload at 1000 s."""

    ours: Volume
    users: Users
    tokens: Tokens
    clock: FakeClock
    token: str
    token_id: str
    authenticator: Authenticator

    @property
    def logins(self) -> list[bytes]:
        return [basic("alice"), basic("__token__", self.token)]

    def reloads(self) -> int:
        return self.ours.reloads


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    ours, theirs = volumes(tmp_path, 2)
    users, tokens, clock = Users(theirs, CHEAP), Tokens(theirs), FakeClock()
    users.register("alice", password_hash=DIGEST)
    made = tokens.create("alice")
    # The default intervals.
    authenticator = Authenticator(ours, Options(bcrypt_rounds=4), clock=clock)
    servers = Servers(ours, users, tokens, clock, made.plain, made.token.id, authenticator)
    assert [log_in(authenticator, login).role for login in servers.logins] == [Role.PUBLISHER] * 2
    yield servers
    authenticator.close()


def refused(servers: Servers, login: bytes) -> bool:
    """True if a login is refused; the clock goes on, so that no one waits for the next reload."""
    servers.clock.now += 1
    try:
        log_in(servers.authenticator, login)
    except Unauthorized:
        return True
    return False


def removed(servers: Servers) -> None:
    assert servers.users.remove("alice")


def revoked(servers: Servers) -> None:
    assert servers.tokens.revoke(servers.token_id)


def given_another_password(servers: Servers) -> None:
    servers.users.register("alice", password=NEW)


def demoted(servers: Servers) -> None:
    servers.users.register("alice", role=Role.READER)


CHANGES: list[tuple[Callable[[Servers], None], list[Role | None]]] = [
    (removed, [None, None]),
    (revoked, [Role.PUBLISHER, None]),
    (given_another_password, [None, Role.PUBLISHER]),
    (demoted, [Role.READER, Role.READER]),
]
"""Each change, and the roles of the password and the token afterwards."""


@pytest.mark.parametrize(("change", "after"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_one_background_refresh_reloads_once_and_puts_a_change_into_effect(
    servers: Servers, change: Callable[[Servers], None], after: list[Role | None]
) -> None:
    servers.clock.now += 2
    change(servers)
    before = servers.reloads()
    servers.authenticator.refresh()
    assert servers.reloads() == before + 1
    remembered = [servers.authenticator.remembered(login) for login in servers.logins]
    for login, role, found in zip(servers.logins, after, remembered, strict=True):
        assert found is None or found.role is role
        assert refused(servers, login) == (role is None)
        assert role is None or log_in(servers.authenticator, login).role is role


@pytest.mark.parametrize(("change", "after"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_without_background_work_no_view_of_the_volume_is_trusted_for_more_than_four_seconds(
    servers: Servers, change: Callable[[Servers], None], after: list[Role | None]
) -> None:
    change(servers)
    servers.clock.now = 1003.9
    assert all(servers.authenticator.remembered(login) for login in servers.logins)
    servers.clock.now = 1004.0
    assert not any(servers.authenticator.remembered(login) for login in servers.logins)
    for login, role in zip(servers.logins, after, strict=True):
        assert refused(servers, login) == (role is None)


def test_the_four_seconds_begin_with_the_reload_and_not_with_its_end(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    reload = servers.ours.reload

    def slow() -> None:
        reload()
        revoked(servers)  # a moment too late
        servers.clock.now += 0.9

    monkeypatch.setattr(servers.ours, "reload", slow)
    servers.clock.now = 1010.0
    servers.authenticator.refresh()
    monkeypatch.undo()
    token = servers.logins[1]
    servers.clock.now = 1013.9
    assert servers.authenticator.remembered(token) is not None
    servers.clock.now = 1014.0
    assert servers.authenticator.remembered(token) is None
    assert refused(servers, token)


def test_the_default_intervals_keep_a_change_within_five_seconds() -> None:
    """A reload may begin just before a change, and the next one two seconds after its end."""
    assert 2 * 1.0 + Options().refresh_seconds <= 5
    assert 4.0 + authenticator_module._RENEWAL_WAIT <= 5


def test_a_server_that_has_just_started_trusts_its_view_only_after_a_reload(tmp_path: Path) -> None:
    """The view is as old as the container, whose start may have taken long."""
    ours, theirs = volumes(tmp_path, 2)
    Users(theirs, CHEAP).register("alice", password_hash=DIGEST)
    ours.reload()
    Users(theirs, CHEAP).remove("alice")
    authenticator = Authenticator(ours, CHEAP)
    with pytest.raises(Unauthorized):
        log_in(authenticator, basic("alice"))
    authenticator.close()


def test_a_reload_that_failed_makes_no_view_newer(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise StorageError("the volume is unavailable")

    monkeypatch.setattr(servers.ours, "_reload", broken)
    servers.clock.now = 1002.0
    servers.authenticator.refresh()
    servers.authenticator.see_changes()
    monkeypatch.undo()
    revoked(servers)
    servers.clock.now = 1004.0
    assert servers.authenticator.remembered(servers.logins[1]) is None
    assert refused(servers, servers.logins[1])


def test_a_server_that_can_never_reload_trusts_the_view_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,) = volumes(tmp_path, 1)
    Users(ours, CHEAP).register("alice", password_hash=DIGEST)

    def broken() -> None:
        raise StorageError("the volume is unavailable")

    monkeypatch.setattr(ours, "reload", broken)
    authenticator = Authenticator(ours, CHEAP)
    assert log_in(authenticator, basic("alice")).username == "alice"
    with pytest.raises(LoginDelayed, match="another server"):
        log_in(authenticator, basic("new"))
    authenticator.close()


@pytest.mark.parametrize("change", [change for change, _ in CHANGES], ids=lambda change: change.__name__)
def test_an_identity_is_not_confirmed_again_after_a_change_that_a_reload_has_shown(
    servers: Servers, change: Callable[[Servers], None]
) -> None:
    """As for a request that waited for the lock on a name, whose transaction then reloads the Volume."""
    identities: list[Identity] = [servers.authenticator.confirm(login, HERE) for login in servers.logins]
    for identity in identities:
        identity.confirm()
    change(servers)
    servers.ours.reload()
    unchanged: dict[Callable[[Servers], None], int] = {revoked: 0, given_another_password: 1}
    kept = unchanged.get(change)
    for number, identity in enumerate(identities):
        if number == kept:
            identity.confirm()
        else:
            with pytest.raises(Unauthorized):
                identity.confirm()


def test_an_identity_is_confirmed_again_after_its_password_was_only_stored_anew(servers: Servers) -> None:
    identity = servers.authenticator.confirm(servers.logins[0], HERE)
    servers.users.register("alice", password=PASSWORD)
    servers.ours.reload()
    identity.confirm()
    demoted(servers)
    servers.ours.reload()
    with pytest.raises(Unauthorized, match="rights were changed while the request waited"):
        identity.confirm()


def test_a_request_is_confirmed_even_while_a_reload_hangs(servers: Servers) -> None:
    with servers.ours._guard.exclusive():
        assert asyncio.run(asyncio.to_thread(servers.authenticator.confirm, basic("alice"), HERE)).username == "alice"


def test_a_token_expires_on_time_even_if_the_volume_cannot_be_reloaded(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    token = servers.tokens.create("alice", lifetime=3600)
    authenticator = Authenticator(servers.ours, CHEAP, clock=clock, wall_clock=lambda: token.token.created + clock.now)
    clock.now = 3590.0
    login = basic("__token__", token.plain)
    assert log_in(authenticator, login).token == token.token.id

    def broken() -> None:
        raise StorageError("the volume is unavailable")

    monkeypatch.setattr(servers.ours, "_reload", broken)
    clock.now = 3600.0
    authenticator.refresh()
    assert authenticator.remembered(login) is None
    with pytest.raises((Unauthorized, LoginDelayed)):
        log_in(authenticator, login)
    authenticator.close()
