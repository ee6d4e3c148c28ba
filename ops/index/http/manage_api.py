"""Yanking files and setting the status of projects, as JSON over POST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

from ops.index.auth.roles import Identity
from ops.index.errors import BadRequest
from ops.index.http.request import Request
from ops.index.http.security_headers import security_headers
from ops.index.packages.releases import Releases

Confirm: TypeAlias = Callable[[Request], Awaitable[Identity]]

ACTIONS = ("yank", "unyank", "status")

_LONGEST_BODY = 64 * 1024
_LONGEST_REASON = 1000
_THREADS = 4
"""Of their own: a change may have to wait for a disk, and those who read must not wait for a thread meanwhile."""

_FIELDS: dict[str, frozenset[str]] = {
    "yank": frozenset({"version", "filename", "reason"}),
    "unyank": frozenset({"version", "filename"}),
    "status": frozenset({"status", "reason"}),
}


class ManageApi:
    """Answers POST to ``projects/<name>/yank``, ``…/unyank`` and ``…/status``.

    A yank (PEP 592) takes ``{"version": …}`` or ``{"filename": …}``, and a ``reason``; it answers ``{"files": […]}``. A
    status (PEP 792) takes ``{"status": …, "reason": …}`` and answers the same.

    Parameters:
        releases: does it.
        confirm: says who sends a request, by what is stored now.
    """

    def __init__(self, releases: Releases, confirm: Confirm) -> None:
        self._releases = releases
        self._confirm = confirm
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="change")

    def close(self) -> None:
        """End the threads, after what they do."""
        self._threads.shutdown(wait=True)

    async def apply(self, exchange: Request, project: str, action: str) -> None:
        """Do it and say what was done.

        Its user is asked for again once the body is here, which may have taken longer than the user had the right.

        Raises:
            BadRequest: the body is not what the action takes.
            RequestTimeout: the body did not come in time.
            Unauthorized: there is no such user any more.
            Forbidden: the user may not.
            NotFound: there is no such project, version or file.
        """
        fields = await _fields(exchange, action)
        identity = await self._confirm(exchange)
        work = partial(self._apply, project, action, fields, identity, exchange.address)
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        body = json.dumps(answer).encode() + b"\n"
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"private, no-store"),
            *security_headers(),
        ]
        await exchange.answer(200, headers, body)

    def _apply(
        self, project: str, action: str, fields: dict[str, str], identity: Identity, address: str
    ) -> dict[str, Any]:
        if action == "status":
            status = fields["status"]
            self._releases.set_status(project, status, reason=fields.get("reason"), identity=identity, address=address)
            return {"project": project, "status": status}
        change = self._releases.unyank
        if action == "yank":
            change = partial(self._releases.yank, reason=fields.get("reason", ""))
        version, filename = fields.get("version"), fields.get("filename")
        files = change(project, version=version, filename=filename, identity=identity, address=address)
        return {"project": project, "files": files}


async def _fields(exchange: Request, action: str) -> dict[str, str]:
    if (exchange.header(b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("the body must be JSON: send Content-Type: application/json")
    try:
        content = json.loads(await exchange.body(_LONGEST_BODY))
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON: send an object in UTF-8") from None
    known = _FIELDS[action]
    if not isinstance(content, dict) or not known.issuperset(content):
        raise BadRequest(f"the body must be a JSON object with no other fields than {', '.join(sorted(known))}")
    fields = {name: value for name, value in content.items() if value is not None}
    for name, value in fields.items():
        if not isinstance(value, str) or len(value) > _LONGEST_REASON or not value.isprintable():
            raise BadRequest(f"{name} must be one line of text of at most {_LONGEST_REASON} characters")
    if action == "status":
        if "status" not in fields:
            raise BadRequest('the new status is missing: send {"status": "archived"}, for example')
    elif not {"version", "filename"} & fields.keys():
        raise BadRequest(f"there is nothing to {action}: send a version or a filename")
    return fields
