"""Onboarding: registers a user of the index and writes the client files for pip, uv and twine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import invite, user_tokens
from ops.admin_api import AdminApi, IndexUser
from ops.clients import ClientFiles, Login, Pip, Twine, Uv, check_public_index
from ops.errors import ParameterError, RunbookError
from ops.http_client import login_status
from ops.invite import Guest, TeamInvitation, read_guests
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, Sign, proven, require_approved
from ops.polling import until_equal
from ops.preflight import preflight_of_index as preflight
from ops.private_files import open_to_others
from ops.secret import PASSWORD_VARIABLE, Secret, given_password
from ops.table import Table, Text, counted
from ops.targets import Deployment, Target
from ops.targets.index_rules import check_password, check_role, checked_projects, checked_user_name, password_hash
from ops.test_release import PROBE, write_refused_wheel
from ops.workspace import shown

ROUNDS = 12
"""The bcrypt cost: about a quarter of a second per guess."""

TOKEN_LABEL = "written by onboarding"  # noqa: S105 - what people call it


@dataclass(frozen=True, kw_only=True)
class Onboarding:
    """A user to onboard, as described by the notebook's parameters.

    Parameters:
        target: the target of the index.
        username: in Unicode NFC.
        folder: for the client files.
        role: ``reader``, ``publisher`` or ``admin``; empty to keep what a user has and to make a new one a publisher.
        projects: the only ones that a publisher may upload to; empty to keep the current ones.
        public_index: a second index for pip; see :func:`ops.clients.configuration.pip_conf`.
        given: password from the environment or a prompt; None if there is none.
        password_reset: True to set a new password for a user whose password is not known here.
        archive: True to also write a zip file of the client files, to hand over.
        token_days: days until a token for a CI job expires; 0 for no token.
    """

    target: Target
    username: str
    folder: Path
    role: str = ""
    projects: tuple[str, ...] = ()
    public_index: str = ""
    given: Secret | None = None
    password_reset: bool = False
    archive: bool = False
    token_days: int = 0

    @property
    def files(self) -> ClientFiles:
        """The user's client files."""
        return ClientFiles(self.folder, zipped=self.archive)

    @property
    def guest(self) -> Guest:
        """The account without its password."""
        return Guest(self.username, self.role, self.projects)

    @property
    def token(self) -> Path:
        """File of the token for a CI job, in the folder of the client files; never in the zip file."""
        return self.folder / "token"

    def login(self, deployment: Deployment, password: Secret | None) -> Login:
        """Login of this user."""
        return Login(url=deployment.url, username=self.username, password=password, public_index=self.public_index)


def describe(
    target: Target,
    *,
    username: str,
    folder: str = "",
    role: str = "",
    projects: str = "",
    public_index: str = "",
    password_env: str = "",
    password_prompt: bool = False,
    password_reset: bool = False,
    archive: bool = False,
    token_days: int = 0,
) -> Onboarding:
    """Check the parameters of the notebook. Does not contact the index.

    Parameters:
        target: the target of the index.
        username: the user's name.
        folder: for the client files; empty for a folder in the workspace.
        role: ``reader``, ``publisher`` or ``admin``; empty to keep the current one.
        projects: names separated by commas; empty to keep the current ones.
        public_index: a second index for pip.
        password_env: environment variable that may hold the password; empty for ``INDEX_PASSWORD``.
        password_prompt: True to prompt for the password, in JupyterLab.
        password_reset: True to set a new password for a user whose password is not known here.
        archive: True to also write a zip file of the client files, to hand over.
        token_days: days until a token for a CI job expires, 1 to 365; 0 for no token.

    Raises:
        ParameterError: a parameter is invalid.
    """
    if not 0 <= token_days <= 365:
        raise ParameterError(
            f"a token cannot be valid for {token_days} days",
            why="a token is valid for 1 to 365 days",
            todo="change token_days, or set it to 0 for no token",
        )
    username = checked_user_name(username)
    if role:
        check_role(role)
    limits = checked_projects(projects, role)
    if public_index:
        check_public_index(public_index)
    given = given_password(username, variable=password_env, prompt=password_prompt)
    named = Path(folder).expanduser().absolute() if folder else target.client_folder(username)
    return Onboarding(
        target=target,
        username=username,
        folder=named,
        role=role,
        projects=limits,
        public_index=public_index,
        given=given,
        password_reset=password_reset,
        archive=archive,
        token_days=token_days,
    )


