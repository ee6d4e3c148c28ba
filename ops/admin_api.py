"""Client of the admin application: registers, lists and deletes users, and their tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from ops.errors import IndexRequestError, PreflightError, TargetError
from ops.http_client import HttpClient
from ops.secret import Secret
from ops.targets import Deployment, Target
from ops.targets.target import last_error

_PROXY_AUTH = "proxy authorization"
"""Text in the response of Modal's proxy to a request that it does not forward."""


@dataclass(frozen=True)
class IndexUser:
    """User of the index.

    Parameters:
        username: in Unicode NFC.
        role: ``reader``, ``publisher`` or ``admin``.
        projects: the only ones that a publisher may upload to; None for all.
        created: True if the request created the user.
    """

    username: str
    role: str
    projects: tuple[str, ...] | None
    created: bool = False

    @property
    def rights(self) -> str:
        """The role, and the projects to which a publisher is limited, for display."""
        return f"{self.role} of {', '.join(self.projects)}" if self.projects else self.role


@dataclass(frozen=True)
class IndexToken:
    """Token of a user, without the token itself.

    Parameters:
        id: not secret; the audit log names the token by it.
        owner: the user it stands for.
        label: one line, for people.
        created: UTC, in ISO 8601.
        expires: likewise.
        last_used: likewise, to the hour; empty if no use is known.
        role: the highest it may have.
        projects: the only ones that it may upload to; None for all of the owner's.
    """

    id: str
    owner: str
    label: str
    created: str
    expires: str
    last_used: str = ""
    role: str = ""
    projects: tuple[str, ...] | None = None

    @property
    def lifetime(self) -> int:
        """Seconds from creation to expiry."""
        return int((datetime.fromisoformat(self.expires) - datetime.fromisoformat(self.created)).total_seconds())


