"""Versions of the local server: the history of its deployments, and a copy of the code of each."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ops.errors import TargetError
from ops.private_files import private_folder, replace_file
from ops.targets.target import DeployedVersion

KEPT = 10
"""Number of copies of code that are kept, the newest."""

_CODE = ("ops/__init__.py", "ops/index")
"""Everything that the server imports from this project."""

_SUFFIXES = {".py", ".html", ".css", ".js"}


class LocalVersions:
    """History of the local server.

    Parameters:
        folder: of the history and the copies, created with the first.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "history.json"

    def history(self) -> Sequence[DeployedVersion]:
        """All versions, newest first."""
        return [
            DeployedVersion(
                str(entry["version"]), entry["when"], entry["tag"], f"code {entry['code'][:12]}", entry["commit"]
            )
            for entry in reversed(self._entries())
        ]

    def record(self, root: Path, *, tag: str = "", commit: str = "") -> None:
        """Store a copy of the code in *root* as the version that runs now, unless it is the last one.

        Parameters:
            root: the folder with ``ops``.
            tag: name of the deployment.
            commit: of the code, if known.
        """
        entries, code = self._entries(), code_digest(root)
        if entries and entries[-1]["code"] == code:
            return
        self.keep(root)
        entries.append(
            {
                "version": entries[-1]["version"] + 1 if entries else 1,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "tag": tag,
                "code": code,
                "commit": commit,
            }
        )
        replace_file(self._file, json.dumps(entries, indent=1) + "\n")
        kept = {entry["code"] for entry in entries[-KEPT:]}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def keep(self, root: Path) -> Path:
        """Copy the code in *root*, and return the folder of the copy."""
        copy = self._folder / code_digest(root)
        if not copy.is_dir():
            draft = copy.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            private_folder(draft / "ops")
            for name in _CODE:
                source = root / name
                if source.is_dir():
                    shutil.copytree(source, draft / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, draft / name)
            for path in (draft, *draft.rglob("*")):
                path.chmod(0o700 if path.is_dir() else 0o600)
            draft.rename(copy)
        return copy

    def code(self, version: str) -> tuple[Path, str]:
        """Folder with the code of a version, and its commit.

        Raises:
            TargetError: there is no such version, or its code is no longer kept.
        """
        entries = self._entries()
        found = next((entry for entry in entries if str(entry["version"]) == version), None)
        if found is None:
            known = ", ".join(str(entry["version"]) for entry in entries) or "none"
            raise TargetError(
                f"there is no version {version!r} of the local server",
                why=f"the versions are: {known}",
                todo="name one of them, or check out the commit that you want and run the notebook 01_provision",
            )
        copy = self._folder / str(found["code"])
        if not copy.is_dir():
            raise TargetError(
                f"the code of version {version} is no longer kept",
                why=f"only the last {KEPT} versions are",
                todo="check out the commit that you want and run the notebook 01_provision",
            )
        return copy, str(found["commit"])

    def _entries(self) -> list[dict[str, Any]]:
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return stored if isinstance(stored, list) else []


def code_digest(root: Path) -> str:
    """SHA-256 over the server's code below *root*."""
    digest = hashlib.sha256()
    for path in sorted((root / "ops" / "index").rglob("*")):
        if path.is_file() and path.suffix in _SUFFIXES:
            digest.update(path.read_bytes())
    return digest.hexdigest()
