"""Everything that the index refuses or fails with, in one tree, each with its HTTP status.

PackageIndexError                 status, headers, and one line of plain text as body
├── BadRequest              400   the request cannot be understood
│   └── InvalidUpload       400   an upload that nobody may see
│       ├── InvalidFilename 400   the file name is none that an installer could use
│       ├── InvalidArchive  400   it is no wheel, sdist or egg that opens
│       ├── FieldMismatch   400   form fields, file name and metadata do not agree
│       └── DigestMismatch  400   the bytes that arrived are not those that were sent
├── Unauthorized            401   with the realm that pip and uv need to ask for credentials (RFC 7617)
├── Forbidden               403   known, but not allowed
├── NotFound                404
├── NotAcceptable           406   no content type that both sides know (PEP 691)
├── RequestTimeout          408   the body did not come in time; the connection is closed
├── Conflict                409   it contradicts what is there
│   ├── FileTaken           409   a released file never changes; 400 for twine, which expects that
│   └── ProjectClosed       409   the project is archived or quarantined (PEP 792)
├── TooLarge                413
├── QuotaExceeded           507   the project, or the index, has no room for the file (RFC 4331)
├── TooManyAttempts         429   with Retry-After
├── TooManyUploads          429   with Retry-After
├── StorageError            500   the directory or the Volume failed; nothing was kept
│   ├── StorageFull         507   there is no room left
│   ├── StorageReadOnly     403   the server may read the directory and not write it
│   └── StorageBusy         503   with Retry-After; a commit or reload does not end
├── LoginDelayed            503   with Retry-After; nobody has failed, but it cannot be looked at in time
├── SandboxError            503   with Retry-After; strangers' content could not be worked on in a child process
│   ├── WorkFailed          400   the content made it crash, or reach a limit of time or memory
│   ├── WorkCancelled       503   the client has left, or the server stops
│   ├── SandboxBusy         503   too many are waiting for it
│   └── SandboxUnavailable  503   there is no process to be had
└── Busy                    503   with Retry-After; another upload of this name is not finished
"""

# ruff: noqa: N818 - named as HTTP and the field name them

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class PackageIndexError(Exception):
    """What the index answers instead of what was asked for.

    Parameters:
        message: one line, safe to show to the client: what, why, and what to do.
    """

    status: ClassVar[int] = 500

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that the answer needs besides Content-Type."""
        return {}

    @property
    def body(self) -> bytes:
        """The answer's body: one line of plain text in UTF-8."""
        return f"{self.message}\n".encode("utf-8", "replace")

    def status_for(self, user_agent: str) -> int:  # noqa: ARG002 - one subclass needs it
        """The status that this client understands best."""
        return self.status


class BadRequest(PackageIndexError):
    """The request cannot be understood."""

    status = 400


class InvalidUpload(BadRequest):
    """An upload that nobody may see; the file is dropped.

    Parameters:
        filename: as the client named it.
    """

    def __init__(self, filename: str, reason: str) -> None:
        self.filename = filename
        self.reason = reason
        super().__init__(f"{filename[:200]!r} was refused: {reason}")


class InvalidFilename(InvalidUpload):
    """The file name is none that an installer could use."""


class InvalidArchive(InvalidUpload):
    """It is no wheel, sdist or egg that opens."""


class FieldMismatch(InvalidUpload):
    """Form fields, file name and metadata do not agree after normalization."""


class DigestMismatch(InvalidUpload):
    """The bytes that arrived are not those that were sent.

    Parameters:
        algorithm: ``md5``, ``sha256``, ``blake2_256`` or ``blake2_512``.
    """

    def __init__(self, filename: str, *, algorithm: str, expected: str, actual: str) -> None:
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual
        says = ascii(expected[:200])
        if len(expected) != len(actual) or not (expected.isascii() and expected.isalnum()):
            says += f", which is not a digest of {len(actual)} hexadecimal digits"
        super().__init__(filename, f"its {algorithm} is {actual}, but the form says {says}; send it again")


