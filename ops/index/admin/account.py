"""Account page: users change their own passwords and tokens, with their own logins or with an invitation.

HTML forms for people, JSON objects with the same fields for programs. The page is in the admin application, because
only that application may write credentials, but it asks for the user's password instead of the admin token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, Response

from ops.index.admin.gate import address_of, inner_path, is_json, json_refusal
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.invitations import Invitations
from ops.index.auth.passwords import PASSWORD_BYTES
from ops.index.auth.roles import Identity, Role
from ops.index.auth.tokens import DEFAULT_LIFETIME, LABEL_LENGTH, LIFETIME_SECONDS, Tokens
from ops.index.auth.users import Users
from ops.index.errors import BadRequest, Forbidden, NotFound, OtherSite, PackageIndexError
from ops.index.http import html_templates

_DAY: Final = 86400


class AccountPages:
    """Handlers of ``/account`` and ``/invitation``.

    Parameters:
        users: changes passwords.
        tokens: of all users.
        invitations: likewise.
        authenticator: verifies the user's password.
        mounted: true below the index itself, which has compared the origin of a request with its own address.
    """

    def __init__(
        self,
        users: Users,
        tokens: Tokens,
        invitations: Invitations,
        authenticator: Authenticator,
        *,
        mounted: bool,
    ) -> None:
        self._users = users
        self._tokens = tokens
        self._invitations = invitations
        self._authenticator = authenticator
        self._mounted = mounted

    def add_to(self, app: FastAPI) -> None:
        """Add the routes. They are not in the OpenAPI document, which covers the admin token only."""
        for path, method, handler in (
            ("/account", "GET", self.show),
            ("/account/password", "POST", self.change_password),
            ("/account/tokens", "POST", self.create_token),
            ("/account/tokens/{token_id}/revoke", "POST", self.revoke_token),
            ("/invitation", "GET", self.invited),
            ("/invitation", "POST", self.accept),
        ):
            app.add_api_route(path, handler, methods=[method], include_in_schema=False, response_model=None)

    async def show(self, request: Request) -> Response:
        """The user, the role, and the user's tokens."""
        identity = await self._user(request)
        return await self._account(request, identity)

    async def change_password(self, request: Request) -> Response:
        """Set the password to ``new_password``."""
        identity = await self._user(request)
        name, password = identity.username, _password(await _fields(request))
        await run_in_threadpool(
            self._users.register,
            name,
            password=password,
            actor=name,
            address=address_of(request),
            confirm=identity.confirm,
        )
        done = "Your password was changed. The browser asks for it again; pip, uv and twine need it too."
        return (
            JSONResponse({"changed": True})
            if _wants_json(request)
            else _page(request, "done.html", up=self._up(request), sentence=done)
        )

    async def create_token(self, request: Request) -> Response:
        """Create a token with ``label``, ``days``, ``role`` and ``projects``; it is shown once."""
        identity = await self._user(request)
        fields = await _fields(request)
        projects = fields.get("projects", "").replace(",", " ").split()
        role = fields.get("role", "")
        plain, token = await run_in_threadpool(
            lambda: self._tokens.create(
                identity.username,
                role=_role(role) if role else None,
                projects=projects or None,
                lifetime=_lifetime(fields.get("days", "")),
                label=fields.get("label", ""),
                actor=identity.username,
                address=address_of(request),
                confirm=identity.confirm,
            )
        )
        if _wants_json(request):
            return JSONResponse({**token.to_json(), "token": plain}, 201)
        return await self._account(request, identity, plain=plain, status=201)

    async def revoke_token(self, request: Request) -> Response:
        """Revoke one of the user's own tokens."""
        identity = await self._user(request)
        token_id = request.path_params["token_id"]
        revoked = await run_in_threadpool(
            self._tokens.revoke, token_id, owner=identity.username, actor=identity.username, address=address_of(request)
        )
        if not revoked:
            raise NotFound("you have no such token; it may have been revoked already")
        return JSONResponse({"revoked": token_id}) if _wants_json(request) else await self._account(request, identity)

    async def invited(self, request: Request) -> Response:
        """The form of an invitation. A script takes the code from the URL's fragment, which browsers do not send."""
        return _page(request, "invitation.html", up=self._up(request))

    async def accept(self, request: Request) -> Response:
        """Set the first password with the ``code`` of an invitation."""
        self._check_origin(request)
        fields = await _fields(request)
        password = _password(fields)
        username = await run_in_threadpool(
            self._invitations.accept, fields.get("code", ""), password, address=address_of(request)
        )
        if _wants_json(request):
            return JSONResponse({"username": username})
        done = f"Welcome, {username}. Your password is set; you can now log in with it."
        return _page(request, "done.html", up=self._up(request), sentence=done)

    async def _user(self, request: Request) -> Identity:
        """The user who sends a request, with the password.

        Raises:
            Unauthorized: the password is missing or wrong.
            Forbidden: a token was sent.
            OtherSite: another site made the browser send it.
        """
        authorization = request.headers.get("authorization")
        header = None if authorization is None else authorization.encode("latin-1")
        identity = await self._authenticator.authenticate(header, address_of(request))
        if identity.token:
            raise Forbidden(identity.username, "change an account by a token, only by the password")
        if request.method == "POST":
            self._check_origin(request)
            # A password replaced a moment ago, on another server, must not make a token that outlives it.
            return await run_in_threadpool(self._authenticator.confirm, header, address_of(request), thoroughly=True)
        return identity

    async def _account(self, request: Request, identity: Identity, *, plain: str = "", status: int = 200) -> Response:
        tokens = await run_in_threadpool(self._tokens.all, identity.username)
        described = [token.to_json() for token in tokens]
        if _wants_json(request):
            projects = None if identity.projects is None else sorted(identity.projects)
            user = {"username": identity.username, "role": identity.role, "projects": projects}
            return JSONResponse({**user, "tokens": described}, status)
        roles = list(Role)[: list(Role).index(identity.role) + 1]
        return _page(
            request,
            "account.html",
            status=status,
            up=self._up(request),
            user=identity,
            tokens=described,
            plain=plain,
            roles=roles[::-1],
        )

    def _up(self, request: Request) -> str:
        """The relative address of the index; empty if it is elsewhere."""
        return f"{_root(request)}../" if self._mounted else ""

    def _check_origin(self, request: Request) -> None:
        """Refuse a form sent by another site's page: the browser would add the login automatically.

        JSON needs no check: pages of other sites may not send it without permission from this one (CORS).

        Raises:
            OtherSite: it comes from another site, or a form does not say where it comes from.
        """
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:
            own = site == "same-origin"
        elif origin is not None:
            own = self._mounted or urlsplit(origin).netloc == request.headers.get("host")
        else:
            own = is_json(request)
        if not own:
            raise OtherSite("another web site's page sent this, so nothing was changed; use the index's own address")


