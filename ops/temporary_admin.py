"""Temporary admin of an index, for what only its admins may do: remove, revoke, set a quarantine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from ops.admin_api import AdminApi
from ops.http_client import HttpClient
from ops.polling import until
from ops.secret import Secret
from ops.settings import Settings
from ops.targets import Target
from ops.targets.index_rules import password_hash

_ROUNDS = 10
"""The lowest cost that the index accepts: enough for a password of 256 random bits that exists for seconds."""


@contextmanager
def temporary_admin(target: Target, purpose: str, settings: Settings | None = None) -> Iterator[HttpClient]:
    """An HTTP client with the login of an admin who exists only meanwhile.

    Parameters:
        target: the target of the index.
        purpose: begins the user's name, which the audit log keeps.
        settings: names of the admin secret.

    Raises:
        NotDeployedError: there is no index.
        IndexRequestError: the index refused the user.
    """
    username, password = f"{purpose}-{secrets.token_hex(4)}", Secret.generate()
    deployment, admin = AdminApi.of(target, settings)
    with admin:
        admin.register(username, password_hash=password_hash(password, _ROUNDS), role="admin")
        try:
            with HttpClient(deployment.url, username=username, password=password) as http:
                until(lambda: http.request("GET", "simple/").status_code, lambda status: status == 200)
                yield http
        finally:
            admin.delete(username)
