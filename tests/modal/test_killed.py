"""A notebook that is killed on Modal and run again ends like one that was not.

Killed by SIGKILL, after which new containers start, as if none had been needed for a while: at one step of each, or
with ``RUNBOOK_MATRIX=full`` at every one.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from ops import provision
from ops.admin_api import AdminApi
from ops.secret import Secret
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_KEY, SECRET_NAME
from ops.targets.index_rules import password_hash
from tests.modal.traffic import eventually
from tests.notebooks.world import Worker
from tests.operators_year import Index, Operator
from tests.standin.control_plane import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

FULL = os.environ.get("RUNBOOK_MATRIX") == "full"

LOGIN = ("alice", "words that alice alone knows")


@dataclass
class Story:
    """An operator with an index on Modal."""

    plane: ControlPlane
    operator: Operator
    worker: Worker

    def index(self) -> Index:
        """The index, with a user, a token and a release."""
        index = Index(self.operator)
        index.logins["alice"] = LOGIN
        if index.target.deployment() is None:
            assert not self.run("01_provision")["error"]
            _, admin = AdminApi.of(index.target)
            with admin:
                admin.register("alice", password_hash=password_hash(Secret(LOGIN[1]), 10))
                admin.create_token("alice", label="ci")
            eventually(lambda: index.status(LOGIN) == 200, 60)
            index.upload("alice", "spam", "1.0")
        return index

    def run(self, notebook: str, **parameters: Any) -> dict[str, Any]:
        return self.worker.run(notebook, {"target": "modal", **parameters})

    def kills(
        self, notebook: str, before: tuple[int, str], prepared: Callable[[], Mapping[str, Any]]
    ) -> Iterator[Callable[[], str]]:
        """Kill a notebook before a step, or in turn before each one; yields functions that run it again.

        Parameters:
            notebook: its name.
            before: number and word of the step.
            prepared: prepares the index, and returns the parameters.
        """
        for point in ((number, "") for number in itertools.count(1)) if FULL else [before]:
            parameters = {"target": "modal", **prepared()}
            first = self.worker.run(notebook, parameters, *point)
            if not first["killed"]:
                assert FULL, first
                assert not first["error"]
                logging.getLogger(__name__).info("%s has %d steps", notebook, point[0] - 1)
                return
            for container in self.plane.containers():
                self.plane.kill(container)
            yield lambda: str(self.worker.run(notebook, parameters)["error"])  # noqa: B023 - used at once


@pytest.fixture(scope="module")
def story(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    operator = Operator.new(folder, "modal", plane.variables)
    for tag in ("one", "two"):
        operator.commit(tag, "ops/index/__init__.py", f"{{}}# {tag}\n".format)
    worker = Worker(operator, folder / "temporary", "ops.targets.modal")
    yield Story(plane, operator, worker)
    worker.close()


@pytest.fixture(autouse=True)
def connected(client: Mapping[str, str]) -> None:
    """This process looks at Modal too."""
    del client


def test_a_rotation_of_the_admin_token(story: Story) -> None:
    target = story.index().target

    def token() -> Secret | None:
        return target.recall_secret(SECRET_NAME, SECRET_KEY)

    former = token()
    parameters = {"rotate": "admin", "max_age_days": 0}
    for run_again in story.kills("04_rotate_credentials", (1, "rollover"), lambda: parameters):
        assert run_again() == ""
        now, stored = token(), story.plane.secrets.named(SECRET_NAME, "main")
        assert now not in (None, former)
        assert stored is not None
        assert Secret(stored.values[SECRET_KEY]) == now
        assert target.recall_former_secret(SECRET_NAME, SECRET_KEY) is None
        assert target.outdated() == ""
        former = now


def test_an_upgrade(story: Story) -> None:
    target = story.index().target
    commits = itertools.cycle(story.operator.git("rev-parse", tag) for tag in ("one", "two"))
    wanted = ""

    def prepared() -> Mapping[str, Any]:
        nonlocal wanted
        wanted = next(commits)
        return {"revision": wanted}

    for run_again in story.kills("08_upgrade", (1, "temporary_user.py"), prepared):
        assert run_again() == ""
        assert wanted.startswith(target.history()[0].commit)
        assert not target.unfinished_upgrade.exists()
        provision.verify(target)
        _, admin = AdminApi.of(target)
        with admin:
            assert [user.username for user in admin.users()] == ["alice"]


def test_a_restoration(story: Story) -> None:
    index = story.index()
    assert not story.run("06_back_up", destination="HOME/snapshots")["error"]
    there = index.digests()

    def prepared() -> Mapping[str, Any]:
        for volume in (PACKAGES_VOLUME, CREDENTIALS_VOLUME):
            for file in index.target.list_files(volume):
                index.target.delete_file(volume, file.path)
        return {"source": "HOME/snapshots", "confirm": "modal"}

    for run_again in story.kills("07_restore", (3, "VolumePutFiles"), prepared):
        assert run_again() == ""
        assert index.digests() == there
        eventually(lambda: index.status(LOGIN) == 200, 60)


def test_a_teardown(story: Story) -> None:
    def prepared() -> Mapping[str, Any]:
        story.index()
        return {"snapshot": "HOME/last", "confirm": "modal"}

    for run_again in story.kills("99_tear_down", (1, "VolumeDelete"), prepared):
        assert run_again() == ""
        assert story.plane.apps.named("pypiserver") is None
        assert [volume.name for volume in story.plane.volumes.by_id.values() if not volume.deleted] == []
        assert story.plane.secrets.by_id == {}
        assert story.plane.dicts.by_id == {}
        target = Index(story.operator).target
        assert list(target.client_folders()) == []
        assert list(target.state_files()) == []
        assert list((story.operator.home / "last" / "snapshots").iterdir())
