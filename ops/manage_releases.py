"""Management of releases: yanks, statuses of projects, deletion, and the retention of pre-releases."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from packaging.utils import InvalidName, canonicalize_name, canonicalize_version

from ops.admin_api import AdminApi, response_message
from ops.clients import Twine
from ops.errors import ConfirmationError, IndexRequestError, ParameterError, RunbookError
from ops.http_client import JSON, HttpClient
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, proven, require_approved
from ops.polling import until_equal
from ops.preflight import preflight_of_index as preflight
from ops.release_list import PublishedRelease, ReleaseList
from ops.table import Table, counted
from ops.targets import Target
from ops.targets.index_files import distribution, reserved_names
from ops.targets.index_rules import checked_user_name
from ops.temporary_user import TemporaryUser
from ops.test_release import write_refused_wheel

ACTIONS = ("yank", "unyank", "status", "reserve", "unreserve", "delete", "prune")
_OF_PREFIXES = {"reserve", "unreserve"}
STATUSES = ("active", "archived", "deprecated", "quarantined")
_MOST_DAYS = 36_500
_PAST = {
    "yank": "yanked",
    "offer": "offered",
    "set": "set to",
    "reserve": "reserved",
    "free": "freed",
    "delete": "deleted",
}
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
            return f'Nothing is deleted until the parameter confirm is "{self.confirm_value}".'
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
    if action not in {"", "prune"} and not project:
        raise _invalid("project", project, f"{action} needs the name of a project")
    if (action in {"yank", "unyank", "delete"}) != bool(version):
        raise _invalid("version", version, "yank, unyank and delete need a version, other actions have none")
    if (status or action == "status") and (action != "status" or status not in STATUSES):
        raise _invalid("status", status, f"with action=status it must be one of {', '.join(STATUSES)}")
    owning = tuple(sorted({checked_user_name(name.strip()) for name in owners.split(",") if name.strip()}))
    if (action == "reserve") != bool(owning):
        raise _invalid("owners", owners, "reserve needs the users who may use the names, other actions have none")
    if reason and action not in {"yank", "status"}:
        raise _invalid("reason", reason[:40], "only yank and status show a reason")
    if confirm and action not in {"delete", "prune"}:
        raise _invalid("confirm", confirm, "only delete and prune are confirmed")
    if not reason.isprintable() or len(reason) > 1000:
        raise _invalid("reason", reason[:40], "it must be one line of at most 1000 characters")
    if keep < 0:
        raise _invalid("keep", keep, "it must be 0 or more")
    if not 0 <= older_than_days <= _MOST_DAYS:
        raise _invalid("older_than_days", older_than_days, f"it must be 0 to {_MOST_DAYS:,}")
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
        owners=owning,
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
    todo = f"correct {name}, or omit it" if value != "" else f"give the parameter {name}"
    return ParameterError(f"the parameter {name} cannot be {value!r}", why=why, todo=todo)


def listing(change: ReleaseChange) -> Table:
    """The releases of the project, or of all. Reads only.

    Raises:
        TargetError: the volume cannot be read.
    """
    found = ReleaseList.of(change.target)
    chosen = [release for release in found.releases if _is_about(change, release.project)]
    rows = [
        (
            release.project,
            release.version,
            _size(release),
            f"{release.uploaded:%Y-%m-%d %H:%M} UTC",
            _downloaded(release),
            release.state,
            _status(found, release.project),
        )
        for release in chosen
    ]
    header = ("project", "version", "size", "uploaded", "last download", "release", "project is")
    note = "No download has been counted yet."
    if found.counted_since:
        note = f"Downloads have been counted since {found.counted_since:%Y-%m-%d %H:%M} UTC."
    which = f"of {reserved_names(change.project)} " if change.action in _OF_PREFIXES else ""
    none = [("none", *[""] * (len(header) - 1))]
    return Table.of(
        f"Releases {which}on the target {change.target.place}", header, rows or none, note=note if rows else ""
    )


def _is_about(change: ReleaseChange, project: str) -> bool:
    """True for the project, all of them if none is named, or those under the prefix."""
    if change.action in _OF_PREFIXES:
        return f"{project}-".startswith(f"{change.project}-")
    return change.project in {"", project}


def reserved(change: ReleaseChange) -> Table:
    """The reserved prefixes of names, with their owners. Reads only.

    Raises:
        IndexRequestError: the request was refused, or got no response.
    """
    _, admin = AdminApi.of(change.target)
    with admin:
        rows = [(reserved_names(prefix), _listed(owners)) for prefix, owners in admin.reservations().items()]
    return Table.of("Reserved names", ("names", "only these users create projects"), rows or [("none", "")])


def _listed(owners: tuple[str, ...]) -> str:
    return ", ".join(owners) or "nobody, since the owners are gone"


def _size(release: PublishedRelease) -> str:
    return f"{counted(len(release.files), 'file')}, {counted(release.size, 'byte')}"


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
    elif change.action in _OF_PREFIXES:
        yield _of_prefix(change)
        for project in sorted({release.project for release in found.releases}):
            if change.owners and _is_about(change, project):
                yield Change(f"project {project}", "exists, and stays open to its publishers")
    elif change.action in {"yank", "unyank"}:
        release = _release(change, found)
        yield Change(f"release {release.name}", release.state, _yank(change, release))
    elif change.action == "delete":
        if not _named(change, found):
            yield Change(f"release {change.project} {change.version}", "not on the index")
        for release in _named(change, found):
            now = f"{_size(release)}, last download {_downloaded(release)}"
            yield Change(f"release {release.name}", now, "delete; its file names stay used", "-")
    elif change.action == "prune":
        if change.project:
            _require_project(change, found)
        for release, kept in _pruned(change, found):
            now = f"uploaded {release.uploaded:%Y-%m-%d %H:%M} UTC, last download {_downloaded(release)}"
            yield Change(f"release {release.name}", f"{now}; {kept}" if kept else now, "" if kept else "delete", "-")


def _of_prefix(change: ReleaseChange) -> Change:
    _, admin = AdminApi.of(change.target)
    with admin:
        owners = admin.reservations().get(change.project)
        unknown = sorted(set(change.owners) - {user.username for user in admin.users()})
    now = "free" if owners is None else f"reserved for {_listed(owners)}"
    then = f"reserve for {', '.join(change.owners)}" if change.owners else "free for everyone"
    if owners == (change.owners or None):
        then = ""
    refused = f"there is no user {unknown[0]!r}: correct owners, or onboard the user first" if unknown else ""
    return Change(f"names {reserved_names(change.project)}", now, then, refused=refused)


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
                kept = f"kept: downloads have been counted for less than {change.days} days"
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
        if change.action in _OF_PREFIXES:
            _, admin = AdminApi.of(change.target)
            with admin:
                admin.reserve(change.project, change.owners)
        else:
            with _operator(change) as user, user.http() as index:
                for request in _requests(change, found):
                    _send(index, *request)
    return Outcome(_caption(change), tuple((each.thing, _done(each)) for each in pending), "", change.target.place)


def _done(change: Change) -> str:
    """A change in the past tense: ``yank: bad`` becomes ``yanked: bad``."""
    verb, rest = re.match(r"(\w+)(.*)", change.then, re.DOTALL).groups()  # type: ignore[union-attr]
    return _PAST[verb] + rest


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
    if change.reason:
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
def _operator(change: ReleaseChange) -> Iterator[TemporaryUser]:
    """A temporary admin, who is removed at the end."""
    user = TemporaryUser(change.target, prefix="operator")
    try:
        user.start()
        yield user
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
    if change.action in _OF_PREFIXES:
        return proven("Seen from outside", _of_new_project(change), todo="run this notebook again")
    with _operator(change) as user, user.http() as index:
        findings = [_finding(change, index, thing) for thing, _ in outcome.done]
    return proven("Seen from outside", findings, todo="run this notebook again")


def _of_new_project(change: ReleaseChange) -> list[Finding]:
    """An upload of a new project under the prefix by somebody else, which stores nothing: it contradicts itself."""
    _, admin = AdminApi.of(change.target)
    with admin:
        prefixes = admin.reservations()
    owners, wanted = prefixes.get(change.project), change.owners or None
    seen, expected = ("free" if names is None else ", ".join(names) or "nobody" for names in (owners, wanted))
    findings = [Finding(f"owners of {change.project}", expected, seen, owners == wanted)]
    name = f"{change.project}-{secrets.token_hex(6)}"
    held = any(f"{name}-".startswith(f"{prefix}-") for prefix in prefixes)
    refusal, why = (409, "the name is reserved") if held else (400, "the name is free, but not this file")
    with _operator(change) as user:
        wheel = write_refused_wheel(user.inside(""), name)
        status = until_equal(lambda: Twine(user.files("the user"), user.user).upload([wheel])[0], refusal)
    question = f"an upload of the new project {name} by somebody else"
    return [*findings, Finding(question, f"{refusal}: {why}", f"{status}", status == refusal)]


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


__all__ = ["ReleaseChange", "apply", "describe", "listing", "plan", "preflight", "reserved", "verify"]
