"""Exit codes of the command."""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CHANGES = 2
"""Of `runbook plan` and `runbook diff`: there are changes. A call of these that makes no sense exits with 1."""
EXIT_INTERRUPTED = 130
