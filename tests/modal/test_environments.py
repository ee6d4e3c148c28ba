"""Two environments of one workspace, operated from one machine, share nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ops import onboard, provision, tear_down
from ops.clients import ClientFiles, Login
from ops.errors import ConfirmationError
from ops.secret import Secret
from ops.settings import SECRET_KEY, SECRET_NAME
from ops.targets import folders
from ops.targets.modal import ModalTarget
from ops.workspace import Workspace
from tests.standin.control_plane import ControlPlane

TOKEN = Secret("a-token-of-the-tests-that-is-long-enough")


@pytest.fixture
def both(client: Mapping[str, str], plane: ControlPlane, workspace: Workspace) -> tuple[ModalTarget, ModalTarget]:
    """The default environment, not named, and staging."""
    del client
    if "staging" not in plane.environments:
        plane.environments.append("staging")
    return ModalTarget(workspace=workspace), ModalTarget(workspace=workspace, environment="staging")


def earlier_files(workspace: Workspace, username: str, url: str) -> Path:
    """Client files in the layout of earlier versions, which had no environments."""
    folder = workspace.user("modal", username)
    ClientFiles(folder).write(Login(url=url, username=username, password=Secret("an-earlier-password")))
    return folder


def test_the_default_environment_goes_by_its_real_name(both: tuple[ModalTarget, ModalTarget]) -> None:
    main, staging = both
    assert (main.place, staging.place) == ("modal.main", "modal.staging")
    assert main.is_named("modal")
    assert main.is_named("modal.main")
    assert not main.is_named("modal.staging")


def test_the_default_environment_is_the_same_named_or_not(
    both: tuple[ModalTarget, ModalTarget], workspace: Workspace
) -> None:
    main, _ = both
    named = ModalTarget(workspace=workspace, environment="main")
    main.put_secret("one", {SECRET_KEY: Secret("of-main")})
    assert named.recall_secret("one", SECRET_KEY) == Secret("of-main")
    assert named.client_folder("alice") == main.client_folder("alice")


def test_each_has_its_own_files_passwords_and_secrets_and_tearing_one_down_leaves_the_other(
    both: tuple[ModalTarget, ModalTarget], plane: ControlPlane
) -> None:
    main, staging = both
    for target in both:
        provision.apply(target)
        onboard.apply(onboard.describe(target, username="alice"))
    folders = [target.client_folder("alice") for target in both]
    passwords = [ClientFiles(folder).password() for folder in folders]
    assert None not in passwords
    assert passwords[0] != passwords[1]
    assert main.recall_secret(SECRET_NAME, SECRET_KEY) != staging.recall_secret(SECRET_NAME, SECRET_KEY)
    before = {path: path.read_bytes() for path in folders[0].iterdir()}
    assert "environment staging" in repr(staging.deployment())

    with pytest.raises(ConfirmationError, match="nothing was deleted"):
        tear_down.apply(staging, confirm="modal.main")
    tear_down.apply(staging, confirm="modal.staging")
    tear_down.verify(staging, confirm="modal.staging")
    assert not folders[1].exists()
    assert {path: path.read_bytes() for path in folders[0].iterdir()} == before
    assert main.recall_secret(SECRET_NAME, SECRET_KEY) is not None
    assert plane.apps.named("pypiserver") is not None
    assert onboard.plan(onboard.describe(main, username="alice")).pending == ()


def test_copies_in_the_earlier_layout_are_found_by_their_environment(
    both: tuple[ModalTarget, ModalTarget], workspace: Workspace
) -> None:
    main, staging = both
    earlier = workspace.secrets("modal")
    for prefix, value in (("default.", "of-the-default"), ("staging.", "of-staging")):
        folders.SecretFiles(earlier, prefix=prefix).put("two", {SECRET_KEY: Secret(value)})
    assert main.recall_secret("two", SECRET_KEY) == Secret("of-the-default")
    assert staging.recall_secret("two", SECRET_KEY) == Secret("of-staging")
    staging.delete_secret("two")
    assert staging.recall_secret("two", SECRET_KEY) is None
    assert main.recall_secret("two", SECRET_KEY) == Secret("of-the-default")
    main.put_secret("two", {SECRET_KEY: Secret("newer")})
    assert main.recall_secret("two", SECRET_KEY) == Secret("newer"), "it takes precedence over the earlier layout"


def test_client_files_in_the_earlier_layout_belong_to_the_environment_whose_index_they_name(
    both: tuple[ModalTarget, ModalTarget], workspace: Workspace
) -> None:
    main, staging = both
    for target in both:
        provision.apply(target)
    deployments = [target.deployment() for target in both]
    assert deployments[0] is not None
    assert deployments[1] is not None
    of_main = earlier_files(workspace, "bob", deployments[0].url)
    of_staging = earlier_files(workspace, "carol", deployments[1].url)
    of_nobody = earlier_files(workspace, "dave", "https://elsewhere.example/")
    assert main.client_folders() == [of_main, of_nobody]
    assert staging.client_folders() == [of_staging]
    assert main.client_folder("bob") == of_main
    assert staging.client_folder("bob") == workspace.user("modal.staging", "bob")
    assert main.client_folder("carol") == workspace.user("modal.main", "carol"), "staging has overwritten them"


def test_an_environment_named_in_the_modal_profile_is_the_default(
    both: tuple[ModalTarget, ModalTarget], workspace: Workspace, plane: ControlPlane
) -> None:
    del both
    config = Path(plane.variables["MODAL_CONFIG_PATH"])
    import modal.config

    before = dict(modal.config._user_config)
    modal.config._user_config["default"] = {"environment": "staging", "active": True}
    try:
        target = ModalTarget(workspace=workspace)
        assert target.place == "modal.staging"
        folders.SecretFiles(workspace.secrets("modal"), prefix="default.").put("s", {SECRET_KEY: TOKEN})
        assert target.recall_secret("s", SECRET_KEY) == TOKEN
        assert ModalTarget(workspace=workspace, environment="main").recall_secret("s", SECRET_KEY) is None
    finally:
        modal.config._user_config.clear()
        modal.config._user_config.update(before)
    assert not config.exists()


def test_a_proxy_token_goes_only_to_an_application_behind_proxy_auth_and_each_can_have_its_own(
    both: tuple[ModalTarget, ModalTarget], workspace: Workspace, monkeypatch: pytest.MonkeyPatch, plane: ControlPlane
) -> None:
    main, staging = both
    for target in both:
        provision.apply(target)
    monkeypatch.setenv("PYPI_PROXY_AUTH", "1")
    plane.proxy_tokens.add(("wk-staging", "ws-staging"))
    staging.deploy()
    copies = folders.SecretFiles(workspace.secrets("modal.staging"))
    values = {"MODAL_PROXY_TOKEN_ID": "wk-staging", "MODAL_PROXY_TOKEN_SECRET": "ws-staging"}
    copies.put("modal-proxy-token", {key: Secret(value) for key, value in values.items()})
    found, other = staging.deployment(), main.deployment()
    assert found is not None
    assert other is not None
    assert {name: secret.reveal() for name, secret in found.admin_headers.items()} == {
        "Modal-Key": "wk-staging",
        "Modal-Secret": "ws-staging",
    }
    assert other.admin_headers == {}
    monkeypatch.setenv("MODAL_PROXY_TOKEN_ID", "wk-of-the-shell")
    other = main.deployment()
    assert other is not None
    assert other.admin_headers == {}, "no proxy in front of it would strip the token"
