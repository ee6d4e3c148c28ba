"""Rotation of credentials: the admin token, a user's password, or a user's token."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ops import user_tokens
from ops.admin_api import AdminApi, IndexToken, IndexUser
from ops.clients import ClientFiles, Login
from ops.credential_ages import display_name, is_older, parsed, password_ages, shown_time
from ops.errors import ParameterError, PreflightError, RunbookError, VerificationError
from ops.http_client import login_status
from ops.onboard import ROUNDS, TOKEN_LABEL
from ops.plan import Change, Finding, Outcome, Plan, proven, require_approved
from ops.polling import until_equal
from ops.preflight import preflight_of_index as preflight
from ops.secret import Secret
from ops.table import Table, counted
from ops.targets import CredentialAge, Deployment, Target
from ops.targets.index_rules import checked_user_name, limited_rights, password_hash
from ops.workspace import shown

_NOUNS = {"admin": "admin token", "password": "password", "token": "token"}

OVERLAP_SECONDS = 5.0
"""Seconds until a new token has reached every server. The old one is revoked after that."""

_INTERVAL_SECONDS = 0.05
"""Seconds between two requests of a client that keeps asking while a token is replaced."""

_SWITCH_SECONDS = 30.0
"""Seconds to wait for the first response to a new token."""


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A credential to replace, as described by the notebook's parameters.

    Parameters:
        target: the target of the index.
        kind: ``admin``, ``password`` or ``token``; empty to rotate nothing.
        username: the owner of a password or token.
        label: of the token; None if the owner's tokens all have the same label.
        days: the age from which a credential is replaced.
        former: the value known here before the rotation.
    """

    target: Target
    kind: str = ""
    username: str = ""
    label: str | None = None
    days: int = 90
    former: Secret | None = None

    @property
    def files(self) -> ClientFiles:
        """Client files of the user."""
        return ClientFiles(self.target.client_folder(self.username))

    def token_file(self, label: str) -> Path:
        """File of the token with *label*: the one from onboarding, or a separate one for any other label."""
        folder = self.files.folder
        if label == TOKEN_LABEL:
            return folder / "token"
        digest = hashlib.sha256(label.encode()).hexdigest()[:8]
        return folder / f"token-{re.sub(r'[^A-Za-z0-9]+', '-', label)[:40].strip('-')}-{digest}"


def describe(
    target: Target,
    *,
    rotate: str = "",
    username: str = "",
    label: str = "",
    max_age_days: int = 90,
) -> Rotation:
    """Check the parameters of the notebook, and read the value to be replaced.

    Raises:
        ParameterError: a parameter is invalid.
        RunbookError: the user has no such token.
    """
    if rotate and rotate not in _NOUNS:
        raise ParameterError(
            f"the parameter rotate cannot be {rotate!r}",
            why=f"it must be one of {', '.join(_NOUNS)}",
            todo="use one of them, or omit it to only show the ages",
        )
    if max_age_days < 0:
        raise ParameterError(
            f"the parameter max_age_days cannot be {max_age_days}", todo="use days, or 0 to rotate whatever the age"
        )
    if (rotate in {"password", "token"}) != bool(username):
        raise ParameterError(
            "username and rotate do not fit together",
            why="rotate=password and rotate=token need a user, other values have none",
            todo="give both, or omit both",
        )
    rotation = Rotation(
        target=target,
        kind=rotate,
        username=checked_user_name(username) if username else "",
        label=label or None,
        days=max_age_days,
    )
    return dataclasses.replace(rotation, former=_unfinished(rotation) or _current(rotation))


def plan(rotation: Rotation) -> Plan:
    """Show what would be replaced. Reads only.

    Raises:
        NotDeployedError: there is no index.
        RunbookError: there is no such user or token.
        PreflightError: the new admin token would be hidden by an environment variable.
    """
    deployment, admin = AdminApi.of(rotation.target)
    with admin:
        changes = _changes(rotation, admin)
    held = "" if rotation.kind else "Nothing is rotated, since the parameter rotate is empty."
    return Plan(_caption(rotation), tuple(changes), rotation.target.place, deployment.url, held)


