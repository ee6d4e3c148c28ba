"""Volumes of the local target, as folders."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ops.errors import TargetError
from ops.private_files import draft_of, private_folder
from ops.targets.refusal import checked, explained


class VolumeFolders:
    """Volumes, each a folder.

    Parameters:
        folder: parent of the volumes, created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Folder of the volume *name*."""
        return self._folder / checked(name)

    def create(self, name: str) -> None:
        """Create the volume's folder.

        Raises:
            TargetError: it cannot be created.
        """
        with explained(f"make the volume {name!r}", self._folder):
            private_folder(self.path(name))

    def delete(self, name: str) -> bool:
        """Delete the volume's folder with all its files. False if there was none.

        Raises:
            TargetError: it cannot be deleted.
        """
        folder = self.path(name)
        if not folder.is_dir():
            return False
        with explained(f"delete the volume {name!r}", folder):
            shutil.rmtree(folder)
        return True

    def files(self, name: str) -> Iterator[tuple[str, int]]:
        """List path and size in bytes of all files, sorted by path."""
        root = self.path(name)
        for folder, folders, files in os.walk(root):
            folders.sort()
            for file in sorted(files):
                path = Path(folder, file)
                with contextlib.suppress(FileNotFoundError):
                    yield path.relative_to(root).as_posix(), path.lstat().st_size

    def download(self, name: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*.

        Raises:
            TargetError: there is no such file, or it cannot be copied.
        """
        with explained(f"copy {path!r} from the volume {name!r}", self.path(name)):
            shutil.copy2(self._inside(name, path), destination)

    def upload(self, name: str, path: str, source: Path) -> None:
        """Copy *source* onto a volume as *path*, atomically.

        Raises:
            TargetError: it cannot be copied.
        """
        target = self._inside(name, path)
        with explained(f"copy {path!r} onto the volume {name!r}", self.path(name)):
            private_folder(target.parent)
            with draft_of(target) as draft:
                shutil.copy2(source, draft)
                draft.chmod(0o600)
                draft.replace(target)

    def _inside(self, name: str, path: str) -> Path:
        root = self.path(name)
        inside = (root / path).resolve()
        if not inside.is_relative_to(root.resolve()):
            raise TargetError(f"{path!r} is not on the volume {name!r}", why="it leads out of the volume's folder")
        return inside
