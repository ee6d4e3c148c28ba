"""Versions of the Modal app: deployment of this clone, its history, and rollback to an earlier version."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from ops.errors import PlanError, TargetError
from ops.revisions import checkout, commit_of, differs, is_changed
from ops.settings import LOWER_PROTECTION_VARIABLE, NONE, Hosting, IndexLimits, Settings
from ops.targets.modal_hosting import KEPT_OR_SAID, DeployedTags, HostingPlan, deployed_hosting
from ops.targets.modal_session import ask, command_line, exists, modal, say
from ops.targets.target import DeployedVersion
from ops.workspace import PROJECT_ROOT

DEPLOYMENT = Path("deployments") / "pypi_deploy.py"
SHIPPED = (
    "deployments",
    "ops/__init__.py",
    "ops/errors.py",
    "ops/polling.py",
    "ops/private_files.py",
    "ops/revisions.py",
    "ops/secret.py",
    "ops/settings.py",
    "ops/workspace.py",
    "ops/index",
    "ops/snapshots",
    "ops/targets",
)
"""The files of the clone that determine what runs in the containers."""
DEPLOY_SECONDS = 900.0
"""A first deployment builds the image, which takes some minutes."""
_VARIABLES = threading.Lock()


class AppVersions:
    """The versions of one app in one environment.

    Parameters:
        settings: the names of the index.
        environment: Modal's environment; empty for the workspace's default.
        root: the clone whose deployment file is deployed.
    """

    def __init__(self, settings: Settings, environment: str, *, root: Path = PROJECT_ROOT) -> None:
        self._settings = settings
        self._environment = environment
        self._root = root

    @property
    def file(self) -> Path:
        """The deployment file."""
        return self._root / DEPLOYMENT

    def version(self) -> int:
        """The number of the deployed version; 0 if none is."""
        found = self._lifecycle()
        return (found.version or 0) if found else 0

    def deployed_at(self) -> float:
        """Time of that deployment, in seconds since the epoch; 0 if unknown."""
        found = self._lifecycle()
        return found.deployed_at.timestamp() if found and found.deployed_at else 0.0

    def _lifecycle(self) -> modal.types.AppLifecycle | None:
        def look() -> modal.types.AppLifecycle | None:
            try:
                app = modal.App.lookup(self._settings.app_name, environment_name=self._environment or None)
                return app.info().lifecycle
            except modal.exception.NotFoundError:
                return None

        return ask("look up the app", look)

    def hosting(self, lower_protection: str = "") -> HostingPlan:
        """Hosting after a deployment from this process's variables."""
        return HostingPlan.of(self._settings, self._environment, os.environ, lower_protection)

    def deploy(self, tag: str = "", *, lower_protection: str = "", revision: str = "") -> None:
        """Deploy this clone, or a revision of it. Hosting settings that are not given stay.

        Modal leaves an unchanged app alone.

        Raises:
            ProtectionError: it would lower a protection that *lower_protection* does not name.
        """
        if not self.file.is_file():
            raise TargetError(
                f"there is no {DEPLOYMENT}",
                why=f"{self._root} is not a clone of this project",
                todo="run this from a clone, installed with: pip install -e .",
            )

        secret = self._settings.secret_name
        if not exists("look up the secret", lambda: self._secret().hydrate()):
            raise TargetError(
                f"there is no secret {secret!r} with the key {self._settings.secret_key}",
                why="the admin application takes its token from it",
                todo="run the notebook 01_provision, which creates the secret",
            )
        plan = self.hosting(lower_protection)
        plan.differences().require_allowed()
        if revision:
            self._deploy_commit(commit_of(self._root, revision), tag, plan.hosting, plan.limits, plan.lowered)
            return
        variables = self._all_variables(plan.hosting, plan.limits, plan.lowered)
        if self._environment:
            variables["MODAL_ENVIRONMENT"] = self._environment

        def run() -> None:
            with _variables(variables):
                try:
                    app = _module(self.file).app
                except SystemExit as refused:
                    raise TargetError("the deployment file refused to deploy", why=str(refused)) from None
                app.deploy(environment_name=self._environment or None, tag=tag)

        ask("deploy the app", run, seconds=DEPLOY_SECONDS)

    def _all_variables(self, hosting: Hosting, limits: IndexLimits, lowered: Collection[str] = ()) -> dict[str, str]:
        """Variables that tell a deployment file every setting."""
        lower = {LOWER_PROTECTION_VARIABLE: ",".join(sorted(lowered))}
        return self._settings.variables() | hosting.told_variables() | limits.variables() | lower

    def _secret(self) -> modal.Secret:
        return modal.Secret.from_name(
            self._settings.secret_name,
            environment_name=self._environment or None,
            required_keys=[self._settings.secret_key],
        )

    def rollover(self) -> None:
        """Replace the running containers with new ones of the same version, which read the current secrets."""
        command_line("replace the running containers", "app", "rollover", self._settings.app_name, *self._env())

    def history(self) -> Sequence[DeployedVersion]:
        """Every version, newest first."""
        return [release for release, _ in self._rows()]

    def rollback(self, version: str) -> None:
        """Deploy *version* again: by Modal if the plan includes that, else from the version's commit.

        Its hosting comes back with it, with a message for each difference. Protections and limits stay as they are
        today.
        """
        number = version.removeprefix("v")
        row = next((row for row in self._rows() if row[0].version == number), None)
        if row is None:
            known = ", ".join(release.version for release in self.history()) or "none"
            raise TargetError(f"there is no version {version!r} of the app", why=f"the versions are: {known}")
        now = deployed_hosting(self._settings, self._environment) or {}
        then = deployed_hosting(self._settings, self._environment, version=int(number)) or {}
        # Protections keep their current values, even if the restored version had none.
        kept = {name: now[name] for name in KEPT_OR_SAID if now.get(name)}
        hosting = Hosting(
            **{name: value for name, value in ((then or now) | kept).items() if Hosting.takes(name, value)}
        )
        for name, before in now.items():
            if before != (after := getattr(hosting, name)):
                say(f"hosting {name}: {before} -> {after}")
        lost = [name for name in kept if then.get(name) != kept[name]]
        tags = DeployedTags.of(self._settings, self._environment)
        if tags.limits() and int(number) < tags.since():
            lost.append("limits")
        if lost:
            say(f"version {number} had another {' and '.join(lost)}: deploying its commit with the current one")
            self._roll_back_to_commit(number, row[1], hosting, f"Modal's rollback would change {' and '.join(lost)}")
            return
        try:
            command_line("roll the app back", "app", "rollback", self._settings.app_name, f"v{number}", *self._env())
        except PlanError as refused:
            say(f"Modal's rollback is not part of this workspace's plan; deploying the commit of version {number}")
            self._roll_back_to_commit(number, row[1], hosting, refused.why)

    def _roll_back_to_commit(self, number: str, commit: str, hosting: Hosting, refused: str) -> None:
        if not commit or commit.endswith("*"):
            lacking = "it was deployed from a clone with uncommitted changes" if commit else "its commit is unknown"
            raise TargetError(
                f"version {number} cannot be deployed again",
                why=f"{refused}; and {lacking}",
                todo="check out the commit that you want and run the notebook 01_provision",
            ) from None
        limits = IndexLimits(**DeployedTags.of(self._settings, self._environment).limits())
        self._deploy_commit(commit, f"rollback-to-{number}", hosting, limits)

    def _deploy_commit(
        self, commit: str, tag: str, hosting: Hosting, limits: IndexLimits, lowered: Collection[str] = ()
    ) -> None:
        tags = DeployedTags.of(self._settings, self._environment)
        with checkout(self._root, commit) as clone:
            # An earlier deployment file keeps nothing by itself.
            command_line(
                f"deploy the commit {commit[:12]}",
                "deploy",
                str(clone / DEPLOYMENT),
                *(["--tag", tag] if tag else []),
                *self._env(),
                environment=_known(self._all_variables(hosting, limits, lowered), clone),
                folder=clone,  # whose commit Modal records, so that this version can be restored as well
                seconds=DEPLOY_SECONDS,
            )

        def tell() -> None:
            app = modal.App.lookup(self._settings.app_name, environment_name=self._environment or None)
            app.set_tags(tags.with_limits(limits))

        # An earlier deployment file sets none.
        ask("keep the tags of the app", tell)

    def _rows(self) -> list[tuple[DeployedVersion, str]]:
        if not self.version():
            return []
        printed = command_line(
            "show the history of the app", "app", "history", self._settings.app_name, "--json", *self._env()
        )
        rows = []
        for entry in json.loads(printed):
            commit = entry.get("commit") or ""
            by = entry.get("deployed_by") or ""
            detail = ", ".join([*([f"commit {commit.rstrip('*')}"] if commit else []), *([f"by {by}"] if by else [])])
            when = datetime.fromisoformat(entry["time_deployed"]).astimezone(UTC).isoformat(timespec="seconds")
            release = DeployedVersion(
                entry["version"].removeprefix("v"), when, entry.get("tag") or "", detail, commit.rstrip("*")
            )
            rows.append((release, commit))
        return rows

    def outdated(self, revision: str = "") -> str:
        """The difference between the deployed code and this clone's, as text; empty if there is none, or it is unknown.

        Compares the commit recorded by Modal with the shipped files here. For two clones with
        uncommitted changes the difference is unknown.

        Parameters:
            revision: compared instead of the files here; an unknown commit then counts as different.
        """
        wanted = commit_of(self._root, revision) if revision else ""
        rows = self._rows()
        commit = rows[0][1] if rows else ""
        if not commit:
            return "runs the code of an unknown commit" if rows and wanted else ""
        if commit.endswith("*"):  # Modal's mark for any uncommitted change, even in a file that is not shipped
            same = not wanted and self._is_dirty()
            return "" if same else f"runs the code of {commit[:12]} with changes that were not committed"
        differs = self._differs(commit, wanted)
        unknown = ", which this clone does not have" if differs is None else ""
        return "" if differs is False else f"runs the code of the commit {commit[:12]}{unknown}"

    def _is_dirty(self) -> bool:
        """True if Modal would mark a deployment of this clone as having uncommitted changes."""
        return bool(is_changed(self._root, untracked=True))

    def _differs(self, commit: str, wanted: str = "") -> bool | None:
        """True if the shipped files of *wanted*, or those here, differ from those of *commit*; None if unknown."""
        return differs(self._root, [commit, wanted] if wanted else [commit], SHIPPED)

    def _env(self) -> list[str]:
        return ["--env", self._environment] if self._environment else []


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    with _VARIABLES:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _module(path: Path) -> ModuleType:
    """The deployment file as a module with its own name, as imported by the container; a new one each time."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # noqa: S101 - for the type checker
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    before = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def _known(variables: Mapping[str, str], clone: Path) -> dict[str, str]:
    """Variables that *clone* has a setting for: an earlier deployment file refuses those added since."""
    settings = (clone / "ops" / "settings.py").read_text(encoding="utf-8")
    fields = set(re.findall(r"^    (\w+): ", settings, re.MULTILINE))
    known = {name: value for name, value in variables.items() if name.removeprefix("PYPI_").lower() in fields}
    if LOWER_PROTECTION_VARIABLE in settings:
        return known | {LOWER_PROTECTION_VARIABLE: variables[LOWER_PROTECTION_VARIABLE]}
    # A version without protections does not know the value for none either.
    return {name: "" if value == NONE else value for name, value in known.items()}
