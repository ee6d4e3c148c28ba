"""Provisioning: creates the admin secret, the two volumes and the server, or completes what exists."""

from __future__ import annotations

from pathlib import Path

from ops.admin_api import AdminApi, advice_for
from ops.client_folders import ClientFolders, advice_after_move
from ops.http_client import HttpClient
from ops.plan import DRY_RUN, Change, Finding, Outcome, Plan, Sign, proven, require_approved
from ops.preflight import preflight
from ops.private_files import close_to_others, open_to_others
from ops.secret import Secret
from ops.table import Table, Text
from ops.targets import UPGRADE, Deployment, Move, State, Target
from ops.targets.index_rules import check_admin_token
from ops.workspace import shown

_STRANGER = "nobody-of-this-name"
_WRONG = "not-the-password-of-anybody"
"""Always the same, so that the index does not count repeated checks as guesses."""


def plan(target: Target, *, lower_protection: str = "") -> Plan:
    """Compare the target with the wanted state. Reads only.

    Parameters:
        target: the target.
        lower_protection: as of :func:`apply`.

    Raises:
        PortTakenError: another program uses the known or requested port.
    """
    changes = [_secret(target)]
    for name, purpose in zip(target.settings.volumes, ("packages", "credentials"), strict=True):
        exists = target.volume_exists(name)
        changes.append(
            Change(
                f"volume {name} ({purpose})",
                "in place" if exists else "missing",
                "" if exists else "create it, empty",
                "+",
            )
        )
    state, move = target.state(), target.move()
    changes.append(_server(target, state, move))
    url = state.deployment.url if state.deployment else ""
    if after := move.after if move else url:
        changes += ClientFolders.of(target).changes(after)
    changes += [
        Change(f"mode of {shown(path)}", "open to other users of this machine", "close it to them")
        for path in _exposed(target)
    ]
    changes += hosting_changes(target, lower_protection)
    return Plan(_caption(target), tuple(changes), target.place, url)


def _caption(target: Target) -> str:
    return f"Provision the target {target.place}"


def _server(target: Target, state: State, move: Move | None) -> Change:
    known = f"{state}; clients know it at {move.before}" if move and not state.responds else str(state)
    sign: Sign = "~" if state.deployment else "+"
    if move:
        return Change("server", known, f"start it at {move.after}", sign)
    if state.responds and (outdated := target.outdated()):
        return Change("server", f"{known}; {outdated}", "start it anew")
    return Change(
        "server", known, "" if state.responds else "bring it up to date" if state.deployment else "start it", sign
    )


def _exposed(target: Target) -> list[Path]:
    return [path for path in target.private_paths() if open_to_others(path)]


def hosting_changes(target: Target, lower_protection: str = "") -> list[Change]:
    """Compare hosting with that of the next deployment; empty if the target has none. Reads only."""
    hosting = target.hosting(lower_protection=lower_protection)
    if hosting is None:
        return []
    if not hosting.changes:
        return [Change("hosting", hosting.summary)]
    return [
        Change(
            f"hosting {change.name}",
            change.now,
            change.arrow,
            refused=change.refused,
        )
        for change in hosting.changes
    ]


def apply(target: Target, *, dry_run: bool = False, lower_protection: str = "") -> Outcome:
    """Create what is missing, and update the server. Anything up to date is left alone.

    Reads the state again under the target's lock, so that only one of two concurrent runs changes anything.

    Parameters:
        target: the target.
        dry_run: True to change nothing.
        lower_protection: protections of the hosting that may be lowered, separated by commas.

    Raises:
        BusyError: another run holds the target for too long.
        SettingError: the given admin token cannot be used; nothing was changed.
        ProtectionError: a protection would be lowered without permission; nothing was changed.
        ApprovalError: another plan was approved for this run; nothing was changed.
        TargetError: the target refused or failed.
    """
    if dry_run:
        return Outcome(_caption(target), (), DRY_RUN, target.place)
    done: list[tuple[str, str]] = []
    with target.lock():
        require_approved(lambda: plan(target, lower_protection=lower_protection))
        hosting = target.hosting(lower_protection=lower_protection)
        if hosting is not None:
            hosting.require_allowed()
        names = target.settings
        if not target.secret_exists(names.secret_name):
            given = _given_token(target)
            target.put_secret(names.secret_name, {names.secret_key: given or Secret.generate()})
            done.append((f"secret {names.secret_name}", "stored as given" if given else "generated and stored"))
        for name in names.volumes:
            if not target.volume_exists(name):
                target.create_volume(name)
                done.append((f"volume {name}", "created"))
        ran, move = target.state().deployment is not None, target.move()
        deployment = target.deploy(lower_protection=lower_protection)
        unfinished = target.unfinished_upgrade
        if unfinished.exists() and target.history()[0].tag != UPGRADE:
            unfinished.unlink()  # this version replaced it
        folders = ClientFolders.of(target)
        before = move.before if move else folders.another_address(deployment.url)
        written = folders.readdress(deployment.url)
        exposed = _exposed(target)
        for path in exposed:
            close_to_others(path)
    if deployment.changed:
        done.append(("server", "brought up to date and started again" if ran else "started"))
    done += written
    done += [(f"mode of {shown(path)}", "closed to other users of this machine") for path in exposed]
    if hosting is not None:
        done.extend((f"hosting {change.name}", change.arrow) for change in hosting.changes)
    note = "" if done else "Everything was in place already. "
    told = f". {advice_after_move(target, before)}" if before else ""
    note = f"{note}The index responds at {deployment.url}{told}"
    return Outcome(_caption(target), tuple(done), note, target.place, deployment.url)


