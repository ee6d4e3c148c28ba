"""Refusals of the admin application, as its OpenAPI document lists them."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str


_MEANINGS: Final = {
    400: "The body ended early, or cannot be read",
    401: "No token, or a wrong one",
    403: "The credentials can be read but not written",
    404: "There is no such user",
    408: "The body did not arrive in time",
    413: "More than a registration can be",
    415: "The body is not application/json",
    422: "Something of it cannot be stored; the password is not repeated",
    429: "Too many wrong tokens; see Retry-After",
    500: "The change could not be stored; nothing has changed",
    507: "The disk is full; nothing has changed",
}

_HEADERS: Final = {
    401: ("WWW-Authenticate", "Bearer, with the realm (RFC 6750)", {"type": "string"}),
    429: ("Retry-After", "seconds until the next attempt is looked at", {"type": "integer", "minimum": 1}),
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation that have these statuses, as FastAPI takes them."""
    return {status: _response(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"model": Refusal, "description": _MEANINGS[status]}
    if status in _HEADERS:
        name, meaning, schema = _HEADERS[status]
        response["headers"] = {name: {"description": meaning, "required": True, "schema": schema}}
    return response
