"""Secrets in private files: those of the local target, and copies of Modal's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ops.errors import TargetError
from ops.private_files import draft_of, private_folder, write_durably
from ops.secret import Secret
from ops.targets.refusal import checked, explained


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
        return self._folder / f"{self._prefix}{checked(name)}.env"

    def paths(self) -> list[Path]:
        """The folder and the files in it."""
        return [self._folder, *sorted(self._folder.glob(f"{self._prefix}*.env"))] if self._folder.is_dir() else []

    def put(self, name: str, values: Mapping[str, Secret]) -> None:
        """Write or replace the secret's file.

        Raises:
            TargetError: a value does not fit into the file, or it cannot be written.
        """
        with self.draft(name, values):
            pass

    @contextlib.contextmanager
    def draft(self, name: str, values: Mapping[str, Secret]) -> Iterator[None]:
        """Write the secret's file, and put it in place when the block ends without an error.

        Raises:
            TargetError: as of :meth:`put`.
        """
        lines = []
        for key, secret in values.items():
            value = secret.reveal()
            if not key.isidentifier() or "\n" in value or "\r" in value:
                raise TargetError(
                    f"the secret {name!r} cannot be kept",
                    why="its file holds one KEY=value a line, so a value cannot contain a line break",
                    todo="give a value on one line",
                )
            lines.append(f"{key}={value}\n")
        path, doing = self.path(name), f"write the secret {name!r}"
        with contextlib.ExitStack() as stack:
            with explained(doing, path):
                private_folder(path.parent)
                draft = stack.enter_context(draft_of(path))
                write_durably(draft, "".join(lines).encode())
            yield
            with explained(doing, path):
                draft.replace(path)

    def recall(self, name: str, key: str) -> Secret | None:
        """The value of *key*; None if there is none.

        Raises:
            TargetError: the file cannot be read.
        """
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

    def delete(self, name: str) -> bool:
        """Remove the secret's file. False if there was none."""
        try:
            self.path(name).unlink()
        except FileNotFoundError:
            return False
        return True
