"""Rollback: deploys an earlier version of the index again."""

from __future__ import annotations

from collections.abc import Sequence

from ops.errors import TargetError
from ops.plan import Outcome
from ops.table import Table
from ops.targets import DeployedVersion, Target


def history(target: Target) -> Table:
    """Every version that was deployed, newest first. Reads only.

    Raises:
        TargetError: the platform did not respond.
    """
    rows = [(release.version, release.when, release.tag, release.detail) for release in target.history()]
    return Table.of(f"Deployments on the target {target.place}", ("version", "when", "tag", "detail"), rows)


def current(target: Target) -> str:
    """The deployed version; empty if there is none. Reads only.

    Raises:
        TargetError: the platform did not respond.
    """
    releases = target.history()
    return releases[0].version if releases else ""


def roll_back(target: Target, *, version: str | None = None) -> Outcome:
    """Deploy an earlier version again, and wait until the index responds. Packages, users and secrets stay.

    Parameters:
        target: the target.
        version: the version to deploy; None for the one before the current one. Empty, as :func:`current` returns it,
            if there was none.

    Raises:
        TargetError: there is no such version, or the target refused or failed.
        BusyError: another run holds the target for too long.
    """
    caption = f"Roll back the target {target.place}"
    with target.lock():
        releases = target.history()
        wanted = _version_before(target, releases) if version is None else version.removeprefix("v")
        if not wanted:
            raise _first(target)
        if releases and releases[0].version == wanted:
            return Outcome(caption, (), f"Version {wanted} is already deployed; nothing was changed.")
        target.unfinished_upgrade.unlink(missing_ok=True)  # the next upgrade goes back to this version
        deployment = target.rollback(wanted)
    done = ("server", f"version {wanted} deployed again, in place of {releases[0].version if releases else 'none'}")
    return Outcome(caption, (done,), f"The index responds at {deployment.url}")


def _version_before(target: Target, releases: Sequence[DeployedVersion]) -> str:
    if not releases:
        raise TargetError(
            f"the target {target.place!r} keeps no earlier version",
            why="nothing is deployed there, or it runs the code of this clone",
            todo="check out the commit that you want and run the notebook 01_provision",
        )
    return releases[1].version if len(releases) > 1 else ""


def _first(target: Target) -> TargetError:
    return TargetError(
        f"there is no version to roll back to on the target {target.place!r}",
        why="no other version was deployed before",
        todo="fix what fails and run the notebook 01_provision, or take the index down with 99_tear_down",
    )
