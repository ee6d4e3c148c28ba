"""Trusted publishing and trusted reading: the CI jobs that get a short-lived token for an ID token of their issuer.

``.trust`` on the credentials volume is one JSON object: a version that grows with each change, the audience that ID
tokens must name, issuers, and jobs. Only what it lists is trusted. Jobs are matched by numeric ids, which unlike names
cannot be registered again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from packaging.utils import InvalidName, canonicalize_name

from ops.index.auth.audit import Audit
from ops.index.auth.credential_files import TRUST, CredentialFiles
from ops.index.auth.passwords import InvalidCredentials
from ops.index.auth.roles import Identity, Role
from ops.index.errors import Conflict, StorageError
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry

MOST: Final = 200
"""Limit of jobs, and of projects of one job."""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,19}")
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f]{0,255}")
_RUN: Final = re.compile(r"[A-Za-z0-9._/-]{1,255}")

_PUBLIC_GITHUB: Final = "token.actions.githubusercontent.com"


class Kind(NamedTuple):
    """The claims of one kind of CI, and the path of its keys.

    Parameters:
        keys: below the issuer's URL, in JWKS form (RFC 7517).
        repository_id: the claim with the repository's number.
        owner_id: the same for its owner.
        repository: the claim with its name, for people.
        workflow: the claim with the file and ref that define the job.
    """

    keys: str
    repository_id: str
    owner_id: str
    repository: str
    workflow: str


KINDS: Final[Mapping[str, Kind]] = {
    "github": Kind("/.well-known/jwks", "repository_id", "repository_owner_id", "repository", "job_workflow_ref"),
    "gitlab": Kind("/oauth/discovery/keys", "project_id", "namespace_id", "project_path", "ci_config_ref_uri"),
}


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer of ID tokens.

    Parameters:
        url: as its tokens name it (``iss``).
        kind: ``github`` or ``gitlab``.
    """

    url: str
    kind: str

    @property
    def keys_url(self) -> str:
        """The address of its public keys."""
        return self.url.rstrip("/") + KINDS[self.kind].keys

    def run_url(self, claims: Mapping[str, Any]) -> str:
        """The URL of the run that an ID token was issued to; empty if unknown."""
        repository = str(claims.get(KINDS[self.kind].repository, ""))
        number = str(claims.get("run_id" if self.kind == "github" else "job_id", ""))
        if not _RUN.fullmatch(repository) or not _NUMBER.fullmatch(number):
            return ""
        if self.kind == "gitlab":
            return f"{self.url.rstrip('/')}/{repository}/-/jobs/{number}"
        address = urlsplit(self.url)
        host = "github.com" if address.netloc == _PUBLIC_GITHUB else address.netloc
        return f"{address.scheme}://{host}/{repository}/actions/runs/{number}"


@dataclass(frozen=True, slots=True)
class TrustedJob:
    """A job that gets tokens.

    Parameters:
        name: for people, and in the audit log as ``oidc:<name>``.
        issuer: the URL of its issuer.
        repository: its name when it was looked up; for people only.
        repository_id: numeric id of the repository.
        owner_id: numeric id of its owner.
        environment: that the job must run in; empty for any.
        workflow: file that must define it, such as ``release.yaml``; empty for any.
        protected_ref: True if the branch or tag must be protected.
        role: reader or publisher.
        projects: normalized names of those that a publisher may upload to, which need not exist yet; None for a reader.
    """

    name: str
    issuer: str
    repository: str
    repository_id: str
    owner_id: str
    role: Role
    projects: frozenset[str] | None = None
    environment: str = ""
    workflow: str = ""
    protected_ref: bool = False

    def is_of(self, kind: Kind, claims: Mapping[str, Any]) -> bool:
        """True if the claims are of this repository and owner."""
        return (str(claims.get(kind.repository_id)), str(claims.get(kind.owner_id))) == (
            self.repository_id,
            self.owner_id,
        )

    def mismatches(self, issuer: Issuer, claims: Mapping[str, Any]) -> list[str]:
        """Reasons why an ID token of the right repository does not match, each as a clause; empty if it matches."""
        found = []
        environment = str(claims.get("environment", ""))
        if self.environment and environment.casefold() != self.environment.casefold():
            found.append(f"the environment is {_quoted(environment)} and not {self.environment!r}")
        kind = KINDS[issuer.kind]
        workflow = str(claims.get(kind.workflow, ""))
        if self.workflow and not workflow.startswith(f"{self._definition(issuer, claims)}@"):
            found.append(f"the workflow is {_quoted(workflow)} and not {self.workflow!r}")
        if self.protected_ref and str(claims.get("ref_protected", "")).lower() != "true":
            found.append(f"the ref {_quoted(str(claims.get('ref', '')))} is not protected")
        return found

    def signed(self, issuer: Issuer, signer: Mapping[str, str]) -> bool:
        """True if the certificate of a signature was issued to this job, whatever its environment and ref.

        Parameters:
            issuer: of this job.
            signer: what the certificate says, see :meth:`SignatureVerifier.signers`.
        """
        folder = ".github/workflows" if issuer.kind == "github" else ""
        definition = f"{signer.get('repository', '')}/{folder}/{self.workflow}@"
        return (
            (signer.get("issuer"), signer.get("repository_id"), signer.get("owner_id"))
            == (self.issuer, self.repository_id, self.owner_id)
        ) and (not self.workflow or signer.get("workflow", "").startswith(definition))

    def _definition(self, issuer: Issuer, claims: Mapping[str, Any]) -> str:
        """The workflow file in this repository: a reusable workflow of the same name elsewhere does not count."""
        repository = claims.get(KINDS[issuer.kind].repository, "")
        if issuer.kind == "github":
            return f"{repository}/.github/workflows/{self.workflow}"
        return f"{issuer.url.partition('://')[2].rstrip('/')}/{repository}//{self.workflow}"