def _caption(rotation: Rotation) -> str:
    what = f"the {_NOUNS[rotation.kind]}" if rotation.kind else "nothing"
    return (
        f"Rotate {what}{f' of {rotation.username}' if rotation.username else ''} on the target {rotation.target.place}"
    )


def _changes(rotation: Rotation, admin: AdminApi) -> list[Change]:
    if rotation.kind == "admin":
        _require_own_copy(rotation)
        age, then = rotation.target.credential_ages()[0], "generate a new one, and restart the server"
        if _unfinished(rotation) is not None:
            return [Change(age.name, "from a rotation that was interrupted before the server had it", "complete it")]
        return [_change(rotation, age, then)]
    if rotation.kind == "password":
        _require_user(rotation, admin)
        created = password_ages(rotation.target).get(rotation.username)
        age = CredentialAge(f"password of {rotation.username}", created)
        return [_change(rotation, age, f"generate a new one, and write it to {shown(rotation.files.folder)}")]
    if rotation.kind == "token":
        old = _tokens(rotation, admin)
        due = any(is_older(parsed(token.created), rotation.days) for token in old)
        path = shown(rotation.token_file(old[0].label))
        wanted = _rights(rotation, admin, old[0])
        lowered = (wanted.role, wanted.projects) != (old[0].role, old[0].projects)
        rights = f"only the rights that the user still has ({wanted.rights})" if lowered else "the same rights"
        then = f"create one with {rights}, write it to {path}, then revoke this" if due else ""
        return [Change(display_name(token), _times(token), then) for token in old]
    return []


def _times(token: IndexToken) -> str:
    used = shown_time(token.last_used) or "never"
    return f"set {shown_time(token.created)}, until {shown_time(token.expires)}, last used {used}"


def _change(rotation: Rotation, age: CredentialAge, then: str) -> Change:
    since = f"set {shown_time(age.created)}" if age.created else "of unknown age"
    return Change(age.name, since, then if is_older(age.created, rotation.days) else "")


def _require_own_copy(rotation: Rotation) -> None:
    """Refuse a rotation if this machine would keep using the old admin token."""
    variable = rotation.target.settings.secret_key
    if os.environ.get(variable) and rotation.target.name != "local":
        raise PreflightError(
            [f"the environment variable {variable} is set, and would keep hiding the new admin token"],
            todo=f"unset {variable} and run this where the workspace has the copy; then set {variable} anew",
        )


def _require_user(rotation: Rotation, admin: AdminApi) -> None:
    if admin.user(rotation.username) is None:
        raise RunbookError(
            f"there is no user {rotation.username!r}", todo="run the notebook 02_onboard_user, which creates the user"
        )


def _tokens(rotation: Rotation, admin: AdminApi) -> list[IndexToken]:
    """The user's tokens with one label, newest first.

    Raises:
        RunbookError: there is none, or the label is ambiguous.
    """
    owned = admin.tokens(rotation.username)
    labels = sorted({token.label for token in owned})
    label = rotation.label if rotation.label is not None or len(labels) != 1 else labels[0]
    found = [token for token in owned if token.label == label]
    if not found:
        raise RunbookError(
            f"it is ambiguous which token of {rotation.username!r} to rotate" if owned and label is None
            else f"{rotation.username!r} has no such token",
            why=f"the labels are {', '.join(map(repr, labels))}" if labels else "the user has no tokens",
            todo="set the parameter `label` to one of them" if labels else "create a token first",
        )  # fmt: skip
    return found


def _rights(rotation: Rotation, admin: AdminApi, token: IndexToken) -> IndexUser:
    """The rights of a new token: those of the former one, as far as the user still has them."""
    user, role, projects = admin.user(rotation.username), token.role, token.projects
    if user is not None and role:
        role, projects = limited_rights(role, projects, to=user.role, to_projects=user.projects)
    return IndexUser(rotation.username, role, projects)


