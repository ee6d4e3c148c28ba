"""Exceptions of all operations, in one tree.

RunbookError                     says what, why and what to do; its data are attributes
├── ParameterError               an unknown parameter, or a value of the wrong type
├── SettingError                 a setting, or an environment variable, with a value that cannot work
├── NotebookError                there is no such notebook, or it lacks a part that every notebook has
├── RunError                     a notebook ran and failed
├── PreflightError               checks before the first change failed; lists all of them
├── TargetError                  the place where the index runs refused or failed
│   ├── BusyError                another run holds the target
│   ├── PortTakenError           another program listens on the requested or last port
│   ├── NotDeployedError         there is no index on the target
│   ├── NotRespondingError       an index is deployed but does not respond
│   ├── StartError               the server was started but did not respond
│   ├── ProtectionError          a deployment would lower a protection without permission
│   ├── AuthenticationError      no credentials for the platform, or wrong ones
│   ├── PermissionDeniedError    the credentials are valid but do not allow this
│   ├── PlanError                the workspace's plan does not include this
│   ├── QuotaError               a limit of the workspace has been reached
│   ├── RateLimitError           too many requests in too short a time
│   ├── NetworkError             the platform cannot be reached, or has an outage
│   └── TimeLimitError           the time limit was exceeded
├── BucketError                  the folder or bucket with the snapshots refused or failed
├── SnapshotError                a snapshot cannot be read, or lacks what it names
├── IndexRequestError            the index refused a request, or could not be reached
├── ClientError                  pip, uv or twine exited with an unexpected code
├── VerificationError            a check of the result failed
├── ApprovalError                the change to apply differs from the approved plan
└── ConfirmationError            something would be destroyed, and the parameter that names it does not
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

GUIDE = "90_troubleshoot"
"""The notebook with an entry for each error: its symptom, how to check for its cause, and how to fix it."""

STATUSES = frozenset({400, 401, 403, 404, 406, 408, 409, 413, 422, 429, 500, 503, 507})
"""HTTP statuses of the index with their own entries."""

INTERRUPTED = "Interrupted. Run the notebook again: it skips what is already done."
"""Text shown for Ctrl-C and SIGTERM."""


def _sentence(text: str) -> str:
    return text if not text or text.endswith(("?", "!")) else f"{text.rstrip('.')}."


class RunbookError(Exception):
    """A failure: what, why, and what to do about it.

    Parameters:
        what: one sentence about the failure, without a full stop.
        why: the cause, as far as known.
        todo: what to do next.
    """

    def __init__(self, what: str, *, why: str = "", todo: str = "") -> None:
        self.what = what
        self.why = why
        self.todo = todo
        super().__init__(what)

    @property
    def entry(self) -> str:
        """The heading of this error in the notebook that explains it, as a URL fragment."""
        return type(self).__name__

    def __str__(self) -> str:
        see = "" if GUIDE in self.todo else f"See {GUIDE}#{self.entry}"
        parts = (("", self.what), ("Why: ", self.why), ("What to do: ", f"{_sentence(self.todo)} {see}".strip()))
        return "\n".join(f"{label}{_sentence(text)}" for label, text in parts if text)

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython shows instead of a traceback."""
        return f"{type(self).__name__}: {self}".splitlines()


class ParameterError(RunbookError):
    """An unknown parameter of a notebook, or a value of the wrong type."""


class SettingError(RunbookError):
    """A setting, or an environment variable, with a value that cannot work."""


class NotebookError(RunbookError):
    """There is no such notebook, or it lacks a part that every notebook has."""


class RunError(RunbookError):
    """A notebook ran and failed.

    Parameters:
        record: the folder with the record of the run.
    """

    def __init__(self, what: str, *, record: Path | None = None, why: str = "", todo: str = "") -> None:
        self.record = record
        super().__init__(what, why=why, todo=todo)


class PreflightError(RunbookError):
    """Checks before the first change failed.

    Parameters:
        problems: one sentence for each failed check, so that all can be fixed at once.
    """

    def __init__(self, problems: Sequence[str], *, todo: str = "fix this and run the notebook again") -> None:
        self.problems = tuple(problems)
        super().__init__("the preflight failed", why="; ".join(self.problems), todo=todo)


class TargetError(RunbookError):
    """The place where the index runs refused or failed."""


class BusyError(TargetError):
    """Another run holds the target."""