@dataclass(frozen=True, slots=True)
class Trust:
    """Everything that is trusted.

    Parameters:
        version: grows with each change; 0 if nothing was ever trusted.
        audience: that ID tokens must name, different for each index.
        issuers: by URL.
        jobs: in the order of the file.
    """

    version: int = 0
    audience: str = ""
    issuers: tuple[Issuer, ...] = ()
    jobs: tuple[TrustedJob, ...] = ()

    @classmethod
    def read(cls, content: bytes) -> Trust:
        """The trust in a file; an unreadable one trusts nothing."""
        try:
            document = json.loads(content or b"{}")
            return cls.of(document, version=int(document["version"])) if document else cls()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidCredentials):
            return cls()

    @classmethod
    def of(cls, document: Mapping[str, Any], *, version: int) -> Trust:
        """Check a document of ``audience``, ``issuers`` and ``jobs``.

        Raises:
            InvalidCredentials: it cannot be used.
        """
        audience = str(document.get("audience", ""))
        if not _NAME.fullmatch(audience):
            raise InvalidCredentials("the audience is invalid: use lower-case letters, digits and -, such as pypi-acme")
        issuers = tuple(_issuer(item) for item in document.get("issuers", ()))
        urls = {issuer.url for issuer in issuers}
        if len(urls) < len(issuers):
            raise InvalidCredentials("an issuer is listed twice: remove one")
        jobs = tuple(_job(item, urls) for item in document.get("jobs", ()))
        if len({job.name for job in jobs}) < len(jobs):
            raise InvalidCredentials("two jobs have the same name: rename one")
        if len(jobs) > MOST:
            raise InvalidCredentials(f"there are more than {MOST} jobs: remove some")
        return cls(version, audience, issuers, jobs)

    def document(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "version": self.version,
            "audience": self.audience,
            "issuers": [{"url": issuer.url, "kind": issuer.kind} for issuer in self.issuers],
            "jobs": [
                {
                    "name": job.name,
                    "issuer": job.issuer,
                    "repository": job.repository,
                    "repository_id": job.repository_id,
                    "owner_id": job.owner_id,
                    "environment": job.environment,
                    "workflow": job.workflow,
                    "protected_ref": job.protected_ref,
                    "role": str(job.role),
                    "projects": None if job.projects is None else sorted(job.projects),
                }
                for job in self.jobs
            ],
        }

    def issuer(self, url: object) -> Issuer | None:
        """The issuer with that URL."""
        return next((issuer for issuer in self.issuers if issuer.url == url), None)

    def objection(self, project: str, signer: Mapping[str, str]) -> str:
        """Reason why the holder of a certificate may not attest files of a project; empty if the holder may.

        Anyone may if no job is trusted to publish the project.

        Parameters:
            project: its normalized name.
            signer: what the certificate says.
        """
        jobs = [job for job in self.jobs if job.projects is not None and project in job.projects]
        issuers = {issuer.url: issuer for issuer in self.issuers}
        if not jobs or any(job.signed(issuers[job.issuer], signer) for job in jobs):
            return ""
        by = _quoted(signer.get("workflow") or signer.get("identity", ""))
        names = ", ".join(sorted(job.name for job in jobs))
        return (
            f"its attestation was signed by {by}, and not by a job that is trusted to publish {project} ({names}); "
            "attest it in that job"
        )

    def identity(self, names: Iterable[str]) -> Identity | None:
        """The combined rights of the named jobs that are still trusted; None if none is."""
        jobs = [job for job in self.jobs if job.name in set(names)]
        if not jobs:
            return None
        publishers = [job.projects or frozenset() for job in jobs if job.role is Role.PUBLISHER]
        role = Role.PUBLISHER if publishers else Role.READER
        return Identity(f"oidc:{jobs[0].name}", role, frozenset[str]().union(*publishers) if publishers else None)


