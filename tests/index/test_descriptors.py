"""File descriptors of a process: the limit is raised, and shared out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ops.index.descriptors import needed_for, room_for_connections
from tests.index.serving import ROOT

PROGRAM = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 300))
from ops.index.descriptors import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300", "300"]


@pytest.mark.parametrize("descriptors", [1024, 4096, 20_001])
def test_the_connections_leave_descriptors_for_files(descriptors: int) -> None:
    room = room_for_connections(descriptors)
    assert needed_for(room) <= descriptors < needed_for(room + 1)
    assert descriptors - room > descriptors / 2
