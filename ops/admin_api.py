"""The admin application, as the operator's machine asks it: register, list and delete users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from ops.errors import IndexRequestError, NotDeployedError, PreflightError
from ops.http_client import HttpClient
from ops.secret import Secret
from ops.settings import Settings
from ops.targets import Deployment, Target

ROLES = ("reader", "publisher", "admin")
"""What a user may be: read; also upload, yank and set a project's status; also remove, and quarantine a project."""


@dataclass(frozen=True)
class User:
    """One user of the index, as the admin application tells.

    Parameters:
        username: the name in its one spelling.
        role: one of :data:`ROLES`.
        projects: the only ones that a publisher may upload to; None for all.
        created: whether the answered request made the user.
    """

    username: str
    role: str
    projects: tuple[str, ...] | None
    created: bool = False


class AdminApi:
    """The admin application of one index, asked with the admin token. The token goes into a header and nowhere else.

    Parameters:
        url: the root of the application, ending in a slash.
        token: the admin token; None to be refused.
        headers: what the place where it runs wants besides, see :class:`~ops.targets.Deployment`.
    """

    def __init__(self, url: str, token: Secret | None, headers: Mapping[str, Secret] | None = None) -> None:
        self._http = HttpClient(url, token=token, headers=headers)

    @classmethod
    def of(cls, target: Target, settings: Settings | None = None) -> tuple[Deployment, Self]:
        """The index that runs on *target* and its admin application, with the operator's copy of the token.

        Raises:
            NotDeployedError: there is no index.
            PreflightError: this machine has no copy of the token.
        """
        settings = settings or Settings()
        deployment = target.deployment()
        if deployment is None:
            raise NotDeployedError(target.place)
        token = target.recall_secret(settings.secret_name, settings.secret_key)
        if token is None:
            raise PreflightError(
                [f"this machine has no copy of the admin token of the target {target.place!r}"],
                todo=f"set the environment variable {settings.secret_key} to it, or work where it was provisioned",
            )
        return deployment, cls(deployment.admin_url, token, deployment.admin_headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def register(
        self,
        username: str,
        *,
        password_hash: str | None = None,
        role: str | None = None,
        projects: Sequence[str] | None = None,
    ) -> User:
        """Create a user, or change the one of that name.

        Parameters:
            username: the user's name.
            password_hash: a bcrypt hash, made here so that the password itself never leaves this machine; None keeps
                a user's password.
            role: one of :data:`ROLES`; None keeps a user's role, and makes a new one a publisher.
            projects: the only ones that a publisher may upload to; None keeps what was.

        Raises:
            IndexRequestError: refused, or no answer.
        """
        body: dict[str, object] = {"username": username}
        if password_hash is not None:
            body["password_hash"] = password_hash
        if role is not None:
            body["role"] = role
        if projects is not None:
            body["projects"] = list(projects)
        answer = self._http.request("POST", "register_user", json=body)
        _require(answer, (200, 201), f"the user {username!r} could not be registered")
        return _user(answer.json())

    def users(self) -> list[User]:
        """All users, in the order of their names.

        Raises:
            IndexRequestError: refused, or no answer.
        """
        answer = self._http.request("GET", "users")
        _require(answer, (200,), "the users could not be listed")
        return sorted((_user(entry) for entry in answer.json()), key=lambda user: user.username)

    def user(self, username: str) -> User | None:
        """The user of that name, or None.

        Raises:
            IndexRequestError: refused, or no answer.
        """
        return next((user for user in self.users() if user.username == username), None)

    def delete(self, username: str) -> bool:
        """Delete a user. False when there was none.

        Raises:
            IndexRequestError: refused, or no answer.
        """
        answer = self._http.request("DELETE", f"users/{quote(username, safe='')}")
        _require(answer, (204, 404), f"the user {username!r} could not be deleted")
        return answer.status_code == 204

    def users_status(self) -> int:
        """What is answered to a request for the list of users: 200, or 401 for a token that is not the admin's.

        Raises:
            IndexRequestError: no answer.
        """
        return self._http.request("GET", "users").status_code


def _user(entry: dict[str, Any]) -> User:
    projects = entry.get("projects")
    return User(
        username=entry["username"],
        role=entry["role"],
        projects=None if projects is None else tuple(sorted(projects)),
        created=bool(entry.get("created", False)),
    )


def _require(answer: requests.Response, accepted: tuple[int, ...], what: str) -> None:
    if answer.status_code in accepted:
        return
    todo = "see the log of the index"
    if answer.status_code == 401:
        todo = "use the token that the index was provisioned with, or run the notebook 01_provision again"
    elif 400 <= answer.status_code < 500:
        todo = "mend that and run it again"
    raise IndexRequestError(
        what, status=answer.status_code, why=f"{answer.status_code} {answer.reason}: {said(answer)}", todo=todo
    )


def said(answer: requests.Response) -> str:
    """What an answer says in words, in one line: the ``detail`` of a JSON body, else the start of the text."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text
    if isinstance(detail, list):
        # FastAPI's own list of what does not validate.
        detail = "; ".join(str(entry.get("msg", entry)) if isinstance(entry, dict) else str(entry) for entry in detail)
    return " ".join(str(detail).split())[:300] or "it said nothing"
