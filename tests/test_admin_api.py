"""The operator's side of the admin application."""

from __future__ import annotations

import pytest

from ops.admin_api import AdminApi, IndexUser
from ops.errors import IndexRequestError, NotDeployedError, NotRespondingError, PreflightError
from ops.secret import Secret
from tests.fakes import FakeIndex, FakeTarget

pytest_plugins = ["tests.operations"]


def test_users_are_registered_changed_listed_and_deleted(provisioned: FakeTarget) -> None:
    _, admin = AdminApi.of(provisioned)
    with admin:
        assert admin.register("bob", password_hash="$2b$12$x") == IndexUser("bob", "publisher", None, created=True)
        assert admin.register("bob", role="reader") == IndexUser("bob", "reader", None)
        assert admin.register("al ice", password_hash="$2b$12$x", projects=["b", "a"]).projects == ("a", "b")
        assert [user.username for user in admin.users()] == ["al ice", "bob"]
        assert admin.user("bob") == IndexUser("bob", "reader", None)
        assert admin.delete("al ice")
        assert not admin.delete("al ice")
        assert admin.user("al ice") is None


def test_a_wrong_token_is_refused_and_not_repeated(index: FakeIndex) -> None:
    missing = r"401.*the admin token is missing or wrong"
    with (
        AdminApi(f"{index.url}admin/", Secret("not-the-token-at-all")) as admin,
        pytest.raises(IndexRequestError, match=missing) as caught,
    ):
        admin.users()
    assert caught.value.status == 401
    assert "not-the-token-at-all" not in str(caught.value)
    assert "01_provision" in caught.value.todo


def test_the_index_s_reason_for_refusing_a_user_is_passed_on(provisioned: FakeTarget) -> None:
    _, admin = AdminApi.of(provisioned)
    with admin, pytest.raises(IndexRequestError, match="contains an invisible character") as caught:
        admin.register("al\0ice", password_hash="$2b$12$x")
    assert caught.value.status == 422


def test_without_an_index_or_a_token_no_request_is_sent(target: FakeTarget) -> None:
    with pytest.raises(NotDeployedError, match="01_provision"):
        AdminApi.of(target)
    target.running = True
    with pytest.raises(PreflightError, match="no copy of the admin token") as caught:
        AdminApi.of(target)
    assert "AUTH_TOKEN" in caught.value.todo


def test_an_unresponsive_index_has_its_own_error(provisioned: FakeTarget) -> None:
    provisioned.failure = "OSError: no room"
    with pytest.raises(NotRespondingError) as caught:
        AdminApi.of(provisioned)
    assert caught.value.error == "OSError: no room"


def test_a_refused_token_comes_with_the_target_s_own_advice(provisioned: FakeTarget) -> None:
    provisioned.secrets["pypi-auth-token"]["AUTH_TOKEN"] = Secret("changed-elsewhere")
    _, admin = AdminApi.of(provisioned)
    with admin, pytest.raises(IndexRequestError) as caught:
        admin.users()
    assert caught.value.todo == "another value of AUTH_TOKEN is needed in pypi-auth-token"
