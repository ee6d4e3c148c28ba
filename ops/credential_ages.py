"""Ages of credentials: the admin token, passwords, tokens, and the operator's platform token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ops.admin_api import AdminApi, IndexToken
from ops.audit_log import events
from ops.table import Table
from ops.targets import CredentialAge, Target

WARNING = timedelta(days=14)
"""Credentials that expire sooner are shown as due."""


def ages(target: Target, *, days: int) -> Table:
    """All credentials of the index and its operator, with age, expiry and what is due. Reads only.

    Parameters:
        target: the target of the index.
        days: the age from which a credential is due.

    Raises:
        NotDeployedError: there is no index.
    """
    found = [*target.credential_ages()]
    _, admin = AdminApi.of(target)
    with admin:
        users, tokens = [user.username for user in admin.users()], admin.tokens()
    passwords = password_ages(target)
    found += [CredentialAge(f"password of {name}", passwords.get(name)) for name in users]
    rows = [(age.name, shown_time(age.created), "not known", shown_time(age.expires), _due(age, days)) for age in found]
    for token in tokens:
        age = CredentialAge(display_name(token), parsed(token.created), parsed(token.expires))
        used = shown_time(token.last_used) or "never"
        rows.append((age.name, shown_time(age.created), used, shown_time(age.expires), _due(age, days)))
    return Table.of(
        f"Credentials of the target {target.place}",
        ("credential", "set", "last used", "expires", "due"),
        [(name, set_ or "not known", used, ends or "never", due) for name, set_, used, ends, due in rows],
        note=f"Due is what is older than {days} days, or ends within {WARNING.days} days.",
    )


def _due(age: CredentialAge, days: int) -> str:
    now = datetime.now(UTC)
    if age.expires and age.expires < now:
        return "expired"
    if age.expires and age.expires - now < WARNING:
        return f"in {(age.expires - now).days} days"
    if age.created is None:
        return "not known"
    return f"yes, {(now - age.created).days} days old" if is_older(age.created, days) else "no"


def shown_time(time: datetime | str | None) -> str:
    """A timestamp of the index, formatted; empty if there is none."""
    time = parsed(time) if isinstance(time, str) and time else time
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else ""


def parsed(text: str) -> datetime:
    """A timestamp of the index, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def display_name(token: IndexToken) -> str:
    """A token as a noun phrase."""
    return f"token {token.label or token.id} of {token.owner}"


def password_ages(target: Target) -> dict[str, datetime]:
    """Time at which each user's password was last set, by the audit log."""
    return {str(event["user"]): parsed(str(event["time"])) for event in events(target) if event.get("password_changed")}


def is_older(created: datetime | None, days: int) -> bool:
    """True if a credential set at that time, which may be unknown, is that old."""
    return created is None or datetime.now(UTC) - created >= timedelta(days=days)