def requested(
    target: Target,
    *,
    username: str,
    role: str = "",
    projects: str = "",
    folder: str = "",
    invite_user: bool = False,
    users_csv: str = "",
    **more: Any,
) -> Onboarding | TeamInvitation:
    """The user to onboard, or the users to invite. Does not contact the index.

    Parameters:
        target: the target of the index.
        username: the user's name; ignored with *users_csv*.
        role: as of :func:`describe`; a column of *users_csv*.
        projects: likewise.
        folder: for the client files, or for the file with the links; empty for a folder in the workspace.
        invite_user: True for a one-time link to set the password, instead of client files.
        users_csv: a file of users to invite, see :func:`ops.invite.read_guests`; empty for *username* alone.
        more: further parameters of :func:`describe`; not for users to invite.

    Raises:
        ParameterError: a parameter is invalid.
    """
    if not users_csv and not invite_user:
        return describe(target, username=username, role=role, projects=projects, folder=folder, **more)
    ignored = [name for name, value in more.items() if value]
    ignored += [name for name, value in (("role", role), ("projects", projects)) if value and users_csv]
    if ignored:
        raise ParameterError(
            f"{', '.join(sorted(ignored))} cannot be combined with {'users_csv' if users_csv else 'invite'}",
            why="an invited user sets the password, and gets no files or token here"
            + ("; roles and projects are columns of the file" if users_csv else ""),
            todo="omit one or the other",
        )
    if users_csv:
        guests = read_guests(Path(users_csv).expanduser().absolute())
    else:
        if role:
            check_role(role)
        guests = (Guest(checked_user_name(username), role, checked_projects(projects, role)),)
    place = Path(folder).expanduser().absolute() if folder else target.client_folder("alice").parent
    return TeamInvitation(target=target, guests=guests, again=invite_user, folder=place)


def plan(onboarding: Onboarding | TeamInvitation) -> Plan:
    """Compare the user and the files with what is wanted. Reads only.

    Raises:
        NotDeployedError: there is no index.
        PreflightError: this machine has no copy of the admin token.
    """
    if isinstance(onboarding, TeamInvitation):
        return invite.plan(onboarding)
    deployment, admin = AdminApi.of(onboarding.target)
    with admin:
        user = admin.user(onboarding.username)
    found = _Found.of(onboarding, deployment, user)
    changes = [
        onboarding.guest.change(user),
        Change(
            "password",
            found.password_now,
            found.password_then,
            "+" if user is None else "~",
            refused="it is not reset unasked" if found.unknown else "",
        ),
        _files_change(onboarding, deployment, found),
    ]
    if onboarding.token_days:
        changes.append(_token_change(onboarding, deployment))
    if open_to_others(onboarding.folder):
        thing = f"mode of {shown(onboarding.folder)}"
        changes.append(Change(thing, "open to other users of this machine", "close it to them"))
    return Plan(_caption(onboarding), tuple(changes), onboarding.target.place, deployment.url)


def _caption(onboarding: Onboarding) -> str:
    return f"Onboard {onboarding.username} on the target {onboarding.target.place}"


def apply(onboarding: Onboarding | TeamInvitation, *, dry_run: bool = False) -> Outcome:
    """Register the user if anything differs, and write missing or outdated client files.

    The index gets a bcrypt hash. The password itself stays on this machine, in private files.

    Raises:
        BusyError: another run holds the target for too long.
        IndexRequestError: the index refused the user.
        ApprovalError: another plan was approved for this run; nothing was changed.
        RunbookError: the user exists and the password is unknown here, or cannot be used, or the files cannot be
            written.
    """
    if isinstance(onboarding, TeamInvitation):
        return invite.apply(onboarding, dry_run=dry_run)
    if dry_run:
        return Outcome(_caption(onboarding), (), DRY_RUN, onboarding.target.place)
    done: list[tuple[str, str]] = []
    with onboarding.target.lock():
        require_approved(lambda: plan(onboarding))
        exposed = open_to_others(onboarding.folder)
        deployment, admin = AdminApi.of(onboarding.target)
        with admin:
            user = admin.user(onboarding.username)
            onboarding.guest.require_possible(user)
            found = _Found.of(onboarding, deployment, user)
            found.require_known()
            password = found.password or Secret.generate(24)
            login = onboarding.login(deployment, password)
            if found.password_then or onboarding.guest.change(user).then:
                # The files first: if this run is killed in between, the next one finds the password in them.
                written = onboarding.files.write(login)
                registered = admin.register(
                    onboarding.username,
                    password_hash=password_hash(password, ROUNDS) if found.password_then else None,
                    role=onboarding.role or None,
                    projects=onboarding.projects or None,
                )
                done.append(
                    (f"user {registered.username}", f"{'created' if user is None else 'changed'}: {registered.rights}")
                )
            else:
                written = onboarding.files.write(login)
            if onboarding.token_days:
                done += _write_token(onboarding, deployment, admin)
    if written:
        done.append((f"{counted(len(written), 'file')} in {shown(onboarding.folder)}", "written, mode 0600"))
    if exposed:
        done.append((f"mode of {shown(onboarding.folder)}", "closed to other users of this machine"))
    note = f"{'' if done else 'Everything was in place already. '}The client files are in {shown(onboarding.folder)}"
    return Outcome(_caption(onboarding), tuple(done), note, onboarding.target.place, deployment.url)