class TrustStore:
    """Reads and replaces the trust on a credentials volume.

    Parameters:
        credentials: the volume.
        audit: on the same volume.
        name_locks: shared by all writers of a Volume.
    """

    def __init__(
        self, credentials: Storage, *, audit: Audit | None = None, name_locks: NameLocks | None = None
    ) -> None:
        self._storage = credentials
        self._credential_files = CredentialFiles(credentials, name_locks, audit=audit)

    def current(self) -> Trust:
        """The trust, after a reload.

        Raises:
            StorageError: a shared volume could not be reloaded, or the file cannot be read.
        """
        self._storage.reload()
        try:
            return Trust.read(self._credential_files.read(TRUST) or b"")
        except OSError as error:
            raise StorageError(f"the trusted jobs cannot be read: {error.strerror or error}") from error

    def replace(self, document: Mapping[str, Any], *, version: int, actor: str = "", address: str = "") -> Trust:
        """Replace all of it; durable on return, and in effect on all servers within 5 s.

        Parameters:
            document: ``audience``, ``issuers`` and ``jobs``.
            version: of the trust that it was made from.
            actor: who changes it, for the audit log.
            address: of the client.

        Raises:
            InvalidCredentials: the document cannot be used.
            Conflict: the trust has another version now.
            StorageError: nothing has changed.
        """
        wanted = Trust.of(document, version=version + 1)
        with self._credential_files.change("", actor=actor, address=address) as draft:
            now = Trust.read(draft[TRUST])
            if now.version != version:
                raise Conflict(f"the trusted jobs were changed meanwhile (version {now.version}): look at them again")
            draft[TRUST] = content = json.dumps(wanted.document(), indent=1).encode() + b"\n"
            before, after = set(now.jobs), set(wanted.jobs)
            draft.entry = Entry(
                "trust.changed",
                {
                    "actor": actor,
                    "version": wanted.version,
                    "added": sorted(job.name for job in after - before),
                    "removed": sorted(job.name for job in before - after),
                    "issuers": sorted(issuer.url for issuer in wanted.issuers),
                    "sha256": hashlib.sha256(content).hexdigest(),
                },
            )
        return wanted


def _issuer(item: Any) -> Issuer:
    given = _fields(item, "an issuer", {"url", "kind"})
    url, kind = str(given.get("url", "")), str(given.get("kind", ""))
    address = urlsplit(url) if url.isascii() and url.isprintable() and " " not in url else urlsplit("")
    loopback = address.scheme == "http" and address.hostname in {"127.0.0.1", "localhost", "::1"}
    plain = not (address.query or address.fragment or address.username or address.password)
    if not plain or not address.hostname or len(url) > 255 or not (address.scheme == "https" or loopback):
        raise InvalidCredentials("an issuer's url does not use https: use the iss of its ID tokens")
    if kind not in KINDS:
        raise InvalidCredentials(f"the kind of the issuer {url} is none of {', '.join(KINDS)}")
    return Issuer(url, kind)


def _job(item: Any, issuers: set[str]) -> TrustedJob:
    given = _fields(item, "a job", set(TrustedJob.__slots__))
    name = str(given.get("name", ""))
    if not _NAME.fullmatch(name):
        raise InvalidCredentials("a job's name is invalid: use up to 64 lower-case letters, digits and -")
    wrong = partial(_wrong, name)
    if given.get("issuer") not in issuers:
        raise wrong("its issuer is not among the issuers")
    numbers = {field: str(given.get(field, "")) for field in ("repository_id", "owner_id")}
    for field, value in numbers.items():
        if not _NUMBER.fullmatch(value):
            raise wrong(f"its {field} is not a number")
    texts = {field: str(given.get(field) or "") for field in ("repository", "environment", "workflow")}
    for field, value in texts.items():
        if not _TEXT.fullmatch(value):
            raise wrong(f"its {field} is not a text of at most 255 characters")
    if type(given.get("protected_ref", False)) is not bool:
        raise wrong("protected_ref is neither true nor false")
    role = given.get("role")
    if role not in {Role.READER, Role.PUBLISHER}:
        raise wrong("its role is neither reader nor publisher")
    return TrustedJob(
        name=name,
        issuer=given["issuer"],
        role=Role(role),
        projects=_projects(given.get("projects"), Role(role), wrong),
        protected_ref=given.get("protected_ref", False),
        **numbers,
        **texts,
    )


def _projects(given: Any, role: Role, wrong: Callable[[str], InvalidCredentials]) -> frozenset[str] | None:
    if role is Role.READER:
        if given:
            raise wrong("it has projects, but a reader uploads to none")
        return None
    if not isinstance(given, list) or not 0 < len(given) <= MOST:
        raise wrong("it has no projects: name those that it publishes, even if they do not exist yet")
    try:
        return frozenset(canonicalize_name(str(project), validate=True) for project in given)
    except InvalidName:
        raise wrong("one of its projects is not a project name") from None


def _wrong(name: str, why: str) -> InvalidCredentials:
    return InvalidCredentials(f"the job {name}: {why}")


def _fields(item: Any, what: str, known: set[str]) -> Mapping[str, Any]:
    fields = ", ".join(sorted(known))
    if not isinstance(item, Mapping):
        raise InvalidCredentials(f"{what} is not an object with {fields}")
    if unknown := sorted(set(map(str, item)) - known):
        raise InvalidCredentials(f"{what} has the unknown field {unknown[0][:40]!r}: its fields are {fields}")
    return item


def _quoted(text: str) -> str:
    return ascii(text[:200]) if text else "not given"
