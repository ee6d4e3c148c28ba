"""Incident: a bad release is out. Finds who uploaded and who downloaded it, and revokes it for everyone."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from packaging.utils import canonicalize_name, canonicalize_version

from ops.admin_api import AdminApi
from ops.audit_log import Event, downloads, event_time, events
from ops.errors import ConfirmationError, IndexRequestError, ParameterError, RunbookError
from ops.http_client import JSON, HttpClient
from ops.plan import Change, Finding, Outcome, Plan, proven, require_approved
from ops.polling import until, until_equal
from ops.preflight import preflight_of_index as preflight
from ops.publishers import IndexPublisher, publishers
from ops.snapshots.backup import digest_of
from ops.table import Table, Text
from ops.targets import Target, local_copy
from ops.targets.index_files import REVOKED, distribution
from ops.temporary_user import temporary_admin

_RECENT = 20
_NOT_LOGGED = "not in the audit log"

_ORIGIN = {"credential": "token", "run": "CI run"}
"""Keys of an upload's event for the token that sent it and the CI run that it was minted for, with their names."""


@dataclass(frozen=True, kw_only=True)
class Incident:
    """A bad release, as the parameters of the notebook describe it.

    Parameters:
        target: the target of the index.
        project: normalized (PEP 503); empty if no release is named yet.
        version: of the release; empty likewise.
        reason: shown to those who are refused its files; one line.
        lock_publisher: whether to lock those who uploaded it.
        confirm: the project and the version; empty to change nothing.
    """

    target: Target
    project: str
    version: str
    reason: str = ""
    lock_publisher: bool = False
    confirm: str = ""

    @property
    def held(self) -> str:
        """Reason why nothing is changed; empty if the release is confirmed."""
        if not self.project:
            return "Nothing is changed, since no release is named: give project and version."
        release = f"{self.project} {self.version}"
        return "" if self.confirm else f'Nothing is changed until the parameter confirm is "{release}".'


@dataclass(frozen=True)
class BadFile:
    """A file of the release.

    Parameters:
        path: from the root of the packages volume.
        sha256: in hexadecimal.
        upload: the event of its upload; None if the audit log has none.
        revoked: whether it is revoked.
    """

    path: str
    sha256: str
    upload: Event | None
    revoked: bool

    @property
    def filename(self) -> str:
        """The last component of its path."""
        return self.path.rpartition("/")[2]


def describe(
    target: Target,
    *,
    project: str = "",
    version: str = "",
    reason: str = "",
    lock_publisher: bool = False,
    confirm: str = "",
) -> Incident:
    """Check the parameters of the notebook. Does not contact the index.

    Raises:
        ParameterError: only one of project and version is given, or the reason is not one line.
        ConfirmationError: *confirm* names another release.
    """
    if bool(project) != bool(version):
        raise ParameterError(
            "no release is named",
            why="only one of the parameters `project` and `version` is given",
            todo="give both, such as project=spam version=1.1",
        )
    if not reason.isprintable() or len(reason) > 1000:
        raise ParameterError(
            "the reason cannot be shown to those who are refused the files",
            why="it is not one line of at most 1,000 characters",
            todo="write one short line",
        )
    release = f"{canonicalize_name(project)} {version}".strip()
    named = confirm.split()
    if named and (len(named) != 2 or f"{canonicalize_name(named[0])} {named[1]}" != release):
        raise ConfirmationError(
            "nothing was changed",
            why=f"the parameter `confirm` says {confirm!r}, but the release is {release!r}",
            todo=f"give confirm={release!r} if you mean this release",
        )
    return Incident(
        target=target,
        project=str(canonicalize_name(project)),
        version=version,
        reason=reason,
        lock_publisher=lock_publisher,
        confirm=confirm,
    )


def files(incident: Incident) -> list[BadFile]:
    """The files of the release, sorted by name; none if no release is named. Reads only.

    Raises:
        RunbookError: the index has no such release.
    """
    if not incident.project:
        return []
    target, volume = incident.target, incident.target.settings.packages_volume
    uploads = {
        str(event.get("sha256")): event
        for event in events(target)
        if event["event"] == "upload" and event.get("project") == incident.project
    }
    paths = [file.path for file in target.list_files(volume)]
    revoked = {path.removeprefix(REVOKED) for path in paths if path.startswith(REVOKED)}
    wanted = incident.project, canonicalize_version(incident.version)
    found = []
    for path in sorted(paths):
        name = distribution(path)
        if name is not None and (name.project, canonicalize_version(name.version)) == wanted:
            sha256 = _sha256(target, volume, path)
            found.append(BadFile(path, sha256, uploads.get(sha256), sha256 in revoked))
    if not found:
        raise RunbookError(
            f"there is no file of {incident.project} {incident.version}",
            why="the packages volume has no file of that name and version",
            todo="see the project's page for its versions; a removed release is already unavailable",
        )
    return found


