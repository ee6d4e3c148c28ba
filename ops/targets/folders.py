"""Folders and private files of the local target: its volumes and secrets, and copies of Modal's secrets."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ops.errors import TargetError
from ops.private_files import draft_of, open_to_others, private_folder, remove_abandoned_drafts, replace_file
from ops.secret import Secret
from ops.targets.target import VolumeFile
from ops.workspace import shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@contextlib.contextmanager
def explained(doing: str, place: Path) -> Iterator[None]:
    """Convert an error of the operating system to one with advice.

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
            todo="run as the user who owns it, or set PYPI_RUNBOOK_HOME to another folder",
        ) from None
    except OSError as error:
        raise TargetError(
            f"could not {doing}",
            why=f"{error.strerror or error}: {error.filename2 or error.filename or place}",
            todo="fix that and run it again; nothing was lost",
        ) from None


def checked_name(name: str) -> str:
    """Check the name of a volume or a secret, which becomes a file name, and return it.

    Raises:
        TargetError: it is invalid.
    """
    if not _NAME.fullmatch(name):
        raise TargetError(
            f"{name!r} is not a valid name for a volume or a secret",
            todo="use letters, digits, dots, hyphens and underscores",
        )
    return name


class VolumeFolders:
    """Volumes, each a folder.

    Parameters:
        folder: parent of the volumes, created with the first one.
        mounted: folders of volumes elsewhere, by name.
    """

    def __init__(self, folder: Path, mounted: Mapping[str, Path] | None = None) -> None:
        self._parent = folder
        self._mounted = mounted or {}

    def volume_folder(self, name: str) -> Path:
        """Folder of the volume *name*."""
        return self._mounted.get(name) or self._parent / checked_name(name)

    def volume_exists(self, name: str) -> bool:
        """True if the volume's folder exists."""
        return self.volume_folder(name).is_dir()

    def create_volume(self, name: str) -> None:
        """Create the volume's folder.

        Raises:
            TargetError: it cannot be created.
        """
        with explained(f"create the volume {name!r}", self._parent):
            private_folder(self.volume_folder(name))

    def delete_volume(self, name: str) -> bool:
        """Delete the volume's folder with all its files. False if there was none.

        Raises:
            TargetError: it cannot be deleted.
        """
        folder = self.volume_folder(name)
        gone = folder.with_name(f".{folder.name}.deleted")
        with explained(f"delete the volume {name!r}", folder):
            found = folder.is_dir()
            shutil.rmtree(gone, ignore_errors=not gone.exists())  # of a run that was killed
            if found:
                # Atomic, so that nobody takes what is left for a whole volume.
                folder.rename(gone)
                shutil.rmtree(gone)
        return found

    def list_files(self, name: str) -> list[VolumeFile]:
        """All files with their properties, sorted by path. Files that vanish meanwhile are skipped."""
        root = os.fspath(self.volume_folder(name))
        found = []
        for folder, folders, files in os.walk(root):
            folders.sort()
            # Path objects would take most of the time of a back-up without changes.
            below = f"{folder.removeprefix(root).lstrip('/')}/".lstrip("/")
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(f"{folder}/{file}")
                    link = stat.S_ISLNK(status.st_mode)
                    mode = stat.S_IMODE(status.st_mode)
                    found.append(VolumeFile(below + file, status.st_size, int(status.st_mtime), mode, link))
        return sorted(found, key=lambda file: file.path)

    def download(self, name: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*.

        Raises:
            TargetError: there is no such file, or it cannot be copied.
        """
        with explained(f"copy {path!r} from the volume {name!r}", self.volume_folder(name)):
            shutil.copy2(self._inside(name, path), destination)

    def upload(self, name: str, path: str, source: Path) -> None:
        """Copy *source* onto a volume as *path*, atomically and durably.

        Raises:
            TargetError: it cannot be copied.
        """
        target = self._inside(name, path)
        with explained(f"copy {path!r} onto the volume {name!r}", self.volume_folder(name)):
            private_folder(target.parent)
            with draft_of(target) as draft:
                shutil.copy2(source, draft)
                draft.chmod(0o600)
                with draft.open("rb") as copy:
                    os.fsync(copy.fileno())
                draft.replace(target)

    def upload_files(self, name: str, sources: Mapping[str, Path]) -> None:
        """Copy files onto a volume, each atomically.

        Raises:
            TargetError: one cannot be copied; earlier ones stay.
        """
        remove_abandoned_drafts(*(self._inside(name, path) for path in sources))
        for path, source in sources.items():
            self.upload(name, path, source)

    def delete_file(self, name: str, path: str) -> bool:
        """Delete one file. False if there was none.

        Raises:
            TargetError: it cannot be deleted.
        """
        target = self._inside(name, path)
        with explained(f"delete {path!r} from the volume {name!r}", self.volume_folder(name)):
            try:
                target.unlink()
            except FileNotFoundError:
                return False
        return True

    def _inside(self, name: str, path: str) -> Path:
        root = self.volume_folder(name)
        inside = (root / path).resolve()
        if not inside.is_relative_to(root.resolve()):
            raise TargetError(f"{path!r} is not on the volume {name!r}", why="it leads out of the volume's folder")
        return inside


def _former(name: str) -> str:
    return f"{name}.former"


@functools.cache
def _tell_exposed(path: Path) -> None:
    """Tell once that other users may read a secret."""
    print(  # noqa: T201
        f"{shown(path)} is open to other users of this machine: 01_provision closes it. If one of them may have read "
        "it, replace the secret with 04_rotate_credentials.",
        file=sys.stderr,
        flush=True,
    )


class SecretFiles:
    """Secrets, each a file of ``KEY=value`` lines.

    Parameters:
        folder: of the files, created with the first one.
        prefix: of the file names, to distinguish secrets of the same name.
    """

    def __init__(self, folder: Path, *, prefix: str = "") -> None:
        self._folder = folder
        self._prefix = prefix

    def path(self, name: str) -> Path:
        """File of the secret *name*."""
        return self._folder / f"{self._prefix}{checked_name(name)}.env"

    def paths(self) -> list[Path]:
        """The folder and the files in it."""
        return [self._folder, *sorted(self._folder.glob(f"{self._prefix}*.env"))] if self._folder.is_dir() else []

    def keep_former(self, name: str, *places: SecretFiles) -> None:
        """Keep the secret's current file until :meth:`forget_former`, unless an earlier one is kept.

        Parameters:
            name: of the secret.
            places: where else its file may be.
        """
        for files in (self, *places):
            with (
                explained(f"keep the secret {name!r}", self._folder),
                contextlib.suppress(FileExistsError, FileNotFoundError),
            ):
                private_folder(self._folder)
                os.link(files.path(name), self.path(_former(name)))

    def recall_former(self, name: str, key: str) -> Secret | None:
        """The value of *key* in the file that is kept; None if there is none."""
        return self.recall(_former(name), key)

    def forget_former(self, name: str) -> None:
        """Remove the file that is kept."""
        self.path(_former(name)).unlink(missing_ok=True)

    def put(self, name: str, values: Mapping[str, Secret]) -> None:
        """Write or replace the secret's file.

        Raises:
            TargetError: a value does not fit into the file, or it cannot be written.
        """
        lines = []
        for key, secret in values.items():
            value = secret.reveal()
            if not key.isidentifier() or "\n" in value or "\r" in value:
                raise TargetError(
                    f"the secret {name!r} cannot be stored",
                    why="its file holds one KEY=value a line, so a value cannot contain a line break",
                    todo="use a value on one line",
                )
            lines.append(f"{key}={value}\n")
        path = self.path(name)
        with explained(f"write the secret {name!r}", path):
            private_folder(path.parent)
            replace_file(path, "".join(lines))

    def recall(self, name: str, key: str) -> Secret | None:
        """The value of *key*; None if there is none.

        If other users may read the file, says so on stderr: reading changes nothing, and they may know the secret.

        Raises:
            TargetError: the file cannot be read.
        """
        if open_to_others(self.path(name)):
            _tell_exposed(self.path(name))
        try:
            text = self.path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise TargetError(
                f"the secret {name!r} cannot be read", why=str(error), todo="make its file readable for this user"
            ) from None
        for line in text.splitlines():
            found, _, value = line.partition("=")
            if found == key and value:
                return Secret(value)
        return None

    def written(self, name: str) -> datetime | None:
        """Time at which the secret's file was written; None if there is none."""
        try:
            return datetime.fromtimestamp(int(self.path(name).stat().st_mtime), UTC)
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> bool:
        """Remove the secret's file. False if there was none."""
        self.forget_former(name)
        try:
            self.path(name).unlink()
        except FileNotFoundError:
            return False
        return True
