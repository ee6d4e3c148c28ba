"""Who may write a file name first, across every server of one Volume."""

from __future__ import annotations

from typing import Protocol


class Claims(Protocol):
    """Exclusive claims on file names: at most one holder at a time among all servers.

    The order that makes an upload safe is: claim, reload, look whether the name exists, write, commit, release. A reader
    that finds a new name on the Volume shows it only when nobody holds its claim: a commit that failed half-way may have
    made the file visible without being acknowledged.
    """

    def acquire(self, filename: str) -> bool:
        """Take the claim on *filename*. False when another holds it. A holder that died loses it after a while."""

    def held(self, filename: str) -> bool:
        """Whether anyone, also this process, holds the claim on *filename* now."""

    def release(self, filename: str) -> None:
        """Give the claim back. One that is not held is left alone."""
