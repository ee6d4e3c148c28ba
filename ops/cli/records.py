"""Commands on the records of runs: records, diff and report."""

from __future__ import annotations

import argparse
import json
import os

from ops.cli import EXIT_CHANGES, EXIT_FAILED
from ops.workspace import Workspace


def records(options: argparse.Namespace) -> int:
    """List, scan or summarise the records."""
    from ops.runbook import list_records
    from ops.runbook.record_list import choose, format_records
    from ops.runbook.summary import markdown
    from ops.runbook.workspace_secrets import scan_all

    workspace = Workspace.default()
    if options.action == "scan":
        spoiled = scan_all(workspace)
        mark = "::error::" if os.environ.get("GITHUB_ACTIONS") == "true" else ""
        for path in spoiled:
            print(f"{mark}a secret was found in {path.relative_to(workspace.records)}, and removed")
        return EXIT_FAILED if spoiled else 0
    records = list_records(workspace.records)
    chosen = choose(
        records,
        notebook=options.notebook,
        outcome=options.outcome,
        target=options.target,
        since=options.since,
    )
    if options.action == "summary":
        print(markdown(reversed(chosen)), end="")
    elif options.json:
        print(json.dumps([{"folder": str(each.folder), **each.to_json()} for each in chosen], indent=2))
    else:
        print(format_records(chosen, records) if chosen else "There are no such records.")
    return 0


def diff(options: argparse.Namespace) -> int:
    """Compare two runs."""
    from ops.runbook.record_list import differences, find_record

    records = Workspace.default().records
    lines = differences(find_record(options.first, records), find_record(options.second, records))
    print("\n".join(lines) or "The two runs are equal except for their times.")
    return EXIT_CHANGES if lines else 0


def report(options: argparse.Namespace) -> int:
    """Write the page about all runs."""
    from ops.runbook.report import write_overview

    print(f"Report: {write_overview(Workspace.default().records, options.out)}")
    return 0
