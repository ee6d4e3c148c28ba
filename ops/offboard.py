"""Offboarding: removes a user, or lowers the user's role, and verifies that from outside."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.admin_api import AdminApi, IndexToken, IndexUser
from ops.audit_log import History, events
from ops.client_folders import delete_folder
from ops.clients import ClientFiles, Login, Twine
from ops.credential_ages import shown_time
from ops.errors import ConfirmationError, ParameterError, RunbookError
from ops.http_client import HttpClient, login_status
from ops.plan import Change, Finding, Outcome, Plan, proven, require_approved
from ops.polling import until
from ops.preflight import preflight_of_index as preflight
from ops.table import Table
from ops.targets import Target
from ops.targets.index_files import reserved_names
from ops.targets.index_rules import check_role, checked_user_name
from ops.test_release import write_refused_wheel
from ops.workspace import shown

_RANKS = ("reader", "publisher", "admin")
_REFUSED = "refused (401)"


@dataclass(frozen=True, kw_only=True)
class Offboarding:
    """A user to remove or to give fewer rights, as described by the notebook's parameters.

    Parameters:
        target: the target of the index.
        username: in Unicode NFC.
        role: the lower role; empty to remove the user.
        confirm: the user's name; empty to change nothing.
        login: from the client files here, to try afterwards; None if there are none.
    """

    target: Target
    username: str
    role: str = ""
    confirm: str = ""
    login: Login | None = None

    @property
    def files(self) -> ClientFiles | None:
        """The user's client files in the workspace; None if there are none."""
        folder = self.target.client_folder(self.username)
        return ClientFiles(folder) if folder in self.target.client_folders() else None


def describe(target: Target, *, username: str, role: str = "", confirm: str = "") -> Offboarding:
    """Check the parameters of the notebook. Does not contact the index.

    Raises:
        ParameterError: a parameter is invalid.
        ConfirmationError: *confirm* names another user.
    """
    username = checked_user_name(username)
    if role:
        check_role(role)
    if role == _RANKS[-1]:
        raise ParameterError(
            "offboarding cannot make anyone an admin",
            why="it only removes rights",
            todo="use reader or publisher, or leave it empty to remove the user; 02_onboard_user raises roles",
        )
    if confirm and unicodedata.normalize("NFC", confirm) != username:
        raise ConfirmationError(
            "nothing was changed",
            why=f"the parameter `confirm` says {confirm!r}, but the user is {username!r}",
            todo=f"give confirm={username!r} if you mean this user",
        )
    described = Offboarding(target=target, username=username, role=role, confirm=confirm)
    login = described.files.login() if described.files else None
    return Offboarding(**{**vars(described), "login": login})


def plan(offboarding: Offboarding) -> Plan:
    """List what the user has, and what would be removed. Reads only.

    Raises:
        RunbookError: the role would be a higher one, or there is no user whose role could be lowered.
        NotDeployedError: there is no index.
    """
    deployment, admin = AdminApi.of(offboarding.target)
    name, role = offboarding.username, offboarding.role
    with admin:
        user, tokens, owned = admin.user(name), admin.tokens(name), _owned(admin, name)
    if role:
        lowered = _require_lower(user, offboarding).role != role
        changes = [Change(f"user {name}", _described(user), f"lower to {role}" if lowered else "")]
        changes += [
            Change(_token(token), f"works until {shown_time(token.expires)}, with no more rights than the user")
            for token in tokens
        ]
    else:
        changes = [
            Change(f"user {name}", _described(user) if user else _unknown(offboarding), "remove" if user else "", "-")
        ]
        changes += [
            Change(_token(token), f"works until {shown_time(token.expires)}", "revoke", "-") for token in tokens
        ]
        changes += [
            Change(
                f"names {reserved_names(prefix)}",
                f"reserved for {', '.join(owners)}",
                f"leave to {_others(owners, name)}",
            )
            for prefix, owners in owned.items()
        ]
        if files := offboarding.files:
            changes.append(Change(f"client files of {name}", shown(files.folder), "delete them", "-"))
    published = _published(offboarding)
    projects = sorted({project for _, project in published})
    changes.append(
        Change(
            "published files", f"{len(published)} in {', '.join(projects)}" if published else "none; they would stay"
        )
    )
    held = "" if offboarding.confirm else f'Nothing is changed until the parameter confirm is "{name}".'
    return Plan(_caption(offboarding), tuple(changes), offboarding.target.place, deployment.url, held)


