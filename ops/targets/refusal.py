"""Errors of the operating system, turned into errors that say what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from ops.errors import TargetError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@contextlib.contextmanager
def explained(doing: str, place: Path) -> Iterator[None]:
    """Turn an error of the operating system into one that says what to do.

    Parameters:
        doing: the attempt, to follow "could not".
        place: its path, for errors without one.

    Raises:
        TargetError: for any OSError.
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
    """Check the name of a volume or a secret, which becomes a file name, and return it.

    Raises:
        TargetError: it is invalid.
    """
    if not _NAME.fullmatch(name):
        raise TargetError(
            f"{name!r} is no name for a volume or a secret", todo="use letters, digits, dots, hyphens and underscores"
        )
    return name
