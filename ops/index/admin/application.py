"""The admin application: users are created, changed and removed with a bearer token (RFC 6750).

FastAPI takes half a second to import: nothing but what serves this application imports this module.
"""

from __future__ import annotations

import hmac
import logging
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ops.index.access.audit import ADMIN_FOLDER, Audit
from ops.index.access.passwords import PASSWORD_BYTES, ROUNDS
from ops.index.access.roles import Identity, Role
from ops.index.access.throttle import Throttle
from ops.index.access.users import KEEP, Users
from ops.index.admin.reference import reference_page
from ops.index.disk.claims import Claims
from ops.index.disk.storage import Storage
from ops.index.errors import PackageIndexError, TooManyAttempts
from ops.index.options import Options

_OPEN: Final = frozenset({"/health", "/docs", "/openapi.json"})
"""Paths that need no token. They tell nothing of the users."""

_BODY_BYTES: Final = 64 * 1024

_GUESSABLE: Final = 32
"""A token of fewer bytes may be found by trying. For a longer one no wait protects anything."""

_REALM: Final = 'Bearer realm="pypi-admin"'

_DESCRIPTION: Final = """\
Creates, changes, lists and removes the users of a private package index.

Every request but `/health` needs the header `Authorization: Bearer TOKEN`, where TOKEN is the value of `AUTH_TOKEN` in
the index's secret. Credentials travel in the JSON body only: never put them into a URL, where logs keep them. With
`password_hash` the password itself never leaves your machine: `htpasswd -nBC 12 NAME` makes one.

A change is durable when it is answered, and reaches every server of the index within five seconds.
"""

_log = logging.getLogger(__name__)


