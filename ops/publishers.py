"""Publishers of files, users or CI jobs, and how their rights are taken away."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ops.admin_api import AdminApi, IndexUser
from ops.secret import Secret
from ops.table import counted
from ops.targets.index_rules import RANDOM_PASSWORD_ROUNDS, password_hash

_JOB = "oidc:"
"""Prefix of a trusted CI job's name in the audit log. No user's name has a colon."""


@dataclass(frozen=True)
class IndexPublisher:
    """A user or a CI job that has uploaded something.

    Parameters:
        name: of the user or job.
        is_job: True for a CI job.
        rights: those it has now, for display.
        locked: True if it cannot publish, and whoever knows its former password cannot log in.
    """

    name: str
    is_job: bool
    rights: str
    locked: bool

    @property
    def thing(self) -> str:
        """A noun phrase."""
        return f"CI job {self.name}" if self.is_job else f"user {self.name}"

    @property
    def locking(self) -> str:
        """Description of :meth:`lock` for a plan."""
        return "trust no more" if self.is_job else "make a reader, revoke the tokens, replace the password"

    def lock(self, admin: AdminApi) -> str:
        """Take away the right to publish, and describe the result.

        Raises:
            IndexRequestError: the request was refused, or got no response.
        """
        if self.is_job:
            trust = admin.trust()
            jobs = [job for job in trust["jobs"] if job["name"] != self.name]
            admin.replace_trust({**trust, "jobs": jobs}, version=trust["version"])
            return "trusted no more; its tokens have ended"
        admin.register(self.name, password_hash=password_hash(Secret.generate(), RANDOM_PASSWORD_ROUNDS), role="reader")
        for token in admin.tokens(self.name):
            admin.revoke_token(token.id)
        return "a reader now, without tokens and with an unknown password"


def publishers(admin: AdminApi, names: Iterable[str], replaced: Collection[str]) -> list[IndexPublisher]:
    """The publishers with these names in the audit log, sorted by name.

    Parameters:
        admin: of the index.
        names: CI jobs with their prefix.
        replaced: users whose password an operator has replaced; the others are not locked.

    Raises:
        IndexRequestError: the request was refused, or got no response.
    """
    wanted = sorted(set(names))
    users = {user.username: user for user in admin.users()}
    # An index without trusted jobs may be too old to be asked for them.
    jobs = admin.trust()["jobs"] if any(name.startswith(_JOB) for name in wanted) else []
    trusted = {f"{_JOB}{job['name']}": str(job["role"]) for job in jobs}
    return [
        _job(name.removeprefix(_JOB), trusted.get(name))
        if name.startswith(_JOB)
        else _user(admin, name, users.get(name), replaced=name in replaced)
        for name in wanted
    ]


def _job(name: str, role: str | None) -> IndexPublisher:
    rights = f"trusted as {role}" if role else "not trusted"
    return IndexPublisher(name, is_job=True, rights=rights, locked=role in {None, "reader"})


def _user(admin: AdminApi, name: str, user: IndexUser | None, *, replaced: bool) -> IndexPublisher:
    if user is None:
        return IndexPublisher(name, is_job=False, rights="unknown to the index", locked=True)
    tokens = len(admin.tokens(name))
    rights = f"{user.role}, {counted(tokens, 'token')}"
    return IndexPublisher(name, is_job=False, rights=rights, locked=user.role == "reader" and not tokens and replaced)
