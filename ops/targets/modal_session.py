"""Calls to Modal, with time limits, progress messages, and errors that say what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from ops.errors import (
    AuthenticationError,
    NetworkError,
    PermissionDeniedError,
    PlanError,
    QuotaError,
    RateLimitError,
    RunbookError,
    TargetError,
    TimeLimitError,
)
from ops.targets.lock import held

__all__ = ["SUPPORTED", "ask", "command_line", "exists", "modal", "say"]
"""``modal`` is the package itself, for modules that need advice if it is not installed."""

try:
    import modal
    import modal.config
    import modal.exception
except ImportError as missing:
    raise TargetError(
        'the target "modal" cannot be used',
        why=f"the package modal is not installed ({missing})",
        todo="run: make modal; or, in this Python: pip install --require-hashes -r requirements-modal.txt",
    ) from None

Result = TypeVar("Result")

QUIET_SECONDS = 10.0
"""Seconds after which a message on stderr says that a call is still running."""
ASK_SECONDS = 120.0
SUPPORTED = ((1, 6, 4), (1, 7))
"""The first tested version of the package modal, and the first untested one."""

_LOGIN = "set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run: modal token new"
_LATER = "wait a minute and run this again; completed changes stay"


def ask(doing: str, work: Callable[[], Result], *, seconds: float = ASK_SECONDS) -> Result:
    """Call *work*, which may use Modal's blocking interface, and return its result.

    It runs in its own thread: a notebook's cells run inside an event loop, where Modal warns about blocking calls;
    and a hanging call can be abandoned.

    Parameters:
        doing: the action, as in "Modal could not DOING".
        work: does it.
        seconds: how long it may take.

    Raises:
        RunbookError: for what *work* raised.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name=f"modal: {doing}", daemon=True)
    started = time.monotonic()
    thread.start()
    told = started
    while thread.is_alive():
        thread.join(0.5 if time.monotonic() - started > 1 else 0.02)
        now = time.monotonic()
        if now - started > seconds and thread.is_alive():
            raise TimeLimitError(f"Modal did not {doing} in time", seconds=seconds, todo=_LATER)
        if now - told > QUIET_SECONDS and thread.is_alive():
            told = now
            say(f"… waiting for Modal to {doing}: {now - started:.0f} s of at most {seconds:.0f} s")
    if failure:
        raise _explained(failure[0], doing) from failure[0]
    return outcome[0]


def say(text: str) -> None:
    """Print a message for the operator that does not become part of a notebook's output."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def command_line(
    doing: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    seconds: float = ASK_SECONDS,
) -> str:
    """Run the ``modal`` command, for operations that the SDK lacks, and return its output.

    Parameters:
        doing: the action, as in "Modal could not DOING".
        arguments: of the command. Never a secret: they are visible in the process list.
        environment: variables in addition to this process's.
        folder: where the command runs; by default the current one.
        seconds: how long it may take.

    Raises:
        RunbookError: it exited with a code other than 0.
    """

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "modal", *arguments],
            env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "500", **(environment or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            pass_fds=held(),
        )

    done = ask(doing, run, seconds=seconds)
    if done.returncode:
        printed = re.sub(r"[│╭╮╰╯─]+", " ", done.stderr or done.stdout)
        text = " ".join(printed.split()).removeprefix("Error ").removeprefix("Error: ")
        raise error_for(f"Modal could not {doing}", text)
    return done.stdout


def _explained(error: BaseException, doing: str) -> BaseException:
    """*error* as one of ours, if it came from Modal or from the network."""
    if isinstance(error, RunbookError) or not isinstance(error, Exception):
        return error
    text = " ".join(str(error).split()) or type(error).__name__
    what = f"Modal could not {doing}"
    if isinstance(error, subprocess.TimeoutExpired):
        return TimeLimitError(what, seconds=error.timeout, todo=_LATER)
    for kinds, make in _KINDS:
        if isinstance(error, kinds):
            return make(what, text)
    return error


def error_for(what: str, text: str) -> TargetError:
    """One of our errors for a message of Modal without an exception class.

    Parameters:
        what: the failure, as a sentence.
        text: Modal's message.
    """
    lower = text.lower()
    for pattern, make in _WORDS:
        if re.search(pattern, lower):
            return make(what, text)
    return TargetError(what, why=text)


def _credentials(what: str, text: str) -> TargetError:
    return AuthenticationError(what, why=text, todo=_LOGIN)


def _exhausted(what: str, text: str) -> TargetError:
    if re.search(_RATE, text.lower()):
        return RateLimitError(what, why=text, todo=_LATER)
    return QuotaError(what, why=text, todo="check the workspace's limits and usage on Modal's dashboard")


def _denied(what: str, text: str) -> TargetError:
    if re.search(r"\bplans?\b", text.lower()):
        return PlanError(what, why=text, todo="omit the feature, or change the workspace's plan")
    return PermissionDeniedError(
        what, why=text, todo="use a token of someone who may, or have the role changed on Modal's dashboard"
    )


def _unreachable(what: str, text: str) -> TargetError:
    return NetworkError(
        what, why=text, todo="check the network and status.modal.com, and run this again; completed changes stay"
    )


def _outdated(what: str, text: str) -> TargetError:
    return TargetError(what, why=text, todo="install a newer version: update this clone, and run: make modal")


def _no_secret(what: str, text: str) -> TargetError:
    return TargetError(what, why=text, todo="run the notebook 01_provision, which creates the secret")


def _no_environment(what: str, text: str) -> TargetError:
    return TargetError(
        what, why=text, todo="create it with: modal environment create NAME, or set MODAL_ENVIRONMENT to another"
    )


_RATE = r"rate.?limit|too many requests"
_KINDS: Sequence[tuple[tuple[type[Exception], ...], Callable[[str, str], TargetError]]] = (
    ((modal.exception.AuthError,), _credentials),
    ((modal.exception.ResourceExhaustedError,), _exhausted),
    ((modal.exception.PermissionDeniedError,), _denied),
    (
        (
            modal.exception.ServiceError,
            modal.exception.InternalError,
            modal.exception.ConnectionError,
            ConnectionError,
        ),
        _unreachable,
    ),
    ((modal.exception.Error, OSError, ValueError), error_for),
)
_WORDS: Sequence[tuple[str, Callable[[str, str], TargetError]]] = (
    (r"token (missing|validation failed)|unauthenticated", _credentials),
    (r"client version|please upgrade", _outdated),
    (r"\bplans?\b.*|permission denied", _denied),
    (_RATE, _exhausted),
    (r"could not connect|unavailable", _unreachable),
    (r"^secret .*(not found|missing key)", _no_secret),
    (r"^environment .*not found", _no_environment),
)
"""Patterns of Modal's messages, for the output of its command and for errors without their own class."""


def exists(doing: str, hydrate: Callable[[], object]) -> bool:
    """True if Modal has the object that *hydrate* looks up.

    Parameters:
        doing: as for :func:`ask`.
    """

    def look() -> bool:
        try:
            hydrate()
        except modal.exception.NotFoundError:
            return False
        return True

    return ask(doing, look)