class Registration(BaseModel):
    """A user to create or change. What is left out stays as it is."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {"username": "alice", "password": "correct horse battery staple"},
                {
                    "username": "ci",
                    "password_hash": "$2y$12$…",
                    "role": "publisher",
                    "projects": ["spam", "spam-plugins"],
                },
                {"username": "alice", "role": "reader"},
            ]
        },
    )

    username: str = Field(
        max_length=1024,
        description="1 to 255 bytes in UTF-8; no colon, slash, backslash, #, control character, or space at either end",
    )
    password: SecretStr | None = Field(
        default=None,
        max_length=1024,
        description=f"{PASSWORD_BYTES.start} to {PASSWORD_BYTES.stop - 1} bytes in UTF-8; needed for a new user, "
        "unless a hash is given",
    )
    password_hash: SecretStr | None = Field(
        default=None,
        max_length=1024,
        description=f"a bcrypt hash ($2b$, $2y$, $2a$) of cost {ROUNDS.start} to {ROUNDS.stop - 1}, "
        "instead of a password",
    )
    role: Role | None = Field(default=None, description="publisher, if left out for a new user")
    projects: list[str] | None = Field(
        default=None, max_length=1000, description="the only projects that a publisher may upload to; null for all"
    )


class User(BaseModel):
    """A user as stored."""

    username: str
    role: Role
    projects: list[str] | None = Field(description="normalized names of the only projects to upload to; null for all")

    @classmethod
    def of(cls, identity: Identity) -> dict[str, Any]:
        """The fields of an identity."""
        projects = None if identity.projects is None else sorted(identity.projects)
        return {"username": identity.username, "role": identity.role, "projects": projects}


class RegisteredUser(User):
    """A user as stored just now."""

    created: bool = Field(description="whether there was no such user before")


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str


class Health(BaseModel):
    """That the application answers."""

    status: str


def create_admin(
    *,
    credentials: Storage,
    token: str,
    options: Options = Options(),  # noqa: B008 - frozen
    root_path: str = "",
    claims: Claims | None = None,
) -> FastAPI:
    """The admin application.

    Parameters:
        credentials: the volume with ``.htpasswd`` and ``.htgroup``; may be empty.
        token: what opens it; 32 bytes or more.
        options: the cost of new hashes, and the number of wrong tokens that are free.
        root_path: where it is mounted, such as ``/admin``.
        claims: what all servers that may write to a shared volume have in common; without it they may overwrite each
            other's changes while two of them run, as they do in a rolling deployment.

    Raises:
        ValueError: the token is empty.
    """
    if not token:
        raise ValueError("the admin token is empty: set AUTH_TOKEN in the index's secret")
    if len(token.encode()) < _GUESSABLE:
        _log.warning("the admin token has fewer than %d bytes: generate a longer one", _GUESSABLE)
    audit = Audit(credentials, ADMIN_FOLDER, options=options)
    users = Users(credentials, options, audit=audit, claims=claims)
    app = FastAPI(
        title="Package index: users",
        summary="Who may use the private package index, and for what",
        description=_DESCRIPTION,
        version="1",
        docs_url=None,  # its page loads scripts from a public CDN
        redoc_url=None,
        strict_content_type=True,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="the value of AUTH_TOKEN"))],
    )
    app.add_middleware(_Gate, token=token, root_path=root_path, audit=audit, options=options)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(PackageIndexError, _refused)
    refusals: dict[int | str, dict[str, Any]] = {
        401: {"model": Refusal, "description": "No token, or a wrong one"},
        429: {"model": Refusal, "description": "Too many wrong tokens; see Retry-After"},
        500: {"model": Refusal, "description": "The change could not be stored; nothing has changed"},
    }

    @app.post(
        "/register_user",
        summary="Create or change a user",
        responses={
            200: {"model": RegisteredUser, "description": "The user was changed"},
            201: {"model": RegisteredUser, "description": "The user was created"},
            413: {"model": Refusal, "description": "More than a registration can be"},
            415: {"model": Refusal, "description": "The body is not application/json"},
            422: {"model": Refusal, "description": "Something of it cannot be stored; the password is not repeated"},
            **refusals,
        },
    )
    def register_user(registration: Registration, request: Request, response: Response) -> RegisteredUser:
        """Creates the user, or changes what is given of an existing one. Sending the same again changes nothing."""
        given = registration.model_fields_set
        made = users.register(
            registration.username,
            password=registration.password.get_secret_value() if registration.password is not None else None,
            password_hash=registration.password_hash.get_secret_value()
            if registration.password_hash is not None
            else None,
            role=registration.role,
            projects=registration.projects if "projects" in given else KEEP,
            actor="admin token",
            address=_address(request),
        )
        response.status_code = 201 if made.created else 200
        return RegisteredUser(**User.of(made.identity), created=made.created)

    @app.get("/users", summary="List the users", responses=refusals)
    def list_users() -> list[User]:
        """All users with role and projects, sorted by name; never a password or a hash."""
        return [User(**User.of(identity)) for identity in users.identities()]

    @app.delete(
        "/users/{username:path}",
        summary="Remove a user",
        status_code=204,
        responses={404: {"model": Refusal, "description": "There is no such user"}, **refusals},
    )
    def remove_user(username: Annotated[str, Path(max_length=1024)], request: Request) -> None:
        """Removes entry and roles. What the user uploaded stays."""
        if not users.remove(username, actor="admin token", address=_address(request)):
            raise HTTPException(404, "there is no such user")

    @app.get("/health", summary="Tell that it answers", dependencies=[])
    def health() -> Health:
        """Needs no token."""
        return Health(status="ok")

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi(), root=request.scope.get("root_path", "")))

    return app


class _Gate:
    """Looks at token, content type and size before anything of a request is read."""

    def __init__(self, app: ASGIApp, *, token: str, root_path: str, audit: Audit, options: Options) -> None:
        self._app = app
        self._root = root_path
        self._token = token.encode()
        self._audit = audit
        self._throttle = Throttle(options.login_failures, options.login_window_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope.get("root_path", "").endswith(self._root):  # whoever mounts it may have said so already
            scope = {**scope, "root_path": scope.get("root_path", "") + self._root}
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is None:
            await self._app(scope, _limited(receive), send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        root: str = request.scope.get("root_path", "")
        path = request.scope["path"]
        if (path.removeprefix(root) if path.startswith(f"{root}/") else path) in _OPEN:
            return None
        try:
            if not self._right_token(request):
                return _answer(401, "the admin token is missing or wrong", {"WWW-Authenticate": _REALM})
        except TooManyAttempts as error:
            return _answer(error.status, "too many wrong admin tokens; try again later", error.headers)
        if request.method in {"POST", "PUT", "PATCH"}:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                return _answer(415, "the body must be JSON, with the header Content-Type: application/json")
            length = request.headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > _BODY_BYTES:
                return _answer(413, f"the body is longer than {_BODY_BYTES} bytes")
        return None

    def _right_token(self, request: Request) -> bool:
        """Whether the token is right.

        Raises:
            TooManyAttempts: too many wrong ones came from there, and this one is wrong too or could be guessed.
        """
        address = _address(request)
        header = request.headers.get("authorization", "").encode("latin-1")
        scheme, _, given = header.strip().partition(b" ")
        right = hmac.compare_digest(given.strip(), self._token) and scheme.lower() == b"bearer"
        if not right or len(self._token) < _GUESSABLE:
            self._throttle.check("", address)
        if not right and header:
            self._throttle.wrong("", address)
            self._audit.record("admin.refused", user="", address=address)
        return right


def _limited(receive: Receive) -> Receive:
    """The body, as far as it may go: one without Content-Length is cut, so that it cannot be read as JSON."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > _BODY_BYTES:
            return {"type": "http.disconnect"}
        return message

    return limited


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _answer(status: int, detail: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"Cache-Control": "no-store", **(headers or {})})


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PackageIndexError)  # noqa: S101 - for the type checker
    return _answer(error.status, str(error), error.headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    """One sentence of what is wrong. FastAPI's own answer repeats what was sent, the password too."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    problems = []
    for problem in error.errors():
        field = next((part for part in problem["loc"][1:] if part in Registration.model_fields), None)
        if problem["type"] == "json_invalid":
            problems.append("the body is no JSON")
        elif problem["type"] == "extra_forbidden":
            problems.append(
                "there is a field that is not known; the fields are " + ", ".join(Registration.model_fields)
            )
        else:
            problems.append(f"{field or 'the body'}: {problem['msg']}")
    return _answer(422, "; ".join(dict.fromkeys(problems)))
