"""What the workflows do with the records of the runs: ``scan`` them for secrets, and make a ``summary`` in Markdown."""

# ruff: noqa: T201 - a command, which prints

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ops.runbook import sources
from ops.runbook.record import scan
from ops.runbook.redaction import Redactor
from ops.workspace import Workspace


def find_secrets(workspace: Workspace) -> int:
    """Look for every secret of the environment and the workspace in every record; 1 when one is found."""
    if not workspace.records.is_dir():
        print("There are no records.")
        return 0
    redactor = Redactor(
        list(sources.environment(os.environ)),
        [sources.secret_files(workspace), sources.client_files(workspace)],
    )
    redactor.refresh()
    spoiled = scan(workspace.records, redactor)
    for path in spoiled:
        print(f"::error::a secret stands in {path.relative_to(workspace.records)}: nothing is uploaded")
    return 1 if spoiled else 0


def summarise(workspace: Workspace) -> int:
    """One row a step, of every run."""
    print("| notebook | step | outcome | seconds |\n|---|---|---|---|")
    for file in sorted(workspace.records.glob("*/record.json")):
        for notebook in json.loads(file.read_text(encoding="utf-8"))["notebooks"]:
            for step in notebook["steps"]:
                print(f"| {notebook['name']} | {step['title']} | {step['outcome']} | {step['seconds']:.1f} |")
    return 0


if __name__ == "__main__":
    work = {"scan": find_secrets, "summary": summarise}.get(" ".join(sys.argv[1:]))
    if work is None:
        sys.exit(f"usage: {Path(sys.argv[0]).name} scan|summary")
    sys.exit(work(Workspace.default()))
