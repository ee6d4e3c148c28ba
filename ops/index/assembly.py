"""Assembly of a server from its parts."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from ops.index.activity import Activity
from ops.index.admin.mount import AdminMount
from ops.index.admin.token import TokenCheck
from ops.index.app import Index
from ops.index.auth.audit import ADMIN_FOLDER, Audit
from ops.index.auth.authenticator import Authenticator
from ops.index.auth.credential_check import CredentialCheck
from ops.index.auth.id_tokens import IdTokens
from ops.index.auth.minted_tokens import MintedTokens
from ops.index.auth.passwords import PasswordCheck, verify_password
from ops.index.auth.token_uses import TokenUses
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.http.forwarded import TrustedProxies
from ops.index.http.html_pages import HtmlPages
from ops.index.http.legacy_api import LegacyApi
from ops.index.http.manage_api import ManageApi
from ops.index.http.metrics import Metrics
from ops.index.http.namespaces import Namespaces
from ops.index.http.oidc_api import OidcApi
from ops.index.http.readme import Readmes
from ops.index.http.simple_api import SimpleApi
from ops.index.http.upload import UploadApi
from ops.index.http.user_pages import UserPages
from ops.index.lifespan import Lifespan
from ops.index.packages.releases import Releases
from ops.index.packages.repository import Repository
from ops.index.packages.uploads import Publisher
from ops.index.storage.directory import INDEX_FOLDER
from ops.index.storage.name_locks import FileNameLocks, NameLocks
from ops.index.storage.shared_entries import FolderEntries, SharedEntries
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Transactions

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def create_index(
    *,
    packages: Storage,
    credentials: Storage,
    name_locks: NameLocks | None = None,
    entries: SharedEntries | None = None,
    options: Options = Options(),  # noqa: B008 - frozen
    admin_token: str | None = None,
    verify: PasswordCheck = verify_password,
) -> Index:
    """The index as one ASGI application.

    Nothing is read before the server starts. The server should speak the lifespan protocol of ASGI; without it,
    background work begins with the first request and ends with the process.

    Parameters:
        packages: the volume of packages, a directory as pypiserver keeps it.
        credentials: the volume with ``.htpasswd``, ``.htgroup`` and ``.tokens``, which need not exist yet.
        name_locks: exclusive locks on file names, shared by all servers of the volumes; None for files on this machine.
        entries: small values that all servers of the volume see at once; None for files on this machine.
        options: settings.
        admin_token: of the admin application at ``/admin/``; None for none.
        verify: compares a password with a user's entry.

    Raises:
        ValueError: the admin token cannot be sent in a header.
    """
    package_locks = name_locks or FileNameLocks(packages.directory / ".index" / "claims")
    entries = entries or FolderEntries(packages.directory / INDEX_FOLDER / "entries")
    audit = Audit(packages, options=options)
    admin_audit = Audit(credentials, ADMIN_FOLDER, options=options)
    token_check = TokenCheck(admin_token, audit=admin_audit, options=options) if admin_token else None
    minted = MintedTokens(entries)
    authenticator = Authenticator(
        credentials, options, audit, uses=TokenUses(entries, audit), minted=minted, verify=verify
    )
    oidc_api = OidcApi(authenticator, IdTokens(), minted, audit)
    credential_check = CredentialCheck(credentials, options)
    repository = Repository(packages, package_locks, options)
    transactions = Transactions(
        packages,
        package_locks,
        see_others=repository.reload,
        audit=audit,
        reserve=f"{INDEX_FOLDER}/reserve",
        lock_seconds=options.claim_seconds,
        rest_seconds=2 * options.refresh_seconds,
    )
    publisher = Publisher(
        packages,
        transactions,
        repository,
        options,
        check_signer=lambda project, signer: authenticator.trust().objection(project, signer),
    )
    releases = Releases(packages, transactions, repository)
    activity = Activity(packages, options, active_users=authenticator.take_active_users)
    namespaces = Namespaces(authenticator.grants) if options.namespaces else None
    simple_api = SimpleApi(repository, packages, options, activity, namespaces)
    readmes = Readmes()
    html_pages = HtmlPages(repository, readmes, simple_api, options)
    uploads = UploadApi(publisher, releases, repository, authenticator.confirm, options)
    manage_api = ManageApi(releases, authenticator.confirm)

    def admin_app(token_check: TokenCheck) -> ASGIApp:
        from ops.index.admin.app import create_admin

        return create_admin(
            credentials=credentials,
            token=token_check,
            options=options,
            name_locks=name_locks,
            audit=admin_audit,
            entries=entries,
            authenticator=authenticator,
        )

    admin = None
    if token_check is not None:
        admin = AdminMount(
            partial(admin_app, token_check),
            token_check=token_check,
            options=options,
            see_changes=authenticator.see_changes,
        )

    def hold_back() -> None:
        users = Users(credentials, options, audit=admin_audit)
        threading.Thread(target=users.hold_back, name="reserve", daemon=True).start()

    def refresh_credentials() -> None:
        authenticator.refresh()
        credential_check.look()

    lifespan = Lifespan(
        start=[repository.start, publisher.start, credential_check.start, *([hold_back] if admin else [])],
        warm_up=[uploads.warm_up, *([admin.warm_up] if admin else []), html_pages.warm_up, simple_api.sweep],
        repeat=[
            refresh_credentials,
            authenticator.refresh_minted,
            authenticator.record_uses,
            repository.refresh,
            activity.write,
            simple_api.save,
        ],
        every=options.refresh_seconds,
        stop=[
            simple_api.save,
            packages.end,
            credentials.end,
            readmes.close,
            uploads.close,
            manage_api.close,
            oidc_api.close,
            publisher.close,
            repository.close,
            authenticator.close,
            audit.close,
            admin_audit.close,
            activity.close,
            packages.commit,
        ],
    )
    return Index(
        authenticator=authenticator,
        proxies=TrustedProxies(options.trusted_proxies),
        simple_api=simple_api,
        html_pages=html_pages,
        legacy_api=LegacyApi(repository, simple_api, authenticator.confirm, options),
        uploads=uploads,
        manage_api=manage_api,
        oidc_api=oidc_api,
        admin=admin,
        metrics=Metrics(repository, activity, audit),
        namespaces=namespaces,
        user_pages=UserPages(options.account_url or ("admin/account" if admin else "")),
        activity=activity,
        lifespan=lifespan,
        packages=packages,
    )