def recent_uploads(incident: Incident) -> Table:
    """The last uploads, to identify the release and its files."""
    uploads = [event for event in events(incident.target) if event["event"] == "upload"]
    rows = [
        (
            event_time(event),
            event["user"],
            event.get("project", ""),
            event.get("version", ""),
            event.get("filename", ""),
        )
        for event in reversed(uploads[-_RECENT:])
    ]
    note = "" if rows else "Nothing was uploaded."
    return Table.of("The last uploads", ("when", "user", "project", "version", "file"), rows, note=note)


def uploaded(found: Sequence[BadFile]) -> Table:
    """Time, user and address of each file's upload."""
    rows = [
        (
            file.filename,
            event_time(file.upload) if file.upload else _NOT_LOGGED,
            *(str((file.upload or {}).get(key, _NOT_LOGGED)) for key in ("user", "address")),
            _origin(file.upload),
            file.sha256,  # the widest
        )
        for file in found
    ]
    note = "" if rows else "No release is named."
    return Table.of("Who uploaded it", ("file", "when", "user", "address", "by", "SHA-256"), rows, note=note)


def downloaded(incident: Incident, found: Sequence[BadFile]) -> Table:
    """Downloads of the files, by hour in UTC."""
    paths = {file.path: file.filename for file in found}
    rows = [
        (f"{row.hour:%Y-%m-%d %H}:00", row.user or "?", row.address or "?", row.client, paths[row.file], row.downloads)
        for row in downloads(incident.target)
        if row.file in paths
    ]
    concerned = len({row[1] for row in rows})
    note = f"{concerned} {'user' if concerned == 1 else 'users'}. " if rows else "No downloads were counted. "
    note += "Copies in clients' caches and images are not included. "
    note += "The last minute, on Modal the last hour, may be missing."
    return Table.of("Who downloaded it", ("when", "user", "address", "client", "file", "times"), rows, note=note)


def reach(incident: Incident, found: Sequence[BadFile]) -> Table:
    """Other changes by the uploaders since the first file of the release, oldest first."""
    users = _uploaders(found)
    since = min((str(file.upload["time"]) for file in found if file.upload), default="")
    own = {file.filename for file in found}
    rows = [
        (event_time(event), event["user"], event["event"], event.get("project", ""), _subject(event))
        for event in events(incident.target)
        if event["user"] in users and str(event["time"]) >= since and event.get("filename") not in own
    ]
    note = "Check each of them; run this notebook again for any other bad release." if rows else "Nothing."
    return Table.of("What else they changed since", ("when", "user", "event", "project", "what"), rows, note=note)


def notice(incident: Incident, found: Sequence[BadFile]) -> Text:
    """Notice for those affected."""
    if not found:
        return Text("No release is named.")
    names = "\n".join(f"  {file.filename}\n    sha256 {file.sha256}" for file in found)
    paths = {file.path for file in found}
    rows = downloads(incident.target)
    users = sorted({row.user for row in rows if row.file in paths and row.user})
    pending = bool(incident.held) and not all(file.revoked for file in found)
    draft = "This is a draft: the release is not revoked yet.\n\n" if pending else ""
    return Text(
        f"{draft}To: {', '.join(users) or 'all users of the index'}\n"
        f"Subject: {incident.project} {incident.version} was revoked\n\n"
        f"The release {incident.project} {incident.version} must not be used"
        f"{': ' + incident.reason if incident.reason else ''}.\n\n{names}\n\n"
        "The index now refuses these files (403). Wherever you installed one of them:\n"
        f"  1. uninstall it: pip uninstall {incident.project}\n"
        "  2. remove it from caches and images: pip cache purge; uv cache clean; rebuild images\n"
        "  3. remove its digest from lock files, and lock again\n"
        "  4. if it may have run, replace all credentials that it could read on that machine"
    )


def plan(incident: Incident) -> Plan:
    """List the files and the users, and what would be done. Reads only.

    Raises:
        NotDeployedError: there is no index.
        RunbookError: the index has no such release.
    """
    deployment, admin = AdminApi.of(incident.target)
    found = files(incident)
    changes = [
        Change(
            f"file {file.filename}", "revoked" if file.revoked else "offered", "" if file.revoked else "yank and revoke"
        )
        for file in found
    ]
    with admin:
        for publisher in _publishers(incident, admin, found):
            wanted = incident.lock_publisher and not publisher.locked
            changes.append(Change(publisher.thing, publisher.rights, publisher.locking if wanted else ""))
    return Plan(_caption(incident), tuple(changes), incident.target.place, deployment.url, incident.held)