def verify(target: Target, *, dry_run: bool = False) -> Table:
    """Prove from outside that the index responds and refuses requests without valid credentials.

    Parameters:
        target: the target.
        dry_run: True if nothing was changed, so that a missing index is not a failure.

    Raises:
        NotDeployedError: there is no index.
        NotRespondingError: it does not respond.
        VerificationError: it responds incorrectly; the error lists every wrong response.
    """
    state = target.state()
    if dry_run and not state.responds:
        seen = str(state) if state.deployment else "there is none yet"
        return Table.of("Seen from outside", ("tried", "seen"), [("the index", seen)])
    deployment = state.require(target.place)
    findings = [*_as_a_visitor(deployment), *_as_the_operator(target, deployment)]
    return proven("Seen from outside", findings, todo="read the log of the server and run this notebook again")


def summary(target: Target, outcome: Outcome, *, dry_run: bool = False) -> Text:
    """Changes of this run and state of the index, in two lines."""
    if dry_run:
        return Text(f"This was a dry run: nothing was changed.\nThe index {target.state()}.")
    count = len(outcome.done)
    changed = f"{count} thing{'s were' if count > 1 else ' was'} changed" if count else "Nothing had to be changed"
    return Text(f"{changed}.\nThe index {target.state()}.")


def _secret(target: Target) -> Change:
    thing = f"secret {target.settings.secret_name} (admin token)"
    if not target.secret_exists(target.settings.secret_name):
        given = _given_token(target)
        return Change(thing, "missing", "store the given one" if given else "generate and store it", "+")
    copy = target.recall_secret(target.settings.secret_name, target.settings.secret_key)
    return Change(thing, "in place" if copy else "in place; this machine has no copy")


def _given_token(target: Target) -> Secret | None:
    """The admin token chosen by the operator; None if there is none.

    Raises:
        SettingError: it could be guessed, or cannot be sent.
    """
    given = target.recall_secret(target.settings.secret_name, target.settings.secret_key)
    if given is not None:
        check_admin_token(given, target.settings.secret_key)
    return given


def _as_a_visitor(deployment: Deployment) -> list[Finding]:
    findings = []
    with HttpClient(deployment.url) as stranger:
        health = stranger.request("GET", "health")
        refused = stranger.request("GET", "simple/")
    findings.append(Finding("health, without credentials", "200", str(health.status_code), health.status_code == 200))
    with HttpClient(deployment.url, username=_STRANGER, password=Secret(_WRONG)) as intruder:
        wrong = intruder.request("GET", "simple/")
    for what, response in (("the index, without credentials", refused), ("the index, wrong password", wrong)):
        realm = response.headers.get("WWW-Authenticate", "")
        seen = (
            f"{response.status_code}, {'asks for a login' if realm.startswith('Basic realm=') else 'without a realm'}"
        )
        findings.append(Finding(what, "401, asks for a login", seen, seen == "401, asks for a login"))
    return findings


def _as_the_operator(target: Target, deployment: Deployment) -> list[Finding]:
    findings = []
    with AdminApi(deployment.admin_url, None, deployment.admin_headers) as stranger:
        status = stranger.users_status()
    findings.append(Finding("the list of users, without the admin token", "401", str(status), status == 401))
    token = target.recall_secret(target.settings.secret_name, target.settings.secret_key)
    if token is not None:
        advice = advice_for(target)
        with AdminApi(deployment.admin_url, token, deployment.admin_headers, advice=advice) as operator:
            status = operator.users_status()
            todo = "" if status == 200 else operator.refusal_advice()
        question = "the list of users, with the admin token"
        findings.append(Finding(question, "200", str(status), status == 200, todo))
    return findings


__all__ = ["apply", "hosting_changes", "plan", "preflight", "summary", "verify"]
