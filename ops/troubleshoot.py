"""Troubleshooting: checks the known causes of failures on a target, and names the guide's entry for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ops.admin_api import AdminApi
from ops.client_folders import ClientFolders
from ops.errors import GUIDE, PreflightError, RunbookError, VerificationError
from ops.http_client import login_status
from ops.preflight import problems, table_of
from ops.private_files import open_to_others
from ops.table import Table
from ops.targets import Check, Target
from ops.workspace import shown


def machine(target: Target) -> Table:
    """Check this machine and what the target needs. Reads only; does not raise for failed checks."""
    return table_of("This machine", machine_checks(target))


def index(target: Target) -> Table:
    """Check the server and the admin token. Reads only; does not raise for failed checks."""
    return table_of(f"The index on the target {target.name}", index_checks(target))


def logins(target: Target) -> Table:
    """Log in with the client files of each user on this machine. Reads only; does not raise for failed checks."""
    return table_of("Logins with the client files on this machine", login_checks(target))


def verify(target: Target) -> Table:
    """Repeat all checks.

    Raises:
        VerificationError: a check failed; all failed ones are listed, each with the entry on how to fix it.
    """
    checks = [*machine_checks(target), *index_checks(target), *login_checks(target)]
    if failed := problems(checks):
        raise VerificationError(
            f"{len(failed)} of {len(checks)} checks failed",
            why="; ".join(failed),
            todo="fix them in this order, and run this notebook again",
        )
    return Table.of("Looked at once more", ("checks", "failed"), [(len(checks), 0)])


def machine_checks(target: Target) -> list[Check]:
    """Requirements of the target on this machine, and the modes of the files that must be private."""
    return list(_explained("target", lambda: [*map(_with_entry, target.checks()), _private(target)]))


def index_checks(target: Target) -> list[Check]:
    """The server's state and code, and the admin token."""
    return list(_explained("index", lambda: list(_index(target))))


def login_checks(target: Target) -> list[Check]:
    """A login of each user with client files here."""
    return list(_explained("logins", lambda: list(_logins(target))))


def _explained(name: str, look: Callable[[], Sequence[Check]]) -> Sequence[Check]:
    """The checks from *look*, or a failed one with the error that it raised."""
    try:
        return look()
    except RunbookError as error:
        return [_failed(name, error)]


def _failed(name: str, error: RunbookError) -> Check:
    said = "; ".join(part.rstrip(".") for part in (error.what, error.why, error.todo) if part)
    return Check(name, passed=False, detail=f"{said}; see {GUIDE}#{error.entry}")


def _with_entry(check: Check) -> Check:
    if check.passed:
        return check
    return Check(check.name, passed=False, detail=f"{check.detail}; see {GUIDE}#{PreflightError.__name__}")


def _private(target: Target) -> Check:
    exposed = [shown(path) for path in target.private_paths() if open_to_others(path)]
    detail = (
        f"open to other users: {', '.join(exposed)}; the notebook 01_provision closes them" if exposed else "private"
    )
    return _with_entry(Check("files of the operator", not exposed, detail))


def _index(target: Target) -> Iterator[Check]:
    deployment = target.state().require(target.place)
    yield Check("server", passed=True, detail=f"responds at {deployment.url}")
    outdated = target.outdated()
    mend = f"{outdated}; the notebook 01_provision updates it" if outdated else "that of this clone"
    yield _with_entry(Check("code that runs", not outdated, mend))
    try:
        _, admin = AdminApi.of(target)
        with admin:
            admin.users()
    except RunbookError as error:
        yield _failed("admin token", error)
    else:
        yield Check("admin token", passed=True, detail="is accepted")


def _logins(target: Target) -> Iterator[Check]:
    deployment = target.deployment()
    for files in ClientFolders.of(target).folders if deployment else ():
        login, name = files.login(), f"user {files.folder.name}"
        if login is None and not files.pypirc.exists() and any(files.folder.glob("token*")):
            continue  # of a CI job, which has a token and no password
        if login is None:
            detail = f"the files in {shown(files.folder)} cannot be read: run the notebook 02_onboard_user"
            yield Check(name, passed=False, detail=f"{detail}; see {GUIDE}#ClientError")
        elif deployment and login.url != deployment.url:
            detail = f"the files name {login.url}: run the notebook 01_provision, which rewrites them"
            yield Check(name, passed=False, detail=f"{detail}; see {GUIDE}#ClientError")
        else:
            status = login_status(login)
            entry = "" if status == 200 else f"; see {GUIDE}#IndexRequestError-{status}"
            yield Check(name, status == 200, f"{'accepted' if status == 200 else 'refused'} ({status}){entry}")


__all__ = ["index", "index_checks", "login_checks", "logins", "machine", "machine_checks", "verify"]
