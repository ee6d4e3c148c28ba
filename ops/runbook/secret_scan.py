"""The search of a finished record for secrets that became known too late to be masked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ops.runbook.record import write_atomically
from ops.runbook.redaction import Redactor
from ops.runbook.sources import workspace_sources
from ops.workspace import Workspace


def scan(folder: Path, redactor: Redactor) -> tuple[Path, ...]:
    """Search a finished record for every secret that is known by now, and remove what is found.

    Finds a secret that became known after the last masking, or a file that a notebook wrote there itself. Notebooks
    and texts are masked in place; any other file is deleted.

    Parameters:
        folder: the record.
        redactor: what knows the secrets; its sources are asked once more.

    Returns:
        the files in which a secret stood.
    """
    redactor.refresh()
    spoiled = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("utf-8", "surrogateescape")
            if redactor.finds(text):
                spoiled.append(path)
                path.unlink()
            continue
        masked = _masked_file(path, text, redactor)
        if masked is not None:
            spoiled.append(path)
            write_atomically(path, masked)
    return tuple(spoiled)


def scan_all(workspace: Workspace) -> tuple[Path, ...]:
    """Scan every record of a workspace for the secrets of the environment and the workspace; return the files found."""
    if not workspace.records.is_dir():
        return ()
    return scan(workspace.records, Redactor(sources=workspace_sources(workspace, os.environ)))


def _masked_file(path: Path, text: str, redactor: Redactor) -> str | None:
    """The text without its secrets, or None when there are none."""
    if path.suffix in {".ipynb", ".json"}:
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if document is not None:
            if redactor.is_clean(document):
                return None
            masked = _lines_joined(document, redactor)
            return None if masked == document else json.dumps(masked, indent=1, ensure_ascii=False) + "\n"
    masked_text = redactor.text(text)
    return None if masked_text == text else masked_text


def _lines_joined(value: Any, redactor: Redactor) -> Any:
    """Mask a stored notebook, in which a text is a list of lines, as the one text that it is."""
    if isinstance(value, dict):
        return {redactor.tree(key): _lines_joined(item, redactor) for key, item in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            whole = "".join(value)
            masked = redactor.text(whole)
            return value if masked == whole and redactor.tree(value) == value else masked.splitlines(keepends=True)
        return [_lines_joined(item, redactor) for item in value]
    return redactor.tree(value)
