"""The private package index as a Modal app.

    uvx 'modal==1.6.4' deploy deployments/pypi_deploy.py

Works from any directory with only ``modal`` installed. The containers run ``ops.index``, shipped from this clone; this
file defines only the image, volumes, secret and scaling. Settings are environment variables, explained in
``ops/settings.py``; README.md beside this file gives the reason for each part.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import modal

HERE = Path(__file__).resolve().parent
if modal.is_local():
    sys.path.insert(0, str(HERE.parent))

from ops.settings import (  # noqa: E402 - found by the line above
    CREDENTIALS_PATH,
    DESTINATION_KEY,
    PACKAGES_PATH,
    TRUSTED_ROOT,
    Hosting,
    IndexLimits,
    Settings,
)

if modal.is_local():
    from ops.targets.modal_hosting import backup_is_set, hosting_to_deploy

if TYPE_CHECKING:
    from fastapi import FastAPI

settings = Settings.from_environment(os.environ)
tags: dict[str, str] = {}
if modal.is_local():
    # Settings that are not given stay as deployed.
    plan = hosting_to_deploy(settings, HERE)
    hosting, limits, tags = plan.hosting, plan.limits, dict(plan.tags)
    nightly = backup_is_set(settings)
else:
    # The image sets every variable in a container.
    hosting, limits = Hosting.from_environment(os.environ), IndexLimits.from_environment(os.environ)
    nightly = True  # a function that was not deployed is never called

UV_VERSION = "0.13.9"
"""The uv that installs packages when the image is built; the version pinned in requirements.txt."""

SHIPPED = (
    "__init__.py",
    "errors.py",
    "polling.py",
    "private_files.py",
    "revisions.py",
    "secret.py",
    "settings.py",
    "workspace.py",
    "index/",
    "snapshots/",
    "targets/",
)
"""The parts of ``ops`` that containers need. Modal replaces containers when one of these files changes."""


def not_shipped(path: Path) -> bool:
    """True if a file of ``ops`` is left out of the containers."""
    return not path.as_posix().startswith(SHIPPED) or "__pycache__" in path.parts


requirements = ["requirements.txt", *(["requirements-attestations.txt"] if limits.verify_attestations else [])]
image = (
    modal.Image.debian_slim(python_version="3.12")
    .uv_pip_install(
        requirements=[str(HERE / name) for name in requirements],
        extra_options="--require-hashes",
        uv_version=UV_VERSION,
    )
    # Compiled once: containers that compile what they import take twice as long to start. The image never changes, so
    # nobody compares times.
    .add_local_dir(HERE.parent / "ops", "/root/ops", ignore=not_shipped, copy=True)
    .run_commands("python -m compileall -q --invalidation-mode unchecked-hash /root/ops")
    # Passes the deployment's settings on to the code in the containers.
    .env(settings.variables() | hosting.variables() | limits.variables())
)
if limits.verify_attestations:
    # Beside the container's copy of this file.
    image = image.add_local_file(HERE / TRUSTED_ROOT, f"/root/{TRUSTED_ROOT}", copy=True)

app = modal.App(settings.app_name, image=image, tags=tags)

# Volumes v1: v2 is in beta, and Modal does not guarantee data on it.
packages = modal.Volume.from_name(settings.packages_volume, create_if_missing=True)
credentials = modal.Volume.from_name(settings.credentials_volume, create_if_missing=True)
credentials_to_read = credentials.with_mount_options(read_only=True)
token = modal.Secret.from_name(settings.secret_name, required_keys=[settings.secret_key])
name_locks = modal.Dict.from_name(settings.claims_dict, create_if_missing=True)
entries = modal.Dict.from_name(settings.tokens_dict, create_if_missing=True)


@app.function(
    volumes={PACKAGES_PATH: packages, CREDENTIALS_PATH: credentials_to_read},
    cpu=hosting.cpu,
    memory=hosting.memory,
    region=hosting.region or None,
    min_containers=hosting.min_containers,
    max_containers=hosting.max_containers,
    scaledown_window=hosting.scaledown_seconds,
    timeout=hosting.request_seconds,
    startup_timeout=hosting.startup_seconds,
)
@modal.concurrent(max_inputs=hosting.max_requests, target_inputs=hosting.target_requests)
@modal.asgi_app(custom_domains=[hosting.custom_domain] if hosting.custom_domain else None)
def server() -> Any:
    """The index. Has no secret, and cannot write credentials."""
    from ops.index import Options, create_index
    from ops.targets.container import DictEntries, DictNameLocks, VolumeStorage, address_below, for_modal

    index = create_index(
        packages=VolumeStorage(packages, PACKAGES_PATH),
        credentials=VolumeStorage(credentials_to_read, CREDENTIALS_PATH),
        name_locks=DictNameLocks(name_locks),
        # Tokens of CI jobs, which this function mints although it cannot write credentials.
        entries=DictEntries(entries),
        options=Options(
            # Modal gives the client's address in the ASGI scope and strips X-Forwarded-For: trust no header.
            trusted_proxies=(),
            project_quota_bytes=limits.project_quota_bytes,
            total_quota_bytes=limits.total_quota_bytes,
            uploads_per_user=limits.uploads_per_user,
            audit_days=limits.audit_days,
            audit_bytes=limits.audit_bytes,
            page_max_age_seconds=limits.page_max_age_seconds,
            trusted_root=HERE / TRUSTED_ROOT if limits.verify_attestations else None,
            public_url=f"https://{hosting.custom_domain}/" if hosting.custom_domain else address_below(server, ""),
            # A browser cannot send what proxy auth wants.
            account_url="" if hosting.proxy_auth else address_below(register_user, "account"),
        ),
    )
    return for_modal(index)


@app.function(
    volumes={CREDENTIALS_PATH: credentials},
    secrets=[token],
    region=hosting.region or None,
    max_containers=1,
    scaledown_window=60,
    timeout=120,
    startup_timeout=hosting.startup_seconds,
)
@modal.concurrent(max_inputs=20)
@modal.asgi_app(requires_proxy_auth=bool(hosting.proxy_auth))
def register_user() -> FastAPI:
    """The admin application. The only function that has the token and can write credentials."""
    from ops.index import Options
    from ops.index.admin.app import create_admin
    from ops.targets.container import DictEntries, DictNameLocks, VolumeStorage

    return create_admin(
        credentials=VolumeStorage(credentials, CREDENTIALS_PATH),
        # A rolling deployment briefly runs two of these; the locks make them write one after the other.
        name_locks=DictNameLocks(name_locks),
        entries=DictEntries(entries),
        token=os.environ[settings.secret_key],
        options=Options(trusted_proxies=(), audit_days=limits.audit_days, audit_bytes=limits.audit_bytes),
    )


if nightly:

    @app.function(
        volumes={
            PACKAGES_PATH: packages.with_mount_options(read_only=True),
            CREDENTIALS_PATH: credentials_to_read,
        },
        secrets=[modal.Secret.from_name(settings.backup_secret, required_keys=[DESTINATION_KEY])],
        schedule=modal.Cron("17 2 * * *"),
        region=hosting.region or None,
        max_containers=1,
        timeout=4 * 3600,
        startup_timeout=hosting.startup_seconds,
    )
    def back_up() -> None:
        """The nightly snapshot. Reads both volumes, and has no secret but that of its bucket."""
        from ops.snapshots.nightly import back_up_volumes

        mounted = {settings.packages_volume: PACKAGES_PATH, settings.credentials_volume: CREDENTIALS_PATH}
        print(back_up_volumes(settings, mounted, os.environ))  # noqa: T201 - Modal keeps it as the log of the night