def apply(rotation: Rotation) -> Outcome:
    """Replace the credential if it is old enough. The new value goes into a private file or the target's secret store.

    Raises:
        ApprovalError: another plan was approved for this run; nothing was changed.
        BusyError: another run holds the target for too long.
        IndexRequestError: the index refused.
        VerificationError: a client was refused while a token was replaced.
    """
    target = rotation.target
    if not rotation.kind:
        note = "Nothing was rotated, since the parameter rotate is empty."
        return Outcome(_caption(rotation), (), note, target.place)
    with target.lock():
        require_approved(lambda: plan(rotation))
        deployment, admin = AdminApi.of(target)
        with admin:
            if not any(change.then for change in _changes(rotation, admin)):
                note = f"It is younger than {rotation.days} days; max_age_days=0 rotates whatever the age."
                return Outcome(_caption(rotation), (), note, target.place, deployment.url)
            if rotation.kind == "admin":
                done = _rotate_admin(rotation)
            elif rotation.kind == "password":
                done = _rotate_password(rotation, admin, deployment.url)
            else:
                done = _rotate_token(rotation, admin, deployment.url)
    return Outcome(_caption(rotation), tuple(done), "", target.place, deployment.url)


def _unfinished(rotation: Rotation) -> Secret | None:
    """The admin token that servers may still have after an interrupted rotation; None if there was none."""
    if rotation.kind != "admin":
        return None
    names = rotation.target.settings
    return rotation.target.recall_former_secret(names.secret_name, names.secret_key)


def _rotate_admin(rotation: Rotation) -> list[tuple[str, str]]:
    names = rotation.target.settings
    # The servers may have the new token of an interrupted rotation already: a third one would lock this machine out
    # if it was interrupted as well.
    if _unfinished(rotation) in {None, _current(rotation)}:
        rotation.target.put_secret(names.secret_name, {names.secret_key: Secret.generate()})
    rotation.target.restart()
    return [(f"secret {names.secret_name} (admin token)", "replaced"), ("server", "restarted with it")]


def _rotate_password(rotation: Rotation, admin: AdminApi, url: str) -> list[tuple[str, str]]:
    password = Secret.generate(24)
    login = rotation.files.login() or Login(url=url)
    # The files first: if this run is killed in between, the new password is not lost.
    written = rotation.files.write(dataclasses.replace(login, url=url, username=rotation.username, password=password))
    admin.register(rotation.username, password_hash=password_hash(password, ROUNDS))
    return [
        (f"password of {rotation.username}", "replaced"),
        (f"{counted(len(written), 'file')} in {shown(rotation.files.folder)}", "written, mode 0600"),
    ]


def _rotate_token(rotation: Rotation, admin: AdminApi, url: str) -> list[tuple[str, str]]:
    old = _tokens(rotation, admin)
    newest, path = old[0], rotation.token_file(old[0].label)
    rights = _rights(rotation, admin, newest)
    client = AskingClient(url, user_tokens.read_token(path))
    with client:
        value, token = admin.create_token(
            rotation.username,
            role=rights.role or None,
            projects=rights.projects,
            label=newest.label,
            lifetime=newest.lifetime,
        )
        _require_let_in(url, value)
        client.pause(OVERLAP_SECONDS)
        user_tokens.write_token(path, value)
        client.switch(value)
        for each in old:
            admin.revoke_token(each.id)
        client.pause(OVERLAP_SECONDS, until_response=True)
    if client.refused:
        raise VerificationError(
            f"a client was refused {client.refused} of {client.asked} times while the token was replaced",
            why="a server did not know the new token when the old one was revoked",
            todo="the new token is in place: see the server's log for why it was slow to read it",
        )
    return [
        (display_name(token), f"created, until {shown_time(token.expires)}"),
        (shown(path), "written, mode 0600"),
        *((display_name(each), f"revoked, created {shown_time(each.created)}") for each in old),
        ("a client that kept sending requests", "was never refused"),
    ]


