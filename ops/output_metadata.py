"""Metadata of a cell's output: what the record of a run reads from an executed notebook.

A plan or an outcome travels in the notebook itself, beside the text and the HTML that a person reads. No renderer shows
an output's metadata, and nbval does not compare it.
"""

from __future__ import annotations

from collections.abc import Mapping

KEY = "pypi-runbook"
"""The entry of an output's metadata; the words below are the keys in it."""

PLAN = "plan"
OUTCOME = "outcome"
PLACE = "place"
"""The target and its environment, as in ``modal.staging``."""
ADDRESS = "address"
"""The root URL of the index."""

APPROVED_VARIABLE = "RUNBOOK_APPROVED_PLAN"
"""Holds the SHA-256 of the only plan that the notebook may apply."""


def where(place: str, address: str = "") -> dict[str, str]:
    """The entries that say where: the target's place and the index's address, as far as they are known."""
    return {key: value for key, value in ((PLACE, place), (ADDRESS, address)) if value}


def change_line(change: Mapping[str, str]) -> str:
    """One change of a plan as a line: ``+ server  start it``, ``~ hosting min_containers  1 -> 0``.

    Parameters:
        change: ``sign``, ``thing``, ``now``, ``then`` and perhaps ``refused``.
    """
    then = change["then"] + (f"; refused: {change['refused']}" if change.get("refused") else "")
    before = f"{change['now']}; " if change["sign"] == "~" and not change["then"].startswith(change["now"]) else ""
    return f"{change['sign']} {change['thing']}  {before}{then}"
