"""Smoke test: publishes and installs a release with the real clients, and removes it again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

from ops import test_release
from ops.clients import Pip, Twine, Uv
from ops.clients.client import client_environment, run_client
from ops.errors import RunbookError
from ops.http_client import JSON
from ops.plan import Change, Finding, Plan, proven
from ops.polling import until, until_equal
from ops.preflight import preflight_of_index as preflight
from ops.table import Table, Timings
from ops.targets import Target
from ops.temporary_user import TemporaryUser
from ops.test_release import PROBE, PROJECT, TrialRelease


def _step(call: Callable[[SmokeTest], Table]) -> Callable[[SmokeTest], Table]:
    """Decorate a step to clean up at once if it fails."""

    @functools.wraps(call)
    def guarded(test: SmokeTest) -> Table:
        if test.temporary_user.ended:
            raise RunbookError(
                "this smoke test has ended", why="a step failed, or it is over", todo="run the notebook from its start"
            )
        try:
            return call(test)
        except BaseException:
            with contextlib.suppress(RunbookError):
                test.temporary_user.end()
            raise

    return guarded


class SmokeTest:
    """Everything that clients do with an index, as a temporary user with a test release.

    Parameters:
        target: the target of the index.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.temporary_user = TemporaryUser(target)
        self._timings: list[tuple[str, float]] = []
        self._built: TrialRelease | None = None

    def plan(self) -> Plan:
        """Changes that the test makes and undoes. Reads only."""
        user, version = self.temporary_user.username, self.temporary_user.version
        changes = (
            Change(f"user {user}", "not there", "register as admin, delete at the end", "±"),
            Change(f"release {PROJECT} {version}", "not there", "publish and install, remove at the end", "±"),
        )
        return Plan(f"Smoke test of the target {self._target.place}", changes, self._target.place)

    @_step
    def start(self) -> Table:
        """Register the temporary user, and remove leftovers of killed tests.

        Raises:
            NotDeployedError: there is no index.
            IndexRequestError: the index refused the user.
        """
        with self._timed("register the user"):
            users, releases = self.temporary_user.start()
        rows = [
            (f"user {self.temporary_user.username}", "registered as admin"),
            ("left over from killed tests", f"{users} users and {releases} releases removed"),
        ]
        return Table.of("Started", ("what", "done"), rows)

    @_step
    def refusals(self) -> Table:
        """Try requests without credentials and with a wrong password: with HTTP, pip and uv.

        Raises:
            VerificationError: one was not refused.
        """
        findings = []
        for who in ("a stranger", "a wrong password"):
            login, files = self.temporary_user.login(who), self.temporary_user.files(who)
            for client, ask in (
                ("HTTP", functools.partial(self.temporary_user.login_status, who)),
                ("pip", functools.partial(Pip(files, login).page_status, PROBE)),
                ("uv", functools.partial(Uv(files, login).page_status, PROBE)),
            ):
                with self._timed(f"{client}: {who}"):
                    status = ask()
                findings.append(Finding(f"{client}: {who}", "401", str(status), status == 401))
        return _proven("Kept out", findings)

    @_step
    def build(self) -> Table:
        """Build wheel and sdist of this project under the test version.

        Raises:
            ClientError: the build failed.
        """
        with self._timed("build: wheel and sdist"):
            self._built = test_release.build(self.temporary_user.version, self.temporary_user.inside("sample"))
        rows = [(path.name, "built") for path in (self._built.wheel, self._built.sdist)]
        return Table.of("Built", ("file", "done"), rows)

    @_step
    def publish(self) -> Table:
        """Publish with twine and ``uv publish``: the files, the same again, and different bytes under the same names.

        Raises:
            VerificationError: one was wrongly accepted or refused.
        """
        release = self._release
        other = release.altered(self.temporary_user.inside("altered"))
        login, files = self.temporary_user.user, self.temporary_user.files("the user")
        twine, uv = Twine(files, login).upload, Uv(files, login).publish
        findings = []
        for what, client, upload, path, taken in (
            ("the wheel", "twine", twine, release.wheel, True),
            ("the sdist", "uv publish", uv, release.sdist, True),
            ("the same wheel again", "uv publish", uv, release.wheel, True),
            ("other bytes as this wheel", "twine", twine, other.wheel, False),
            ("other bytes as this sdist", "uv publish", uv, other.sdist, False),
        ):
            with self._timed(f"{client}: {what}"):
                status, _ = upload([path])
            expected = "taken" if taken else "refused"
            seen = f"{'taken' if status == 200 else 'refused'} ({status})"
            # The index sends 400 to twine, like the public one, and 409 to others.
            findings.append(Finding(f"{client}: {what}", expected, seen, status in ({200} if taken else {400, 409})))
        until(self.temporary_user.versions, lambda versions: release.version in versions)
        return _proven("Published", findings)

    @_step
    def install(self) -> Table:
        """Install with pip and with uv into new environments, and import the installed version.

        Raises:
            ClientError: a client failed.
            VerificationError: another version was installed.
        """
        login, files = self.temporary_user.user, self.temporary_user.files("the user")
        findings = []
        for client, install in (("pip", Pip(files, login).install), ("uv", Uv(files, login).install)):
            folder = self.temporary_user.inside(f"environment-{client}")
            python = Uv(files, login).make_environment(folder)
            with self._timed(f"{client}: install"):
                result = install(self._release.requirement, python=python)
            result.checked(f"{client} could not install {self._release.requirement}")
            expected = "imported, this version"
            version = _imported(python, folder)
            seen = expected if version == self._release.version else f"imported, {version}"
            findings.append(Finding(f"{client}: install", expected, seen, seen == expected))
        return _proven("Installed", findings)

    @_step
    def compare(self) -> Table:
        """Compare the SHA-256 of each file: as built, on the page, and as downloaded.

        Raises:
            VerificationError: they differ.
        """
        findings = []
        with self._timed("HTTP: the page and both files"), self.temporary_user.http() as http:
            page = http.request("GET", f"simple/{PROJECT}/", headers={"Accept": JSON})
            listed = {file["filename"]: file for file in page.json()["files"]} if page.ok else {}
            for path in (self._release.wheel, self._release.sdist):
                name, built = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
                file = listed.get(name, {"url": name, "hashes": {}})
                response = http.request("GET", urljoin(page.url, file["url"]).removeprefix(http.url))
                says = file["hashes"].get("sha256", "nothing")
                sent = hashlib.sha256(response.content).hexdigest() if response.ok else str(response.status_code)
                same = built == says == sent
                seen = "one hash, three times" if same else f"built {built}, page {says}, download {sent}"
                kind = "the wheel" if path.suffix == ".whl" else "the sdist"
                findings.append(Finding(f"SHA-256 of {kind}", "one hash, three times", seen, same))
        return _proven("Built, listed and downloaded", findings)

    @_step
    def remove(self) -> Table:
        """Remove the release and the user, and check that they are gone.

        Raises:
            IndexRequestError: the index refused.
            VerificationError: something is left.
        """
        with self._timed("remove release and user"):
            release = self.temporary_user.remove_release()
            user = self.temporary_user.delete_user()
        status = until_equal(self.temporary_user.login_status, 401)
        self.temporary_user.end()
        findings = [
            Finding("the release", "removed", release, release == "removed"),
            Finding("the user", "deleted", user, user == "deleted"),
            Finding("a login as that user", "401", str(status), status == 401),
        ]
        return _proven("Removed", findings)

    def timings(self) -> Timings:
        """Wall-clock time of each step, in seconds."""
        return Timings("How long each step took", tuple(self._timings))

    @property
    def _release(self) -> TrialRelease:
        if self._built is None:
            raise RunbookError("nothing was built yet", todo="run the notebook from its start")
        return self._built

    @contextlib.contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._timings.append((step, time.perf_counter() - started))


def _imported(python: Path, folder: Path) -> str:
    """Version of this project that the interpreter of a new environment imports."""
    code = "import ops; print(ops.__version__, ops.__file__)"
    result = run_client("python", [python, "-I", "-c", code], environment=client_environment("", {}), cwd=folder)
    version, _, path = result.checked("the installed package could not be imported").output.strip().partition(" ")
    inside = Path(path).resolve().is_relative_to(folder.resolve())
    return version if inside else "from elsewhere"


def _proven(caption: str, findings: list[Finding]) -> Table:
    return proven(caption, findings, todo="read the log of the server; nothing of this test was left behind")


__all__ = ["SmokeTest", "preflight"]
