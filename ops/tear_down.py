"""Teardown: deletes everything that provisioning and onboarding created on a target."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ops import back_up
from ops.admin_api import AdminApi
from ops.client_folders import delete_folder
from ops.errors import ConfirmationError, ParameterError, RunbookError
from ops.invite import LINKS
from ops.plan import Change, Finding, Outcome, Plan, proven, require_approved
from ops.preflight import preflight as target_preflight
from ops.table import Table, counted
from ops.targets import Target
from ops.workspace import Workspace, shown


def preflight(target: Target, *, confirm: str = "", snapshot: str = "") -> Table:
    """Check what the target needs, that *confirm* is empty or names it, and that *snapshot* can be read. Reads only.

    Raises:
        PreflightError: something is missing; all of it is listed.
        ConfirmationError: *confirm* names something else.
        ParameterError: the snapshot would be deleted with the index.
        BucketError: the destination of the snapshot cannot be used.
    """
    table = target_preflight(target)
    _require_named(target, confirm)
    if snapshot:
        _require_elsewhere(target, snapshot)
        back_up.describe(target, destination=snapshot).bucket()
    return table


def _require_elsewhere(target: Target, snapshot: str) -> None:
    folder = Workspace.default().target(target.place)
    if "://" not in snapshot and Path(snapshot).expanduser().resolve().is_relative_to(folder.resolve()):
        raise ParameterError(
            "the last snapshot would be deleted with the index",
            why=f"{snapshot} lies in {shown(folder)}",
            todo="use another folder, or a bucket",
        )


def plan(target: Target, *, confirm: str = "", snapshot: str = "") -> Plan:
    """List what exists, and what would be deleted. Reads only.

    Parameters:
        target: the target to tear down.
        confirm: as for :func:`apply`; if empty, nothing would be deleted.
        snapshot: as for :func:`apply`.

    Raises:
        ConfirmationError: *confirm* names something else.
    """
    _require_named(target, confirm)
    state = target.state()
    changes = [
        Change("server", str(state), "stop it, with all that it does on a schedule" if state.deployment else "", "-"),
        _last_snapshot(target, snapshot),
    ]
    if state.responds and (tokens := _tokens(target)):
        changes.append(Change("tokens", tokens, "they end with their users", "-"))
    for name in target.settings.volumes:
        exists = target.volume_exists(name)
        changes.append(Change(f"volume {name}", _contents(target, name), "delete it with all its files" * exists, "-"))
    secret = target.secret_exists(target.settings.secret_name)
    changes.append(
        Change(
            f"secret {target.settings.secret_name}",
            "in place" if secret else "missing",
            "delete it, and the copy here" * secret,
            "-",
        )
    )
    changes += [
        Change(f"client files of {folder.name}", shown(folder), "delete them", "-")
        for folder in target.client_folders()
    ]
    changes += [Change(shown(path), "of this index only", "delete it", "-") for path in _own_files(target)]
    held = "" if confirm else f'Nothing is deleted until the parameter confirm is "{target.place}".'
    return Plan(_caption(target), tuple(changes), target.place, state.deployment.url if state.deployment else "", held)


def _caption(target: Target) -> str:
    return f"Tear down the target {target.place}"


def _last_snapshot(target: Target, snapshot: str) -> Change:
    """The newest snapshot in the named destination, or in the workspace's, and whether one more is taken."""
    if not _has_volumes(target):
        return Change("last snapshot", "there is nothing to take one of")
    job = back_up.describe(target, destination=snapshot)
    if not snapshot and not Path(job.destination).is_dir():
        return Change("last snapshot", "none is known; snapshot=PLACE would take one")
    backup = job.backup(job.bucket())
    pending = backup.pending()
    when = f"of {pending.last.taken:%Y-%m-%d %H:%M:%S} UTC" if pending.last else "none"
    if not snapshot:
        return Change("last snapshot", f"{when}; snapshot=PLACE would take one more")
    if backup.is_complete(pending):
        return Change("last snapshot", f"{when}, holds everything")
    now = f"{when}, {counted(pending.new, 'newer file')}"
    return Change("last snapshot", now, f"take one in {back_up.place_shown(job.destination)}", "+")


def _has_volumes(target: Target) -> bool:
    return all(target.volume_exists(name) for name in target.settings.volumes)


