"""Roles come from an Apache group file, and grant no more than it says."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ops.index.auth.passwords import InvalidCredentials, validated_name
from ops.index.auth.roles import PROJECT, GroupFile, Identity, Role, Roles, memberships


def identity(content: str, username: str) -> Identity:
    return Roles(content.encode()).identity(username)


def test_a_user_in_no_group_may_publish_anything() -> None:
    someone = identity("admin: carol\n", "alice")
    assert someone == Identity("alice", Role.PUBLISHER, None)
    assert someone.may_upload("anything")
    assert not someone.may_administer


@pytest.mark.parametrize(
    ("content", "role"),
    [
        ("reader: alice", Role.READER),
        ("publisher: alice", Role.PUBLISHER),
        ("admin: bob alice carol", Role.ADMIN),
        ("admin:alice", Role.ADMIN),
        ("  admin :\talice  \r", Role.ADMIN),
        ("admin: bob\nadmin: alice", Role.ADMIN),
        ("reader: alice\nadmin: alice", Role.ADMIN),
        ("admin: alice\nreader: alice", Role.ADMIN),
        ("reader: alice\npublisher: alice", Role.PUBLISHER),
        ("#admin: alice", Role.PUBLISHER),
        ("admins: alice", Role.PUBLISHER),
        ("Admin: alice", Role.PUBLISHER),
        ("admin: alicea Alice", Role.PUBLISHER),
        ("admin alice", Role.PUBLISHER),
        ("reader: 'alice'", Role.READER),
    ],
)
def test_the_most_powerful_group_is_the_role(content: str, role: Role) -> None:
    assert identity(content, "alice").role is role


def test_a_reader_may_not_upload_and_an_admin_may_do_everything() -> None:
    reader = identity("reader: alice\nproject/spam: alice", "alice")
    assert not reader.may_upload("spam")
    assert not reader.may_administer
    admin = identity("admin: alice\nproject/spam: alice", "alice")
    assert admin.may_upload("ham")
    assert admin.may_administer


def test_a_project_group_limits_its_members_to_that_project_in_any_spelling() -> None:
    content = "project/Spam_Eggs: alice bob\nproject/ham: alice\n"
    alice, bob = identity(content, "alice"), identity(content, "bob")
    assert alice.projects == frozenset({"spam-eggs", "ham"})
    for name in ("spam-eggs", "Spam.Eggs", "SPAM__EGGS"):
        assert bob.may_upload(name)
    assert not bob.may_upload("ham")
    assert alice.may_upload("ham")
    assert identity(content, "carol").may_upload("ham")


def test_an_unreadable_group_file_makes_everyone_a_reader() -> None:
    """Otherwise a damaged file would turn readers into publishers."""
    assert Roles(None).identity("alice").role is Role.READER


def test_names_with_spaces_and_quotes_are_quoted_for_apache() -> None:
    file = GroupFile(b"")
    for name in ("a b", '"quoted"', "it's", "'x' y", "Zoë"):
        file.assign(name, {"admin"})
    assert bytes(file).decode() == """admin: "a b" "\\"quoted\\"" it's "'x' y" Zoë\n"""
    assert file.groups()["admin"] == {"a b", '"quoted"', "it's", "'x' y", "Zoë"}


def test_comments_other_groups_and_invalid_lines_are_preserved() -> None:
    before = b"# wiki\nwiki: alice bob\n\nnonsense\nreader: alice bob\n\xff: alice\nadmin: alice\nreader: alice"
    file = GroupFile(before)
    file.assign("alice", {"publisher", "project/spam"})
    assert bytes(file) == (
        b"# wiki\nwiki: alice bob\n\nnonsense\nreader: bob\n\xff: alice\nproject/spam: alice\npublisher: alice\n"
    )


def test_repeating_an_assignment_changes_no_byte() -> None:
    file = GroupFile(b"admin:   bob\nadmin: alice bob\n")
    file.assign("alice", {"admin", "project/a"})
    once = bytes(file)
    file.assign("alice", {"admin", "project/a"})
    assert bytes(file) == once


@settings(deadline=None)
@given(st.binary(max_size=300), st.text(max_size=30), st.sets(st.sampled_from(["reader", "admin", "project/a-b"])))
@example(b'admin: "a\\', "a", {"admin"})
@example(b"admin: alice\nadmin: alice", "alice", set())
def test_assigning_sets_exactly_these_groups_of_one_user_and_no_other(
    content: bytes, name: str, groups: set[str]
) -> None:
    try:
        name = validated_name(name)
    except InvalidCredentials:
        return
    before = GroupFile(content).groups()
    file = GroupFile(content)
    file.assign(name, groups)
    after = GroupFile(bytes(file)).groups()
    assert {group for group, members in after.items() if name in members} == groups
    for group in {*before, *after}:
        assert before.get(group, set()) - {name} == after.get(group, set()) - {name}


@settings(deadline=None)
@given(st.sampled_from(Role), st.sets(st.sampled_from(["a", "b-c", "d"]), min_size=1))
def test_an_identity_is_read_back_as_it_was_stored(role: Role, projects: set[str]) -> None:
    limited = Identity("alice", role, frozenset(projects) if role is Role.PUBLISHER else None)
    file = GroupFile(b"project/x: alice\nadmin: alice\n")
    file.assign("alice", memberships(limited))
    assert Roles(bytes(file)).identity("alice") == limited
    assert all(group.startswith(PROJECT) or group in set(Role) for group in memberships(limited))
