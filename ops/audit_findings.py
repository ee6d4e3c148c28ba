"""Checks of an index against its own audit log and rules."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from ops.audit_log import History
from ops.inventory import Inventory
from ops.private_files import open_to_others
from ops.targets import Target
from ops.targets.index_files import (
    GROUPS,
    INVITATIONS,
    PASSWORDS,
    REMOVED,
    REVOKED,
    STAGING,
    STATUS,
    TOKENS,
    TRUST,
    YANKED,
    annotated,
    credential_defects,
    distribution,
    reservations,
    reserved_names,
    status_of,
    token_entries,
    tombstones,
)
from ops.workspace import shown

UNUSED_DAYS = 90
EXPIRING_DAYS = 14
LEFTOVER_SECONDS = 24 * 3600.0

_OWN = (PASSWORDS, GROUPS, TOKENS, TRUST, INVITATIONS, f"{PASSWORDS}.lock")
_OWN_FOLDERS = (".audit/", ".reserve/", ".audit.reserve/", ".index/")
"""Files that the index writes to the credentials volume."""


class Severity(IntEnum):
    """Severity of a finding, in ascending order."""

    NOTICE = 1
    """Worth knowing."""
    WARNING = 2
    """Suspicious: something was changed outside the index, or a rule is broken."""
    ERROR = 3
    """Something is lost or altered, or someone has a right that was never granted."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, order=True)
class AuditFinding:
    """One deviation.

    Parameters:
        severity: of the deviation.
        thing: a noun phrase.
        why: the deviation.
        todo: what to do.
    """

    severity: Severity
    thing: str
    why: str
    todo: str


NOTICE, WARNING, ERROR = Severity


def findings(target: Target, inventory: Inventory) -> list[AuditFinding]:
    """All deviations of an index, most severe first."""
    history = History.of(inventory.events)
    found = [
        *_files(inventory, history),
        *_names(inventory),
        *_tombstones(inventory, history),
        *_yanks(inventory, history),
        *_revocations(inventory, history),
        *_statuses(inventory, history),
        *_users(inventory, history),
        *_reservations(inventory, history),
        *_tokens(inventory, history),
        *_trust(inventory, history),
        *_credential_files(inventory),
        *_logs(inventory, history),
        *_target(target),
    ]
    return sorted(set(found), key=lambda finding: (-finding.severity, finding))


