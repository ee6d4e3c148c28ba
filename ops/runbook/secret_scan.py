"""The search of a finished record for secrets that became known too late to be masked."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ops.private_files import replace_file
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
            replace_file(path, masked)
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
            if not redactor.finds_in(document):
                return None
            masked = redactor.notebook(document) if "cells" in document else redactor.tree(document)
            return json.dumps(masked, indent=1, ensure_ascii=False) + "\n"
    masked_text = redactor.text(text)
    return None if masked_text == text else masked_text
