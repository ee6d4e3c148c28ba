"""Revisions of the clone: temporary worktrees, which killed processes leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
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


@pytest.mark.parametrize("before_git", [True, False])
def test_the_worktree_of_a_killed_process_is_removed_and_one_in_use_stays(
    clone: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, before_git: bool
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ops import revisions\n"
        "def kill(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"if {before_git}:\n"
        "    revisions._checked = kill\n"
        "with revisions.checkout(Path(sys.argv[1]), 'HEAD') as tree:\n"
        "    kill()\n"
    )
    command = [sys.executable, "-c", script, str(clone)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    assert subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=False).returncode == -signal.SIGKILL
    (left,) = temporary.iterdir()
    assert (left / "clone").exists() != before_git
    with checkout(clone, "HEAD") as first, checkout(clone, "HEAD") as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert list(temporary.iterdir()) == []
    listed = subprocess.run(["git", "-C", str(clone), "worktree", "list"], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 1
