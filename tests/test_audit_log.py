"""The history of an index: the state implied by its log, and what that leaves open."""

from __future__ import annotations

from typing import Any

import pytest

from ops.audit_log import History

UPLOAD = {"event": "upload", "filename": "spam-1.tar.gz", "sha256": "a"}
REMOVE = {"event": "remove", "filename": "spam-1.tar.gz", "sha256": "a"}
YANK = {"event": "yank", "project": "spam", "files": ["spam-1.tar.gz"]}
CREATED = {"event": "user.created", "user": "alice", "role": "publisher", "projects": ["spam"]}


def history(*events: dict[str, Any]) -> History:
    return History.of({"time": str(number), "user": "alice", **event} for number, event in enumerate(events))


def test_the_last_event_counts() -> None:
    found = history(UPLOAD, YANK, CREATED, {**YANK, "event": "unyank"}, REMOVE, {"event": "user.removed"})
    assert (found.uploaded, found.removed) == ({}, {"spam-1.tar.gz": "a"})
    assert found.yanked == {"spam-1.tar.gz": False}
    assert found.users == {"alice": None}
    assert history(REMOVE, UPLOAD).removed == {}
    assert history(CREATED).users == {"alice": ("publisher", ("spam",))}
    accepted = {"event": "user.changed", "actor": "invitation", "password_changed": True}
    assert history(CREATED, accepted).users == {"alice": ("publisher", ("spam",))}
    assert history({"event": "status", "project": "spam", "status": "archived"}).statuses == {"spam": "archived"}
    token = {"event": "token.created", "id": "1"}
    assert history(token).tokens == {"1": True}
    for revoked in ({"event": "token.revoked", "id": "1"}, {"event": "user.removed", "revoked": ["1"]}):
        assert history(token, revoked).tokens == {"1": False}
    assert history({"event": "trust.changed", "sha256": "ab"}).trust == "ab"
    reserved = {"event": "prefix.reserved", "user": "", "prefix": "acme", "owners": ["bob", "alice"]}
    assert history(reserved, {"event": "user.removed"}).reserved == {"acme": ("bob",)}
    assert history(reserved, {**reserved, "owners": []}).reserved == {"acme": None}
    assert history(reserved, {"event": "restore"}).reserved is None
    assert history({"event": "revoke", "sha256": ["a", "b"]}).revoked == {"a": True, "b": True}


@pytest.mark.parametrize("outcome", ["undone", "unconfirmed"])
def test_an_unconfirmed_change_leaves_its_subject_open(outcome: str) -> None:
    assert history(UPLOAD, {"event": f"upload.{outcome}", "filename": "spam-1.tar.gz"}).uploaded == {}
    assert history(YANK, {**YANK, "event": f"yank.{outcome}"}).yanked == {}
    removed = history(UPLOAD, REMOVE, {"event": f"remove.{outcome}", "filename": "spam-1.tar.gz"})
    assert removed.removed == {}
    assert removed.uploaded == ({"spam-1.tar.gz": "a"} if outcome == "undone" else {})
    assert len(removed.unconfirmed) == (outcome == "unconfirmed")
    failed = {"event": "user.change_failed"}
    assert history(CREATED, failed).uncertain == {"alice"}
    assert history(failed, CREATED).uncertain == set()


def test_a_restoration_sets_users_yanks_and_statuses() -> None:
    restored = {
        "event": "restore",
        "users": ["a b publisher of spam, eggs", "carol admin"],
        "yanked": ["eggs-1.tar.gz"],
        "statuses": ["eggs archived"],
        "tokens": ["8c1f0a52b3d4"],
        "reserved": {"acme": ["a b"], "spam": []},
        "trust": "ab",
    }
    reserved = {"event": "prefix.reserved", "user": "", "prefix": "eggs", "owners": ["carol"]}
    found = history(CREATED, YANK, reserved, {"event": "token.created", "id": "of a later day"}, restored)
    assert found.reserved == {"acme": ("a b",), "spam": ()}
    assert (found.tokens, found.trust) == ({"8c1f0a52b3d4": True}, "ab")
    assert found.users == {"a b": ("publisher", ("eggs", "spam")), "carol": ("admin", None)}
    assert found.yanked == {"eggs-1.tar.gz": True}
    assert found.statuses == {"eggs": "archived"}


def test_an_empty_or_expired_log_is_not_complete() -> None:
    assert not history().complete
    assert history(UPLOAD).complete
    assert not history(UPLOAD, {"event": "audit.expired"}).complete
    assert not history({"event": "audit.expired"}, UPLOAD).complete
