"""Invitations: users set their own passwords with one-time links."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ops.admin_api import AdminApi, IndexUser
from ops.credential_ages import shown_time
from ops.errors import ParameterError, RunbookError
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, proven, require_approved
from ops.private_files import private_folder, replace_file
from ops.secret import Secret
from ops.table import Table, Text
from ops.targets import Target
from ops.targets.index_rules import (
    RANDOM_PASSWORD_ROUNDS,
    check_role,
    checked_projects,
    checked_user_name,
    password_hash,
)
from ops.workspace import shown

LINKS = "invitations.csv"
"""Name of the private file with the links."""

DEFAULT_ROLE = "publisher"

COLUMNS = ("username", "role", "projects")
_MOST = 1000
_LARGEST = 1024**2


@dataclass(frozen=True)
class Guest:
    """A user to invite.

    Parameters:
        username: in Unicode NFC.
        role: ``reader``, ``publisher`` or ``admin``; empty to keep the role, and to make a new user a publisher.
        projects: the only ones that a publisher may upload to; empty to keep the current ones.
    """

    username: str
    role: str = ""
    projects: tuple[str, ...] = ()

    def account(self, user: IndexUser | None) -> IndexUser:
        """The account as it is to be.

        Parameters:
            user: as it is; None for a new one.
        """
        role = self.role or (user.role if user else DEFAULT_ROLE)
        kept = user.projects if user and role == DEFAULT_ROLE else None
        return IndexUser(self.username, role, self.projects or kept)

    def change(self, user: IndexUser | None) -> Change:
        """Change that the account needs.

        Parameters:
            user: as of :meth:`account`.
        """
        thing, wanted = f"user {self.username}", self.account(user)
        if user is None:
            return Change(thing, "unknown to the index", f"create as {wanted.rights}", "+")
        then = "" if wanted.rights == user.rights else f"change to {wanted.rights}"
        return Change(thing, user.rights, then, refused=self._refused(user))

    def require_possible(self, user: IndexUser | None) -> None:
        """Refuse an account that the index would refuse.

        Raises:
            RunbookError: projects for an existing user who keeps another role than publisher.
        """
        if why := self._refused(user):
            raise RunbookError(
                f"the projects of {self.username!r} cannot be set, and nothing was changed",
                why=why,
                todo="give the role publisher as well, or omit the projects",
            )

    def _refused(self, user: IndexUser | None) -> str:
        role = self.account(user).role
        if not self.projects or role == DEFAULT_ROLE:
            return ""
        return f"the user is {role}, and only a publisher is limited to projects"


class Link(NamedTuple):
    """Address at which an invited user sets a password, and its expiry (RFC 3339)."""

    url: str
    expires: str


_NO_LINK = Link("", "")


@dataclass(frozen=True, kw_only=True)
class TeamInvitation:
    """The users to invite, as the parameters of the notebook describe them.

    Parameters:
        target: the target of the index.
        guests: at least one.
        again: true to invite existing users too.
        folder: for the file with the links.
    """

    target: Target
    guests: tuple[Guest, ...]
    again: bool = False
    folder: Path

    @property
    def links(self) -> Path:
        """The private file with the links."""
        return self.folder / LINKS

    def invites(self, guest: Guest, user: IndexUser | None, links: Mapping[str, Link]) -> bool:
        """True if a guest is to get a link: a new user, one whom a killed run was to invite, or any if *again*."""
        return user is None or self.again or links.get(guest.username) == _NO_LINK


def read_guests(path: Path) -> tuple[Guest, ...]:
    """Read a CSV file (RFC 4180) in UTF-8 with a header: ``username``, and perhaps ``role`` and ``projects``.

    Projects of one user are separated by spaces.

    Raises:
        ParameterError: it cannot be read, or one of its lines is invalid; the line is named.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ParameterError(
                f"{shown(path)} is too large", why="it has more than 1 MiB", todo="name a smaller file"
            )
        content = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ParameterError(f"the users in {shown(path)} cannot be read", why=why, todo="name a CSV file") from None
    rows = csv.DictReader(io.StringIO(content), skipinitialspace=True)
    unknown = [str(name) for name in rows.fieldnames or ["nothing"] if name not in COLUMNS]
    if unknown or "username" not in (rows.fieldnames or ()):
        raise ParameterError(
            f"the first line of {shown(path)} does not name the right columns",
            why=f"it has {', '.join(unknown) or 'no username'}",
            todo=f"begin the file with a line {','.join(COLUMNS)}",
        )
    guests: dict[str, Guest] = {}
    for row in rows:
        guest = _guest(path, rows.line_num, row)
        if guests.setdefault(guest.username, guest) != guest:
            raise _invalid(path, rows.line_num, f"{guest.username!r} is listed twice, with different rights")
        if len(guests) > _MOST:
            raise _invalid(path, rows.line_num, f"the file names over {_MOST:,} users")
    if not guests:
        raise ParameterError(
            f"{shown(path)} names no users", why="it has only a header", todo="add a line for each user"
        )
    return tuple(guests.values())


