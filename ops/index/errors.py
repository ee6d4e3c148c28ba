"""Errors of the index, in one tree, each with its HTTP status.

PackageIndexError                 status, headers, and one line of plain text as body
├── BadRequest              400   the request cannot be understood
│   ├── InvalidIdToken      422   the ID token of a CI job is not accepted
│   └── InvalidUpload       400   the file cannot be published
│       ├── InvalidFilename 400   no installer could use the file name
│       ├── InvalidArchive  400   not a readable wheel, sdist or egg
│       ├── FieldMismatch   400   form fields, file name and metadata disagree
│       └── DigestMismatch  400   the received bytes differ from those that were sent
├── Unauthorized            401   with the realm that pip and uv need to ask for credentials (RFC 7617)
├── Forbidden               403   the user lacks the right
├── OtherSite               403   a page of another origin made the browser send it
├── Quarantined             403   the project must not be offered (PEP 792)
├── Revoked                 403   an admin has revoked these bytes
├── NotFound                404
├── NotAcceptable           406   no content type suits both sides (PEP 691)
├── RequestTimeout          408   the body did not arrive in time; the connection is closed
├── Conflict                409   the request contradicts what is stored
│   ├── NameReserved        409   the name is under a prefix reserved for others (PEP 752)
│   ├── FileTaken           409   a released file never changes; 400 for twine, which expects that
│   └── ProjectClosed       409   the project is archived or quarantined (PEP 792)
├── TooLarge                413
├── QuotaExceeded           507   the project or the index has no space for the file (RFC 4331)
├── StorageError            500   the directory or the Volume failed
│   ├── StorageFull         507
│   ├── StorageReadOnly     403   the server may read the directory but not write it
│   └── StorageBusy         503   see below
├── TooManyAttempts         429   with Retry-After
└── RetryLater              503   with Retry-After
    ├── TooManyUploads      429   by one user
    ├── StorageBusy         503   a commit or reload takes too long
    ├── LoginDelayed        503   the login cannot be verified in time
    ├── Busy                503   another upload of this name is not finished
    └── SandboxError        503   strangers' content was not processed
        ├── WorkFailed          400   the content made it crash, or exceed a time or memory limit
        ├── WorkCancelled       503   the client has disconnected, or the server is stopping
        ├── SandboxBusy         503   too many calls are waiting
        └── SandboxUnavailable  503   no process can be started
"""

# ruff: noqa: N818 - named as HTTP and the field name them

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final


class PackageIndexError(Exception):
    """A refusal or a failure.

    Parameters:
        message: one line, safe to show to the client: what, why, and what to do.
    """

    status: ClassVar[int] = 500

    retry_after: int | None = None
    """Seconds, for Retry-After (RFC 9110, section 10.2.3)."""

    def __init__(self, message: str) -> None:
        self.message = " ".join(message.split())
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the response besides Content-Type."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def status_for(self, user_agent: str) -> int:  # noqa: ARG002 - one subclass needs it
        """The status that a client understands best."""
        return self.status


class BadRequest(PackageIndexError):
    """The request cannot be understood."""

    status = 400


class InvalidIdToken(BadRequest):
    """An ID token that is not accepted.

    Parameters:
        code: for programs, as defined by the public index.
        message: what is wrong, and what to do; reveals nothing that is not in the token.
    """

    status = 422

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class InvalidUpload(BadRequest):
    """An upload that cannot be published.

    Parameters:
        filename: as the client named it.
    """

    def __init__(self, filename: str, reason: str) -> None:
        self.filename = filename
        self.reason = reason
        super().__init__(f"{filename[:200]!r} was refused: {reason}")


class InvalidFilename(InvalidUpload):
    """No installer could use the file name."""


class InvalidArchive(InvalidUpload):
    """The file is not a readable wheel, sdist or egg."""


class FieldMismatch(InvalidUpload):
    """Form fields, file name and metadata do not agree after normalization."""


