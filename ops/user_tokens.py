"""Tokens of users: created into a private file or the target's secret store, listed, and revoked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.admin_api import AdminApi, IndexToken
from ops.clients import Login
from ops.errors import ParameterError, RunbookError
from ops.http_client import login_status
from ops.private_files import private_file, private_folder, replace_file
from ops.secret import Secret
from ops.table import Table, Text
from ops.targets import Target
from ops.workspace import shown

TOKEN_USER = "__token__"  # noqa: S105 - the user name that goes with a token
SECRET_KEY = "INDEX_TOKEN"  # noqa: S105 - the name of a secret's key
DEFAULT_DAYS = 90


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """A token to create.

    Parameters:
        owner: the user it stands for.
        role: at most the owner's; empty for the owner's.
        projects: the only ones to upload to; empty for all of the owner's.
        days: until it expires; 1/24 to 365.
        label: one line, for people.
    """

    owner: str
    role: str = ""
    projects: tuple[str, ...] = ()
    days: float = DEFAULT_DAYS
    label: str = ""

    def create(self, admin: AdminApi) -> tuple[Secret, IndexToken]:
        """Create it.

        Raises:
            IndexRequestError: the index refused it.
        """
        return admin.create_token(
            self.owner,
            role=self.role or None,
            projects=self.projects or None,
            lifetime=round(self.days * 86400),
            label=self.label,
        )


def create_file(admin: AdminApi, request: TokenRequest, path: Path) -> IndexToken:
    """Create a token into a private file. Revokes one that a killed run created and did not write there.

    Raises:
        IndexRequestError: the index refused it.
        OSError: the file cannot be written.
    """
    begun, tokens = begun_file(path), [each for each in admin.tokens(request.owner) if each.label == request.label]
    if begun.exists():
        before = begun.read_text("utf-8").split()
        for token in tokens:
            if token.id not in before and not token.last_used:
                admin.revoke_token(token.id)
    private_folder(path.parent)
    replace_file(begun, " ".join(token.id for token in tokens))
    plain, token = request.create(admin)
    write_token(path, plain)
    return token


def begun_file(path: Path) -> Path:
    """File that exists until a token is created and written to *path*, with the ids of the tokens before."""
    return path.with_name(f"{path.name}.begun")


def create(
    target: Target,
    request: TokenRequest,
    *,
    path: Path | None = None,
    secret: str = "",
) -> Text:
    """Create a token, and store it where no one else can read it; it is not shown.

    Parameters:
        target: the target of the index.
        request: the token.
        path: a new file for it, mode 0600; None for one in the owner's client folder.
        secret: instead of a file, a secret in the target's store, with the key ``INDEX_TOKEN``.

    Raises:
        ParameterError: both a file and a secret were named, or the file exists.
        IndexRequestError: the index refused it.
    """
    if path is not None and secret:
        raise ParameterError(
            "the token goes to one place", why="both --out and --secret were given", todo="omit one of them"
        )
    if path is not None and path.exists():
        raise ParameterError(
            f"{shown(path)} exists",
            why="a token does not overwrite another file",
            todo="name a new file, or remove it",
        )
    deployment, admin = AdminApi.of(target)
    with admin:
        plain, token = request.create(admin)
        try:
            if secret:
                target.put_secret(secret, {SECRET_KEY: plain})
                place = f"the secret {secret} of the target {target.place}, key {SECRET_KEY}"
            else:
                path = path or target.client_folder(request.owner) / f"token-{token.id}"
                write_token(path, plain)
                place = f"{shown(path)} (mode 0600)"
        except (RunbookError, OSError):
            admin.revoke_token(token.id)  # it was not stored anywhere
            raise
    return Text(
        f"Token {token.id} of {token.owner} ({_rights(token.role, token.projects)}) expires on {token.expires[:10]}.\n"
        f"It is in {place}, and is not shown again.\n\n"
        f"Clients of {deployment.url} send it as the password of the user {TOKEN_USER}; "
        f"for uv publish: UV_PUBLISH_TOKEN.\n"
        f"Revoke it: runbook token revoke {token.id} --target {target.place}"
    )


def tokens(target: Target, owner: str = "") -> Table:
    """All tokens, or those of one owner, without the tokens themselves."""
    _, admin = AdminApi.of(target)
    with admin:
        rows = [
            (
                token.id,
                token.owner,
                _rights(token.role, token.projects),
                token.label,
                token.created[:10],
                token.expires[:10],
                token.last_used[:16].replace("T", " ") if token.last_used else "not known",
            )
            for token in admin.tokens(owner or None)
        ]
    columns = ("id", "owner", "may at most", "label", "created", "expires", "last used (UTC)")
    return Table.of(f"Tokens of the target {target.place}", columns, rows)


def revoke(target: Target, token_id: str) -> Text:
    """Revoke a token. Every server refuses it within five seconds.

    Raises:
        ParameterError: there is no such token.
    """
    _, admin = AdminApi.of(target)
    with admin:
        if not admin.revoke_token(token_id):
            raise ParameterError(
                f"there is no token {token_id!r}", why="none has that id", todo="see the ids with: runbook token list"
            )
    return Text(f"Token {token_id} was revoked; every server refuses it within five seconds.")


def write_token(path: Path, token: Secret) -> None:
    """Write a token into a private file.

    Raises:
        OSError: it cannot be written.
    """
    private_folder(path.parent)
    os.close(private_file(path, os.O_WRONLY))
    replace_file(path, f"{token.reveal()}\n")
    begun_file(path).unlink(missing_ok=True)


def read_token(path: Path) -> Secret | None:
    """The token in a file; None if there is none."""
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Secret(text) if text else None


def token_status(url: str, token: Secret) -> int:
    """Status of the index's response to a request with a token."""
    return login_status(Login(url=url, username=TOKEN_USER, password=token))


def _rights(role: str, projects: Sequence[str] | None) -> str:
    return role if projects is None else f"{role} of {', '.join(projects)}"
