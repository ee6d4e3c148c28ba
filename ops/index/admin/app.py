"""Admin application: creates, changes and removes users and their tokens, with a bearer token (RFC 6750).

FastAPI takes half a second to import, so this module is imported only to serve this application.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ops.index.admin.account import AccountPages, refused_page
from ops.index.admin.gate import Gate, address_of, inner_path, is_own, json_refusal, refusals
from ops.index.admin.reference import reference_page, reference_policy
from ops.index.admin.reservation_api import add_reservation_api
from ops.index.admin.token import TokenCheck
from ops.index.admin.trust_api import add_trust_api
from ops.index.auth.audit import ADMIN_FOLDER, Audit
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.invitations import Invitations
from ops.index.auth.passwords import NAME_BYTES, PASSWORD_BYTES, ROUNDS
from ops.index.auth.roles import Identity, Role
from ops.index.auth.token_file import rfc3339
from ops.index.auth.token_uses import TokenUses
from ops.index.auth.tokens import DEFAULT_LIFETIME, LABEL_LENGTH, LIFETIME_SECONDS, Tokens
from ops.index.auth.trust import TrustStore
from ops.index.auth.users import KEEP, Users
from ops.index.config import Options
from ops.index.errors import PackageIndexError
from ops.index.http.security_headers import secured
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.shared_entries import SharedEntries
from ops.index.storage.storage import Storage

_DESCRIPTION: Final = """\
Creates, changes, lists and removes the users of a private package index, and the tokens that stand for them.

Every request but `/health` needs the header `Authorization: Bearer TOKEN`, where TOKEN is the value of `AUTH_TOKEN` in
the index's secret. Credentials travel in the JSON body only: never put them into a URL, where logs keep them. With
`password_hash` the password itself never leaves your machine: `htpasswd -nBC 12 NAME` creates one.

A token of a user goes where a password goes, with the user name `__token__`, or into `Authorization: Bearer`. It is
shown once, when it is created, and can never do more than its owner can now.

A change is durable once the response arrives, and reaches every server of the index within five seconds.
"""


# The rules of ops.index.auth, as far as JSON Schema can express them. ops.index.auth applies them with better messages.
_NAME: Final = r"^[^\u0000-\u0020\u007f:#/\\]([^\u0000-\u001f\u007f:#/\\]*[^\u0000-\u0020\u007f:#/\\])?$"
_HASH: Final = r"^\$2[aby]\$[01][0-9]\$[./A-Za-z0-9]{53}$"
_PROJECT: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"


class RegisterUser(BaseModel):
    """A user to create or change. Omitted fields keep their values."""

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
        json_schema_extra={"minLength": 1, "maxLength": NAME_BYTES, "pattern": _NAME},
        description="1 to 255 bytes in UTF-8; no colon, slash, backslash, #, control character, or space at either end",
    )
    password: SecretStr | None = Field(
        default=None,
        max_length=1024,
        json_schema_extra={"minLength": PASSWORD_BYTES.start // 4, "maxLength": PASSWORD_BYTES.stop - 1},
        description=f"{PASSWORD_BYTES.start} to {PASSWORD_BYTES.stop - 1} bytes in UTF-8; needed for a new user, "
        "unless a hash is given",
    )
    password_hash: SecretStr | None = Field(
        default=None,
        max_length=1024,
        json_schema_extra={"pattern": _HASH},
        description=f"a bcrypt hash ($2b$, $2y$, $2a$) of cost {ROUNDS.start} to {ROUNDS.stop - 1}, "
        "instead of a password",
    )
    role: Role | None = Field(default=None, description="publisher if omitted for a new user")
    projects: list[Annotated[str, Field(json_schema_extra={"pattern": _PROJECT})]] | None = Field(
        default=None,
        max_length=1000,
        json_schema_extra={"minItems": 1},
        description="the only projects that a publisher may upload to; null for all",
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
    """A user after the change."""

    created: bool = Field(description="whether there was no such user before")


class CreateToken(BaseModel):
    """A token to create."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [{"owner": "ci", "projects": ["spam"], "label": "release job", "lifetime_seconds": 7776000}]
        },
    )

    owner: str = Field(
        max_length=1024,
        json_schema_extra={"minLength": 1, "maxLength": NAME_BYTES},
        description="its owner",
    )
    role: Role | None = Field(default=None, description="at most the owner's, which is the default")
    projects: list[Annotated[str, Field(json_schema_extra={"pattern": _PROJECT})]] | None = Field(
        default=None,
        max_length=1000,
        json_schema_extra={"minItems": 1},
        description="the only projects that it may upload to, which need not exist yet; null for all of the owner's",
    )
    lifetime_seconds: int = Field(
        default=DEFAULT_LIFETIME,
        strict=True,
        json_schema_extra={"minimum": LIFETIME_SECONDS.start, "maximum": LIFETIME_SECONDS.stop - 1},
        description="one hour to one year; 90 days if omitted",
    )
    label: str = Field(
        default="",
        max_length=1024,
        json_schema_extra={"maxLength": LABEL_LENGTH},
        description="one line, for people",
    )


