"""Revisions of the clone in git: looked up, checked out, and compared."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ops.errors import ParameterError, TargetError
from ops.private_files import temporary_folder

_SECONDS = 120

_PREFIX = "pypi-runbook-checkout-"
"""Beginning of the names of temporary folders."""


def commit_of(root: Path, revision: str) -> str:
    """The commit named by *revision* in the clone *root*.

    Raises:
        ParameterError: there is none.
    """
    done = _run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode or not done.stdout:
        raise ParameterError(
            f"there is no revision {revision!r} in this clone",
            why="git knows no commit, branch or tag of that name here",
            todo="fetch it with: git fetch --tags, or use another one shown by git log",
        )
    return done.stdout.strip()


def head(root: Path) -> str:
    """The commit checked out in *root*; empty if there is none."""
    done = _run(root, "rev-parse", "--show-toplevel", "HEAD")
    lines = done.stdout.splitlines()
    # An unpacked archive may be inside another repository.
    return lines[1] if not done.returncode and Path(lines[0]).resolve() == root.resolve() else ""


@contextlib.contextmanager
def checkout(root: Path, commit: str) -> Iterator[Path]:
    """The tree of *commit* in a temporary worktree of the clone *root*.

    Raises:
        TargetError: git refuses.
    """
    with temporary_folder(_PREFIX) as folder:
        _run(root, "worktree", "prune")  # those of killed processes
        clone = folder / "clone"
        _checked(root, "worktree", "add", "--detach", "--quiet", str(clone), commit_of(root, commit))
        try:
            yield clone
        finally:
            _checked(root, "worktree", "remove", "--force", str(clone))


def subjects(root: Path, before: str, after: str, *paths: str) -> list[tuple[str, str]]:
    """Commit and subject of each change of *paths* from one commit to another, newest first; empty if unknown."""
    done = _run(root, "log", "--format=%h%x09%s", f"{before}..{after}", "--", *paths)
    lines = done.stdout.splitlines() if not done.returncode else []
    return [(commit, subject) for commit, _, subject in (line.partition("\t") for line in lines)]


def is_changed(root: Path, *, untracked: bool) -> bool | None:
    """True if files in *root* differ from the commit that is checked out; None if unknown.

    Parameters:
        root: of the clone.
        untracked: True to count files that git does not know.
    """
    done = _run(root, "status", "--porcelain", f"--untracked-files={'normal' if untracked else 'no'}")
    return None if done.returncode else bool(done.stdout)


def differs(root: Path, commits: Sequence[str], paths: Iterable[str]) -> bool | None:
    """True if *paths* differ between two commits, or one commit and the files in *root*; None if unknown."""
    done = _run(root, "diff", "--quiet", *commits, "--", *paths)
    return {0: False, 1: True}.get(done.returncode)


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _checked(root: Path, *arguments: str) -> None:
    done = _run(root, *arguments)
    if done.returncode:
        raise TargetError(
            "git could not check out the earlier commit",
            why=done.stderr.strip(),
            todo="fetch it with: git fetch --unshallow --tags, and run this again",
        )