def verify(onboarding: Onboarding | TeamInvitation, *, dry_run: bool = False) -> Table:
    """Log in as the user with each client and the written files.

    For a nonexistent project, 404 proves the login and 401 means a refusal. The publishing clients send a wheel that
    every index refuses: 400 proves the login, as does 403 for a user who may not publish.

    Raises:
        ClientError: a client got no response.
        VerificationError: a login failed.
    """
    if isinstance(onboarding, TeamInvitation):
        return invite.verify(onboarding, dry_run=dry_run)
    deployment, admin = AdminApi.of(onboarding.target)
    with admin:
        user = admin.user(onboarding.username)
    password = onboarding.files.password()
    if dry_run and (user is None or password is None):
        return Table.of("Logged in with each client", ("client", "seen"), [("all", "there is no such user yet")])
    login = onboarding.login(deployment, password)
    files = onboarding.files
    status = until_equal(lambda: login_status(login), 200)
    findings = [_finding("HTTP: the index", status, {200: "accepted (200)"})]
    missing = {404: "accepted; no such project (404)", 200: "accepted (200)"}
    findings.append(_finding("pip: a project's page", Pip(files, login).page_status(PROBE), missing))
    findings.append(_finding("uv: a project's page", Uv(files, login).page_status(PROBE), missing))
    refused = {400: "accepted; not this file (400)", 403: "accepted; a reader does not publish (403)"}
    if user is None or user.role != "reader":
        refused[403] = "accepted; may publish other projects (403)"
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        wheel = [write_refused_wheel(Path(folder))]
        findings.append(
            _finding("twine: an upload that must be refused", Twine(files, login).upload(wheel)[0], refused)
        )
        findings.append(_finding("uv publish: the same", Uv(files, login).publish(wheel)[0], refused))
    token = user_tokens.read_token(onboarding.token) if onboarding.token_days else None
    if token is not None:
        seen = until_equal(lambda: user_tokens.token_status(deployment.url, token), 200)
        findings.append(_finding("HTTP with the token: the index", seen, {200: "accepted (200)"}))
    todo = (
        "find the cause as deployments/server.md says under Refused logins; if the password is wrong, run this "
        "notebook with password_reset=true"
    )
    return proven("Logged in with each client", findings, todo=todo)


def instructions(onboarding: Onboarding | TeamInvitation, outcome: Outcome, *, dry_run: bool = False) -> Text:
    """Summary of the run, and instructions for the user, without any secret."""
    if isinstance(onboarding, TeamInvitation):
        return invite.instructions(onboarding, dry_run=dry_run)
    done = "This was a dry run: nothing was changed." if dry_run else f"{onboarding.username} can log in"
    if dry_run and not onboarding.files.password():
        return Text(f"{done} There are no client files of {onboarding.username} yet.")
    if not dry_run:
        done += "; what changed is listed above." if outcome.changed else "; nothing had to be changed."
    env_sh, pypirc, netrc, pip_conf, uv_toml = (
        shown(onboarding.folder / name) for name in ("env.sh", ".pypirc", "netrc", "pip.conf", "uv.toml")
    )
    archive = onboarding.files.archive
    token = (
        f"\n\nFor a CI job, store the content of {shown(onboarding.token)} as its secret, as UV_PUBLISH_TOKEN or as "
        f"the password of the user {user_tokens.TOKEN_USER}; then delete the file. Tokens: runbook token list."
        if onboarding.token_days and onboarding.token.exists()
        else ""
    )
    handover = f"\n\nTo hand over, as carefully as a password:\n\n    {shown(archive)}" if archive.exists() else ""
    return Text(
        f"{done}\n\n"
        f"In any bash or zsh, once:\n\n"
        f"    . {env_sh}\n\n"
        f"Then publish and install as usual:\n\n"
        f"    twine upload dist/*\n"
        f"    uv publish dist/*\n"
        f"    pip install your-package\n"
        f"    uv pip install your-package\n\n"
        f"If twine does not say why a file was refused, as on Modal, add --verbose; uv publish always does.\n\n"
        f"Or name the files, one client at a time:\n\n"
        f"    twine upload --config-file {pypirc} --repository private dist/*\n"
        f"    NETRC={netrc} PIP_CONFIG_FILE={pip_conf} pip install your-package\n"
        f"    NETRC={netrc} uv --config-file {uv_toml} pip install your-package{handover}{token}"
    )


