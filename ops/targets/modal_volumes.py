"""Volumes of one Modal environment: created, filled, read and deleted from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ops.targets.modal_session import ask, exists, modal, say
from ops.targets.target import VolumeFile

TRANSFER_SECONDS = 4 * 3600.0
PROGRESS_BYTES = 64 * 1024**2
"""Bytes after each of which a transfer reports its progress."""


class Volumes:
    """The volumes of one environment.

    Parameters:
        environment: its name; empty for the workspace's default.
    """

    def __init__(self, environment: str) -> None:
        self._named = environment or None

    def volume_exists(self, name: str) -> bool:
        """True if there is a volume called *name*."""
        return exists("look up the volume", lambda: self._volume(name).hydrate())

    def create_volume(self, name: str) -> None:
        """Create a Volume v1: Modal does not guarantee data on v2."""
        ask(
            "create the volume",
            lambda: modal.Volume.objects.create(name, version=1, allow_existing=True, environment_name=self._named),
        )

    def delete_volume(self, name: str) -> bool:
        """Delete a volume, and the Dicts that belong to it. False if there was none.

        A deployed app refers to a volume by its id: stop the app first.
        """
        if not self.volume_exists(name):
            return False

        def delete() -> None:
            # The volume last: if this run is killed, the next one still finds it, and deletes the rest.
            for own in self._dicts_of(name):
                modal.Dict.objects.delete(own, allow_missing=True, environment_name=self._named)
            modal.Volume.objects.delete(name, allow_missing=True, environment_name=self._named)

        ask("delete the volume", delete)
        return True

    def list_files(self, name: str) -> Sequence[VolumeFile]:
        """All files with their properties, sorted by path."""

        def look() -> list[VolumeFile]:
            found = self._volume(name).listdir("/", recursive=True)
            files = [entry for entry in found if entry.type.name == "FILE"]
            listed = [VolumeFile(entry.path.lstrip("/"), entry.size, int(entry.mtime)) for entry in files]
            return sorted(listed, key=lambda file: file.path)

        return ask(f"list the files of {name}", look, seconds=600)

    def download(self, name: str, path: str, destination: Path) -> None:
        """Copy one file of a volume to *destination*, atomically."""
        part = destination.with_name(f".{destination.name}.{os.getpid()}")

        def copy() -> None:
            told = done = 0
            with part.open("wb") as out:
                for piece in self._volume(name).read_file(path):
                    out.write(piece)
                    done += len(piece)
                    if done - told >= PROGRESS_BYTES:
                        told = done
                        say(f"… {path}: {done // 2**20} MiB downloaded")

        try:
            ask(f"download {path}", copy, seconds=TRANSFER_SECONDS)
            part.replace(destination)
        finally:
            part.unlink(missing_ok=True)

    def upload(self, name: str, path: str, source: Path) -> None:
        """Copy *source* onto a volume as *path*. Running servers see it after their next reload."""
        self.upload_files(name, {path: source})

    def upload_files(self, name: str, sources: Mapping[str, Path]) -> None:
        """Copy files onto a volume in one batch, which appears atomically."""

        def copy() -> None:
            with self._volume(name).batch_upload(force=True) as batch:
                for path, source in sources.items():
                    batch.put_file(source, f"/{path.lstrip('/')}")

        if not sources:
            return
        size = sum(source.stat().st_size for source in sources.values())
        what = next(iter(sources)) if len(sources) == 1 else f"{len(sources)} files"
        ask(f"upload {what} ({size // 2**20} MiB)", copy, seconds=TRANSFER_SECONDS)

    def delete_file(self, name: str, path: str) -> bool:
        """Delete one file. False if there was none."""

        def delete() -> bool:
            try:
                self._volume(name).remove_file(f"/{path.lstrip('/')}")
            except (FileNotFoundError, modal.exception.NotFoundError):
                return False
            return True

        return ask(f"delete {path}", delete)

    def _dicts_of(self, name: str) -> Sequence[str]:  # noqa: ARG002 - a target knows them
        """Names of the Dicts that belong to a volume."""
        return ()

    def _volume(self, name: str) -> modal.Volume:
        return modal.Volume.from_name(name, environment_name=self._named)