def _caption(offboarding: Offboarding) -> str:
    return f"Offboard {offboarding.username} on the target {offboarding.target.place}"


def apply(offboarding: Offboarding) -> Outcome:
    """Remove the user with tokens and client files, or lower the role. Published files stay.

    Raises:
        RunbookError: the role would be a higher one, or there is no user whose role could be lowered.
        ApprovalError: another plan was approved for this run; nothing was changed.
        BusyError: another run holds the target for too long.
        IndexRequestError: the index refused.
    """
    target, name = offboarding.target, offboarding.username
    if not offboarding.confirm:
        note = "Nothing was changed, since the parameter confirm is empty."
        return Outcome(_caption(offboarding), (), note, target.place)
    done: list[tuple[str, str]] = []
    with target.lock():
        require_approved(lambda: plan(offboarding))
        deployment, admin = AdminApi.of(target)
        with admin:
            user = admin.user(name)
            if offboarding.role:
                if _require_lower(user, offboarding).role != offboarding.role:
                    admin.register(name, role=offboarding.role)
                    done.append((f"user {name}", f"{_described(user)} before, {offboarding.role} now"))
            else:
                tokens, owned = admin.tokens(name), _owned(admin, name)
                if admin.delete(name):
                    done.append((f"user {name}", "removed"))
                    done += [
                        (f"names {reserved_names(prefix)}", f"left to {_others(owners, name)}")
                        for prefix, owners in owned.items()
                    ]
                for token in tokens:
                    admin.revoke_token(token.id)
                    done.append((_token(token), "revoked"))
                if files := offboarding.files:
                    delete_folder(files.folder)
                    done.append((f"client files of {name}", "deleted"))
    note = "" if done else "Everything was in place already."
    if not done and user is None:
        note = f"The user was {_unknown(offboarding)}."
    return Outcome(_caption(offboarding), tuple(done), note, target.place, deployment.url)


def verify(offboarding: Offboarding, outcome: Outcome) -> Table:
    """Try the user's former rights from outside, and check what must stay and the line in the audit log.

    Parameters:
        offboarding: the user.
        outcome: of :func:`apply`; a change must be in the log.

    Raises:
        VerificationError: the user can still do something, or something is missing.
    """
    name, role = offboarding.username, offboarding.role
    if not offboarding.confirm:
        row = ("everything", f"left as it was; confirm={name!r} changes it")
        return Table.of("Seen from outside", ("what", "seen"), [row])
    _, admin = AdminApi.of(offboarding.target)
    with admin:
        user = admin.user(name)
        tokens = [] if role else admin.tokens(name)
    seen = _described(user)
    findings = [Finding("the list of users", role or "unknown to the index", seen, (user.role if user else "") == role)]
    if not role:
        gone = offboarding.files is None
        findings.append(Finding("tokens", "none", f"{len(tokens)} left" if tokens else "none", not tokens))
        findings.append(Finding("client files here", "none", "none" if gone else "still there", gone))
    findings.append(_as_the_user(offboarding))
    missing = _missing(offboarding)
    there = f"missing: {', '.join(missing)}" if missing else "all still there"
    findings.append(Finding("published files", "all still there", there, not missing))
    findings.append(_in_the_log(offboarding, outcome))
    return proven(
        "Seen from outside", findings, todo="run this notebook again; if it fails again, read the server's log"
    )