def _tokens(target: Target) -> str:
    """Number of tokens by user; empty if there are none, or the index does not respond."""
    try:
        _, admin = AdminApi.of(target)
        with admin:
            counts = Counter(token.owner for token in admin.tokens())
    except RunbookError:
        return ""
    return ", ".join(f"{count} of {owner}" for owner, count in sorted(counts.items()))


def apply(target: Target, *, confirm: str, snapshot: str = "") -> Outcome:
    """Delete everything in the plan if *confirm* is the target's name; do nothing if it is empty.

    Parameters:
        target: the target to tear down.
        confirm: its name.
        snapshot: a folder or bucket for a last snapshot, taken once the server has stopped; empty for none.

    Raises:
        ConfirmationError: *confirm* names something else.
        ApprovalError: another plan was approved for this run; nothing was deleted.
        BusyError: another run holds the target for too long.
        RunbookError: the snapshot could not be taken; the server was stopped, and nothing was deleted.
    """
    if not confirm:
        note = "Nothing was deleted, since the parameter confirm is empty."
        return Outcome(_caption(target), (), note, target.place)
    _require_named(target, confirm)
    if snapshot:
        _require_elsewhere(target, snapshot)
    done: list[tuple[str, str]] = []
    with target.lock():
        require_approved(lambda: plan(target, confirm=confirm, snapshot=snapshot))
        # Before the app is deleted: files of the earlier layout are recognized by their URL.
        folders = target.client_folders()
        if target.stop():
            done.append(("server", "stopped"))
        if snapshot and _has_volumes(target):
            backup = (job := back_up.describe(target, destination=snapshot)).backup(job.bucket())
            taken, new = backup.take()
            backup.check(taken, thorough=True)
            done.append((f"snapshot {taken.name}", f"{'taken' if new else 'in place'}, every byte read back"))
        volumes = target.settings.volumes
        done.extend((f"volume {name}", "deleted") for name in volumes if target.delete_volume(name))
        if target.delete_secret(target.settings.secret_name):
            done.append((f"secret {target.settings.secret_name}", "deleted"))
        for folder in folders:
            delete_folder(folder)
            done.append((f"client files of {folder.name}", "deleted"))
        for path in _own_files(target):
            delete_folder(path)
            done.append((shown(path), "deleted"))
    return Outcome(_caption(target), tuple(done), place=target.place)


def _require_named(target: Target, confirm: str) -> None:
    if confirm and not target.is_named(confirm):
        raise ConfirmationError(
            "nothing was deleted",
            why=f"the parameter `confirm` says {confirm!r}, but the target is {target.place!r}",
            todo=f'use confirm="{target.place}" to delete everything on it',
        )


def verify(target: Target, *, confirm: str) -> Table:
    """Check that everything is gone.

    Parameters:
        target: the deleted target.
        confirm: as for :func:`apply`; empty if nothing was to be deleted.

    Raises:
        VerificationError: something is left; all of it is listed.
    """
    if not confirm:
        row = ("everything", f'left as it was; confirm="{target.place}" deletes it')
        return Table.of("Looked for afterwards", ("what", "seen"), [row])
    left = [("server", target.state().deployment is not None)]
    left += [(f"volume {name}", target.volume_exists(name)) for name in target.settings.volumes]
    left.append((f"secret {target.settings.secret_name}", target.secret_exists(target.settings.secret_name)))
    left.append(("client files", bool(target.client_folders())))
    left.append(("logs, versions and invitations", bool(_own_files(target))))
    findings = [Finding(what, "gone", "still there" if there else "gone", not there) for what, there in left]
    return proven("Looked for afterwards", findings, todo="run this notebook again")


def _own_files(target: Target) -> list[Path]:
    """Files on this machine that only serve this index, with the links of its invitations."""
    links = Workspace.default().users(target.place) / LINKS
    return [*target.state_files(), *([links] if links.exists() else [])]


def _contents(target: Target, volume: str) -> str:
    if not target.volume_exists(volume):
        return "missing"
    # Without the index's own files, which requests change, a plan stays the same until a package or user changes.
    files = target.list_files(volume)
    sizes = [file.size for file in files if not file.path.startswith(".") or "/" not in file.path]
    return f"{counted(len(sizes), 'file')}, {counted(sum(sizes), 'byte')}"


__all__ = ["apply", "plan", "preflight", "verify"]
