"""A server is killed at random moments during uploads; nothing confirmed is lost, and nothing is half written."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ops.index.config import Options
from ops.index.packages.uploads import UploadResult
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.name_locks import FileNameLocks
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.conftest import Node, Person
from tests.index.serving import eventually

KILLS = int(os.environ.get("CRASH_TEST_KILLS", "40"))
"""Number of kills; 200 before a release."""

WRITERS = 4


def distribution(round_: int, writer: int, number: int) -> tuple[str, bytes]:
    """A file whose content follows from its name."""
    name, version = f"p{writer}", f"{round_}.{number}"
    payload = random.Random(f"{round_} {writer} {number}").randbytes(500_000 if number % 3 == 1 else 2_000)
    if number % 5 == 4:
        return f"{name}-{version}.tar.gz", sdist(name, version, payload=payload)
    return wheel_name(name, version), wheel(name, version, payload=payload)


def open_node(directory: Path) -> Node:
    return Node(DirectoryStorage(directory), FileNameLocks(directory / ".index" / "claims"), Options(claim_seconds=60))


# Runs in its own process: forks a server for each round, and kills it.
KILLER = """
import io, os, random, signal, sys, threading, time
from pathlib import Path
from tests.index.test_crash import WRITERS, distribution, open_node
from tests.index.conftest import Person
from ops.index.packages.filenames import canonical_version

canonical_version("1.0")  # what the rounds would import, one by one

directory, log, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
generator = random.Random(int(sys.argv[4]))

def serve(round_):
    node = open_node(directory)
    node.publisher.start()
    confirmed = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def write(writer):
        for number in range(10_000):
            name, content = distribution(round_, writer, number)
            node.publish(name, io.BytesIO(content), identity=Person())
            os.write(confirmed, name.encode() + b"\\n")
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

for round_ in range(kills):
    child = os.fork()
    if not child:
        try:
            serve(round_)
        finally:
            os._exit(3)
    if round_ % 5:  # else as it starts
        size, deadline = os.path.getsize(log), time.monotonic() + 60
        while os.path.getsize(log) == size and time.monotonic() < deadline:
            time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended by itself"
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_after_kills_every_confirmed_file_is_whole_and_every_other_absent_or_whole(tmp_path: Path, seed: int) -> None:
    directory, log = tmp_path / "packages", tmp_path / "confirmed"
    log.touch()
    subprocess.run(
        [sys.executable, "-c", KILLER, str(directory), str(log), str(KILLS), str(seed)],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    confirmed = log.read_text().split()
    assert len(confirmed) == len(set(confirmed))
    assert len(confirmed) >= KILLS - KILLS // 5, "the kills came too early to mean anything"
    contents = {}
    for round_ in range(KILLS):
        for writer in range(WRITERS):
            number = 0
            while True:
                name, content = distribution(round_, writer, number)
                if not (directory / name).exists():
                    break
                contents[name] = content
                number += 1

    there = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    assert set(confirmed) <= there
    assert there <= set(contents)
    for name in there:
        assert (directory / name).read_bytes() == contents[name]

    node = open_node(directory)
    assert node.listed() == there
    for project in node.repository.projects():
        for file in node.repository.project(project).files:  # type: ignore[union-attr] # listed
            assert file.size == len(contents[file.filename])
            metadata = node.repository.metadata(file.path)
            assert metadata is not None
            assert metadata.startswith(b"Metadata-Version")

    # The names of interrupted uploads are free, and their leftovers are removed.
    node.publisher.start()
    for writer in range(WRITERS):
        number = sum(name.startswith(f"p{writer}-{KILLS - 1}.") for name in there)
        name, content = distribution(KILLS - 1, writer, number)
        assert node.publish(name, io.BytesIO(content), identity=Person()) is UploadResult.CREATED
    eventually(lambda: not _left_over(directory))
    assert not node.name_locks.held()


def _left_over(directory: Path) -> list[str]:
    folder = directory / ".index" / "staging"
    return [path.name for path in folder.iterdir() if not path.name.startswith(f"{os.getpid()}-")]
