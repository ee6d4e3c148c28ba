"""An operator's year as one story: the notebooks of a clone, run one after the other on one target."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from ops import back_up
from ops.admin_api import AdminApi
from ops.clients import ClientFiles
from ops.http_client import JSON
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME, SECRET_NAME
from ops.snapshots.snapshot import CREDENTIALS, PACKAGES, is_kept, is_log
from ops.targets import Target, open_target
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT, Workspace
from tests.benchmark.servers import free_port
from tests.index.archives import wheel, wheel_name
from tests.index.issuer import FakeIssuer
from tests.index.tls import TlsFront
from tests.test_trusted_publishing import written

TEAM = "username,role,projects\nalice,publisher,spam\nbob,reader,\ncarol,publisher,\ndave,publisher,\nerin,admin,\n"
NIGHTS = 30
RESTORED = 17
_BROKEN = ("if not identity.may_administer:\n            raise Forbidden", "if True:\n            raise Forbidden")


@dataclass
class Operator:
    """An operator with a clone of the project, a workspace and a target.

    Parameters:
        clone: a git repository.
        home: of the workspace, and for files to hand over.
        target: ``local`` or ``modal``.
        variables: of the environment, in addition to those of this process.
    """

    clone: Path
    home: Path
    target: str
    variables: Mapping[str, str]

    @classmethod
    def new(cls, folder: Path, target: str, variables: Mapping[str, str]) -> Operator:
        """An operator who has just cloned the project."""
        clone, home = folder / "clone", folder / "home"
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]  # also files not added yet
        listed = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, check=True)
        for name in listed.stdout.decode().split("\0"):
            if name and (PROJECT_ROOT / name).is_file():
                (clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT_ROOT / name, clone / name)
        home.mkdir()
        operator = cls(clone, home, target, variables)
        operator.git("init", "-q")
        operator.git("add", "-A")
        operator.git("commit", "-qm", "First")
        return operator

    @property
    def workspace(self) -> Workspace:
        """The workspace, which this process uses too."""
        return Workspace(self.home / "runbook")

    def git(self, *arguments: str) -> str:
        """Run git in the clone."""
        command = ["git", "-C", str(self.clone), "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, tag: str, file: str, change: Callable[[str], str]) -> str:
        """Change a file in a tagged commit on top of the one checked out; returns the commit."""
        path = self.clone / file
        path.write_text(change(path.read_text()))
        self.git("commit", "-qam", f"Change {file}")
        self.git("tag", tag)
        self.git("reset", "-q", "--hard", "HEAD~1")
        return self.git("rev-parse", tag)

    def break_removal(self, tag: str) -> str:
        """Commit a version that starts and responds, but whose smoke test cannot remove its release."""
        return self.commit(tag, "ops/index/packages/releases.py", lambda source: source.replace(*_BROKEN))

    def runbook(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the clone."""
        environment = {
            **os.environ,
            **self.variables,
            "HOME": str(self.home),
            HOME_VARIABLE: str(self.workspace.home),
            "PYTHONPATH": str(self.clone),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", *arguments],
            cwd=self.clone, env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def run(self, *notebooks: str, fails: str = "", **parameters: Any) -> str:
        """Run notebooks with parameters; returns the output. Those expected to fail must print *fails*."""
        given = [f"{name}={json.dumps(value)}" if isinstance(value, bool) else f"{name}={value}"
                 for name, value in {"target": self.target, **parameters}.items()]  # fmt: skip
        done = self.runbook("run", *notebooks, *(part for pair in given for part in ("-p", pair)))
        printed = done.stdout + done.stderr
        assert done.returncode == (1 if fails else 0), printed
        assert fails in printed
        return printed


@contextmanager
def load(url: str, login: tuple[str, str]) -> Iterator[list[int]]:
    """Three clients that request a page until the block ends; yields the statuses they got."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not ended.wait(0.02):
                statuses.append(session.get(f"{url}simple/spam/", auth=login, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


class Index:
    """The operator's index, as seen by users and an auditor."""

    def __init__(self, operator: Operator) -> None:
        self.target: Target = open_target(operator.target, workspace=operator.workspace)
        self._copy = operator.home / "copy"
        self.logins: dict[str, tuple[str, str]] = {}

    @property
    def url(self) -> str:
        return self.target.state().require(self.target.place).url

    def accept(self, invitations: Path) -> None:
        """Let each invited user set a password with the link."""
        with invitations.open() as file:
            links = {row["username"]: row["link"] for row in csv.DictReader(file)}
        for name, link in links.items():
            page, _, code = link.partition("#")
            self.logins[name] = (name, f"words that {name} alone knows")
            response = requests.post(page, json={"code": code, "new_password": self.logins[name][1]}, timeout=60)
            assert response.status_code == 200, response.text

    def upload(self, name: str, project: str, version: str) -> None:
        """Publish a release, like twine."""
        form = {":action": "file_upload", "protocol_version": "1", "name": project, "version": version}
        content = {"content": (wheel_name(project, version), wheel(project, version))}
        response = requests.post(self.url, auth=self.logins[name], data=form, files=content, timeout=60)
        assert response.status_code == 200, response.text

    def releases(self, project: str) -> list[dict[str, Any]]:
        """Files of a project, with their hashes and annotations."""
        response = requests.get(
            f"{self.url}simple/{project}/", auth=self.logins["bob"], headers={"Accept": JSON}, timeout=60
        )
        assert response.status_code == 200, response.text
        files: list[dict[str, Any]] = response.json()["files"]
        return files

    def status(self, login: tuple[str, str], path: str = "simple/") -> int:
        return requests.get(f"{self.url}{path}", auth=login, timeout=60).status_code

    def digests(self) -> dict[str, str]:
        """The digest of each file on both volumes, without logs and data that the index recomputes."""
        found = {}
        for part, volume in ((PACKAGES, PACKAGES_VOLUME), (CREDENTIALS, CREDENTIALS_VOLUME)):
            for file in self.target.list_files(volume):
                if is_kept(file.path) and not is_log(part, file.path):
                    self.target.download(volume, file.path, self._copy)
                    found[f"{volume}/{file.path}"] = hashlib.sha256(self._copy.read_bytes()).hexdigest()
        return found


def publish_from_github(index: Index, operator: Operator) -> None:
    """Publish a release from a GitHub job, without any stored secret."""
    with FakeIssuer() as issuer, TlsFront(operator.home / "tls", urlsplit(index.url).port or 0) as front:
        operator.run("13_trusted_publishing", file=written(operator.home, issuer.trust()))
        path = operator.home / wheel_name("spam", "1.1")
        path.write_bytes(wheel("spam", "1.1"))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(operator.home),
            "SSL_CERT_FILE": str(front.authority),
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{issuer.url}/id-token?api-version=2",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "the-secret-of-the-runner",
        }
        uv = [str(Path(sys.executable).with_name("uv")), "publish", "--publish-url", front.url, str(path)]
        done = subprocess.run(uv, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def nights(index: Index, destination: str) -> tuple[str, dict[str, str]]:
    """Thirty days, each with a release and a snapshot; returns the seventeenth snapshot's name and the state then."""
    job = back_up.describe(index.target, destination=destination)
    bucket = job.bucket()
    name, there = "", {}
    for night in range(1, NIGHTS + 1):
        index.upload("carol", "daily", f"{night}.0")
        backup = job.backup(bucket)
        backup._clock = lambda: datetime.now(UTC) + timedelta(days=night)  # noqa: B023 - used at once
        taken, new = backup.take()
        assert new
        backup.prune(job.retention)
        if night == RESTORED:
            name, there = taken.name, index.digests()
    assert len(bucket.snapshots()) >= NIGHTS
    return name, there


def walk(operator: Operator, snapshots: str) -> None:
    """Go through the year, from the first steps to the teardown; the target is empty before and after.

    Parameters:
        operator: with an empty target.
        snapshots: the folder or bucket for them.
    """
    index = Index(operator)
    try:
        _walk(operator, index, snapshots)
    finally:
        index.target.stop()


def _walk(operator: Operator, index: Index, snapshots: str) -> None:
    run = operator.run
    place = index.target.place

    # First steps, an index, and five users.
    run("00_start_here", "01_provision", port=free_port() if operator.target == "local" else 0)
    team = operator.home / "team.csv"
    team.write_text(TEAM)
    run("02_onboard_user", users_csv=team)
    (invitations,) = operator.workspace.home.rglob("invitations.csv")
    index.accept(invitations)
    assert {index.status(login) for login in index.logins.values()} == {200}

    # Releases by a person and by a GitHub job, and credentials replaced under load.
    index.upload("alice", "spam", "1.0")
    publish_from_github(index, operator)
    run("02_onboard_user", username="ci", token_days=30)
    files = ClientFiles(operator.workspace.user(place, "ci"))
    before = files.password()
    with load(index.url, index.logins["bob"]) as statuses:
        run("04_rotate_credentials", rotate="token", username="ci", max_age_days=0)
        run("04_rotate_credentials", rotate="password", username="ci", max_age_days=0)
    assert set(statuses) == {200}
    login = files.login()
    assert before is not None
    assert login is not None
    assert login.password is not None
    assert index.status(("ci", login.password.reveal())) == 200
    assert index.status(("ci", before.reveal())) == 401
    run("04_rotate_credentials", rotate="admin", max_age_days=0)

    # A yanked release, someone who leaves, and a snapshot on each day of a month.
    run("11_manage_releases", action="yank", project="spam", version="1.0", reason="bad")
    index.upload("dave", "eggs", "1.0")
    run("05_offboard_user", username="dave", confirm="dave")
    assert index.status(index.logins.pop("dave")) == 401
    assert "1 changed" in run("06_back_up", destination=snapshots)
    name, there = nights(index, snapshots)
    run("09_audit", snapshots=snapshots, fail_at="warning")
    seen = {project: index.releases(project) for project in ("spam", "eggs")}

    # Everything is lost, and restored from the seventeenth snapshot, for the same users.
    index.target.stop()
    for volume in (PACKAGES_VOLUME, CREDENTIALS_VOLUME):
        index.target.delete_volume(volume)
    index.target.delete_secret(SECRET_NAME)
    run("01_provision", "07_restore", source=snapshots, snapshot=name, confirm=operator.target)
    assert index.digests() == there, set(index.digests().items()) ^ set(there.items())
    assert {index.status(login) for login in index.logins.values()} == {200}
    assert {project: index.releases(project) for project in seen} == seen
    assert len(index.releases("daily")) == RESTORED
    assert " 0 changed" in run("07_restore", source=snapshots, snapshot=name, confirm=operator.target)

    # A broken version is rolled back.
    run("08_upgrade", revision=operator.break_removal("broken"), fails="was rolled back")
    assert " 0 changed" in run("08_upgrade")

    # The index still matches its log, until a release turns out to be bad.
    run("09_audit", snapshots=snapshots, fail_at="warning")
    release = {"project": "spam", "version": "1.1"}
    run("12_incident", **release, reason="stolen", lock_publisher=True, confirm="spam 1.1")
    assert "1.1" not in str(index.releases("spam"))
    (report,) = operator.workspace.records.glob("*-12_incident/12_incident.html")
    assert "/acme/spam/actions/runs/4711" in report.read_text()
    assert AdminApi.of(index.target)[1].trust()["jobs"] == []
    run("90_troubleshoot", bundle=True)

    # Teardown, with a last snapshot, and no secret in any record.
    run("99_tear_down", snapshot=operator.home / "last", confirm=operator.target)
    assert not any(index.target.volume_exists(volume) for volume in (PACKAGES_VOLUME, CREDENTIALS_VOLUME))
    assert index.target.state().deployment is None
    assert list((operator.home / "last").glob("snapshots/*"))
    scanned = operator.runbook("records", "scan")
    assert scanned.returncode == 0, scanned.stdout + scanned.stderr
