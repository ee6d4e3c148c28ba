"""Core metadata (METADATA, PKG-INFO): parsing of its header as by installers, and validation.

The standard library's email parser takes quadratic time for folded lines and nested MIME, so the header is split here.
``packaging`` validates the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from ops.index.packages.filenames import Form

MAX_METADATA_BYTES = 8 * 1024**2
MAX_HEADER_BYTES = 2 * 1024**2
"""Longest header, without its description."""
MAX_FIELDS = 10_000
MAX_EXAMINED_BYTES = 512 * 1024
"""Limit of ``Header.examined_bytes``."""
MAX_VALUE_CHARACTERS = 64 * 1024
"""Longest value that is parsed."""
MAX_REQUIRES_PYTHON_CHARACTERS = 1024
"""Longest Requires-Python: project pages repeat it for each file."""
MAX_NUMBER_DIGITS = 255
"""Most digits of a number: Python, and with it pip, fails on more than 4,300."""

_NUMBER = re.compile(r"\+[A-Za-z0-9._-]*|([0-9]{20,})", re.ASCII)
"""A number that may be too large, or a local version."""
_MAX_NUMBER = 2**64 - 2

_FIELD = re.compile(rb"(?P<name>[!-9;-~]++):(?P<value>[^\r\n]*+(?:\r\n|\r|\n|\Z)(?:[ \t][^\r\n]*+(?:\r\n|\r|\n|\Z))*+)")
"""A field with its continuation lines, as in email.parser. Linear: possessive quantifiers never backtrack."""

_FIELD_COST = 32
"""Bytes counted for each field in addition to its value."""

_METADATA_VERSION = re.compile(r"(?P<major>[0-9]{1,4})\.(?P<minor>[0-9]{1,4})", re.ASCII)
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_NUMBER_DIGITS + 1}}}", re.ASCII)

_REQUIRED = ("metadata-version", "name", "version")

_SINGLE = frozenset(
    {
        *_REQUIRED,
        *("summary", "description", "description-content-type", "keywords", "home-page", "download-url"),
        *("author", "author-email", "maintainer", "maintainer-email", "license", "license-expression"),
        "requires-python",
    }
)
"""Fields that may occur once."""

_SINGLE_FOR_INSTALLERS = frozenset((*_REQUIRED, "requires-python"))

_EXAMINED = {
    "name": "name",
    "version": "version",
    "requires-python": "requires_python",
    "requires-dist": "requires_dist",
    "dynamic": "dynamic",
}
"""Fields that installers rely on, and their names in ``packaging``."""

_EXAMINED_SINCE_2_1 = {"provides-extra": "provides_extra"}
_EXAMINED_SINCE_2_4 = {
    "summary": "summary",
    "description-content-type": "description_content_type",
    "license-expression": "license_expression",
    "license-file": "license_files",
    "import-name": "import_names",
    "import-namespace": "import_namespaces",
}
"""Fields that installers ignore but the public index has checked since about this metadata version. In older metadata
they are accepted, as by installers.
"""

_EXAMINED_AT_ALL = _EXAMINED.keys() | _EXAMINED_SINCE_2_1.keys() | _EXAMINED_SINCE_2_4.keys()

_LISTS = frozenset({"requires_dist", "dynamic", "provides_extra", "license_files", "import_names", "import_namespaces"})
"""Fields that ``packaging`` takes as lists."""

_LIMITS = {"requires-python": MAX_REQUIRES_PYTHON_CHARACTERS, "description-content-type": 1024}

_ADVICE = {
    "requires-python": "write a version specifier (PEP 440) such as '>=3.9'",
    "requires-dist": "write a requirement (PEP 508) such as 'example>=1.0'",
    "provides-extra": "use letters, digits, '.', '-' and '_'",
    "license-expression": "write an SPDX expression such as 'MIT'",
    "description-content-type": "write text/plain, text/x-rst or text/markdown",
    "dynamic": "name a field of core metadata, but not Name, Version or Metadata-Version",
}


class InvalidMetadataError(ValueError):
    """Core metadata that installers cannot read, or that contradicts itself."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of core metadata.

    Parameters:
        fields: values by lower-case field name; folded values keep their line ends.
        examined_bytes: length of the fields that validation parses, a measure of its work.
        excess: the limit at which reading stopped; None if it was read to its end.
    """

    fields: Mapping[str, list[str]]
    examined_bytes: int = 0
    excess: str | None = None

    def first(self, field: str) -> str | None:
        """The first value of a field that is not blank, stripped; None if there is none."""
        return next((value.strip() for value in self.fields.get(field, ()) if value.strip()), None)

    @property
    def version(self) -> tuple[int, int]:
        """The metadata version; (0, 0) if it is not valid."""
        found = _METADATA_VERSION.fullmatch(self.first("metadata-version") or "")
        return (int(found["major"]), int(found["minor"])) if found else (0, 0)


@dataclass(frozen=True, slots=True)
class Contents:
    """The core metadata of a distribution.

    Parameters:
        name: as spelled by its author; None without readable metadata.
        version: likewise.
        requires_python: the field ``Requires-Python``.
        metadata: the whole metadata file, byte for byte; None without readable metadata.
        static: whether installers may rely on it, so that it is served next to the file (PEP 658): always for wheels,
            and for sdists if no field may change when they are built (PEP 643).
    """

    name: str | None = None
    version: str | None = None
    requires_python: str | None = None
    metadata: bytes | None = None
    static: bool = False

    @classmethod
    def of(cls, metadata: bytes, header: Header, form: Form) -> Contents:
        """Read what installers need from the header of core metadata."""
        static = header.version >= (2, 2) and "dynamic" not in header.fields  # PEP 643
        return cls(
            name=header.first("name"),
            version=header.first("version"),
            requires_python=requires_python(header),
            metadata=metadata,
            static=form == "wheel" or (form == "sdist" and static),
        )


def read_header(metadata: bytes) -> Header:
    """Split a header into fields as email.parser does, up to the limits or the first line that is not a field."""
    fields: dict[str, list[str]] = {}
    counted = examined = size = 0
    excess = None
    position = metadata.find(b"\n") + 1 if metadata.startswith(b"From ") else 0
    while field := _FIELD.match(metadata, position):
        position = field.end()
        name, value = field["name"].decode("ascii").lower(), field["value"]
        counted += 1
        if name != "description":
            size += len(value)
        if counted > MAX_FIELDS:
            excess = f"it has more than {MAX_FIELDS} fields"
            break
        if size > MAX_HEADER_BYTES:
            excess = f"its fields take more than {MAX_HEADER_BYTES // 1024**2} MiB"
            break
        if name in _EXAMINED_AT_ALL:
            examined += len(value) + _FIELD_COST
        fields.setdefault(name, []).append(value.decode("utf-8", "replace").lstrip(" \t").rstrip("\r\n"))
    return Header(fields, examined, excess)


def requires_python(header: Header) -> str | None:
    """Requires-Python on one line, for a project page; None if it is missing, or too long for installers."""
    value = header.first("requires-python")
    if value is None or len(value) > MAX_REQUIRES_PYTHON_CHARACTERS or _LONG_NUMBER.search(value):
        return None
    return " ".join(value.split())


def validate(metadata: bytes, header: Header, *, member: str, built: bool) -> None:
    """Refuse core metadata that installers or the public index would refuse.

    As with installers, fields are accepted under metadata versions that predate them, and unknown fields and unknown
    minor versions are accepted too.

    Parameters:
        metadata: the whole file.
        header: parsed from it.
        member: its path in the archive, for error messages.
        built: whether it belongs to a wheel. Building an sdist replaces metadata older than version 2.2.

    Raises:
        InvalidMetadataError: with the line that is wrong.
    """
    if header.excess:
        raise InvalidMetadataError(f"{member} is too long: {header.excess}; shorten it")
    strict = built or header.version >= (2, 2)
    if strict:
        _check_encoding(metadata, member)
    _check_required(header, member)
    for field, values in header.fields.items():
        once = field in _SINGLE if strict else field in _SINGLE_FOR_INSTALLERS
        if once and len(values) > 1:
            lines = " and ".join(quoted(line_of(field, value)) for value in values[:2])
            raise InvalidMetadataError(f"{member} has {_titled(field)} {len(values)} times: {lines}; keep one of them")
    if header.examined_bytes > MAX_EXAMINED_BYTES:
        raise InvalidMetadataError(
            f"the requirements and other fields in {member} that installers parse take more than "
            f"{MAX_EXAMINED_BYTES // 1024} KiB; shorten them"
        )
    examined = dict(_EXAMINED)
    if header.version >= (2, 1):
        examined |= _EXAMINED_SINCE_2_1
    if header.version >= (2, 4):
        examined |= _EXAMINED_SINCE_2_4
    _examine({key: header.fields[key] for key in examined if key in header.fields}, examined, member)


def line_of(field: str, value: str) -> str:
    """A field as a line of the header."""
    return f"{_titled(field)}: {value}"


def quoted(text: str, length: int = 200) -> str:
    """Untrusted text for an error message: quoted, on one line, in ASCII, shortened."""
    return ascii(text if len(text) <= length else text[:length] + "...")


def _check_encoding(metadata: bytes, member: str) -> None:
    if metadata.startswith(b"\xef\xbb\xbf"):
        raise InvalidMetadataError(
            f"{member} begins with a byte order mark, which hides its first field; save it without"
        )
    try:
        metadata.decode("utf-8")
    except UnicodeDecodeError as error:
        start = metadata.rfind(b"\n", 0, error.start) + 1
        line = metadata[max(start, error.start - 100) : error.start + 20].split(b"\n")[0].decode("latin-1")
        number = metadata.count(b"\n", 0, start) + 1
        raise InvalidMetadataError(
            f"line {number} of {member} is not UTF-8, so pip cannot read it: {quoted(line)}; save it as UTF-8"
        ) from None


def _check_required(header: Header, member: str) -> None:
    missing = [field for field in _REQUIRED if header.first(field) is None]
    if "name" in missing or "version" in missing:
        raise InvalidMetadataError(
            "its core metadata lacks Name or Version, or has them below a line that is not a field; build it again"
        )
    if missing:
        raise InvalidMetadataError(f"{member} lacks Metadata-Version; build it again with a current build tool")
    if header.version == (0, 0) or header.version[0] > 2:
        line = quoted(line_of("metadata-version", header.fields["metadata-version"][0]))
        raise InvalidMetadataError(f"{line} in {member} is unknown to installers; build it with 2.4 or lower")


def _examine(fields: Mapping[str, list[str]], names: Mapping[str, str], member: str) -> None:
    for field, values in fields.items():
        limit = _LIMITS.get(field, MAX_VALUE_CHARACTERS)
        for value in values:
            short = len(value) <= MAX_NUMBER_DIGITS
            if not short and (len(value) > limit or _LONG_NUMBER.search(value)):
                why = f"has more than {limit} characters" if len(value) > limit else "has a number of too many digits"
                raise InvalidMetadataError(f"{quoted(line_of(field, value))} in {member} {why}; shorten it")
            problem = _known_problem(names[field], value) if short else _problem(names[field], value)
            if problem is not None:
                advice = _ADVICE.get(field, "correct it")
                raise InvalidMetadataError(
                    f"the line {quoted(line_of(field, value))} in {member} is not valid ({problem}); {advice}"
                )


def _problem(name: str, value: str) -> str | None:
    """The objection of ``packaging`` to a value, or None."""
    from packaging.metadata import InvalidMetadata, Metadata, RawMetadata  # not needed to list files

    raw: str | list[str] = value
    if name in _LISTS:
        raw = [] if not value and name == "import_names" else [value]
    # Validating all fields together would refuse those newer than the metadata version.
    metadata = Metadata.from_raw(cast("RawMetadata", {name: raw}), validate=False)
    try:
        _evaluate(getattr(metadata, name), name)
    except InvalidMetadata as error:
        cause: Any = error.__cause__ or error
        return _brief(str(cause).splitlines())
    except RecursionError:
        return "it is nested too deeply"
    except (ValueError, LookupError, AttributeError) as error:  # from markers, and from the standard library
        return _brief([str(error) or type(error).__name__])
    return None


def _evaluate(parsed: Any, name: str) -> None:
    """Check that installers can use a requirement or Requires-Python.

    Raises:
        ValueError: pip cannot evaluate its marker, or uv cannot hold a number in it.
    """
    if name == "requires_python":
        check_numbers(str(parsed))
    for requirement in parsed if name == "requires_dist" else ():
        if requirement.marker is not None:
            requirement.marker.evaluate({"extra": ""})
        for specifier in requirement.specifier:
            check_numbers(specifier.version)


def check_numbers(version: str) -> None:
    """Refuse a number that does not fit uv's 64 bits. Local versions are text to uv.

    Parameters:
        version: one or several, as in specifiers.

    Raises:
        ValueError: it has such a number.
    """
    for number in _NUMBER.findall(version):
        if number and int(number) > _MAX_NUMBER:
            raise ValueError(f"the number {number} is too large for uv")


_known_problem = lru_cache(maxsize=4096)(_problem)
"""Cached for short values, which a project's releases repeat."""


def _brief(lines: Iterable[str]) -> str:
    text = next((line.strip() for line in lines if line.strip()), "it cannot be parsed")
    return ascii(text[:160])[1:-1]


def _titled(field: str) -> str:
    return "-".join(part.capitalize() for part in field.split("-")).replace("Url", "URL")
