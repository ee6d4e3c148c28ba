"""Assembly of a server from its parts."""

from __future__ import annotations

import threading
from functools import partial

from ops.index.admin.mount import AdminMount
from ops.index.admin.token import TokenCheck
from ops.index.app import Index
from ops.index.auth.audit import ADMIN_FOLDER, Audit
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.credential_check import CredentialCheck
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.http.html_pages import HtmlPages
from ops.index.http.html_pages_handler import HtmlPagesHandler
from ops.index.http.legacy_api import LegacyApi
from ops.index.http.manage_api import ManageApi
from ops.index.http.readmes import Readmes
from ops.index.http.request import ASGIApp
from ops.index.http.request_auth import RequestAuth
from ops.index.http.simple_api import SimpleApi
from ops.index.http.upload_handler import Application, UploadHandler
from ops.index.lifespan import Lifespan
from ops.index.packages.releases import Releases
from ops.index.packages.repository import Repository
from ops.index.packages.uploads import Publisher
from ops.index.storage.files import INDEX_FOLDER
from ops.index.storage.name_locks import FileNameLocks, NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Transactions


def create_index(
    *,
    packages: Storage,
    credentials: Storage,
    name_locks: NameLocks | None = None,
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
    name_locks = name_locks or FileNameLocks(packages.directory / ".index" / "claims")
    audit = Audit(packages, options=options)
    admin_audit = Audit(credentials, ADMIN_FOLDER, options=options)
    token_check = TokenCheck(admin_token, audit=admin_audit, options=options) if admin_token else None
    authenticator = Authenticator(credentials, options, audit)
    credential_check = CredentialCheck(credentials, options)
    repository = Repository(packages, name_locks, options)
    transactions = Transactions(
        packages,
        name_locks,
        see_others=repository.reload,
        audit=audit,
        reserve=f"{INDEX_FOLDER}/reserve",
        lock_seconds=options.claim_seconds,
        rest_seconds=2 * options.refresh_seconds,
    )
    publisher = Publisher(packages, transactions, repository, options)
    releases = Releases(packages, transactions, repository)
    request_auth = RequestAuth(authenticator, options)
    reading = SimpleApi(repository, packages, options)
    readmes = Readmes()
    browser = HtmlPages(repository, readmes)

    def upstream_app() -> Application:
        from ops.index.http.pypiserver_bridge import create_wsgi  # imports pypiserver
        from ops.index.http.upload import UploadReceiver

        return UploadReceiver(create_wsgi(publisher, releases, repository, authenticator, options), publisher, options)

    def admin_app(token_check: TokenCheck) -> ASGIApp:
        from ops.index.admin.app import create_admin

        return create_admin(
            credentials=credentials,
            token=token_check,
            options=options,
            name_locks=name_locks if credentials.shared else None,
            audit=admin_audit,
        )

    upstream = UploadHandler(upstream_app, options, publisher.quotas)
    admin = None
    if token_check is not None:
        create = partial(admin_app, token_check)
        admin = AdminMount(create, token_check=token_check, request_auth=request_auth, options=options)

    def hold_back() -> None:
        users = Users(credentials, options, audit=admin_audit)
        threading.Thread(target=users.hold_back, name="reserve", daemon=True).start()

    def see_changed_credentials() -> None:
        if credentials.shared:
            credentials.reload()
        authenticator.refresh()
        credential_check.look()

    changes = ManageApi(releases, request_auth.confirm)
    lifespan = Lifespan(
        start=[repository.start, publisher.start, credential_check.start, *([hold_back] if admin else [])],
        warm_up=[upstream.warm_up, *([admin.warm_up] if admin else []), browser.warm_up],
        repeat=[see_changed_credentials, *([repository.refresh] if packages.shared else [])],
        every=options.refresh_seconds,
        stop=[
            packages.end,
            credentials.end,
            readmes.close,
            upstream.close,
            changes.close,
            publisher.close,
            repository.close,
            authenticator.close,
            audit.close,
            admin_audit.close,
            packages.commit,
        ],
    )
    return Index(
        request_auth=request_auth,
        reading=reading,
        browsing=HtmlPagesHandler(browser, readmes, repository, reading, options),
        legacy_api=LegacyApi(repository, reading, options),
        upstream=upstream,
        changes=changes,
        admin=admin,
        lifespan=lifespan,
        packages=packages,
    )
