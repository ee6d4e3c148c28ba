"""The rollback command: back to the previous version, which is then checked, or an error that says why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from ops.cli import EXIT_FAILED, main
from ops.secret import Secret
from ops.settings import SECRET_KEY, SECRET_NAME
from ops.targets.modal import ModalTarget
from ops.workspace import Workspace
from tests.modal.conftest import TOKEN
from tests.standin.control_plane import ControlPlane


@pytest.fixture
def target(client: Mapping[str, str], workspace: Workspace, plane: ControlPlane) -> Iterator[ModalTarget]:
    """A target in a workspace whose plan includes rollbacks."""
    del client
    target = ModalTarget(workspace=workspace)
    target.put_secret(SECRET_NAME, {SECRET_KEY: Secret(TOKEN)})
    plane.apps.plan = "team"
    yield target
    plane.apps.plan = "starter"


def test_the_first_deployment_has_nothing_to_roll_back_to(
    target: ModalTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "--target", "modal", "--current"]) == 0
    assert capsys.readouterr().out == "\n"
    target.deploy()
    for arguments in ([], ["--to", ""]):
        assert main(["rollback", "--target", "modal", *arguments]) == EXIT_FAILED
        assert "there is no version to roll back to on the target 'modal.main'" in capsys.readouterr().err
    assert main(["history", "--target", "modal", "--current"]) == 0
    assert capsys.readouterr().out == "1\n"


def test_the_previous_version_is_deployed_again_and_checked(
    target: ModalTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    target.deploy(tag="good")
    good = target.history()[0].version
    target.deploy(tag="bad")
    bad = target.history()[0].version
    assert main(["rollback", "--target", "modal"]) == 0
    printed = capsys.readouterr().out
    assert f"version {good} deployed again, in place of {bad}" in printed
    assert "the index, without credentials" in printed
    assert main(["history", "--target", "modal"]) == 0
    assert "good" in capsys.readouterr().out


def test_rolling_back_to_the_deployed_version_changes_nothing(
    target: ModalTarget, plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    target.deploy(tag="only")
    versions = len(target.history())
    assert main(["rollback", "--target", "modal", "--to", target.history()[0].version]) == 0
    assert "is already deployed; nothing was changed" in capsys.readouterr().out
    assert len(target.history()) == versions


def test_an_unknown_version_is_refused_with_a_list_of_versions(
    target: ModalTarget, capsys: pytest.CaptureFixture[str]
) -> None:
    target.deploy()
    assert main(["rollback", "--target", "modal", "--to", "999"]) == EXIT_FAILED
    assert "there is no version '999'" in capsys.readouterr().err