def _require_lower(user: IndexUser | None, offboarding: Offboarding) -> IndexUser:
    if user is None:
        raise RunbookError(
            f"{offboarding.username!r} cannot be lowered to {offboarding.role}",
            why="the index has no such user",
            todo="correct the parameter `username`; 09_audit lists the users",
        )
    if _RANKS.index(offboarding.role) > _RANKS.index(user.role):
        raise RunbookError(
            f"{user.username!r} is a {user.role} and cannot be lowered to {offboarding.role}",
            why="that role has more rights",
            todo="use a lower role; 02_onboard_user raises roles",
        )
    return user


def _described(user: IndexUser | None) -> str:
    return user.rights if user else "unknown to the index"


def _unknown(offboarding: Offboarding) -> str:
    """Description of a user whom the index does not have: a removed one, or a name that may be misspelt."""
    known = offboarding.username in History.of(events(offboarding.target)).users
    return "removed before" if known else "never known to the index, as its audit log says: check the name"


def _token(token: IndexToken) -> str:
    return f"token {token.id} {token.label}".strip()


def _owned(admin: AdminApi, name: str) -> dict[str, tuple[str, ...]]:
    """Prefixes of names that are reserved for a user, with all owners."""
    return {prefix: owners for prefix, owners in admin.reservations().items() if name in owners}


def _others(owners: Sequence[str], name: str) -> str:
    return ", ".join(owner for owner in owners if owner != name) or "nobody; 11_manage_releases frees or assigns them"


def _as_the_user(offboarding: Offboarding) -> Finding:
    """A request with the login that was in the client files."""
    login, role = offboarding.login, offboarding.role
    tried, expected, ask = {
        "": ("the former login", "refused (401)", _logged_in),
        "reader": ("an upload as the user", "refused (403)", _upload),
        "publisher": ("the user's own role", "publisher", _role),
    }[role]
    if login is None or login.username is None or login.password is None:
        return Finding(tried, expected, "not tried: the password is not known here", passed=True)
    seen = until(lambda: ask(login), lambda seen: seen in {_REFUSED, expected})
    if role and seen == _REFUSED:
        return Finding(tried, expected, "not tried: the password in the client files is outdated", passed=True)
    return Finding(tried, expected, seen, seen == expected)


def _logged_in(login: Login) -> str:
    return _answer(login_status(login))


def _upload(login: Login) -> str:
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        files = ClientFiles(Path(folder) / "files")
        files.write(login)
        return _answer(Twine(files, login).upload([write_refused_wheel(Path(folder))])[0])


def _role(login: Login) -> str:
    with HttpClient.of(login) as http:
        response = http.request("GET", "whoami")
    return str(response.json()["role"]) if response.ok else _answer(response.status_code)


def _answer(status: int) -> str:
    return f"refused ({status})" if status in {401, 403} else f"responded with {status}"


def _published(offboarding: Offboarding) -> list[tuple[str, str]]:
    """File name and project of the user's uploads that were not removed, from the audit log."""
    found: dict[str, str] = {}
    for event in events(offboarding.target):
        filename = str(event.get("filename", ""))
        if event["event"] == "upload" and event["user"] == offboarding.username:
            found[filename] = str(event.get("project", ""))
        elif event["event"] in {"remove", "upload.undone"}:
            found.pop(filename, None)
    return sorted(found.items())


def _missing(offboarding: Offboarding) -> list[str]:
    volume = offboarding.target.settings.packages_volume
    there = {file.path.rpartition("/")[2] for file in offboarding.target.list_files(volume)}
    return [filename for filename, _ in _published(offboarding) if filename not in there]


def _in_the_log(offboarding: Offboarding, outcome: Outcome) -> Finding:
    """The role that the user has according to the audit log."""
    history, name = History.of(events(offboarding.target)), offboarding.username
    expected = offboarding.role or "removed"
    if name not in history.users:
        return Finding("the audit log", expected, "no line about this user", not outcome.changed)
    rights = history.users[name]
    seen = rights[0] if rights else "removed"
    return Finding("the audit log", expected, seen, seen == expected)


__all__ = ["Offboarding", "apply", "describe", "plan", "preflight", "verify"]