class Unauthorized(PackageIndexError):
    """No credentials, or wrong ones.

    Parameters:
        realm: what the client is asked to log in to.
    """

    status = 401

    def __init__(
        self,
        message: str = "a user name and a password of this index are needed; its operator hands them out",
        *,
        realm: str,
    ) -> None:
        self.realm = realm
        super().__init__(message)

    @property
    def headers(self) -> Mapping[str, str]:
        """The challenge of RFC 7617."""
        return {"WWW-Authenticate": f'Basic realm="{self.realm}", charset="UTF-8"'}


class Forbidden(PackageIndexError):
    """Known, but not allowed.

    Parameters:
        username: who asked.
        action: what they may not do, as words that follow "may not".
    """

    status = 403

    def __init__(self, username: str, action: str) -> None:
        self.username = username
        self.action = action
        super().__init__(f"the user {username!r} may not {action}; ask the index's operator for the right")


class OtherSite(PackageIndexError):
    """A page of another origin made a browser send the request."""

    status = 403


class Quarantined(PackageIndexError):
    """The project is under quarantine (PEP 792)."""

    status = 403


class NotFound(PackageIndexError):
    """There is no such thing here, and no other index is asked for it."""

    status = 404


class NotAcceptable(PackageIndexError):
    """No content type that both sides know."""

    status = 406


class RequestTimeout(PackageIndexError):
    """The body of a request did not come in time."""

    status = 408

    @property
    def headers(self) -> Mapping[str, str]:
        """The rest of the body is not waited for, so no other request can follow."""
        return {"Connection": "close"}


class Conflict(PackageIndexError):
    """It contradicts what is there."""

    status = 409


class FileTaken(Conflict):
    """Another file holds the name, or held it.

    Parameters:
        filename: what was to be uploaded.
        existing: the file that is there; differs from *filename* when it is another spelling of the same name.
    """

    def __init__(self, filename: str, *, existing: str | None = None, removed: bool = False) -> None:
        self.filename = filename
        self.existing = existing or filename
        self.removed = removed
        if removed:
            why = "a file of this name was released with other content and removed"
        elif self.existing != filename:
            why = f"it is another spelling of {self.existing!r}, which already exists"
        else:
            why = "it already exists with other content"
        super().__init__(f"{filename!r} was refused: {why}. A released file never changes: upload a new version")

    def status_for(self, user_agent: str) -> int:
        """400 for twine, which knows PyPI's answer (twine#1265), else 409."""
        return 400 if "twine" in user_agent.lower() else self.status


class ProjectClosed(Conflict):
    """The project takes no uploads (PEP 792).

    Parameters:
        project: normalized name.
        project_status: ``archived`` or ``quarantined``.
    """

    def __init__(self, project: str, *, project_status: str) -> None:
        self.project = project
        self.project_status = project_status
        super().__init__(f"the project {project!r} is {project_status} and takes no uploads; have it set active first")


class TooLarge(PackageIndexError):
    """More bytes than the index takes.

    Parameters:
        limit: bytes.
    """

    status = 413

    def __init__(self, what: str, *, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"{what} is larger than the {limit} bytes that this index takes: send less, or ask its operator for more"
        )


class QuotaExceeded(PackageIndexError):
    """The file would exceed a quota. RFC 4331 section 6 has 507 for that; twine and uv do not try it again.

    Parameters:
        what: which quota, as words that follow "the quota of".
        limit: bytes.
        used: bytes that other files have, and uploads that are under way.
        size: bytes of the file that are known so far.
        complete: whether *size* is all of it.
    """

    status = 507

    def __init__(self, what: str, *, limit: int, used: int, size: int, complete: bool) -> None:
        self.what = what
        self.limit = limit
        self.used = used
        self.size = size
        more = "" if complete else "at least "
        advice = "" if size > limit else "have an admin remove files, or "
        super().__init__(
            f"the file has {more}{size} bytes, and {used} of the {limit} bytes in the quota of {what} are used: "
            f"{advice}ask the index's operator for a larger quota"
        )


