"""Rules of the index for user names, passwords, roles and the admin token, applied before anything is sent to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from packaging.utils import InvalidName, canonicalize_name

from ops.errors import ParameterError, RunbookError, SettingError
from ops.secret import Secret

RANDOM_PASSWORD_ROUNDS = 10
"""Cost of the bcrypt hash of a generated password that nobody keeps: the lowest that the index accepts. A cost slows
down guessing, and 256 random bits cannot be guessed at any cost; a higher one would only slow down each test, and every
refusal of the index, which takes as long as its most expensive entry."""


def checked_user_name(name: str) -> str:
    """Check a user name, and return it as stored by the index (Unicode NFC).

    Raises:
        ParameterError: the index would refuse it.
    """
    from ops.index.auth.passwords import InvalidCredentials, validated_name

    try:
        return validated_name(name)
    except InvalidCredentials as error:
        why, _, todo = str(error).rpartition(": ")
        raise ParameterError(f"{name!r} cannot be a user name", why=why, todo=todo) from None


def check_role(role: str) -> None:
    """Check the name of a role.

    Raises:
        ParameterError: the index has no such role.
    """
    from ops.index.auth.roles import Role

    if role not in set(Role):
        raise ParameterError(
            f"there is no role {role!r}",
            why=f"the roles are {', '.join(Role)}",
            todo="set the parameter `role` to one of them",
        )


def limited_rights(
    role: str, projects: Sequence[str] | None, *, to: str, to_projects: Sequence[str] | None
) -> tuple[str, tuple[str, ...] | None]:
    """The role and projects of a token, with only the rights that a user of the role *to* also has."""
    from ops.index.auth.roles import Identity, Role

    token, user = (
        Identity("", Role(name), None if limits is None else frozenset(limits))
        for name, limits in ((role, projects), (to, to_projects))
    )
    rights = token.limited_to(user)
    return str(rights.role), None if rights.projects is None else tuple(sorted(rights.projects))


def checked_projects(names: str, role: str = "") -> tuple[str, ...]:
    """The projects to which a publisher is limited, normalized (PEP 503) and sorted.

    Parameters:
        names: separated by commas or spaces; empty for no change.
        role: of the user; empty if it is not known yet.

    Raises:
        ParameterError: the index would refuse one of them, or limits for this role.
    """
    given = names.replace(",", " ").split()
    try:
        projects = {str(canonicalize_name(name, validate=True)) for name in given}
    except InvalidName:
        raise ParameterError(
            f"{', '.join(given)!r} cannot be the projects of a publisher",
            why="one of them is not the name of a project (PEP 508)",
            todo="use letters, digits and . _ -, and separate the names with commas",
        ) from None
    if projects and role not in ("", "publisher"):
        raise ParameterError(
            f"the role {role} cannot be limited to projects",
            why="only a publisher is limited to projects",
            todo="omit the projects, or use role=publisher",
        )
    return tuple(sorted(projects))


def checked_trust(document: Mapping[str, Any]) -> dict[str, Any]:
    """Check a document of trusted CI jobs with all fields, and return it as stored by the index.

    Raises:
        ParameterError: the index would refuse it.
    """
    from ops.index.auth.passwords import InvalidCredentials
    from ops.index.auth.trust import Trust

    try:
        stored = Trust.of(document, version=0).document()
    except InvalidCredentials as error:
        raise ParameterError("these CI jobs cannot be trusted", why=str(error), todo="correct the file") from None
    return {name: stored[name] for name in ("audience", "issuers", "jobs")}


def check_password(password: Secret) -> None:
    """Check a chosen password. The error does not repeat it.

    Raises:
        RunbookError: the index would refuse it.
    """
    from ops.index.auth.passwords import InvalidCredentials, validated_password

    try:
        validated_password(password.reveal())
    except InvalidCredentials as error:
        why, _, todo = str(error).rpartition(": ")
        raise RunbookError("the password cannot be used", why=why, todo=todo) from None


def password_hash(password: Secret, rounds: int) -> str:
    """Hash a password with bcrypt, like the index.

    Parameters:
        password: the password.
        rounds: the cost, a power of two.
    """
    from ops.index.auth.passwords import hashed

    return hashed(password.reveal(), rounds)


def check_admin_token(token: Secret, variable: str) -> None:
    """Check an admin token chosen by the operator.

    Parameters:
        token: the token.
        variable: the environment variable that held it.

    Raises:
        SettingError: the server would refuse it: it could be guessed, or cannot be sent.
    """
    from ops.index.startup import MAKE_TOKEN_HINT, token_problem

    problem = token_problem(token.reveal())
    if problem is not None:
        raise SettingError(
            f"the admin token in {variable} cannot be used",
            why=f"it {problem}",
            todo=f"unset {variable} to generate one, or {MAKE_TOKEN_HINT}",
        )
