"""Pages for the user: the login of a request, and a guide to this index."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from ops.index.auth.roles import Identity, Role
from ops.index.auth.token_file import rfc3339
from ops.index.http import html_templates
from ops.index.http.representation import Representation
from ops.index.http.request import Request
from ops.index.storage.waiting import in_thread

GUIDE = "/-/help/"
"""No project can have this name."""


class UserPages:
    """Handler of GET for ``whoami`` and for the guide.

    Parameters:
        account_url: of the account page, absolute or below the root of the index; empty if there is none.
    """

    def __init__(self, account_url: str) -> None:
        self._account_url = account_url

    async def whoami(self, request: Request, identity: Identity) -> None:
        """The user of this request with role and projects, and when the login expires; null for a password."""
        user = {
            "username": identity.username,
            "role": identity.role,
            "projects": None if identity.projects is None else sorted(identity.projects),
            "token": identity.token or None,
            "expires": rfc3339(identity.expires) if identity.token else None,
        }
        await request.content(200, b"application/json", json.dumps(user).encode() + b"\n")

    async def guide(self, request: Request, identity: Identity) -> None:
        """The page that explains how to use this index, with its own addresses."""
        base = request.index_url
        page = await in_thread(
            lambda: html_templates.render_template(
                "guide.html",
                up="../../",
                base=base,
                host=urlsplit(base).hostname or "",
                user=identity.username,
                account_url=self._account_url,
                publisher=identity.role is not Role.READER,
                projects=sorted(identity.projects or ()),
            )
        )
        made = Representation(page, content_type="text/html; charset=utf-8", policy=html_templates.policy())
        await request.respond_with(made.plain())
