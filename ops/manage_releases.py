"""Management of releases: yanks, statuses of projects, deletion, and the retention of pre-releases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from packaging.utils import InvalidName, canonicalize_name, canonicalize_version

from ops.admin_api import AdminApi, response_message
from ops.errors import ConfirmationError, IndexRequestError, ParameterError, RunbookError
from ops.http_client import JSON, HttpClient
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, proven, require_approved
from ops.polling import until_equal
from ops.preflight import preflight_of_index as preflight
from ops.release_list import PublishedRelease, ReleaseList
from ops.table import Table
from ops.targets import Target
from ops.targets.index_files import distribution
from ops.targets.index_rules import checked_user_name
from ops.temporary_user import TemporaryUser

ACTIONS = ("yank", "unyank", "status", "reserve", "delete", "prune")
STATUSES = ("active", "archived", "deprecated", "quarantined")
EVERY_PROJECT = "every project"
"""Value of `confirm` that prunes all of them."""


@dataclass(frozen=True, kw_only=True)
class ReleaseChange:
    """A change of releases, as the parameters of the notebook describe it.

    Parameters:
        target: the target of the index.
        action: one of :data:`ACTIONS`; empty to change nothing.
        project: normalized; empty for all, if the action allows that.
        version: of the release.
        status: of the project.
        owners: of the reserved prefix *project*.
        reason: for people.
        keep: pre-releases of each project that are never pruned: the newest.
        days: pre-releases that were uploaded or downloaded since are never pruned.
        confirm: names what is deleted.
        dry_run: True to change nothing.
    """

    target: Target
    action: str = ""
    project: str = ""
    version: str = ""
    status: str = ""
    owners: tuple[str, ...] = ()
    reason: str = ""
    keep: int = 5
    days: int = 90
    confirm: str = ""
    dry_run: bool = False

    @property
    def confirm_value(self) -> str:
        """Value that `confirm` needs; empty if the change can be undone."""
        if self.action == "delete":
            return f"{self.project} {self.version}"
        return (self.project or EVERY_PROJECT) if self.action == "prune" else ""

    @property
    def held(self) -> str:
        """Reason why nothing is changed; empty if it is."""
        if not self.action:
            return "Nothing is changed, since the parameter action is empty."
        if self.dry_run:
            return DRY_RUN
        if self.confirm_value and not self.confirm:
            return f"Nothing is deleted, since the parameter confirm is empty; {self.confirm_value!r} would delete it."
        return ""


def describe(
    target: Target,
    *,
    action: str = "",
    project: str = "",
    version: str = "",
    status: str = "",
    owners: str = "",
    reason: str = "",
    keep: int = 5,
    older_than_days: int = 90,
    confirm: str = "",
    dry_run: bool = False,
) -> ReleaseChange:
    """Check the parameters of the notebook. Does not contact the index.

    Raises:
        ParameterError: a parameter is invalid, or missing for the action.
        ConfirmationError: *confirm* names something else.
    """
    if action and action not in ACTIONS:
        raise _invalid("action", action, f"it must be one of {', '.join(ACTIONS)}")
    if (action in {"yank", "unyank", "status", "reserve", "delete"}) and not project:
        raise _invalid("project", project, f"{action} needs the name of a project")
    if (action in {"yank", "unyank", "delete"}) != bool(version):
        raise _invalid("version", version, "yank, unyank and delete need a version, other actions have none")
    if (status or action == "status") and (action != "status" or status not in STATUSES):
        raise _invalid("status", status, f"with action=status it must be one of {', '.join(STATUSES)}")
    if owners and action != "reserve":
        raise _invalid("owners", owners, "only action=reserve has owners")
    if not reason.isprintable() or len(reason) > 1000:
        raise _invalid("reason", reason[:40], "it must be one line of at most 1000 characters")
    if keep < 0 or older_than_days < 0:
        raise _invalid("keep" if keep < 0 else "older_than_days", min(keep, older_than_days), "it must be 0 or more")
    try:
        name = canonicalize_name(project, validate=True) if project else ""
    except InvalidName:
        raise _invalid("project", project, "no project can have this name (PEP 508)") from None
    described = ReleaseChange(
        target=target,
        action=action,
        project=name,
        version=version,
        status=status,
        owners=tuple(sorted({checked_user_name(name.strip()) for name in owners.split(",") if name.strip()})),
        reason=" ".join(reason.split()),
        keep=keep,
        days=older_than_days,
        confirm=confirm,
        dry_run=dry_run,
    )
    if confirm and confirm != described.confirm_value:
        why = f"the parameter `confirm` says {confirm!r}, but this would delete {described.confirm_value!r}"
        raise ConfirmationError(
            "nothing was changed", why=why, todo=f"give confirm={described.confirm_value!r} if you mean it"
        )
    return described


def _invalid(name: str, value: object, why: str) -> ParameterError:
    return ParameterError(f"the parameter {name} cannot be {value!r}", why=why, todo=f"correct {name}, or omit it")


def listing(change: ReleaseChange) -> Table:
    """The releases of the project, or of all. Reads only.

    Raises:
        TargetError: the volume cannot be read.
    """
    found = ReleaseList.of(change.target)
    chosen = [release for release in found.releases if change.project in {"", release.project}]
    rows = [
        (
            release.project,
            release.version,
            f"{len(release.files)} files, {release.size:,} bytes",
            f"{release.uploaded:%Y-%m-%d %H:%M} UTC",
            _downloaded(release),
            release.state,
            _status(found, release.project),
        )
        for release in chosen
    ]
    header = ("project", "version", "size", "uploaded", "last download", "release", "project is")
    since = f"{found.counted_since:%Y-%m-%d %H:%M} UTC" if found.counted_since and rows else ""
    note = f"Downloads are counted since {since}." if since else "No download has been counted yet." if rows else ""
    return Table.of(f"Releases on the target {change.target.place}", header, rows, note=note)


def _downloaded(release: PublishedRelease) -> str:
    return f"{release.downloaded:%Y-%m-%d %H:%M} UTC" if release.downloaded else "not known"


def _status(found: ReleaseList, project: str) -> str:
    status, reason = found.status(project)
    return f"{status}: {reason}" if reason else status


def plan(change: ReleaseChange) -> Plan:
    """Compare the releases with what is wanted. Reads only.

    Raises:
        RunbookError: there is no such project or release.
    """
    found = ReleaseList.of(change.target)
    return Plan(_caption(change), tuple(_changes(change, found)), change.target.place, held=change.held)


def _caption(change: ReleaseChange) -> str:
    what = " ".join(part for part in (change.action, change.project, change.version) if part)
    return f"Manage releases on the target {change.target.place}: {what or 'nothing to do'}"


def _changes(change: ReleaseChange, found: ReleaseList) -> Iterator[Change]:
    if change.action == "status":
        _require_project(change, found)
        wanted = f"{change.status}: {change.reason}" if change.reason else change.status
        now = _status(found, change.project)
        yield Change(f"project {change.project}", now, "" if now == wanted else f"set {wanted}")
    elif change.action == "reserve":
        owners = _reserved(change)
        then = f"reserve for {', '.join(change.owners)}" if change.owners else "free it"
        now = "free" if owners is None else f"reserved for {', '.join(owners) or 'nobody'}"
        done = owners == (change.owners or None)
        yield Change(f"names {change.project} and {change.project}-…", now, "" if done else then)
    elif change.action in {"yank", "unyank"}:
        release = _release(change, found)
        yield Change(f"release {release.name}", release.state, _yank(change, release))
    elif change.action == "delete":
        for release in _named(change, found):
            now = f"{len(release.files)} files, {release.size:,} bytes, last download {_downloaded(release)}"
            yield Change(f"release {release.name}", now, "delete; its file names stay used", "-")
    elif change.action == "prune":
        for release, kept in _pruned(change, found):
            now = f"uploaded {release.uploaded:%Y-%m-%d %H:%M} UTC, last download {_downloaded(release)}"
            yield Change(f"release {release.name}", f"{now}; {kept}" if kept else now, "" if kept else "delete", "-")


def _reserved(change: ReleaseChange) -> tuple[str, ...] | None:
    """The owners of the prefix now, none if they were removed; None if it is free."""
    _, admin = AdminApi.of(change.target)
    with admin:
        return admin.reservations().get(change.project)


def _yank(change: ReleaseChange, release: PublishedRelease) -> str:
    if change.action == "unyank":
        return "offer it again" if release.yanks else ""
    reasons = [release.yanks.get(path) for path in release.files]
    return "" if reasons == [change.reason] * len(reasons) else f"yank{f': {change.reason}' if change.reason else ''}"


def _require_project(change: ReleaseChange, found: ReleaseList) -> None:
    if not found.of_project(change.project):
        raise RunbookError(
            f"there is no project {change.project!r}",
            why=f"the index has {', '.join(sorted({release.project for release in found.releases})) or 'none'}"[:500],
            todo="correct the parameter `project`",
        )


def _release(change: ReleaseChange, found: ReleaseList) -> PublishedRelease:
    _require_project(change, found)
    releases = found.of_project(change.project)
    chosen = next((release for release in releases if _same(release.version, change.version)), None)
    if chosen is None:
        raise RunbookError(
            f"{change.project!r} has no release {change.version!r}",
            why=f"it has {', '.join(release.version for release in releases)}"[:500],
            todo="correct the parameter `version`",
        )
    return chosen


def _named(change: ReleaseChange, found: ReleaseList) -> list[PublishedRelease]:
    """The release to delete; none if it is gone: a second run has nothing to do."""
    releases = found.of_project(change.project)
    return [release for release in releases if _same(release.version, change.version)]


def _pruned(change: ReleaseChange, found: ReleaseList) -> Iterator[tuple[PublishedRelease, str]]:
    """Each pre-release, with the reason why it is kept or an empty one."""
    now = datetime.now(UTC)
    counted = found.counted_since
    for project in sorted({release.project for release in found.releases if change.project in {"", release.project}}):
        every = found.of_project(project)
        only = all(release.is_prerelease for release in every)
        for number, release in enumerate(release for release in every if release.is_prerelease):
            kept = ""
            if number < change.keep:
                kept = f"kept: among the newest {change.keep}"
            elif only and release is every[0]:
                kept = "kept: the newest of a project that has no other"
            elif now - release.uploaded < timedelta(days=change.days):
                kept = f"kept: uploaded in the last {change.days} days"
            elif release.downloaded and now - release.downloaded < timedelta(days=change.days):
                kept = f"kept: downloaded in the last {change.days} days"
            elif change.days and (counted is None or now - counted < timedelta(days=change.days)):
                kept = f"kept: downloads are counted for less than {change.days} days"
            yield release, kept


def apply(change: ReleaseChange) -> Outcome:
    """Make the planned changes through the index, as a temporary admin whose name is in the audit log.

    Raises:
        RunbookError: there is no such project or release.
        ApprovalError: another plan was approved for this run; nothing was changed.
        IndexRequestError: the index refused.
    """
    if change.held:
        return Outcome(_caption(change), (), change.held, change.target.place)
    with change.target.lock():
        require_approved(lambda: plan(change))
        found = ReleaseList.of(change.target)
        pending = [each for each in _changes(change, found) if each.then]
        if not pending:
            return Outcome(_caption(change), (), "Everything was in place already.", change.target.place)
        if change.action == "reserve":
            _, admin = AdminApi.of(change.target)
            with admin:
                admin.reserve(change.project, change.owners)
            return Outcome(
                _caption(change), tuple((each.thing, each.then) for each in pending), "", change.target.place
            )
        with _operator(change) as index:
            for request in _requests(change, found):
                _send(index, *request)
    return Outcome(_caption(change), tuple((each.thing, each.then) for each in pending), "", change.target.place)


def _requests(change: ReleaseChange, found: ReleaseList) -> Iterator[tuple[str, dict[str, str]]]:
    """Path and fields of each request."""
    if change.action in {"delete", "prune"}:
        gone = (
            _named(change, found)
            if change.action == "delete"
            else [release for release, kept in _pruned(change, found) if not kept]
        )
        for release in gone:
            yield "", {":action": "remove_pkg", "name": release.project, "version": release.version}
        return
    fields = {"status": change.status} if change.action == "status" else {"version": _release(change, found).version}
    if change.reason and change.action != "unyank":
        fields["reason"] = change.reason
    yield f"projects/{change.project}/{change.action}", fields


def _send(index: HttpClient, path: str, fields: dict[str, str]) -> None:
    response = index.request("POST", path, json=fields) if path else index.request("POST", "", data=fields)
    if not response.ok:
        raise IndexRequestError(
            f"{' '.join(fields.values())} was refused",
            status=response.status_code,
            why=response_message(response),
            todo="fix that and run this notebook again",
        )


@contextmanager
def _operator(change: ReleaseChange) -> Iterator[HttpClient]:
    """The index as a temporary admin, who is removed at the end."""
    user = TemporaryUser(change.target, prefix="operator")
    try:
        user.start()
        with user.http() as index:
            yield index
    finally:
        user.end()


def verify(change: ReleaseChange, outcome: Outcome) -> Table:
    """Check the project's page as seen by an installer.

    Parameters:
        change: the requested change.
        outcome: of :func:`apply`.

    Raises:
        VerificationError: the page does not show the change.
    """
    if not outcome.changed:
        return Table.of("Seen from outside", ("what", "seen"), [("every release", "left as it was")])
    if change.action == "reserve":
        owners, wanted = _reserved(change), change.owners or None
        seen, expected = ("nobody" if names is None else ", ".join(names) for names in (owners, wanted))
        finding = Finding(f"owners of {change.project}", expected, seen, owners == wanted)
        return proven("As the index has it", [finding], todo="run this notebook again")
    with _operator(change) as index:
        findings = [_finding(change, index, thing) for thing, _ in outcome.done]
    return proven("Seen from outside", findings, todo="run this notebook again")


def _finding(change: ReleaseChange, index: HttpClient, thing: str) -> Finding:
    project, _, version = thing.partition(" ")[2].partition(" ")
    wanted = {"status": change.status, "yank": "yanked", "unyank": "offered"}.get(change.action, "gone")
    seen = until_equal(lambda: _seen(change, index, project, version), wanted)
    return Finding(thing, wanted, seen, seen == wanted)


def _seen(change: ReleaseChange, index: HttpClient, project: str, version: str) -> str:
    response = index.request("GET", f"simple/{project}/", headers={"Accept": JSON})
    page = response.json() if response.ok else {}
    if change.action == "status":
        return str(page.get("project-status", {}).get("status", "active"))
    files = [file for file in page.get("files", ()) if _of_version(file["filename"], project, version)]
    if not files:
        return "gone"
    return "yanked" if all(file.get("yanked", False) is not False for file in files) else "offered"


def _same(one: str, other: str) -> bool:
    return canonicalize_version(one) == canonicalize_version(other)


def _of_version(filename: str, project: str, version: str) -> bool:
    found = distribution(filename)
    return found is not None and found.project == project and _same(found.version, version)


__all__ = ["ReleaseChange", "apply", "describe", "listing", "plan", "preflight", "verify"]
