"""Refusals of the admin application, and their entries in its OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str


_MEANINGS: Final = {
    400: "The body ended early, or cannot be read",
    401: "No token, or a wrong one",
    403: "The server can read the credentials but not write them",
    404: "There is no such user",
    408: "The body did not arrive in time",
    413: "The body is too long for a registration",
    415: "The body is not application/json",
    422: "A field cannot be stored; the response does not repeat the password",
    429: "Too many wrong tokens; see Retry-After",
    500: "The change could not be stored; nothing has changed",
    507: "The disk is full; nothing has changed",
}

_HEADERS: Final = {
    401: ("WWW-Authenticate", "Bearer, with the realm (RFC 6750)", {"type": "string"}),
    429: ("Retry-After", "seconds until the next attempt", {"type": "integer", "minimum": 1}),
}


def refusal(status: int, detail: str, headers: Any = None) -> JSONResponse:
    """A refusal in the form of FastAPI's own."""
    return JSONResponse({"detail": detail}, status, headers)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of an operation's refusals, as FastAPI takes them."""
    return {status: _response(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {"model": Refusal, "description": _MEANINGS[status]}
    if status in _HEADERS:
        name, meaning, schema = _HEADERS[status]
        response["headers"] = {name: {"description": meaning, "required": True, "schema": schema}}
    return response