@dataclass(frozen=True)
class _Found:
    """The password to use, and its description in the plan."""

    password: Secret | None
    password_now: str
    password_then: str
    unknown: RunbookError | None = None

    def require_known(self) -> None:
        """Raise if the password of an existing user is not known.

        Raises:
            RunbookError: the user exists and the password is not known here.
        """
        if self.unknown is not None:
            raise self.unknown

    @classmethod
    def of(cls, onboarding: Onboarding, deployment: Deployment, user: IndexUser | None) -> _Found:
        kept = onboarding.files.password()
        password = onboarding.given or kept
        source = "given" if onboarding.given else "in the client files"
        if password is not None:
            check_password(password)
            onboarding.login(deployment, password)  # raises if a client cannot send it
            if user is None:
                return cls(password, source, "set it")
            if login_status(onboarding.login(deployment, password)) == 200:
                return cls(password, f"{source}; lets in", "")
            if onboarding.given:
                return cls(password, "given; another than that of the index", "set it")
        if user is None or onboarding.password_reset:
            return cls(None, "none yet" if user is None else "not known here", "generate and set one")
        # A password that no longer works may have been changed for a good reason: it is not reset unasked.
        unknown = RunbookError(
            f"the user {user.username!r} exists and the password is not known on this machine",
            why=f"{'the one' if kept else 'there is none'} in {shown(onboarding.folder)}"
            f"{' lets nobody in' if kept else ''}, and none was given",
            todo=f"give it in the environment variable {PASSWORD_VARIABLE}, or set a new one with password_reset=true: "
            "the old one then ends",
        )
        now = "in the client files; lets nobody in" if kept else "not known here"
        return cls(kept, now, "give it, or set a new one with password_reset=true", unknown)


def _token_change(onboarding: Onboarding, deployment: Deployment) -> Change:
    thing = f"token in {shown(onboarding.token)}"
    then = f"create one for {onboarding.token_days} days"
    token = user_tokens.read_token(onboarding.token)
    if token is None:
        return Change(thing, "none yet", then, "+")
    if user_tokens.token_status(deployment.url, token) == 200:
        return Change(thing, "lets in", "")
    return Change(thing, "lets nobody in", then)


def _write_token(onboarding: Onboarding, deployment: Deployment, admin: AdminApi) -> list[tuple[str, str]]:
    if not _token_change(onboarding, deployment).then:
        user_tokens.begun_file(onboarding.token).unlink(missing_ok=True)
        return []
    request = user_tokens.TokenRequest(
        owner=onboarding.username,
        role=onboarding.role,
        projects=onboarding.projects,
        days=onboarding.token_days,
        label=TOKEN_LABEL,
    )
    token = user_tokens.create_file(admin, request, onboarding.token)
    return [(f"token {token.id}", f"in {shown(onboarding.token)}, mode 0600, until {token.expires[:10]}")]


def _files_change(onboarding: Onboarding, deployment: Deployment, found: _Found) -> Change:
    thing = f"client files in {shown(onboarding.folder)}"
    sign: Sign = "~" if onboarding.folder.is_dir() else "+"
    if found.password is None:
        return Change(thing, "missing or outdated", f"write {6 if onboarding.archive else 5} files, mode 0600", sign)
    login = onboarding.login(deployment, found.password)
    outdated = [path.name for path in onboarding.files.outdated(login)]
    if not outdated:
        return Change(thing, "in place")
    now, then = f"missing or outdated: {', '.join(outdated)}", f"write {counted(len(outdated), 'file')}, mode 0600"
    return Change(thing, now, then, sign)


def _finding(question: str, status: int, good: dict[int, str]) -> Finding:
    return Finding(question, "accepted", good.get(status, str(status)), status in good)


__all__ = ["Onboarding", "apply", "describe", "instructions", "plan", "preflight", "requested", "verify"]