class StoredToken(BaseModel):
    """A token as stored, without the token itself."""

    id: str = Field(description="not secret; the audit log names the token by it")
    owner: str
    role: Role = Field(description="the highest it may have; the owner's role limits it further")
    projects: list[str] | None = Field(description="normalized names of the only projects to upload to; null for all")
    label: str
    created: str = Field(description="UTC (RFC 3339)")
    expires: str = Field(description="UTC (RFC 3339)")
    last_used: str | None = Field(description="UTC (RFC 3339), to the hour; null if no use is known")


class CreatedToken(StoredToken):
    """A token that was just created."""

    token: str = Field(description="the token itself, which is stored nowhere and not shown again")


class Invite(BaseModel):
    """A user to invite."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"username": "alice"}]})

    username: str = Field(max_length=1024, json_schema_extra={"minLength": 1, "maxLength": NAME_BYTES})


class Invited(BaseModel):
    """An invitation that was just created."""

    username: str
    code: str = Field(description="stored nowhere and not shown again; the link is this server's invitation#CODE")
    expires: str = Field(description="UTC (RFC 3339)")


class Health(BaseModel):
    """Liveness response."""

    status: str


def create_admin(
    *,
    credentials: Storage,
    token: str | TokenCheck,
    options: Options = Options(),  # noqa: B008 - frozen
    root_path: str = "",
    name_locks: NameLocks | None = None,
    audit: Audit | None = None,
    entries: SharedEntries | None = None,
    authenticator: Authenticator | None = None,
) -> FastAPI:
    """The admin application.

    Parameters:
        credentials: the volume of ``.htpasswd``, ``.htgroup`` and ``.tokens``; may be empty.
        token: the admin token, 32 bytes or more; or its check, shared with the application that mounts this one.
        options: cost of new hashes, number of wrong tokens before a delay.
        root_path: where it is mounted, such as ``/admin``.
        name_locks: shared by all servers of a shared volume; without them, two servers may overwrite each other's
            changes, as in a rolling deployment.
        audit: records changes and refusals; closed with the server. None to create one.
        entries: shared with the servers, which record there when tokens are used; None if they do not.
        authenticator: of the index that mounts the application; None if it runs alone.

    Raises:
        ValueError: the token is empty, or cannot be sent in a header.
    """
    log = audit or Audit(credentials, ADMIN_FOLDER, options=options)
    token_check = token if isinstance(token, TokenCheck) else TokenCheck(token, audit=log, options=options)

    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        await asyncio.to_thread(log.close)

    users = Users(credentials, options, audit=log, name_locks=name_locks)
    users.hold_back()
    uses = None if entries is None else TokenUses(entries)
    tokens = Tokens(credentials, audit=log, name_locks=name_locks, uses=uses)
    app = FastAPI(
        lifespan=closing,
        title="Package index: users",
        summary="Who may use the private package index, and for what",
        description=_DESCRIPTION,
        version="1",
        docs_url=None,  # its page loads scripts from a public CDN
        redoc_url=None,
        strict_content_type=True,
    )
    app.add_middleware(Gate, token_check=token_check, root_path=root_path, routes=app.routes)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(PackageIndexError, _refused)
    app.add_exception_handler(Exception, _failed)
    token_needed = [Depends(HTTPBearer(auto_error=False, description="the value of AUTH_TOKEN"))]

    @app.post(
        "/register_user",
        summary="Create or change a user",
        dependencies=token_needed,
        responses={
            200: {"model": RegisteredUser, "description": "The user was changed"},
            201: {"model": RegisteredUser, "description": "The user was created"},
            **refusals(400, 401, 403, 408, 413, 415, 422, 429, 500, 507),
        },
    )
    def register_user(registration: RegisterUser, request: Request, response: Response) -> RegisteredUser:
        """Creates a user, or changes the given fields of an existing one. Repeating a request changes nothing."""
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
            address=address_of(request),
        )
        response.status_code = 201 if made.created else 200
        return RegisteredUser(**User.of(made.identity), created=made.created)

    @app.get("/users", summary="List the users", dependencies=token_needed, responses=refusals(401, 429, 500))
    def list_users() -> list[User]:
        """All users with role and projects, sorted by name; never a password or a hash."""
        return [User(**User.of(identity)) for identity in users.identities()]

    @app.delete(
        "/users/{username:path}",
        summary="Remove a user",
        status_code=204,
        dependencies=token_needed,
        responses=refusals(401, 403, 404, 422, 429, 500, 507),
    )
    def remove_user(username: Annotated[str, Path(max_length=1024)], request: Request) -> None:
        """Removes entry, roles and tokens. Uploaded files stay."""
        if not users.remove(username, actor="admin token", address=address_of(request)):
            raise HTTPException(404, "there is no such user")

    @app.post(
        "/create_token",
        summary="Create a token",
        status_code=201,
        dependencies=token_needed,
        responses=refusals(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 507),
    )
    def create_token(wanted: CreateToken, request: Request) -> CreatedToken:
        """Creates a token in addition to the owner's others, so that one can be replaced without a gap."""
        plain, token = tokens.create(
            wanted.owner,
            role=wanted.role,
            projects=wanted.projects,
            lifetime=wanted.lifetime_seconds,
            label=wanted.label,
            actor="admin token",
            address=address_of(request),
        )
        return CreatedToken(**token.to_json(), token=plain)

    @app.get("/tokens", summary="List the tokens", dependencies=token_needed, responses=refusals(401, 422, 429, 500))
    def list_tokens(
        owner: Annotated[str | None, Query(max_length=1024, description="only this user's")] = None,
    ) -> list[StoredToken]:
        """All tokens, the newest first; expired ones for 30 days."""
        return [StoredToken(**token.to_json()) for token in tokens.all(owner)]

    @app.delete(
        "/tokens/{token_id}",
        summary="Revoke a token",
        status_code=204,
        dependencies=token_needed,
        responses=refusals(401, 403, 404, 422, 429, 500, 507),
    )
    def revoke_token(token_id: Annotated[str, Path(max_length=64)], request: Request) -> None:
        """Every server refuses it within five seconds."""
        if not tokens.revoke(token_id, actor="admin token", address=address_of(request)):
            raise HTTPException(404, "there is no such token")

    add_reservation_api(app, users, token_needed)
    add_trust_api(app, TrustStore(credentials, audit=log, name_locks=name_locks), token_needed)

    invitations = Invitations(credentials, options, audit=log, name_locks=name_locks)
    own = authenticator or Authenticator(credentials, options, log)
    AccountPages(users, tokens, invitations, own, mounted=authenticator is not None).add_to(app)

    @app.post(
        "/invite",
        summary="Invite a user to set a password",
        status_code=201,
        dependencies=token_needed,
        responses=refusals(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 507),
    )
    def invite(wanted: Invite, request: Request) -> Invited:
        """Creates a code with which users set their own passwords at `invitation`, once, within a day."""
        code, invitation = invitations.create(wanted.username, actor="admin token", address=address_of(request))
        return Invited(username=invitation.username, code=code, expires=rfc3339(invitation.expires))

    @app.get("/health", summary="Check that it is running")
    def health() -> Health:
        """Needs no token."""
        return Health(status="ok")

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        page = reference_page(app.openapi(), root=request.scope.get("root_path", ""))
        return HTMLResponse(page, headers={"Content-Security-Policy": reference_policy()})

    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, PackageIndexError)  # noqa: S101 - for the type checker
    if is_own(inner_path(request)):
        return refused_page(request, error)
    return json_refusal(error.status, str(error), error.headers)


