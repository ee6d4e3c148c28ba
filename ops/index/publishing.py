"""Taking uploads in: checked first, then durable, then visible, and never changed again."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Uploader(Protocol):
    """Who sends something, as :class:`ops.index.roles.Identity` says it."""

    @property
    def username(self) -> str:
        """The name."""

    def may_upload(self, project: str) -> bool:
        """Whether uploads to the project are allowed."""

    @property
    def may_administer(self) -> bool:
        """Whether deleting, and lifting a quarantine, is allowed."""


class Outcome(StrEnum):
    """What became of an upload."""

    CREATED = "created"
    SAME = "same"
    """The same bytes were there already."""


class Publisher:
    """Publisher(storage, claims, catalogue, options, *, audit=None)

    stage() -> Staged; publish(filename, staged | stream, *, form, identity, address) -> Outcome
    remove(project, *, version=None, filename=None, identity, address) -> list[str]
    yank(project, *, version=None, filename=None, reason="", identity, address) -> list[str]
    unyank(project, *, version=None, filename=None, identity, address) -> list[str]
    set_status(project, status, *, reason=None, identity, address) -> None
    start(); close()
    """
