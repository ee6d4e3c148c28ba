"""Reserved prefixes of project names (PEP 752) in the admin application: list and set them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from ops.index.admin.gate import address_of, refusals
from ops.index.auth.users import Users

_PREFIX: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"


class PrefixReservation(BaseModel):
    """A prefix of project names, and the only users who may create projects under it (PEP 752)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prefix": "acme", "owners": ["alice"]}]})

    prefix: str = Field(max_length=255, json_schema_extra={"pattern": _PREFIX})
    owners: list[str] = Field(max_length=100, description="users; none frees the prefix")


def add_reservation_api(app: FastAPI, users: Users, needed: list[Any]) -> None:
    """Add the operations to the admin application.

    Parameters:
        app: the application.
        users: their group file holds the reservations.
        needed: the dependencies of each operation.
    """

    @app.get(
        "/reservations",
        summary="List the reserved prefixes",
        dependencies=needed,
        responses=refusals(401, 429, 500),
    )
    def list_reservations() -> list[PrefixReservation]:
        """Prefixes of project names and their owners, the longest first."""
        return [PrefixReservation(prefix=prefix, owners=sorted(owners)) for prefix, owners in users.reservations()]

    @app.post(
        "/reserve",
        summary="Reserve a prefix",
        dependencies=needed,
        responses=refusals(400, 401, 403, 408, 413, 415, 422, 429, 500, 507),
    )
    def reserve(wanted: PrefixReservation, request: Request) -> list[PrefixReservation]:
        """Replaces the owners of a prefix. Existing projects do not change."""
        grants = users.reserve(wanted.prefix, wanted.owners, actor="admin token", address=address_of(request))
        return [PrefixReservation(prefix=prefix, owners=sorted(owners)) for prefix, owners in grants]
