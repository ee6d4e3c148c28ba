"""How the parts of a server fit together."""

from __future__ import annotations

import threading
from functools import partial

from ops.index.access.audit import ADMIN_FOLDER, Audit
from ops.index.access.authentication import Authenticator
from ops.index.access.credential_check import CredentialCheck
from ops.index.access.users import Users
from ops.index.admin.mount import AdminMount
from ops.index.admin.token import TokenCheck
from ops.index.application import Index
from ops.index.disk.claims import Claims, FileClaims
from ops.index.disk.storage import Storage
from ops.index.housekeeping import Housekeeping
from ops.index.options import Options
from ops.index.packages.catalogue import Catalogue
from ops.index.packages.publishing import Publisher
from ops.index.upstream.uploads import Application, Upstream
from ops.index.web.browse import Browser
from ops.index.web.browsing import Browsing
from ops.index.web.changes import Changes
from ops.index.web.door import Door
from ops.index.web.exchange import ASGIApp
from ops.index.web.inventory import Inventory
from ops.index.web.reading import Reading
from ops.index.web.readmes import Readmes


def create_index(
    *,
    packages: Storage,
    credentials: Storage,
    claims: Claims | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
    admin_token: str | None = None,
) -> Index:
    """The index as one ASGI application.

    Nothing is read before the server starts. The server should speak the lifespan protocol of ASGI; without it what
    goes on beside the requests begins with the first one, and ends with the process.

    Parameters:
        packages: the volume of packages: a directory as pypiserver keeps it.
        credentials: the volume with ``.htpasswd`` and ``.htgroup``, which need not exist yet.
        claims: exclusive claims on file names, shared by all servers of the volume; None for files on this machine.
        options: limits and habits.
        admin_token: mounts the admin application at ``/admin/`` and opens it; None for no admin application.

    Raises:
        ValueError: the admin token can never be sent.
    """
    claims = claims or FileClaims(packages.directory / ".index" / "claims")
    audit = Audit(packages, options=options)
    admin_audit = Audit(credentials, ADMIN_FOLDER, options=options)
    token_check = TokenCheck(admin_token, audit=admin_audit, options=options) if admin_token else None
    authenticator = Authenticator(credentials, options, audit)
    credential_check = CredentialCheck(credentials, options)
    catalogue = Catalogue(packages, claims, options)
    publisher = Publisher(packages, claims, catalogue, options, audit=audit)
    door = Door(authenticator, options)
    reading = Reading(catalogue, packages, options)
    readmes = Readmes()
    browser = Browser(catalogue, readmes)

    def upstream_app() -> Application:
        from ops.index.upstream.backend import create_wsgi  # imports pypiserver
        from ops.index.upstream.receiving import Receiver

        return Receiver(create_wsgi(publisher, catalogue, authenticator, options), publisher, options)

    def admin_app(token_check: TokenCheck) -> ASGIApp:
        from ops.index.admin.application import create_admin

        return create_admin(
            credentials=credentials,
            token=token_check,
            options=options,
            claims=claims if credentials.shared else None,
            audit=admin_audit,
        )

    upstream = Upstream(upstream_app, options, publisher.quotas)
    admin = None
    if token_check is not None:
        create = partial(admin_app, token_check)
        admin = AdminMount(create, token_check=token_check, door=door, options=options)

    def hold_back() -> None:
        users = Users(credentials, options, audit=admin_audit)
        threading.Thread(target=users.hold_back, name="reserve", daemon=True).start()

    def see_changed_credentials() -> None:
        if credentials.shared:
            credentials.reload()
        authenticator.refresh()
        credential_check.look()

    changes = Changes(publisher, door.confirm)
    housekeeping = Housekeeping(
        start=[catalogue.start, publisher.start, credential_check.start, *([hold_back] if admin else [])],
        warm_up=[upstream.warm_up, *([admin.warm_up] if admin else []), browser.warm_up],
        repeat=[see_changed_credentials, *([catalogue.refresh] if packages.shared else [])],
        every=options.refresh_seconds,
        stop=[
            packages.end,
            credentials.end,
            readmes.close,
            upstream.close,
            changes.close,
            publisher.close,
            catalogue.close,
            authenticator.close,
            audit.close,
            admin_audit.close,
            packages.commit,
        ],
    )
    return Index(
        door=door,
        reading=reading,
        browsing=Browsing(browser, readmes, catalogue, reading, options),
        inventory=Inventory(catalogue, reading, options),
        upstream=upstream,
        changes=changes,
        admin=admin,
        housekeeping=housekeeping,
        packages=packages,
    )
