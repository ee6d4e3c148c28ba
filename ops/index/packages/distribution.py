"""What a wheel, sdist or egg says of itself, and whether that agrees with how it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ops.index.errors import FieldMismatch, InvalidArchive
from ops.index.packages.archive import BROKEN, MAX_METADATA_BYTES, read_metadata
from ops.index.packages.names import Form, Name, is_project, normalize, same_version

_KINDS: dict[Form, str] = {"wheel": "a wheel", "sdist": "an sdist", "egg": "an egg", "other": "a distribution"}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a distribution says of itself in its core metadata.

    Parameters:
        name: as its author spells it; None when there is no metadata to read.
        version: likewise.
        requires_python: of ``Requires-Python``.
        metadata: the file with all of this, byte for byte; None when there is none to read.
        static: whether an installer may go by it: by that of wheels always, by that of sdists when nothing in it may
            change when it is built (PEP 643).
    """

    name: str | None = None
    version: str | None = None
    requires_python: str | None = None
    metadata: bytes | None = None
    static: bool = False

    @property
    def served(self) -> bytes | None:
        """The metadata as it is offered to installers beside the file (PEP 658), if it is."""
        return self.metadata if self.static else None


def look_into(file: BinaryIO, name: Name) -> Contents:
    """What can be read of a file that lies in the directory already, however broken it is. Never fails for its content.

    Parameters:
        file: open for reading, and seekable.
        name: what its file name says.
    """
    try:
        return _contents(name, read_metadata(file, name, thorough=False))
    except InvalidArchive:
        return Contents()
    except BROKEN:
        return Contents()


def inspect(file: BinaryIO, name: Name) -> Contents:
    """Look at an upload to its end.

    Parameters:
        file: open for reading, and seekable.
        name: what its file name says.

    Raises:
        InvalidArchive: it does not open, is cut short, is built to do harm, or lacks what installers need.
    """
    try:
        metadata = read_metadata(file, name, thorough=True)
    except InvalidArchive:
        raise
    except MemoryError:
        raise InvalidArchive(
            name.filename, "reading it takes more memory than the server has; build it with less in it"
        ) from None
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidArchive(
            name.filename, f"it cannot be opened as {_KINDS[name.form]} ({reason}); build it again"
        ) from error
    if metadata is None:
        if name.form == "egg":
            return Contents()
        raise InvalidArchive(
            name.filename,
            "it has no core metadata (METADATA or PKG-INFO) of the project and version in its name; build it again",
        )
    contents = _contents(name, metadata)
    if contents.name is None or contents.version is None:
        raise InvalidArchive(name.filename, "its core metadata lacks Name or Version; build it again")
    if contents.requires_python is not None:
        _check_requires_python(name, contents.requires_python)
    return contents


def check_agreement(name: Name, contents: Contents, form: Mapping[str, str]) -> None:
    """Compare what the file name, the core metadata and the upload's form say, after normalization.

    Parameters:
        form: the fields of the upload; what it leaves out is not compared.

    Raises:
        FieldMismatch: they do not agree.
    """
    for source, project, version in (
        ("its core metadata", contents.name, contents.version),
        ("the form", form.get("name"), form.get("version")),
    ):
        if project and (not is_project(project) or normalize(project) != name.project):
            raise FieldMismatch(
                name.filename,
                f"its file name says project {name.project!r}, but {source} says {project[:200]!r}; make them agree",
            )
        if version and not same_version(version, name.version):
            raise FieldMismatch(
                name.filename,
                f"its file name says version {name.version!r}, but {source} says {version[:200]!r}; make them agree",
            )


def header_fields(metadata: bytes) -> dict[str, list[str]]:
    """The header of core metadata as lists of values by lower-case field name; the description below it is left out."""
    fields: dict[str, list[str]] = {}
    values: list[str] | None = None
    for line in metadata[:MAX_METADATA_BYTES].decode("utf-8", "replace").split("\n"):
        text = line.rstrip("\r")
        if not text:
            break
        if text[0] in " \t":
            if values:
                values[-1] += "\n" + text.strip()
            continue
        field, colon, value = text.partition(":")
        if colon:
            values = fields.setdefault(field.strip().lower(), [])
            values.append(value.strip())
    return fields


def _contents(name: Name, metadata: bytes | None) -> Contents:
    if metadata is None:
        return Contents()
    fields = header_fields(metadata)

    def first(field: str) -> str | None:
        return next((value for value in fields.get(field, ()) if value), None)

    requires_python = first("requires-python")
    return Contents(
        name=first("name"),
        version=first("version"),
        requires_python=None if requires_python is None else " ".join(requires_python.split()),
        metadata=metadata,
        static=name.form == "wheel" or (name.form == "sdist" and _is_static(fields)),
    )


def _is_static(fields: Mapping[str, list[str]]) -> bool:
    """Whether an sdist's metadata is what its wheels will have (PEP 643)."""
    major, _, minor = next(iter(fields.get("metadata-version", ())), "").partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return False
    return (int(major), int(minor)) >= (2, 2) and "dynamic" not in fields


def _check_requires_python(name: Name, requires_python: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(requires_python)
    except InvalidSpecifier:
        raise InvalidArchive(
            name.filename,
            f"its Requires-Python {requires_python[:200]!r} is not a version specifier (PEP 440); "
            "write one such as '>=3.9'",
        ) from None