def _files(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    present = {path.rpartition("/")[2] for path in inventory.files}
    by_hand = WARNING if history.complete else NOTICE
    for path, file in inventory.files.items():
        name = path.rpartition("/")[2]
        if path.startswith(STAGING) and not name.endswith("-lock") and time.time() - file.modified > LEFTOVER_SECONDS:
            yield AuditFinding(NOTICE, path, "is left over from a killed upload", "restart the server: it removes it")
        if path.startswith("."):
            continue
        if file.link:
            yield AuditFinding(WARNING, path, "is a symbolic link: its bytes are elsewhere", "copy the file here")
        if path.endswith(".asc") and path.removesuffix(".asc") not in inventory.files:
            yield AuditFinding(NOTICE, path, "is the signature of a missing file", "remove it")
        elif distribution(path.removesuffix(".asc")) is None:
            yield AuditFinding(NOTICE, path, "is not a distribution; the index does not list it", "move it elsewhere")
        elif not path.endswith(".asc"):
            if name in history.removed:
                why = "was removed through the index, but is back"
                yield AuditFinding(WARNING, path, why, "find out who copied it here, or remove it again")
            elif name not in history.uploaded:
                why = "was not uploaded through the index, as far as its log reaches back"
                yield AuditFinding(by_hand, path, why, "find out who copied it here; 07_restore takes in directories")
            expected = history.uploaded.get(name) or inventory.recorded.get(path)
            if expected and inventory.hashes.get(path, expected) != expected:
                why = "differs from what was uploaded: it was altered or is damaged"
                todo = "move it away and restore it with 07_restore; until then, yank it"
                yield AuditFinding(ERROR, path, why, todo)
    for name in sorted(history.uploaded.keys() - present):
        todo = "restore it with 07_restore"
        yield AuditFinding(ERROR, name, "was uploaded and never removed, but is missing", todo)


def _names(inventory: Inventory) -> Iterator[AuditFinding]:
    keys: dict[str, list[str]] = defaultdict(list)
    ways_by_project: dict[str, set[str]] = defaultdict(set)
    for path, found in inventory.distributions.items():
        keys[found.key].append(path)
        if found.form in ("wheel", "sdist"):
            spelled = path.rpartition("/")[2][: len(found.project)].replace("_", "-").replace(".", "-")
            ways_by_project[found.project].add(spelled)
    for paths in keys.values():
        if len(paths) > 1:
            why = f"is the same file as {', '.join(paths[1:])} in another spelling: clients get either"
            yield AuditFinding(ERROR, paths[0], why, "remove the one that was not uploaded first")
    for project, ways in ways_by_project.items():
        if len(ways) > 1:
            why = f"its files spell the name in {len(ways)} ways: {', '.join(sorted(ways))}"
            yield AuditFinding(NOTICE, f"project {project}", why, "clients do not care; agree on one")


def _tombstones(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    graves: dict[str, str] = {}
    for path, content in inventory.texts.items():
        if path.startswith(REMOVED):
            for key, sha256 in tombstones(path.removeprefix(REMOVED), content.decode("utf-8", "surrogateescape")):
                if key:
                    graves[key] = sha256
                else:
                    yield AuditFinding(WARNING, path, "has a line that cannot be read", "restore it with 07_restore")
    for name in history.removed:
        file = distribution(name)
        if file is not None and file.key not in graves:
            why = "was removed, but its name is not recorded as used: other bytes could take it"
            yield AuditFinding(ERROR, name, why, "restore the record with 07_restore")


def _yanks(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    yanked = {annotated(path) for path in inventory.texts if path.startswith(YANKED)}
    for path in sorted(yanked - inventory.files.keys()):
        yield AuditFinding(NOTICE, f"yank of {path}", "is about a missing file", "remove the annotation")
    names = {path: path.rpartition("/")[2] for path in inventory.distributions}
    for path, name in names.items():
        expected = history.yanked.get(name, False if history.complete else path in yanked)
        if expected and path not in yanked:
            why = "was set and never lifted, but is missing: installers choose the file again"
            yield AuditFinding(ERROR, f"yank of {path}", why, "yank it again")
        elif path in yanked and not expected:
            yield AuditFinding(WARNING, f"yank of {path}", "was not set through the index", "find out who set it")


def _revocations(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    revoked = {annotated(path) for path in inventory.texts if path.startswith(REVOKED)}
    for sha256 in sorted(sha256 for sha256, expected in history.revoked.items() if expected and sha256 not in revoked):
        why = "was set and never lifted, but is missing: the bytes are served again"
        yield AuditFinding(ERROR, f"revocation of {sha256}", why, "revoke them again with 12_incident")


def _statuses(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    statuses = {
        annotated(path): status_of(content) for path, content in inventory.texts.items() if path.startswith(STATUS)
    }
    projects = {found.project for found in inventory.distributions.values()}
    for project, status in statuses.items():
        if not status:
            why = "cannot be read; the project is closed to uploads"
            yield AuditFinding(ERROR, f"status of {project}", why, "set it again")
        elif project not in projects:
            yield AuditFinding(NOTICE, f"status of {project}", "is about a project without files", "none is needed")
    for project in sorted(projects):
        now = statuses.get(project, "active")
        expected = history.statuses.get(project, "active" if history.complete else now)
        if now and now != expected:
            why = f"is {now}, and was last set to {expected} through the index"
            yield AuditFinding(ERROR, f"status of {project}", why, "find out who changed it, and set it again")


def _users(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    by_hand = ERROR if history.complete else NOTICE
    found = inventory.accounts
    for name, account in found.items():
        expected = history.users.get(name)
        if name in history.uncertain:
            continue
        if expected is None:
            why = (
                "was removed through the index, but has an entry again"
                if name in history.users
                else "was never created"
            )
            why = f"{why}, as far as the log of the index reaches back"
            yield AuditFinding(
                by_hand, f"user {name}", why, "remove the entry with 05_offboard_user, or onboard the user"
            )
        elif expected != (account.role, account.projects):
            role, projects = expected
            limits = f" of {', '.join(projects)}" if projects is not None else ""
            why = f"is {account.rights}, but was last made {role}{limits} through the index"
            yield AuditFinding(ERROR, f"user {name}", why, "set the role again with 02_onboard_user")
    expected_users = {name for name, expected in history.users.items() if expected} - history.uncertain
    for name in sorted(expected_users - found.keys()):
        why = "was created and never removed, but has no entry"
        yield AuditFinding(WARNING, f"user {name}", why, "onboard the user again, or restore with 07_restore")
    defects = credential_defects(inventory.texts.get(PASSWORDS, b""), inventory.texts.get(GROUPS, b""))
    for thing, why in defects:
        yield AuditFinding(
            WARNING, thing, why, "correct the line or remove it; 02_onboard_user sets passwords and roles"
        )


def _reservations(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    now = reservations(inventory.texts.get(GROUPS, b""))
    if history.reserved is None or "" in history.uncertain:
        return
    for prefix in sorted(now.keys() | history.reserved.keys()):
        seen = now.get(prefix)
        expected = history.reserved.get(prefix, None if history.complete else seen)
        if seen != expected:
            is_now, was = (
                "free" if owners is None else f"reserved for {', '.join(owners) or 'nobody'}"
                for owners in (seen, expected)
            )
            why = f"are {is_now}, and were last {was} through the index"
            todo = "reserve or free them again with 11_manage_releases"
            yield AuditFinding(ERROR, f"names {reserved_names(prefix)}", why, todo)


def _tokens(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    by_hand = ERROR if history.complete else NOTICE
    tokens, unreadable = token_entries(inventory.texts.get(TOKENS, b""))
    for number in unreadable:
        yield AuditFinding(WARNING, f"{TOKENS}, line {number}", "is no token", "remove the line")
    now, found = datetime.now(UTC), inventory.accounts
    for token in tokens:
        thing = f"token {token.id} of {token.owner}"
        if not history.tokens.get(token.id) and token.owner not in history.uncertain:
            why = "was revoked, but is back" if token.id in history.tokens else "was not created through the index"
            yield AuditFinding(by_hand, thing, why, "revoke it with 05_offboard_user or: runbook token revoke")
        if token.owner not in found:
            yield AuditFinding(WARNING, thing, "stands for a user who has no entry", "revoke it")
        if token.expires < now:
            yield AuditFinding(NOTICE, thing, "has expired", "nothing; it disappears by itself")
        elif token.expires < now + timedelta(days=EXPIRING_DAYS):
            yield AuditFinding(NOTICE, thing, f"expires on {token.expires:%Y-%m-%d}", "create the next one in time")


def _trust(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    content = inventory.texts.get(TRUST, b"")
    now = hashlib.sha256(content).hexdigest() if content else ""
    if now != history.trust and "" not in history.uncertain:
        why = (
            "was not written through the index: other CI jobs may publish"
            if now
            else "is missing: no CI job is trusted"
        )
        severity = ERROR if now and history.complete else WARNING if history.complete else NOTICE
        yield AuditFinding(severity, TRUST, why, "apply your own file of trusted jobs with 13_trusted_publishing")


def _credential_files(inventory: Inventory) -> Iterator[AuditFinding]:
    for path, file in inventory.credentials.items():
        left = path.endswith(".new") and time.time() - file.modified > LEFTOVER_SECONDS
        if left or not (path in _OWN or path.startswith(_OWN_FOLDERS) or path.endswith(".new")):
            why = "is on the credentials volume, was not written by the index, and may hold password hashes"
            yield AuditFinding(WARNING, path, why, "check what it is, and remove it")
        if file.link:
            yield AuditFinding(ERROR, path, "is a symbolic link: its content can be changed elsewhere", "copy it here")
        elif file.mode is not None and file.mode & 0o077:
            why = f"has the mode {file.mode:04o}, which lets others read it"
            yield AuditFinding(ERROR, path, why, "make it 0600, and change the passwords if others could have read it")
    if GROUPS not in inventory.texts and inventory.accounts:
        yield AuditFinding(NOTICE, GROUPS, "is missing: every user is a publisher", "nothing, if that is intended")


def _logs(inventory: Inventory, history: History) -> Iterator[AuditFinding]:
    if not inventory.events:
        why = "is empty: changes outside the index cannot be detected"
        yield AuditFinding(NOTICE, "audit log", why, "nothing, if this directory is new here")
    for path, count in inventory.damaged_logs.items():
        why = f"has {count} lines that cannot be read"
        yield AuditFinding(
            WARNING, path, why, "a server was killed or a disk was full; otherwise someone has written there"
        )
    for change in history.unconfirmed:
        yield AuditFinding(NOTICE, change, "was not confirmed by the storage", "check whether it was kept")


def _target(target: Target) -> Iterator[AuditFinding]:
    state = target.state()
    if state.deployment is None:
        yield AuditFinding(NOTICE, "server", "does not run", "run 01_provision")
    elif not state.responds:
        yield AuditFinding(ERROR, "server", str(state), "see 90_troubleshoot")
    elif outdated := target.outdated():
        yield AuditFinding(NOTICE, "server", outdated, "run 01_provision")
    for path in target.private_paths():
        if open_to_others(path):
            yield AuditFinding(ERROR, shown(path), "can be read by other users of this machine", "run 01_provision")
