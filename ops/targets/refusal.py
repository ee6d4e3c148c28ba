"""Errors of this machine, explained with what to do about them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ops.errors import TargetError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@contextlib.contextmanager
def explained(doing: str, place: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that says what to do about it.

    Parameters:
        doing: what is tried, to follow "could not".
        place: where, when the system does not say it.

    Raises:
        TargetError: the system refused.
    """
    try:
        yield
    except PermissionError as error:
        raise TargetError(
            f"could not {doing}",
            why=f"{error.filename or place} cannot be written by this user",
            todo="run as the user who owns it, or name another folder in PYPI_RUNBOOK_HOME",
        ) from None
    except OSError as error:
        raise TargetError(
            f"could not {doing}",
            why=f"{error.strerror or error}: {error.filename or place}",
            todo="mend that and run it again; nothing was lost",
        ) from None


def checked(name: str) -> str:
    """A name for a volume or a secret, which may become the name of a file.

    Raises:
        TargetError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise TargetError(
            f"{name!r} is no name for a volume or a secret", todo="use letters, digits, dots, hyphens and underscores"
        )
    return name
