"""Details of a release for its project's page: author, licence, links and dependencies, from its core metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

_HEADERS: Final = 256 * 1024
"""Bytes of metadata that are read: descriptions come after the header."""

_LONGEST: Final = 300
_MOST_LINKS: Final = 30
_MOST_REQUIREMENTS: Final = 200

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAILBOX: Final = re.compile(r"([^<>]*)<([^<>\s]+@[^<>\s]+)>")
_EXTRA: Final = re.compile(r"""\bextra\s*==\s*['"]([^'"]+)['"]""")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A dependency.

    Parameters:
        project: its normalized name; empty if it cannot be parsed.
        text: as the metadata has it.
        extra: that it belongs to; empty if it is always installed.
    """

    project: str
    text: str
    extra: str


@dataclass(frozen=True, slots=True)
class Details:
    """Details of a release, as untrusted plain text.

    Parameters:
        authors: names, or addresses without a name.
        licence: an SPDX expression, or the first line of the older field.
        links: label and address of pages on the web, http or https only.
        requirements: in the order of the metadata.
    """

    authors: tuple[str, ...] = ()
    licence: str = ""
    links: tuple[tuple[str, str], ...] = ()
    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def of(cls, metadata: bytes) -> Details:
        """Parse core metadata (its headers), in linear time whatever it contains."""
        authors: dict[str, None] = {}
        licences: dict[str, str] = {}
        links: dict[str, str] = {}
        requirements: list[Requirement] = []
        for name, value in _headers(metadata):
            match name:
                case "author" | "author-email" | "maintainer" | "maintainer-email":
                    authors.update(dict.fromkeys(filter(None, map(_person, value.split(",")))))
                case "license-expression" | "license":
                    licences[name] = value
                case "home-page" if _is_web(value):
                    links.setdefault(value, "Homepage")
                case "project-url":
                    label, _, address = value.partition(",")
                    if _is_web(address.strip()):
                        links.setdefault(address.strip(), label.strip())
                case "requires-dist" if len(requirements) < _MOST_REQUIREMENTS:
                    requirements.append(_requirement(value))
        return cls(
            authors=tuple(authors)[:10],
            licence=licences.get("license-expression") or licences.get("license", ""),
            links=tuple((label, address) for address, label in links.items())[:_MOST_LINKS],
            requirements=tuple(requirements),
        )


def _headers(metadata: bytes) -> Iterator[tuple[str, str]]:
    """Name, in lower case, and first line of each header."""
    for line in metadata[:_HEADERS].decode("utf-8", "replace").splitlines():
        if not line.strip():
            return
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace() and value.strip() not in {"", "UNKNOWN"}:
            yield name.strip().lower(), value.strip()[:_LONGEST]


def _person(text: str) -> str:
    """The name in ``Name <address>``; the address if there is no name."""
    found = _MAILBOX.fullmatch(text.strip())
    return (found[1].strip().strip('"') or found[2]) if found else text.strip()


def _is_web(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def _requirement(text: str) -> Requirement:
    name, extra = _NAME.match(text), _EXTRA.search(text)
    return Requirement(str(canonicalize_name(name[0])) if name else "", text, extra[1] if extra else "")