def apply(incident: Incident) -> Outcome:
    """Yank and revoke the files, and lock those who uploaded them if the incident says so.

    Raises:
        ApprovalError: another plan was approved for this run; nothing was changed.
        BusyError: another run holds the target for too long.
        IndexRequestError: the index refused.
    """
    target, caption = incident.target, _caption(incident)
    if incident.held:
        return Outcome(caption, (), incident.held, target.place)
    done: list[tuple[str, str]] = []
    with target.lock():
        require_approved(lambda: plan(incident))
        deployment, admin = AdminApi.of(target)
        found = files(incident)
        if bad := [file for file in found if not file.revoked]:
            with _admin_of(incident) as http:
                for file in bad:
                    for action in ("yank", "revoke"):
                        _change(http, incident, action, file.filename)
                    done.append((f"file {file.filename}", "yanked and revoked"))
        if incident.lock_publisher:
            with admin:
                free = (publisher for publisher in _publishers(incident, admin, found) if not publisher.locked)
                done += [(publisher.thing, publisher.lock(admin)) for publisher in free]
    note = "" if done else "Everything was in place already."
    return Outcome(caption, tuple(done), note, target.place, deployment.url)


def verify(incident: Incident) -> Table:
    """Request the files as a user would, by page, address and metadata, and check the publishers.

    Raises:
        VerificationError: a file is still available, or a publisher still has rights.
    """
    if incident.held:
        return Table.of("Seen from outside", ("what", "seen"), [("everything", "left as it was")], note=incident.held)
    found = files(incident)
    findings: list[Finding] = []
    with _admin_of(incident) as http:
        for file in found:
            for path in (f"packages/{file.path}", f"packages/{file.path}.metadata"):
                status = until_equal(lambda path=path: http.request("GET", path).status_code, 403)  # type: ignore[misc]
                findings.append(Finding(path, "refused (403)", f"responded with {status}", status == 403))
        names = {file.filename for file in found}
        listed = until(lambda: _listed(http, incident.project) & names, lambda left: not left)
        seen = f"lists {', '.join(sorted(listed))}" if listed else "lists none of them"
        findings.append(Finding(f"simple/{incident.project}/", "lists none of them", seen, not listed))
    if incident.lock_publisher:
        _, admin = AdminApi.of(incident.target)
        with admin:
            for publisher in _publishers(incident, admin, found):
                seen = publisher.rights
                findings.append(Finding(publisher.thing, "no rights to publish", seen, publisher.locked))
    return proven(
        "Seen from outside", findings, todo="run this notebook again; if it fails again, read the server's log"
    )


def _caption(incident: Incident) -> str:
    release = f"{incident.project} {incident.version}" if incident.project else "a release"
    return f"Revoke {release} on the target {incident.target.place}"


def _admin_of(incident: Incident) -> AbstractContextManager[HttpClient]:
    return temporary_admin(incident.target, "incident")


def _change(http: HttpClient, incident: Incident, action: str, filename: str) -> None:
    fields = {"filename": filename, "reason": incident.reason}
    response = http.request("POST", f"projects/{incident.project}/{action}", json=fields)
    if response.status_code != 200:
        raise IndexRequestError(
            f"the index refused to {action} {filename}",
            status=response.status_code,
            why=response.text.strip()[:300],
            todo="run this notebook again; completed changes stay",
        )


def _listed(http: HttpClient, project: str) -> set[str]:
    response = http.request("GET", f"simple/{project}/", headers={"Accept": JSON})
    return {str(file["filename"]) for file in response.json()["files"]} if response.status_code == 200 else set()


def _replaced_passwords(incident: Incident, found: Sequence[BadFile]) -> Collection[str]:
    """Uploaders whose password an operator has replaced since: whoever uploaded the files may know the former one."""
    since: dict[str, str] = {}
    for file in found:
        if file.upload:
            user, moment = str(file.upload["user"]), str(file.upload["time"])
            since[user] = min(moment, since.get(user, moment))
    return {
        str(event["user"])
        for event in events(incident.target)
        if event.get("password_changed")
        and event.get("actor") == "admin token"
        and str(event["time"]) >= since.get(str(event["user"]), "~")
    }


def _publishers(incident: Incident, admin: AdminApi, found: Sequence[BadFile]) -> list[IndexPublisher]:
    return publishers(admin, _uploaders(found), _replaced_passwords(incident, found))


def _uploaders(found: Sequence[BadFile]) -> Collection[str]:
    return {str(file.upload["user"]) for file in found if file.upload}


def _origin(upload: Event | None) -> str:
    if upload is None:
        return "not in the audit log"
    return ", ".join(f"{name} {upload[key]}" for key, name in _ORIGIN.items() if upload.get(key)) or "password"


def _subject(event: Event) -> str:
    named = event.get("filename") or event.get("files") or event.get("status") or ""
    return json.dumps(named) if isinstance(named, list) else str(named)


def _sha256(target: Target, volume: str, path: str) -> str:
    with local_copy(target, volume, path) as copy:
        return digest_of(copy)[0]


__all__ = [
    "Incident",
    "apply",
    "describe",
    "downloaded",
    "files",
    "notice",
    "plan",
    "preflight",
    "reach",
    "recent_uploads",
    "uploaded",
    "verify",
]
