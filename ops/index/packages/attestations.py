"""Attestations of an upload (PEP 740): checked against the file, and stored as its provenance.

Structure and digest are always checked, signatures if the index has a trusted root (see :mod:`.signatures`).
Provenances are in ``.index/provenance``, one file each.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

from ops.index.errors import InvalidUpload
from ops.index.storage.directory import INDEX_FOLDER, StagingFolder, remove

SUFFIX: Final = ".provenance"
"""Suffix of a provenance URL. No distribution ends in it."""

POLICIES: Final = ("off", "audit", "enforce")
"""Consequences for an upload without attestations: none, a note in its audit line, a refusal."""

_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_MOST: Final = 10
_LARGEST: Final = 256 * 1024


def attestations_of(field: str, filename: str, sha256: str) -> list[dict[str, Any]]:
    """The attestation objects in the form field ``attestations``; their signatures are not verified.

    Parameters:
        field: a JSON array of them.
        filename: of the file.
        sha256: of the file, in hexadecimal.

    Raises:
        InvalidUpload: an attestation is malformed, or about another file; the message says which.
    """
    if len(field) > _LARGEST:
        raise InvalidUpload(filename, f"its attestations have more than {_LARGEST} bytes; send fewer")
    try:
        attestations = json.loads(field)
    except (ValueError, RecursionError):
        raise InvalidUpload(filename, "its attestations are not JSON (PEP 740)") from None
    if not isinstance(attestations, list) or not 0 < len(attestations) <= _MOST:
        raise InvalidUpload(filename, f"its attestations are not a list of 1 to {_MOST} objects (PEP 740)")
    for number, attestation in enumerate(attestations, 1):
        problem = _problem(attestation) or _contradiction(attestation, filename, sha256)
        if problem:
            raise InvalidUpload(filename, f"its attestation {number} {problem}; build and attest it again")
    return attestations


def provenance_of(attestations: Sequence[Any], publishers: Sequence[Mapping[str, Any]]) -> bytes:
    """The provenance object for a file.

    Parameters:
        attestations: about it.
        publishers: one for each attestation, in the same order.
    """
    bundles: list[dict[str, Any]] = []
    for publisher, attestation in zip(publishers, attestations, strict=True):
        if not bundles or bundles[-1]["publisher"] != publisher:
            bundles.append({"publisher": publisher, "attestations": []})
        bundles[-1]["attestations"].append(attestation)
    return json.dumps({"version": 1, "attestation_bundles": bundles}).encode()


class Provenances:
    """Stored provenance objects. Methods are called inside ``Storage.reading``.

    Parameters:
        directory: of packages.
        staging: on the same file system.
    """

    def __init__(self, directory: Path, staging: StagingFolder) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/provenance"
        self._staging = staging

    def put(self, path: str, content: bytes) -> None:
        """Store the provenance of a file, durably.

        Raises:
            OSError: nothing was stored.
        """
        self._staging.replace(f"{self._folder}/{path}", content, durable=True)

    def get(self, path: str) -> bytes | None:
        """The provenance of a file; None if it has none."""
        try:
            with open(f"{self._folder}/{path}", "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def digest(self, path: str) -> str:
        """The SHA-256 of a file's provenance, in hexadecimal; empty if it has none."""
        content = self.get(path)
        return "" if content is None else hashlib.sha256(content).hexdigest()

    def remove(self, path: str) -> None:
        """Remove the provenance of a file, if it has one."""
        remove(f"{self._folder}/{path}")


def _problem(attestation: Any) -> str:
    """Reason why a value is not an attestation object, as the end of a sentence; empty if it is one."""
    if not isinstance(attestation, dict) or attestation.get("version") != 1:
        return "is not an attestation object of version 1 (PEP 740)"
    material, envelope = attestation.get("verification_material"), attestation.get("envelope")
    if not isinstance(material, dict) or not isinstance(envelope, dict):
        return "lacks its verification material or its envelope"
    entries = material.get("transparency_entries")
    if not _bytes(material.get("certificate")) or not isinstance(entries, list) or not entries:
        return "lacks a certificate or a transparency log entry"
    if not _bytes(envelope.get("statement")) or not _bytes(envelope.get("signature")):
        return "lacks a statement or a signature in base64"
    return ""


def _contradiction(attestation: Any, filename: str, sha256: str) -> str:
    """Reason why an attestation object is not about a file, in the same form."""
    try:
        stated = json.loads(_bytes(attestation["envelope"]["statement"]))
        (subject,) = stated["subject"]
        kind, predicate = stated["_type"], stated["predicateType"]
        named, digest = subject["name"], subject["digest"]["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "has a statement without exactly one subject"
    if kind != _STATEMENT or not isinstance(predicate, str):
        return "has a statement that is not in-toto, version 1"
    if digest != sha256:
        return "is about other bytes: its digest differs"
    return "" if _same_name(named, filename) else f"is about another file, {str(named)[:100]!r}"


def _bytes(text: Any) -> bytes:
    """Decode base64; empty if it is invalid."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError, binascii.Error):
        return b""


def _same_name(one: Any, other: str) -> bool:
    """True for two spellings of one file name."""
    return isinstance(one, str) and (one == other or _parsed(one) == _parsed(other) is not None)


def _parsed(filename: str) -> Any:
    try:
        parse = parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename
        return parse(filename)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