class DigestMismatch(InvalidUpload):
    """The received bytes differ from those that were sent.

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
        realm: of the login (RFC 7617).
    """

    status = 401

    def __init__(
        self,
        message: str = "log in with a user name and password of this index; its operator provides them",
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
    """The user lacks the right.

    Parameters:
        username: of the user.
        action: words that follow "may not".
    """

    status = 403

    def __init__(self, username: str, action: str) -> None:
        self.username = username
        self.action = action
        super().__init__(f"the user {username!r} may not {action}; ask the index's operator for the right")


class OtherSite(PackageIndexError):
    """A page of another origin made the browser send the request."""

    status = 403


class Quarantined(PackageIndexError):
    """The project is quarantined (PEP 792)."""

    status = 403


class Revoked(PackageIndexError):
    """An admin has revoked these bytes.

    Parameters:
        filename: of the file.
        reason: given by the admin; may be empty.
    """

    status = 403

    def __init__(self, filename: str, reason: str) -> None:
        self.filename = filename
        self.reason = reason
        because = f": {reason.rstrip('.')}" if reason else ""
        super().__init__(
            f"{filename!r} was revoked{because}; do not install it, and ask the index's operator for another"
        )


class NotFound(PackageIndexError):
    """It is not in this index. No other index is consulted."""

    status = 404


class NotAcceptable(PackageIndexError):
    """No content type suits both sides (PEP 691)."""

    status = 406


class RequestTimeout(PackageIndexError):
    """The body of a request did not arrive in time."""

    status = 408

    @property
    def headers(self) -> Mapping[str, str]:
        """The rest of the body is not read, so no other request can follow."""
        return {"Connection": "close"}


class Conflict(PackageIndexError):
    """The request contradicts what is stored."""

    status = 409


NOBODY: Final = "(nobody)"
"""Stands for the owners of a reserved prefix whose last owner was removed."""


class NameReserved(Conflict):
    """The name of a new project is under a reserved prefix (PEP 752).

    Parameters:
        project: its normalized name.
        owners: of the prefix, as text; NOBODY for none.
    """

    def __init__(self, project: str, owners: str) -> None:
        self.project = project
        self.owners = owners
        super().__init__(
            f"the name {project!r} is reserved for {owners}; choose another name, or have one of them publish it first"
            if owners != NOBODY
            else f"the name {project!r} is reserved for users who are gone; choose another name, or ask the index's "
            "operator to name new owners"
        )


class FileTaken(Conflict):
    """Another file has, or had, the name.

    Parameters:
        filename: of the upload.
        existing: the existing file; may be another spelling of *filename*.
        removed: true if it was removed.
    """

    def __init__(self, filename: str, *, existing: str | None = None, removed: bool = False) -> None:
        self.filename = filename
        self.existing = existing or filename
        self.removed = removed
        if removed:
            why = "a file of this name was released with different content and removed"
        elif self.existing != filename:
            why = f"it is another spelling of {self.existing!r}, which already exists"
        else:
            why = "it already exists with different content"
        super().__init__(f"{filename!r} was refused: {why}. A released file never changes: upload a new version")

    def status_for(self, user_agent: str) -> int:
        """400 for twine, which expects that (twine#1265), else 409."""
        return 400 if "twine" in user_agent.lower() else self.status


class ProjectClosed(Conflict):
    """The project accepts no uploads (PEP 792).

    Parameters:
        project: normalized name.
        project_status: ``archived`` or ``quarantined``.
    """

    def __init__(self, project: str, *, project_status: str) -> None:
        self.project = project
        self.project_status = project_status
        super().__init__(f"the project {project!r} is {project_status} and accepts no uploads; set it active first")


class TooLarge(PackageIndexError):
    """More bytes than the index accepts.

    Parameters:
        limit: bytes.
    """

    status = 413

    def __init__(self, what: str, *, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"{what} is larger than the {limit} bytes that this index accepts: send less, or ask its operator for more"
        )


class QuotaExceeded(PackageIndexError):
    """The file would exceed a quota. 507 is from RFC 4331, section 6; twine and uv do not retry it.

    Parameters:
        what: words that follow "the quota of".
        limit: bytes.
        used: bytes of other files and of uploads in progress.
        size: bytes of the file, as far as known.
        complete: true if *size* is the full size.
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
        retry_after: seconds until the next attempt.
    """

    status = 429
    retry_after: int

    def __init__(self, *, retry_after: float) -> None:
        self.retry_after = max(1, int(-(-retry_after // 1)))
        super().__init__(f"too many failed logins; check the password, and try again in {self.retry_after} s")


class RetryLater(PackageIndexError):
    """Retrying in some seconds may succeed. pip and uv do so automatically.

    Parameters:
        why: words that precede "; try again".
        retry_after: seconds.
    """

    status = 503
    retry_after: int

    def __init__(self, why: str, *, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(f"{why}; try again in {retry_after} s")


class TooManyUploads(RetryLater):
    """One user has too many uploads in progress.

    Parameters:
        username: of the user.
        limit: concurrent uploads.
    """

    status = 429

    def __init__(self, username: str, *, limit: int) -> None:
        self.username = username
        self.limit = limit
        super().__init__(
            f"the user {username!r} has {limit} uploads in progress, the limit for one user: wait for one "
            "of them to finish"
        )


class LoginDelayed(RetryLater):
    """The login cannot be verified in time."""


class StorageError(PackageIndexError):
    """The directory or the Volume failed; the change may be lost."""

    status = 500


class StorageFull(StorageError):
    """The disk is full."""

    status = 507


class StorageReadOnly(StorageError):
    """The server may read the directory but not write it."""

    status = 403


class StorageBusy(RetryLater, StorageError):
    """A commit or reload of shared storage takes too long."""

    def __init__(self, why: str, *, retry_after: int = 10) -> None:
        super().__init__(why, retry_after=retry_after)


class Busy(RetryLater):
    """Another upload of the same name, or change of the same project, is not finished or rolled back yet.

    Parameters:
        filename: of the upload or change.
    """

    def __init__(self, filename: str) -> None:
        self.filename = filename
        super().__init__(f"another upload or change of {filename!r} is not finished")


class SandboxError(RetryLater):
    """Strangers' content could not be processed in a child process."""


class WorkFailed(SandboxError):
    """The content made the child process crash, raise an exception, or exceed a limit, and would do so again.

    Parameters:
        reason: for the failure, such as "it needs more than 512 MiB of memory".
    """

    status = 400

    def __init__(self, reason: str) -> None:
        self.reason = reason
        PackageIndexError.__init__(self, f"the content cannot be processed: {reason}")


class WorkCancelled(SandboxError):
    """The client has disconnected, or the server is stopping."""

    def __init__(self) -> None:
        super().__init__("the work was cancelled")


class SandboxBusy(SandboxError):
    """Too many calls wait for a child process."""

    def __init__(self) -> None:
        super().__init__("too many similar requests are waiting")


class SandboxUnavailable(SandboxError):
    """No child process can be started: the machine is out of memory, processes or descriptors.

    Parameters:
        reason: from the system.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the server has no child process for this work: {reason}", retry_after=30)
