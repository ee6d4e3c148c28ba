"""JSON API to yank and revoke files and to set the status of projects."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ops.index.errors import BadRequest
from ops.index.http.request import Confirm, Request
from ops.index.packages.releases import Releases

ACTIONS = ("yank", "unyank", "revoke", "unrevoke", "status", "attestations")

_LONGEST_BODY = 64 * 1024
_LONGEST_REASON = 1000
_THREADS = 4
"""Threads for changes only: they may wait for a disk, and readers must not run out of threads meanwhile."""

_FIELDS: dict[str, frozenset[str]] = {
    "yank": frozenset({"version", "filename", "reason"}),
    "unyank": frozenset({"version", "filename"}),
    "revoke": frozenset({"version", "filename", "reason"}),
    "unrevoke": frozenset({"filename"}),
    "status": frozenset({"status", "reason"}),
    "attestations": frozenset({"policy"}),
}


class ManageApi:
    """Handler of POST to ``projects/<name>/`` followed by an action.

    A yank (PEP 592) takes ``{"version": …}`` or ``{"filename": …}``, and a ``reason``; so does a revocation, which only
    ``{"filename": …}`` undoes. Each returns ``{"files": […]}``. A status (PEP 792) takes ``{"status": …, "reason": …}``
    and returns the same, as does ``{"policy": …}`` for attestations (PEP 740).

    Parameters:
        releases: makes the changes.
        confirm: finds the current user of an Authorization header and an address.
    """

    def __init__(self, releases: Releases, confirm: Confirm) -> None:
        self._releases = releases
        self._confirm = confirm
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="change")

    def close(self) -> None:
        """End the threads after their current work."""
        self._threads.shutdown(wait=True)

    async def handle(self, request: Request, project: str, action: str) -> None:
        """Make a change and respond with its result.

        Credentials are verified again when the body has arrived: the user may have lost a right since.

        Raises:
            BadRequest: the body is not valid for the action.
            RequestTimeout: the body did not arrive in time.
            Unauthorized: the user was removed.
            Forbidden: the user lacks the right.
            NotFound: there is no such project, version or file.
        """
        fields = await _fields(request, action)
        work = partial(self._apply, request, project, action, fields)
        result = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        await request.content(200, b"application/json", json.dumps(result).encode() + b"\n")

    def _apply(self, request: Request, project: str, action: str, fields: dict[str, str]) -> dict[str, Any]:
        address = request.address
        identity = self._confirm(request.headers.get(b"authorization"), address)
        if action == "status":
            status = fields["status"]
            self._releases.set_status(project, status, reason=fields.get("reason"), identity=identity, address=address)
            return {"project": project, "status": status}
        if action == "attestations":
            policy = fields["policy"]
            self._releases.set_attestation_policy(project, policy, identity=identity, address=address)
            return {"project": project, "policy": policy}
        change = getattr(self._releases, action)
        files = change(project, **fields, identity=identity, address=address)
        return {"project": project, "files": files}


async def _fields(request: Request, action: str) -> dict[str, str]:
    if (request.header(b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("the body must be JSON: send Content-Type: application/json")
    try:
        content = json.loads(await request.body(_LONGEST_BODY))
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON: send an object in UTF-8") from None
    known = _FIELDS[action]
    if not isinstance(content, dict) or not known.issuperset(content):
        raise BadRequest(f"the body must be a JSON object with only the fields {', '.join(sorted(known))}")
    fields = {name: value for name, value in content.items() if value is not None}
    for name, value in fields.items():
        if not isinstance(value, str) or len(value) > _LONGEST_REASON or not value.isprintable():
            raise BadRequest(f"{name} must be one line of text of at most {_LONGEST_REASON} characters")
    if action == "status":
        if "status" not in fields:
            raise BadRequest('the new status is missing: send {"status": "archived"}, for example')
    elif action == "attestations":
        if "policy" not in fields:
            raise BadRequest('the policy is missing: send {"policy": "enforce"}, for example')
    elif not {"version", "filename"} & fields.keys():
        raise BadRequest(
            f"nothing to {action}: send a {'filename' if action == 'unrevoke' else 'version or a filename'}"
        )
    return fields
