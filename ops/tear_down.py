"""Teardown: deletes everything that provisioning and onboarding created on a target."""

from __future__ import annotations

from ops.client_folders import delete_folder
from ops.errors import ConfirmationError
from ops.plan import Change, Finding, Outcome, Plan, proven, require_approved
from ops.preflight import preflight as target_preflight
from ops.settings import Settings
from ops.table import Table
from ops.targets import Target
from ops.workspace import shown


def preflight(target: Target, *, confirm: str = "") -> Table:
    """Check what the target needs, and that *confirm* is empty or names the target. Reads only.

    Raises:
        PreflightError: something is missing; all of it is listed.
        ConfirmationError: *confirm* names something else.
    """
    table = target_preflight(target)
    _require_named(target, confirm)
    return table


def plan(target: Target, settings: Settings | None = None, *, confirm: str = "") -> Plan:
    """List what exists, and what would be deleted. Reads only.

    Parameters:
        target: the target to tear down.
        settings: names of the secret and the volumes.
        confirm: as of :func:`apply`; if empty, nothing would be deleted.

    Raises:
        ConfirmationError: *confirm* names something else.
    """
    settings = settings or Settings()
    _require_named(target, confirm)
    state = target.state()
    changes = [Change("server", str(state), "stop it" if state.deployment else "", "-")]
    for name in (settings.packages_volume, settings.credentials_volume):
        exists = target.volume_exists(name)
        changes.append(Change(f"volume {name}", _contents(target, name), "delete it with all its files" * exists, "-"))
    secret = target.secret_exists(settings.secret_name)
    changes.append(
        Change(
            f"secret {settings.secret_name}",
            "in place" if secret else "missing",
            "delete it, and the copy here" * secret,
            "-",
        )
    )
    changes += [
        Change(f"client files of {folder.name}", shown(folder), "delete them", "-")
        for folder in target.client_folders()
    ]
    held = (
        "" if confirm else f"Nothing is deleted, since the parameter confirm is empty; {target.place} would delete it."
    )
    return Plan(_caption(target), tuple(changes), target.place, state.deployment.url if state.deployment else "", held)


def _caption(target: Target) -> str:
    return f"Tear down the target {target.place}"


def apply(target: Target, *, confirm: str, settings: Settings | None = None) -> Outcome:
    """Delete everything in the plan if *confirm* is the target's name, and nothing if it is empty.

    Parameters:
        target: the target to tear down.
        confirm: its name.
        settings: names of the secret and the volumes.

    Raises:
        ConfirmationError: *confirm* names something else.
        ApprovalError: another plan was approved for this run; nothing was deleted.
        BusyError: another run holds the target for too long.
    """
    settings = settings or Settings()
    if not confirm:
        note = "Nothing was deleted, since the parameter confirm is empty."
        return Outcome(_caption(target), (), note, target.place)
    _require_named(target, confirm)
    done: list[tuple[str, str]] = []
    with target.lock():
        require_approved(lambda: plan(target, settings, confirm=confirm))
        # Before the app is deleted: files of the earlier layout are recognized by the URL in them.
        folders = target.client_folders()
        if target.stop():
            done.append(("server", "stopped"))
        volumes = (settings.packages_volume, settings.credentials_volume)
        done.extend((f"volume {name}", "deleted") for name in volumes if target.delete_volume(name))
        if target.delete_secret(settings.secret_name):
            done.append((f"secret {settings.secret_name}", "deleted"))
        for folder in folders:
            delete_folder(folder)
            done.append((f"client files of {folder.name}", "deleted"))
    return Outcome(_caption(target), tuple(done), place=target.place)


def _require_named(target: Target, confirm: str) -> None:
    if confirm and not target.is_named(confirm):
        raise ConfirmationError(
            "nothing was deleted",
            why=f"the parameter `confirm` says {confirm!r}, and the target is {target.place!r}",
            todo=f'give confirm="{target.place}" to delete everything on it',
        )


def verify(target: Target, *, confirm: str, settings: Settings | None = None) -> Table:
    """Look whether all of it is gone.

    Parameters:
        target: what went.
        confirm: as for :func:`apply`; empty when nothing was to go.
        settings: the names of secret and volumes.

    Raises:
        VerificationError: something is left; all of it is named.
    """
    settings = settings or Settings()
    if not confirm:
        row = ("everything", f'left as it was; confirm="{target.place}" deletes it')
        return Table.of("Looked for afterwards", ("what", "seen"), [row])
    left = [("server", target.state().deployment is not None)]
    left += [
        (f"volume {name}", target.volume_exists(name))
        for name in (settings.packages_volume, settings.credentials_volume)
    ]
    left.append((f"secret {settings.secret_name}", target.secret_exists(settings.secret_name)))
    left.append(("client files", bool(target.client_folders())))
    findings = [Finding(what, "gone", "still there" if there else "gone", not there) for what, there in left]
    return proven("Looked for afterwards", findings, todo="run this notebook again")


def _contents(target: Target, volume: str) -> str:
    if not target.volume_exists(volume):
        return "missing"
    # Without what the index writes for itself at every request, a plan stays the same until a package or user changes.
    files = target.list_files(volume)
    sizes = [file.size for file in files if not file.path.startswith(".") or "/" not in file.path]
    return f"{len(sizes):,} files, {sum(sizes):,} bytes"


__all__ = ["apply", "plan", "preflight", "verify"]
