"""A fake Volume for credentials: others' commits appear only after a reload, and meanwhile it looks empty."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from ops.index.storage.volume import GuardedStorage

_REMOTE = threading.Lock()


class Volume(GuardedStorage):
    """A snapshot of *remote*; if two change a file, the last to commit wins.

    Parameters:
        mount: this server's own view.
        remote: the state shared by all servers.
    """

    def __init__(self, mount: Path, remote: Path) -> None:
        super().__init__(mount)
        self._remote = remote
        self.reloads = 0
        self.failures: list[Exception] = []
        self.pull()

    def pull(self) -> None:
        for path in self.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        time.sleep(0.002)
        with _REMOTE:
            shutil.copytree(self._remote, self.directory, dirs_exist_ok=True)
        self._pulled = self._contents()

    def _contents(self) -> dict[Path, bytes]:
        return {
            path.relative_to(self.directory): path.read_bytes() for path in self.directory.rglob("*") if path.is_file()
        }

    def _commit(self) -> None:
        assert not open_in(self.directory), "open during a commit"
        if self.failures:
            raise self.failures.pop(0)
        contents = self._contents()
        with _REMOTE:
            for name, content in contents.items():
                if self._pulled.get(name) != content:
                    (self._remote / name).parent.mkdir(exist_ok=True)
                    (self._remote / name).write_bytes(content)
            for name in self._pulled.keys() - contents.keys():
                (self._remote / name).unlink(missing_ok=True)
        self.pull()

    def _reload(self) -> None:
        assert not open_in(self.directory), "open during a reload"
        self.reloads += 1
        self.pull()


def volumes(directory: Path, count: int) -> list[Volume]:
    """Several servers' views of one empty Volume."""
    (directory / "remote").mkdir()
    for number in range(count):
        (directory / f"view{number}").mkdir()
    return [Volume(directory / f"view{number}", directory / "remote") for number in range(count)]


def open_in(directory: Path) -> list[str]:
    """The files below the directory that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:  # closed meanwhile
            continue
    return [target for target in found if target.startswith(f"{directory}/")]
