"""Reserved prefixes of project names as installers see them: version 1.5 of the simple API (PEP 752).

The owner of a project is whoever uploaded its first file. A CI job owns what it uploads: it is trusted to publish just
that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ops.index.auth.roles import Grants, Identity
from ops.index.errors import NotFound
from ops.index.http.negotiation import JSON_V1
from ops.index.http.request import Request
from ops.index.packages.models import Project

API_VERSION = "1.5"

NAMESPACE = "/namespace/"


class Namespaces:
    """Namespaces of projects, and handler of GET for ``namespaces`` and ``namespace/<name>``.

    Parameters:
        grants: returns all reserved prefixes.
    """

    def __init__(self, grants: Callable[[], Grants]) -> None:
        self.grants = grants

    def of(self, project: Project) -> list[dict[str, Any]] | None:
        """The namespaces that a project matches, the longest first; None if it matches none."""
        first = min(project.files, key=lambda file: file.upload_time, default=None)
        owner = "" if first is None else first.uploader
        found = [
            {"name": prefix, "owned": owner in owners or owner.startswith("oidc:")}
            for prefix, owners in self.grants()
            if f"{project.name}-".startswith(f"{prefix}-")
        ]
        return found or None

    async def list(self, request: Request, _identity: Identity) -> None:
        """All namespaces."""
        await self._respond(request, [{"name": prefix} for prefix in sorted(prefix for prefix, _ in self.grants())])

    async def detail(self, request: Request, _identity: Identity) -> None:
        """One namespace, with its parent and its children, if those are reserved too.

        Raises:
            NotFound: it is not reserved.
        """
        name, grants = request.path.removeprefix(NAMESPACE), dict(self.grants())
        if name not in grants:
            raise NotFound(f"no namespace {name[:100]!r} is reserved in this index; see namespaces for the list")
        parent = name.rpartition("-")[0]
        detail = {
            "name": name,
            "parent": parent if parent in grants else None,
            "children": sorted(prefix for prefix in grants if prefix.rpartition("-")[0] == name),
            "owner": ", ".join(sorted(grants[name])),
        }
        await self._respond(request, detail)

    @staticmethod
    async def _respond(request: Request, content: object) -> None:
        await request.content(200, JSON_V1.encode(), json.dumps(content).encode())
