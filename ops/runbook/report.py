"""The pages of a record."""

from __future__ import annotations

from ops.runbook.record import Record
from ops.runbook.redaction import Redactor


def write_reports(record: Record, redactor: Redactor) -> None:
    """Write the HTML pages of *record*."""