class AskingClient:
    """A client that keeps sending requests with its current token while the token is replaced.

    Parameters:
        url: the root of the index.
        token: the one before the rotation; None to start only after :meth:`switch`.
    """

    def __init__(self, url: str, token: Secret | None) -> None:
        self._url = url
        self._token = token
        self._ended = threading.Event()
        self._responded = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.asked = self.refused = 0

    def __enter__(self) -> Self:
        if self._token and user_tokens.token_status(self._url, self._token) != 200:
            self._token = None  # it belongs to another index, or was already revoked
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def switch(self, token: Secret) -> None:
        """Switch to another token, and wait until it was used."""
        self._token = token
        self.pause(_SWITCH_SECONDS, until_response=True)

    def pause(self, seconds: float, *, until_response: bool = False) -> None:
        """Keep sending for some seconds, or until the next response."""
        self._responded.clear()
        (self._responded if until_response else self._ended).wait(seconds)

    def _ask(self) -> None:
        while not self._ended.is_set():
            token = self._token
            if token is not None:
                self.asked += 1
                try:
                    self.refused += user_tokens.token_status(self._url, token) != 200
                except RunbookError:
                    self.refused += 1
                if token is self._token:
                    self._responded.set()
            self._ended.wait(_INTERVAL_SECONDS)


def _require_let_in(url: str, token: Secret) -> None:
    status = until_equal(lambda: user_tokens.token_status(url, token), 200)
    if status != 200:
        raise VerificationError(
            "the new token is not accepted, and the old one stays",
            why=f"the index responded with {status}",
            todo="run this notebook again; the unused token expires by itself",
        )


def verify(rotation: Rotation, outcome: Outcome) -> Table:
    """Try the new credential, and the former one if it is known here.

    Parameters:
        rotation: the requested rotation.
        outcome: of :func:`apply`.

    Raises:
        VerificationError: the new one is refused, or the former one is accepted.
    """
    if not outcome.changed:
        return Table.of("Seen from outside", ("what", "seen"), [("every credential", "left as it was")])
    deployment = rotation.target.state().require(rotation.target.place)
    new = _current(rotation)
    tried = [(f"the new {_NOUNS[rotation.kind]}", new, 200), ("the former one", rotation.former, 401)]
    findings = [_tried(rotation, deployment, question, value, wanted) for question, value, wanted in tried]
    if rotation.kind == "token":
        _, admin = AdminApi.of(rotation.target)
        with admin:
            left = len(_tokens(rotation, admin))
        findings.append(Finding("tokens of this label", "1", str(left), left == 1))
    return proven("Seen from outside", findings, todo="run this notebook again with max_age_days=0")


def _current(rotation: Rotation) -> Secret | None:
    """The value currently stored on this machine."""
    if rotation.kind == "admin":
        return rotation.target.recall_secret(rotation.target.settings.secret_name, rotation.target.settings.secret_key)
    if rotation.kind == "password":
        return rotation.files.password()
    if rotation.kind == "token":
        _, admin = AdminApi.of(rotation.target)
        with admin:
            return user_tokens.read_token(rotation.token_file(_tokens(rotation, admin)[0].label))
    return None


def _tried(rotation: Rotation, deployment: Deployment, question: str, value: Secret | None, wanted: int) -> Finding:
    if value is None:
        return Finding(question, str(wanted), "not tried: it is not known here", passed=wanted != 200)

    def ask() -> int:
        if rotation.kind == "admin":
            with AdminApi(deployment.admin_url, value, deployment.admin_headers) as admin:
                return admin.users_status()
        if rotation.kind == "token":
            return user_tokens.token_status(deployment.url, value)
        return login_status(Login(url=deployment.url, username=rotation.username, password=value))

    status = until_equal(ask, wanted)
    return Finding(question, str(wanted), str(status), status == wanted)


__all__ = ["Rotation", "apply", "describe", "plan", "preflight", "verify"]
