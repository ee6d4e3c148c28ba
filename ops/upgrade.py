"""Upgrade: deploys a new version, tests it as a team would use it, and rolls back if that fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from ops import provision, rollback
from ops.errors import ParameterError, RunbookError, VerificationError
from ops.plan import DRY_RUN, Change, Outcome, Plan, require_approved
from ops.preflight import preflight_of_index as preflight
from ops.private_files import replace_file
from ops.revisions import commit_of, subjects
from ops.smoke import SmokeTest
from ops.table import Table
from ops.targets import UPGRADE, DeployedVersion, Target
from ops.temporary_user import remove_leftovers
from ops.workspace import PROJECT_ROOT

STORAGE = (
    "ops/index/storage",
    "ops/index/packages/annotations.py",
    "ops/index/packages/file_info.py",
    "ops/index/packages/sidecars.py",
    "ops/index/auth",
    "ops/index/activity.py",
    "ops/index/http/stored_pages.py",
)
"""The code that writes to the volumes."""

MOST_COMMITS = 50


def smoke_test(target: Target) -> None:
    """Publish, install and remove a release, like the notebook 03_smoke_test.

    Raises:
        RunbookError: a step failed; the test has cleaned up.
    """
    test = SmokeTest(target)
    for step in (test.start, test.refusals, test.build, test.publish, test.install, test.compare, test.remove):
        step()


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """A version to deploy, as described by the notebook's parameters.

    Parameters:
        target: the target of the index.
        commit: of the clone; empty for the clone as it is.
        dry_run: True to change nothing.
        test: raises if the new version does not work.
    """

    target: Target
    commit: str = ""
    dry_run: bool = False
    test: Callable[[Target], None] = smoke_test


def describe(target: Target, *, revision: str = "", dry_run: bool = False) -> Upgrade:
    """Look the revision up in the clone. Does not contact the index.

    Raises:
        ParameterError: there is no such revision.
    """
    if not revision.isprintable() or revision != revision.strip():
        raise ParameterError(
            f"the parameter revision cannot be {revision!r}",
            why="a revision is a commit, a branch or a tag",
            todo="use one of them, or leave it empty for the clone as it is",
        )
    return Upgrade(target=target, commit=commit_of(PROJECT_ROOT, revision) if revision else "", dry_run=dry_run)


def changes(upgrade: Upgrade) -> Table:
    """Commits between the deployed version and the new one, and which of them change what is written to the volumes.

    Raises:
        TargetError: the platform did not respond.
    """
    header = ("commit", "change", "touches what is on the volumes")
    releases = upgrade.target.history()
    deployed = releases[0].commit if releases else ""
    found = subjects(PROJECT_ROOT, deployed, upgrade.commit or "HEAD", "ops/index", "ops/targets", "deployments")
    stored = {commit for commit, _ in subjects(PROJECT_ROOT, deployed, upgrade.commit or "HEAD", *STORAGE)}
    rows = [(commit, subject, "yes" if commit in stored else "no") for commit, subject in found[:MOST_COMMITS]]
    more = f"And {len(found) - MOST_COMMITS} older ones." if len(found) > MOST_COMMITS else ""
    known = "not known" if upgrade.target.outdated(revision=upgrade.commit) else "it is this version"
    return Table.of("Changes since the deployed version", header, rows or [("none", known, "no")], note=more)


def plan(upgrade: Upgrade) -> Plan:
    """Compare the deployed version with the new one. Reads only.

    Raises:
        NotDeployedError: there is no index.
    """
    target = upgrade.target
    deployment = target.state().require(target.place)
    outdated, before, untested = target.outdated(revision=upgrade.commit), _current(target), _untested(target)
    wanted = f"deploy the commit {upgrade.commit[:12]}" if upgrade.commit else "deploy this clone"
    now = f"version {before.version}" if before else "a version without a history"
    listed = [Change("server", f"{now}; {outdated}" if outdated else now, wanted if outdated else "")]
    if outdated or untested is not None:
        version = _version_before(before, untested)
        back = f"go back to version {version} if it fails" if version else "there is no version to go back to"
        listed.append(Change("smoke test", "not run yet", f"run it; {back}", "±"))
        listed += provision.hosting_changes(target)
    return Plan(_caption(upgrade), tuple(listed), target.place, deployment.url, DRY_RUN if upgrade.dry_run else "")


def _caption(upgrade: Upgrade) -> str:
    return f"Upgrade the target {upgrade.target.place}"


def _current(target: Target) -> DeployedVersion | None:
    return next(iter(target.history()), None)


def _untested(target: Target) -> str | None:
    """The version before an untested upgrade, or empty if there was none; None if there is no untested upgrade."""
    try:
        return target.unfinished_upgrade.read_text("utf-8")
    except FileNotFoundError:
        return None


def _version_before(before: DeployedVersion | None, untested: str | None) -> str:
    """The version to go back to; empty if there is none."""
    if untested is not None:
        return untested
    return before.version if before else ""


def apply(upgrade: Upgrade) -> Outcome:
    """Deploy the version and test it; if either fails, deploy the previous one again.

    Packages, users and secrets do not change.

    Raises:
        ApprovalError: another plan was approved for this run; nothing was changed.
        BusyError: another run holds the target for too long.
        ProtectionError: it would lower a protection that ``PYPI_LOWER_PROTECTION`` does not name; nothing was changed.
        VerificationError: the new version failed; the message says which version runs now.
    """
    target, caption = upgrade.target, _caption(upgrade)
    if upgrade.dry_run:
        return Outcome(caption, (), DRY_RUN, target.place)
    with target.lock():
        require_approved(lambda: plan(upgrade))
        before, untested = _current(target), _untested(target)
        if untested is None and not target.outdated(revision=upgrade.commit):
            note = f"Version {before.version if before else ''} is already this version; nothing was changed."
            return Outcome(caption, (), note, target.place)
        hosting = target.hosting()
        if hosting is not None:
            hosting.require_allowed()
        version = _version_before(before, untested)
        # Kept until the test has passed, so that a run that is killed is completed by the next one.
        replace_file(target.unfinished_upgrade, version)
        try:
            deployment = target.deploy(tag=UPGRADE, revision=upgrade.commit)
            upgrade.test(target)
        except RunbookError as error:
            raise _after_going_back(target, version, error) from error
        target.unfinished_upgrade.unlink()
        now = _current(target)
    replaced = version or "another"
    done = (
        ("server", f"version {now.version if now else ''} deployed, in place of {replaced}"),
        ("smoke test", "passed; nothing of it is left"),
        *((f"hosting {change.name}", change.arrow) for change in (hosting.changes if hosting else ())),
    )
    return Outcome(caption, done, f"The index responds at {deployment.url}", target.place, deployment.url)


def _after_going_back(target: Target, before: str, error: RunbookError) -> VerificationError:
    """Roll back, and return an error that says what failed and which version runs now."""
    why = "; ".join(part for part in (error.what, error.why) if part)
    if not before:
        target.unfinished_upgrade.unlink()
        return VerificationError(
            "the new version failed, and there is none to roll back to",
            why=why,
            todo="check out the commit that worked and run the notebook 01_provision",
        )
    try:
        target.rollback(before)
        provision.verify(target)
        with contextlib.suppress(RunbookError):  # otherwise the next smoke test removes them
            remove_leftovers(target)
        target.unfinished_upgrade.unlink()
    except RunbookError as second:
        return VerificationError(
            f"the new version failed, and version {before} could not be deployed again",
            why=f"{why}; then: {second.what}; {second.why}",
            todo=f"run: runbook rollback --target {target.name} --to {before}",
        )
    return VerificationError(
        f"the new version failed and was rolled back: version {before} runs again",
        why=why,
        todo="fix the new version; the server's log has its output",
    )


def verify(upgrade: Upgrade) -> Table:
    """Prove from outside that the index responds and refuses requests without valid credentials.

    Raises:
        VerificationError: it responds incorrectly.
    """
    return provision.verify(upgrade.target, dry_run=upgrade.dry_run)


history = rollback.history

__all__ = ["Upgrade", "apply", "changes", "describe", "history", "plan", "preflight", "smoke_test", "verify"]