class PortTakenError(TargetError):
    """Another program listens on the requested port, or on the one the index had last time.

    Parameters:
        port: the TCP port.
        holder: description of the program that holds it; empty if unknown.
        known: whether clients know the index at this port.
    """

    def __init__(self, port: int, *, holder: str = "", known: bool = False) -> None:
        self.port = port
        self.holder = holder
        self.known = known
        listens = f"{holder or 'another program, perhaps of another user,'} listens on it"
        if known:
            super().__init__(
                f"port {port}, where the index responded last time, is taken",
                why=f"{listens}, and gets the passwords of clients that know the index there",
                todo=f"stop that program, or move the index to a free port: make run PORT={port + 1} "
                f"(runbook run 01_provision -p port={port + 1}), which lists the users to tell",
            )
        else:
            super().__init__(f"port {port} is taken", why=listens, todo="name another port, or none to pick a free one")


class NotDeployedError(TargetError):
    """There is no index on the target."""

    def __init__(self, target: str) -> None:
        self.target = target
        super().__init__(
            f"there is no index on the target {target!r}",
            why="it was never provisioned, or it was torn down",
            todo="run the notebook 01_provision first",
        )


class StartError(TargetError):
    """The server was started but did not respond."""


class NotRespondingError(TargetError):
    """An index is deployed but does not respond.

    Parameters:
        target: its name.
        url: where it should respond.
        error: the last error in its log, or an empty string.
    """

    def __init__(self, target: str, *, url: str, error: str = "") -> None:
        self.target = target
        self.url = url
        self.error = error
        super().__init__(
            f"the index on the target {target!r} is deployed and does not respond",
            why=f"the last error in its log: {error}" if error else f"nothing at {url}, and no error in its log",
            todo="fix that and run the notebook 01_provision; logs() of the target shows the whole log",
        )


class ProtectionError(TargetError):
    """A deployment would lower a protection without permission.

    Parameters:
        changes: description of each setting's change, by its name.
    """

    def __init__(self, changes: Mapping[str, str]) -> None:
        self.changes = dict(changes)
        names = ",".join(self.changes)
        super().__init__(
            "the deployment would lower a protection",
            why="; ".join(self.changes.values()),
            todo="omit the variable to keep the deployed value; or set the value and allow it with the parameter "
            f'lower_protection="{names}" of 01_provision, or PYPI_LOWER_PROTECTION={names} for 08_upgrade or a plain '
            "modal deploy",
        )


class AuthenticationError(TargetError):
    """No credentials for the platform, or wrong ones."""


class PermissionDeniedError(TargetError):
    """The credentials are valid but do not allow this."""


class PlanError(TargetError):
    """The workspace's plan does not include this."""


class QuotaError(TargetError):
    """A limit of the workspace has been reached."""


class RateLimitError(TargetError):
    """Too many requests in too short a time."""


class NetworkError(TargetError):
    """The platform cannot be reached, or has an outage."""


class TimeLimitError(TargetError):
    """The time limit was exceeded.

    Parameters:
        seconds: the limit.
    """

    def __init__(self, what: str, *, seconds: float, todo: str = "") -> None:
        self.seconds = seconds
        super().__init__(what, why=f"it was not done after {seconds:.0f} s", todo=todo)


class BucketError(RunbookError):
    """The folder or bucket with the snapshots refused or failed."""


class SnapshotError(RunbookError):
    """A snapshot cannot be read, or lacks what it names."""


class IndexRequestError(RunbookError):
    """The index refused a request, or could not be reached.

    Parameters:
        status: the HTTP status, or None without a response.
    """

    def __init__(self, what: str, *, status: int | None = None, why: str = "", todo: str = "") -> None:
        self.status = status
        super().__init__(what, why=why, todo=todo)

    @property
    def entry(self) -> str:
        """The entry for the status, if it has one."""
        return f"{super().entry}-{self.status}" if self.status in STATUSES else super().entry


class ClientError(RunbookError):
    """pip, uv or twine exited with an unexpected code.

    Parameters:
        client: the program's name.
        returncode: its exit code.
        output: its output, free of secrets.
    """

    def __init__(self, what: str, *, client: str, returncode: int, output: str, todo: str = "") -> None:
        self.client = client
        self.returncode = returncode
        self.output = output
        last = [line for line in output.strip().splitlines() if line.strip()][-6:]
        super().__init__(what, why=f"{client} exited with {returncode}: " + " | ".join(last), todo=todo)


class VerificationError(RunbookError):
    """A check of the result failed."""


class ApprovalError(RunbookError):
    """The change to apply differs from the approved plan."""


class ConfirmationError(RunbookError):
    """Something would be destroyed, and the parameter that must name it does not."""
