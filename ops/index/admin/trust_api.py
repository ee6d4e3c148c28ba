"""Trusted CI jobs in the admin application: read and replace them as a whole."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from ops.index.admin.gate import address_of, refusals
from ops.index.auth.trust import MOST, Trust, TrustStore

_NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$"
_NUMBER: Final = r"^[1-9][0-9]{0,19}$"


class IssuerEntry(BaseModel):
    """An issuer of ID tokens."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str = Field(max_length=255, description="as its ID tokens name it (iss); https only")
    kind: Literal["github", "gitlab"]


class JobEntry(BaseModel):
    """A CI job that gets short-lived tokens."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field(json_schema_extra={"pattern": _NAME}, description="for people; in the audit log as oidc:NAME")
    issuer: str = Field(max_length=255, description="the url of one of the issuers")
    repository: str = Field(default="", max_length=255, description="its name, for people")
    repository_id: str = Field(json_schema_extra={"pattern": _NUMBER}, description="the repository's numeric id")
    owner_id: str = Field(json_schema_extra={"pattern": _NUMBER}, description="its owner's numeric id")
    environment: str = Field(default="", max_length=255, description="that the job must run in; empty for any")
    workflow: str = Field(default="", max_length=255, description="the file that must define the job; empty for any")
    protected_ref: bool = Field(default=False, strict=True, description="whether the branch or tag must be protected")
    role: Literal["reader", "publisher"]
    projects: list[str] | None = Field(
        default=None, max_length=MOST, description="those that a publisher uploads to, whether or not they exist yet"
    )


class TrustedJobs(BaseModel):
    """Everything that is trusted."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    version: Annotated[int, Field(strict=True, ge=0, description="grows with each change; 0 if nothing was trusted")]
    audience: str = Field(max_length=64, description="the audience that ID tokens must name; different for each index")
    issuers: list[IssuerEntry] = Field(max_length=MOST)
    jobs: list[JobEntry] = Field(max_length=MOST)


def add_trust_api(app: FastAPI, store: TrustStore, needed: list[Any]) -> None:
    """Add the operations to the admin application.

    Parameters:
        app: the application.
        store: of the credentials volume.
        needed: the dependencies of each operation.
    """

    @app.get("/trust", summary="Show the trusted CI jobs", dependencies=needed, responses=refusals(401, 429, 500))
    def show_trust() -> TrustedJobs:
        """Issuers, and the jobs that get short-lived tokens for publishing or reading."""
        return _model(store.current())

    @app.post(
        "/replace_trust",
        summary="Replace the trusted CI jobs",
        dependencies=needed,
        responses=refusals(400, 401, 403, 408, 409, 413, 415, 422, 429, 500, 507),
    )
    def replace_trust(wanted: TrustedJobs, request: Request) -> TrustedJobs:
        """Replaces all of it, if its version is still the one sent. Tokens of unlisted jobs end at once."""
        document = wanted.model_dump(exclude={"version"})
        changed = store.replace(document, version=wanted.version, actor="admin token", address=address_of(request))
        return _model(changed)


def _model(trust: Trust) -> TrustedJobs:
    return TrustedJobs.model_validate(trust.document())