async def _failed(_request: Request, _error: Exception) -> Response:
    """An unexpected error, which the server logs. Its response bypasses the middleware, so it gets its headers here."""
    failed = json_refusal(500, "the request failed unexpectedly; see the server's log")
    failed.raw_headers = secured(failed.raw_headers)
    return failed


def _fields(route: APIRoute) -> tuple[list[str], set[str]]:
    """Names of the fields of an operation's body, and those together with the names in nested objects."""
    if route.body_field is None:
        return [], set()
    schema = route.body_field.field_info.annotation.model_json_schema()  # type: ignore[union-attr] # a model
    objects = [schema, *schema.get("$defs", {}).values()]
    return list(schema["properties"]), {name for each in objects for name in each.get("properties", ())}


async def _invalid(request: Request, error: Exception) -> Response:
    """One sentence that names the problem. FastAPI's own response repeats the input, passwords included."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    problems = []
    fields, known = _fields(request.scope["route"])
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"][1:] if type(part) is int or part in known)
        if problem["type"] == "json_invalid":
            problems.append("the body is not JSON")
        elif problem["type"] == "extra_forbidden":
            problems.append("there is an unknown field; the fields are " + ", ".join(fields))
        else:
            problems.append(f"{field or 'the body'}: {problem['msg']}")
    return json_refusal(422, "; ".join(dict.fromkeys(problems)))