class TooManyAttempts(PackageIndexError):
    """Too many failed logins.

    Parameters:
        retry_after: seconds until the next attempt is looked at.
    """

    status = 429

    def __init__(self, *, retry_after: float) -> None:
        self.retry_after = max(1, int(-(-retry_after // 1)))
        super().__init__(f"too many failed logins; check the password, and try again in {self.retry_after} s")

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds, as RFC 9110 section 10.2.3 has them."""
        return {"Retry-After": str(self.retry_after)}


class TooManyUploads(PackageIndexError):
    """One user has as many uploads under way as one user may.

    Parameters:
        username: who.
        limit: uploads at once.
        retry_after: seconds.
    """

    status = 429

    def __init__(self, username: str, *, limit: int, retry_after: int = 5) -> None:
        self.username = username
        self.limit = limit
        self.retry_after = retry_after
        super().__init__(
            f"the user {username!r} has {limit} uploads under way, as many as one user may have at once: wait for one "
            f"of them to end, and try again in {retry_after} s"
        )

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds, as RFC 9110 section 10.2.3 has them."""
        return {"Retry-After": str(self.retry_after)}


class LoginDelayed(PackageIndexError):
    """A login that may well be right cannot be looked at in time. pip and uv come again by themselves.

    Parameters:
        why: words that precede "; try again".
        retry_after: seconds.
    """

    status = 503

    def __init__(self, why: str, *, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(f"{why}; try again in {retry_after} s")

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds, as RFC 9110 section 10.2.3 has them."""
        return {"Retry-After": str(self.retry_after)}


class StorageError(PackageIndexError):
    """The directory or the Volume failed; what was asked for is not known to be kept."""

    status = 500


class StorageFull(StorageError):
    """There is no room left on the disk for the file."""

    status = 507


class StorageReadOnly(StorageError):
    """The server may read the directory and not write it; to try again does not help."""

    status = 403


class StorageBusy(StorageError):
    """A commit or reload of a shared storage takes too long: what was asked for cannot be told, or kept, meanwhile.

    Parameters:
        why: words that precede "; try again".
        retry_after: seconds.
    """

    status = 503

    def __init__(self, why: str, *, retry_after: int = 10) -> None:
        self.retry_after = retry_after
        super().__init__(f"{why}; try again in {retry_after} s")

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds, as RFC 9110 section 10.2.3 has them."""
        return {"Retry-After": str(self.retry_after)}


class Busy(PackageIndexError):
    """Another upload of the same name, or change of the same project, is not finished, or could not be undone yet.

    Parameters:
        filename: what was to be uploaded or changed.
        retry_after: seconds.
    """

    status = 503

    def __init__(self, filename: str, *, retry_after: int = 5) -> None:
        self.filename = filename
        self.retry_after = retry_after
        super().__init__(f"another upload or change of {filename!r} is not finished; try again in {retry_after} s")

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds, as RFC 9110 section 10.2.3 has them."""
        return {"Retry-After": str(self.retry_after)}


class SandboxError(PackageIndexError):
    """Strangers' content could not be worked on in a child process.

    Parameters:
        why: words that precede "; try again".
        retry_after: seconds.
    """

    status = 503

    def __init__(self, why: str, *, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(f"{why}; try again in {retry_after} s")

    @property
    def headers(self) -> Mapping[str, str]:
        """Seconds, as RFC 9110 section 10.2.3 has them."""
        return {"Retry-After": str(self.retry_after)}


class WorkFailed(SandboxError):
    """The content made the child process crash, raise an exception, or reach a limit. It would do so again.

    Parameters:
        reason: of the failure, such as "it needs more than 512 MiB of memory".
    """

    status = 400

    def __init__(self, reason: str) -> None:
        self.reason = reason
        PackageIndexError.__init__(self, f"the content cannot be worked on: {reason}")

    @property
    def headers(self) -> Mapping[str, str]:
        """None: to try again is of no use."""
        return {}


class WorkCancelled(SandboxError):
    """The client has left, or the server stops."""

    def __init__(self) -> None:
        super().__init__("the work was cancelled")


class SandboxBusy(SandboxError):
    """Too many are waiting for a child process."""

    def __init__(self) -> None:
        super().__init__("too many others are waiting for the same")


class SandboxUnavailable(SandboxError):
    """There is no child process to be had: of memory, processes or descriptors, the machine has none left.

    Parameters:
        reason: the system's.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the server has no child process for this work: {reason}", retry_after=30)