class AdminApi:
    """Admin application of one index. The admin token is sent in a header only.

    Parameters:
        url: the root of the application, ending in a slash.
        token: the admin token; None for requests without one.
        headers: further headers, see :class:`~ops.targets.Deployment`.
        advice: for a 401 or a failure, by status; see :func:`advice_for`.
    """

    def __init__(
        self,
        url: str,
        token: Secret | None,
        headers: Mapping[str, Secret] | None = None,
        *,
        advice: Callable[[int], str] | None = None,
    ) -> None:
        self._http = HttpClient(url, token=token, headers=headers)
        self._behind_proxy_auth = bool(headers)
        self._advice = advice

    @classmethod
    def of(cls, target: Target) -> tuple[Deployment, Self]:
        """The index on *target*, and a client of its admin application with the operator's copy of the token.

        Raises:
            NotDeployedError: there is no index.
            NotRespondingError: it does not respond.
            PreflightError: this machine has no copy of the token.
        """
        deployment = target.state().require(target.place)
        settings = target.settings
        token = target.recall_secret(settings.secret_name, settings.secret_key)
        if token is None:
            raise PreflightError(
                [f"this machine has no copy of the admin token of the target {target.place!r}"],
                todo=f"set the environment variable {settings.secret_key} to it, or run this where it was provisioned",
            )
        advice = advice_for(target)
        found = cls(deployment.admin_url, token, deployment.admin_headers, advice=advice)
        former = target.recall_former_secret(settings.secret_name, settings.secret_key)
        if former is not None and found.users_status() == 401:
            # A rotation was interrupted before the servers took the new token.
            with found:
                found = cls(deployment.admin_url, former, deployment.admin_headers, advice=advice)
        return deployment, found

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
    ) -> IndexUser:
        """Create a user, or change an existing one.

        Parameters:
            username: the user's name.
            password_hash: a bcrypt hash, so that the password never leaves this machine; None keeps the current
                password.
            role: ``reader``, ``publisher`` or ``admin``; None keeps a user's role, and makes a new user a publisher.
            projects: the only ones that a publisher may upload to; None keeps the current ones.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        body: dict[str, object] = {"username": username}
        if password_hash is not None:
            body["password_hash"] = password_hash
        if role is not None:
            body["role"] = role
        if projects is not None:
            body["projects"] = list(projects)
        response = self._http.request("POST", "register_user", json=body)
        self._require(response, (200, 201), f"the user {username!r} could not be registered")
        return _user(response.json())

    def users(self) -> list[IndexUser]:
        """All users, sorted by name.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("GET", "users")
        self._require(response, (200,), "the users could not be listed")
        return sorted((_user(entry) for entry in response.json()), key=lambda user: user.username)

    def user(self, username: str) -> IndexUser | None:
        """The user with that name, or None.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        return next((user for user in self.users() if user.username == username), None)

    def delete(self, username: str) -> bool:
        """Delete a user. False if there was none.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("DELETE", f"users/{quote(username, safe='')}")
        self._require(response, (204, 404), f"the user {username!r} could not be deleted")
        return response.status_code == 204

    def tokens(self, owner: str | None = None) -> list[IndexToken]:
        """Tokens of one user, or of all, newest first. Empty for an index too old to have tokens.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("GET", "tokens" if owner is None else f"tokens?owner={quote(owner, safe='')}")
        self._require(response, (200, 404), "the tokens could not be listed")
        return [_token(entry) for entry in response.json()] if response.ok else []

    def create_token(
        self,
        owner: str,
        *,
        role: str | None = None,
        projects: Sequence[str] | None = None,
        label: str = "",
        lifetime: int | None = None,
    ) -> tuple[Secret, IndexToken]:
        """Create a token in addition to the owner's others. The index does not show it again.

        Parameters:
            owner: the user it stands for.
            role: at most the owner's, which is the default.
            projects: the only ones that it may upload to; None for all of the owner's.
            label: one line, for people.
            lifetime: seconds, from an hour to a year; None for 90 days.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        wanted = {"role": role, "projects": projects and list(projects), "lifetime_seconds": lifetime}
        body = {"owner": owner, "label": label} | {name: value for name, value in wanted.items() if value is not None}
        response = self._http.request("POST", "create_token", json=body)
        self._require(response, (201,), f"no token could be created for {owner!r}")
        return Secret(response.json()["token"]), _token(response.json())

    def revoke_token(self, token_id: str) -> bool:
        """Revoke a token. False if there was none with that id.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("DELETE", f"tokens/{quote(token_id, safe='')}")
        self._require(response, (204, 404), f"the token {token_id!r} could not be revoked")
        return response.status_code == 204

    def trust(self) -> dict[str, Any]:
        """The trusted CI jobs: ``version``, ``audience``, ``issuers`` and ``jobs``.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("GET", "trust")
        self._require(response, (200,), "the trusted CI jobs could not be read")
        return dict(response.json())

    def replace_trust(self, document: Mapping[str, Any], *, version: int) -> dict[str, Any]:
        """Replace the trusted CI jobs, and return them as stored.

        Parameters:
            document: ``audience``, ``issuers`` and ``jobs``.
            version: of the trust that the document is based on.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("POST", "replace_trust", json={**document, "version": version})
        self._require(response, (200,), "the trusted CI jobs could not be replaced")
        return dict(response.json())

    def invite(self, username: str) -> tuple[Secret, str]:
        """A one-time code with which a user sets a password, and its expiry (RFC 3339). Replaces an earlier code.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("POST", "invite", json={"username": username})
        self._require(response, (201,), f"the user {username!r} could not be invited")
        return Secret(response.json()["code"]), str(response.json()["expires"])

    def reservations(self) -> dict[str, tuple[str, ...]]:
        """Reserved prefixes of project names, and their owners (PEP 752).

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("GET", "reservations")
        self._require(response, (200,), "the reserved prefixes could not be listed")
        return {entry["prefix"]: tuple(entry["owners"]) for entry in response.json()}

    def reserve(self, prefix: str, owners: Sequence[str]) -> None:
        """Replace the owners of a prefix; none frees it.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        response = self._http.request("POST", "reserve", json={"prefix": prefix, "owners": list(owners)})
        self._require(response, (200,), f"the prefix {prefix!r} could not be reserved")

    def users_status(self) -> int:
        """Status of a request for the list of users: 200, or 401 for a wrong token.

        Raises:
            IndexRequestError: the request got no response.
        """
        return self._http.request("GET", "users").status_code

    def refusal_advice(self) -> str:
        """Advice on a refused request for the list of users; empty if it is not refused.

        Raises:
            IndexRequestError: the request got no response.
        """
        response = self._http.request("GET", "users")
        return "" if response.ok else self._todo(response)

    def _require(self, response: requests.Response, accepted: tuple[int, ...], what: str) -> None:
        if response.status_code in accepted:
            return
        raise IndexRequestError(
            what,
            status=response.status_code,
            why=f"{response.status_code} {_phrase(response)}: {response_message(response)}",
            todo=self._todo(response),
        )

    def _todo(self, response: requests.Response) -> str:
        if response.status_code == 401 and _PROXY_AUTH in response.text:
            if self._behind_proxy_auth:
                return (
                    "the proxy token in MODAL_PROXY_TOKEN_ID and MODAL_PROXY_TOKEN_SECRET is not accepted: use one of "
                    "this workspace that has not been revoked, created with: modal workspace proxy-tokens create"
                )
            return (
                "the admin application is behind Modal's proxy auth: create a proxy token with modal workspace "
                "proxy-tokens create, and set MODAL_PROXY_TOKEN_ID and MODAL_PROXY_TOKEN_SECRET"
            )
        if self._advice is not None and (response.status_code == 401 or response.status_code >= 500):
            return self._advice(response.status_code)
        if response.status_code == 401:
            return "use the token that the index was provisioned with, or run the notebook 01_provision again"
        return "fix that and run it again" if response.status_code < 500 else "see the log of the index"


def advice_for(target: Target) -> Callable[[int], str]:
    """Advice for when the admin application of *target* refuses the operator's token, or fails."""

    def advice(status: int) -> str:
        if status == 401:
            return target.refused_secret(target.settings.secret_name, target.settings.secret_key)
        try:
            error = last_error(target.logs(200).splitlines())
        except TargetError:
            error = ""
        return f"the last error in its log: {error}" if error else "see the log of the index"

    return advice


def _user(entry: dict[str, Any]) -> IndexUser:
    projects = entry.get("projects")
    return IndexUser(
        username=entry["username"],
        role=entry["role"],
        projects=None if projects is None else tuple(sorted(projects)),
        created=bool(entry.get("created", False)),
    )


def _token(entry: dict[str, Any]) -> IndexToken:
    projects = entry.get("projects")
    return IndexToken(
        id=entry["id"],
        owner=entry["owner"],
        label=entry["label"],
        created=entry["created"],
        expires=entry["expires"],
        last_used=entry.get("last_used") or "",
        role=entry.get("role", ""),
        projects=None if projects is None else tuple(projects),
    )


def _phrase(response: requests.Response) -> str:
    """The standard phrase of a response's status: the index appends its message to that of the status line."""
    return response.reason.partition(":")[0]


def response_message(response: requests.Response) -> str:
    """Message of a response on one line: the ``detail`` of a JSON body, else the start of the text."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text
    if isinstance(detail, list):
        # FastAPI's list of validation errors.
        detail = "; ".join(str(entry.get("msg", entry)) if isinstance(entry, dict) else str(entry) for entry in detail)
    return " ".join(str(detail).split())[:300] or "it said nothing"
