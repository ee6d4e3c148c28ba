"""Revisions of the clone: temporary worktrees, which killed processes leave behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ops.revisions import checkout
from ops.workspace import PROJECT_ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with one commit."""
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path


def test_the_worktree_of_a_killed_process_is_removed_and_one_in_use_stays(clone: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ops.revisions import checkout\n"
        "with checkout(Path(sys.argv[1]), 'HEAD') as tree:\n"
        "    print(tree, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(clone)]
    killed = subprocess.run(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    with checkout(clone, "HEAD") as first, checkout(clone, "HEAD") as second:
        assert not left.parent.exists()
        assert first.is_dir()
        assert second.is_dir()
    listed = subprocess.run(["git", "-C", str(clone), "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1