def _root(request: Request) -> str:
    """The relative address of the root of the admin application."""
    return "../" * (inner_path(request).count("/") - 1)


def _page(request: Request, template: str, *, up: str, status: int = 200, **context: Any) -> Response:
    page = html_templates.render_template(
        template,
        up=up,
        root=_root(request),
        shortest=PASSWORD_BYTES.start,
        longest=PASSWORD_BYTES.stop - 1,
        label_length=LABEL_LENGTH,
        most_days=(LIFETIME_SECONDS.stop - 1) // _DAY,
        days=DEFAULT_LIFETIME // _DAY,
        **context,
    )
    return HTMLResponse(page, status, headers={"Content-Security-Policy": html_templates.policy().decode()})


def _wants_json(request: Request) -> bool:
    return "text/html" not in request.headers.get("accept", "")


async def _fields(request: Request) -> Mapping[str, str]:
    """The fields of a form, or of a JSON object.

    Raises:
        BadRequest: the body is neither.
    """
    body = await request.body()
    try:
        if is_json(request):
            found = json.loads(body)
            if not isinstance(found, dict):
                raise BadRequest("the body must be a JSON object")
            joined = {name: ",".join(value) if isinstance(value, list) else value for name, value in found.items()}
            return {name: str(value) for name, value in joined.items() if value is not None}
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20, errors="strict"))
    except (ValueError, TypeError, RecursionError):
        raise BadRequest("the body cannot be read; send a form or a JSON object in UTF-8") from None


def _password(fields: Mapping[str, str]) -> str:
    password = fields.get("new_password", "")
    if fields.get("repeated", password) != password:
        raise BadRequest("the two passwords differ; type the same one twice")
    return password


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError:
        raise BadRequest(f"there is no role {name[:20]!r}; the roles are {', '.join(Role)}") from None


def _lifetime(days: str) -> int:
    """Days as seconds; an empty string means the default."""
    if not days:
        return DEFAULT_LIFETIME
    try:
        return round(float(days) * _DAY)
    except (ValueError, OverflowError):
        raise BadRequest("days must be a number") from None


def refused_page(request: Request, error: PackageIndexError) -> Response:
    """The response to a refused request of these pages: HTML for a browser, JSON for others."""
    if _wants_json(request):
        return json_refusal(error.status, error.message, error.headers)
    page = _page(request, "done.html", up="", status=error.status, sentence=error.message)
    page.headers.update(error.headers)
    return page
