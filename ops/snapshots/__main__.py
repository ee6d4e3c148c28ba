"""Check that there is a recent snapshot, for a separate job.

    python -m ops.snapshots s3://bucket/prefix --hours 30

Prints the name of the newest snapshot, and exits with 1 if it is older. Only lists names: the job needs no right to
read a snapshot, which holds password hashes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ops.errors import RunbookError
from ops.snapshots.bucket import Bucket
from ops.snapshots.snapshot import moment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.snapshots", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("destination", help="folder or bucket of the notebook 06_back_up")
    parser.add_argument("--hours", type=float, default=30.0, help="maximum age of the newest snapshot (default: 30)")
    options = parser.parse_args(arguments)
    try:
        names = Bucket.open(options.destination).snapshots()
        age = datetime.now(UTC) - moment(names[-1]) if names else None
    except RunbookError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if age is None:
        sys.stderr.write("There is no snapshot: set up the nightly back-up, or run the notebook 06_back_up.\n")
        return 1
    sys.stdout.write(f"The newest of {len(names)} snapshots is {names[-1]}.\n")
    if age > timedelta(hours=options.hours):
        sys.stderr.write(
            f"It is {age.total_seconds() / 3600:.0f} hours old: find out why there is none from last night.\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