def plan(invitations: TeamInvitation) -> Plan:
    """Compare the users with what is wanted. Reads only."""
    deployment, admin = AdminApi.of(invitations.target)
    with admin:
        known = {user.username: user for user in admin.users()}
    changes, links = [], _read_links(invitations.links)
    for guest in invitations.guests:
        user = known.get(guest.username)
        change = guest.change(user)
        if invitations.invites(guest, user, links):
            invite = "invite" if user is None else "invite again"
            change = replace(change, then=f"{change.then}, and {invite}" if change.then else invite)
        changes.append(change)
    return Plan(_caption(invitations), tuple(changes), invitations.target.place, deployment.url)


def apply(invitations: TeamInvitation, *, dry_run: bool = False) -> Outcome:
    """Register the users, and write a one-time link for each into a private file.

    Raises:
        BusyError: another run holds the target for too long.
        IndexRequestError: the index refused a user; earlier ones are registered, and their links written.
        ApprovalError: another plan was approved for this run; nothing was changed.
    """
    target, caption = invitations.target, _caption(invitations)
    if dry_run:
        return Outcome(caption, (), DRY_RUN, target.place)
    done: list[tuple[str, str]] = []
    with target.lock():
        require_approved(lambda: plan(invitations))
        deployment, admin = AdminApi.of(target)
        with admin:
            known = {user.username: user for user in admin.users()}
            for guest in invitations.guests:
                guest.require_possible(known.get(guest.username))
            links = _read_links(invitations.links)
            invited = False
            for guest in invitations.guests:
                user = known.get(guest.username)
                if new := invitations.invites(guest, user, links):
                    # Replaced by the link: if this run is killed before, the next one invites again.
                    links[guest.username] = Link("", "")
                    _write(invitations.links, links)
                if (change := guest.change(user)).then:
                    registered = _register(admin, guest, user)
                    done.append((change.thing, f"{'created' if user is None else 'changed'}: {registered.rights}"))
                if new:
                    code, expires = admin.invite(guest.username)
                    links[guest.username] = Link(f"{deployment.admin_url}invitation#{code.reveal()}", expires)
                    _write(invitations.links, links)
                    done.append((f"invitation of {guest.username}", f"works until {shown_time(expires)}"))
                    invited = True
    note = "" if done else "Everything was in place already."
    if invited:
        note = f"The links are in {shown(invitations.links)}, mode 0600."
    return Outcome(caption, tuple(done), note, target.place, deployment.url)


def verify(invitations: TeamInvitation, *, dry_run: bool = False) -> Table:
    """Check the users in the index.

    Raises:
        VerificationError: one is missing, or has other rights.
    """
    _, admin = AdminApi.of(invitations.target)
    with admin:
        known = {user.username: user for user in admin.users()}
    findings = []
    for guest in invitations.guests:
        user = known.get(guest.username)
        expected = guest.account(user).rights
        seen = user.rights if user else "unknown to the index"
        findings.append(Finding(f"user {guest.username}", expected, seen, dry_run or seen == expected))
    return proven("The users of the index", findings, todo="run this notebook again")


def instructions(invitations: TeamInvitation, *, dry_run: bool = False) -> Text:
    """Instructions for handing out the links."""
    if dry_run or not invitations.links.exists():
        return Text("There are no links to hand out.")
    return Text(
        f"The links are in {shown(invitations.links)}.\n\n"
        "Send each user the link next to the name, so that no one else can read it. It works once, within a day: the\n"
        "user sets a password, and sees there how to use the index. Then delete the file.\n"
        "If a link is lost, run 02_onboard_user again with that username and invite=true, without users_csv."
    )


def _caption(invitations: TeamInvitation) -> str:
    count = len(invitations.guests)
    return f"Invite {'a user' if count == 1 else f'{count} users'} on the target {invitations.target.place}"


def _register(admin: AdminApi, guest: Guest, user: IndexUser | None) -> IndexUser:
    return admin.register(
        guest.username,
        password_hash=password_hash(Secret.generate(), RANDOM_PASSWORD_ROUNDS) if user is None else None,
        role=guest.role or None,
        projects=guest.projects or None,
    )


def _read_links(path: Path) -> dict[str, Link]:
    """Links of earlier runs that still work, and :data:`_NO_LINK` for users whom a killed run was about to invite."""
    found: dict[str, Link] = {}
    # A file that somebody edited is replaced.
    with contextlib.suppress(OSError, KeyError, ValueError), path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            link = Link(row["link"], row["works until"])
            if link == _NO_LINK or datetime.fromisoformat(link.expires) > datetime.now(UTC):
                found[row["username"]] = link
    return found


def _write(path: Path, links: Mapping[str, Link]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("username", "link", "works until"))
    writer.writerows((name, *link) for name, link in links.items())
    private_folder(path.parent)
    replace_file(path, text.getvalue().encode())


def _guest(path: Path, line: int, row: dict[str, str | None]) -> Guest:
    if None in row or None in row.values():
        raise _invalid(path, line, "it has more or fewer fields than the first line")
    username, role = (row["username"] or "").strip(), (row.get("role") or "").strip()
    try:
        if role:
            check_role(role)
        return Guest(checked_user_name(username), role, checked_projects(row.get("projects") or "", role))
    except RunbookError as error:
        raise _invalid(path, line, f"{error.what}: {error.why}") from None


def _invalid(path: Path, line: int, why: str) -> ParameterError:
    what = f"line {line} of {shown(path)} cannot be used"
    return ParameterError(what, why=why, todo="correct it; no one was invited")
