"""HTTP client of the index: without credentials, as a user, or with the admin token."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from ops.clients import Login, is_loopback
from ops.errors import IndexRequestError
from ops.secret import Secret

CONNECT_SECONDS = 10.0
RESPONSE_SECONDS = 180.0
"""Longer than the 150 s after which Modal redirects a request while a container starts."""

JSON = "application/vnd.pypi.simple.v1+json"
"""The media type of PEP 691."""


class HttpClient:
    """Session with one application. Connections that fail are retried, responses never.

    Parameters:
        url: the root of the application, ending in a slash.
        username: for HTTP Basic auth (RFC 7617); None for no credentials.
        password: the user's.
        token: for a Bearer header (RFC 6750) instead of a user.
        headers: secret headers of every request.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: Secret | None = None,
        token: Secret | None = None,
        headers: Mapping[str, Secret] | None = None,
    ) -> None:
        self.url = url
        self._session = _Session(headers or {})
        # Otherwise ~/.netrc would add credentials, or replace a Bearer header.
        self._session.auth = _Headers(username, password, token, headers or {})
        # Loopback addresses must not go through a proxy from the environment.
        self._session.trust_env = not is_loopback(url)
        retries = Retry(total=None, connect=3, read=0, redirect=20, status=0, other=0, backoff_factor=0.2)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retries))

    @classmethod
    def of(cls, login: Login) -> Self:
        """A client of the index of *login*, with its credentials if it has any."""
        return cls(login.url, username=login.username, password=login.password)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def login_status(self) -> int:
        """Status of the index's response to a request for its list of projects: 401 if it refuses the login.

        Raises:
            IndexRequestError: there was no response.
        """
        return self.request("GET", "simple/").status_code

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request, and return the response whatever its status.

        Parameters:
            method: the HTTP method.
            path: below the root, without a leading slash.
            headers: in addition to those of the session.
            json: a body, sent as JSON.
            data: a body, sent as a form.

        Raises:
            IndexRequestError: there was no response.
        """
        timeout = (CONNECT_SECONDS, RESPONSE_SECONDS)
        try:
            return self._session.request(
                method, self.url + path, headers=headers, json=json, data=data, timeout=timeout
            )
        except requests.RequestException as error:
            raise IndexRequestError(
                f"there was no response from {self.url}{path}",
                why=_cause(error),
                todo="check that the index runs (the notebook 01_provision starts it) and can be reached from here",
            ) from None


def login_status(login: Login) -> int:
    """Status of the index's response to *login*.

    Raises:
        IndexRequestError: there was no response.
    """
    with HttpClient.of(login) as http:
        return http.login_status()


class _Session(requests.Session):
    """Session that drops secret headers, as it does credentials, on a redirect to another host."""

    def __init__(self, secret: Mapping[str, Secret]) -> None:
        super().__init__()
        self._secret = secret

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Called for each redirect, with the next request."""
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call] # requests is half typed
        if self.should_strip_auth(response.request.url, prepared_request.url):  # type: ignore[no-untyped-call]
            for name in self._secret:
                prepared_request.headers.pop(name, None)


class _Headers(requests.auth.AuthBase):
    """Authentication that also keeps requests from using ``~/.netrc``."""

    def __init__(
        self, username: str | None, password: Secret | None, token: Secret | None, more: Mapping[str, Secret]
    ) -> None:
        self._more = more
        self._basic = (username, password) if username is not None and password is not None else None
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        for name, value in self._more.items():
            request.headers[name] = value.reveal()
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.reveal()}"
        elif self._basic is not None:
            username, password = self._basic
            # In UTF-8 (RFC 7617, section 2.1); requests itself would send Latin-1.
            pair = base64.b64encode(f"{username}:{password.reveal()}".encode())
            request.headers["Authorization"] = f"Basic {pair.decode()}"
        return request


def _cause(error: requests.RequestException) -> str:
    """The innermost reason: the outer ones only repeat the address."""
    reason: BaseException = error
    if error.args and isinstance(error.args[0], BaseException):
        reason = getattr(error.args[0], "reason", None) or error.args[0]
    text = str(reason)
    return text.rsplit(": ", 1)[-1] if text else type(error).__name__
