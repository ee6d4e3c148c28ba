"""File names of distributions: project, version and kind (PEP 427, PEP 503, PEP 625, PEP 440).

Whatever stock pypiserver lists counts as a distribution; pypiserver's own guess decides where no standard does. Heavy
modules are imported on first use: a server parses ten thousand names when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

Form = Literal["wheel", "sdist", "egg", "other"]

MAX_FILENAME_BYTES = 240
"""Longest accepted name: file systems allow 255, and a signature adds ``.asc``."""

MAX_VERSION_CHARACTERS = 255
"""Longer versions are invalid: no file name can hold one, and Python cannot parse numbers of more than 4,300 digits."""

_MAX_NAME_CHARACTERS = 255
"""Longest name of any file system."""

SDIST_SUFFIXES = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz")

_SEPARATORS = re.compile(r"[-_.]+")
_PROJECT = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE | re.ASCII)

# The characters that pypiserver accepts, without a leading dot, which would hide the file.
_SAFE = re.compile(r"[A-Z0-9_+!-][A-Z0-9_.+!-]*", re.IGNORECASE | re.ASCII)

# Unambiguous names, nearly all; the others are parsed in full. Each part ends with a dash, so it never backtracks.
_CLEAR_PROJECT = r"[A-Za-z0-9][A-Za-z0-9._]*+(?<![._])"
_CLEAR_TAG = "-[A-Za-z0-9._]++"
_CLEAR_WHEEL = (
    rf"-[0-9][A-Za-z0-9.+!_]*+(?:-[0-9][A-Za-z0-9_]*+)?{_CLEAR_TAG}{_CLEAR_TAG}{_CLEAR_TAG}(?<=[A-Za-z0-9._]\.whl)"
)
_CLEAR = re.compile(
    rf"(?P<wheel>{_CLEAR_PROJECT}){_CLEAR_WHEEL}"
    r"|(?P<sdist>[A-Za-z0-9](?:(?:[A-Za-z0-9._]|-(?![0-9]))*[A-Za-z0-9])?)-[0-9][A-Za-z0-9.+!_]*"
    r"\.(?:tar\.gz|zip|tgz|tar\.bz2|tar\.xz)"
)
_CLEAR_LINES = re.compile(rf"^(?:({_CLEAR_PROJECT}){_CLEAR_WHEEL}|.*)$", re.MULTILINE)
"""Each line of a text, with the project if it is an unambiguous wheel."""
_DIGIT_IN_NAME = re.compile(r"-[0-9]")


@dataclass(frozen=True, slots=True)
class Name:
    """The parsed file name of a distribution.

    Parameters:
        filename: unchanged.
        project: normalized name (PEP 503).
        version: in the form that ``packaging`` prints, or unchanged if it is not valid (PEP 440).
        form: kind of file; ``other`` if only pypiserver considers it a distribution.
        key: equal for all spellings of one project, version, build, set of tags and suffix.
    """

    filename: str
    project: str
    version: str
    form: Form
    key: str

    def matches(self, project: str, version: str) -> bool:
        """True if *project* and *version*, in any spelling, are those of this name (PEP 503, PEP 440)."""
        same = project == self.project or (is_project(project) and normalize(project) == self.project)
        return same and (version == self.version or same_version(version, self.version))


def normalize(name: str) -> str:
    """The normalized form of a project's name (PEP 503)."""
    flat = name.replace("_", "-").replace(".", "-").lower()
    return _SEPARATORS.sub("-", flat) if "--" in flat else flat  # a regex costs more than everything else


def is_project(name: str) -> bool:
    """True if *name* is a valid project name, normalized or not (PEP 508)."""
    return _PROJECT.fullmatch(name) is not None


def can_be_listed(name: str) -> bool:
    """True if a project of this name can be listed; pypiserver accepts more names than PEP 508."""
    return _SAFE.fullmatch(name) is not None


def is_safe(filename: str) -> bool:
    """True if a file may be given this name: no path, no leading dot, plain characters, not too long."""
    return len(filename) <= MAX_FILENAME_BYTES and _SAFE.fullmatch(filename) is not None


def project_of(filename: str) -> str | None:
    """The project in *filename*, as :func:`parse` finds it but much faster; None if it is not a distribution."""
    clear = _CLEAR.fullmatch(filename) if len(filename) <= _MAX_NAME_CHARACTERS else None
    if clear is not None:
        return normalize(clear["wheel"] or clear["sdist"])
    name = parse(filename)
    return None if name is None else name.project


def projects_of(filenames: Sequence[str]) -> list[str | None]:
    """The result of :func:`project_of` for each of many file names, in half the time."""
    found = _CLEAR_LINES.findall("\n".join(filenames))
    if len(found) != len(filenames):  # a name has a line break
        return [project_of(filename) for filename in filenames]
    names = normalize("\n".join(found)).split("\n")
    if all(names):
        return [*names]
    return [name or project_of(filename) for name, filename in zip(names, filenames, strict=True)]


def parse(filename: str) -> Name | None:
    """Parse a file name; None if neither a standard nor pypiserver considers it a distribution.

    Signatures (``.asc``) are not distributions.
    """
    return None if len(filename) > _MAX_NAME_CHARACTERS else _parse(filename)


@lru_cache(maxsize=1024)
def _parse(filename: str) -> Name | None:
    if filename.endswith(".asc") or _SAFE.fullmatch(filename) is None:
        return None
    return (_parse_wheel(filename) if filename.endswith(".whl") else _parse_sdist(filename)) or _guess(filename)


def canonical_version(version: str) -> str:
    """The canonical spelling of a version; *version* itself if it is not valid (PEP 440)."""
    return version if len(version) > MAX_VERSION_CHARACTERS else _canonical_version(version)


@lru_cache(maxsize=4096)
def _canonical_version(version: str) -> str:
    from packaging.utils import canonicalize_version  # not needed to list files

    return canonicalize_version(version)


def version_key(version: str) -> tuple[bool, Any]:
    """A key to sort versions by; invalid versions come first."""
    return (False, version) if len(version) > MAX_VERSION_CHARACTERS else _version_key(version)


@lru_cache(maxsize=4096)
def _version_key(version: str) -> tuple[bool, Any]:
    from packaging.version import InvalidVersion, Version  # not needed to list files

    try:
        return True, Version(version)
    except InvalidVersion:
        return False, version


def same_version(one: str, other: str) -> bool:
    """True if two versions are equal, however they are spelled (PEP 440)."""
    return canonical_version(one) == canonical_version(other)


def _parse_wheel(filename: str) -> Name | None:
    from packaging.utils import InvalidWheelFilename, canonicalize_version, parse_wheel_filename

    try:
        project, version, build, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    tags = "-".join(".".join(sorted(set(part.split(".")))) for part in filename[:-4].lower().split("-")[-3:])
    numbered = f"-{build[0]}{build[1].lower()}" if build else ""
    key = f"{_key(project)}-{canonicalize_version(version)}{numbered}-{tags}.whl"
    return Name(filename, project, str(version), "wheel", key)


def _parse_sdist(filename: str) -> Name | None:
    from packaging.utils import InvalidSdistFilename, canonicalize_version, parse_sdist_filename

    suffix = next((suffix for suffix in SDIST_SUFFIXES if filename.endswith(suffix)), None)
    stem = filename.removesuffix(suffix or "")
    if suffix is None or not is_project(stem.rpartition("-")[0]):
        return None
    try:
        project, version = parse_sdist_filename(f"{stem}.tar.gz")
    except InvalidSdistFilename:
        return None
    name = Name(filename, project, str(version), "sdist", f"{_key(project)}-{canonicalize_version(version)}{suffix}")
    if _DIGIT_IN_NAME.search(stem.rpartition("-")[0]):
        # name-1.0-1.tar.gz could be post release 1.0-1 of "name" or release 1 of "name-1.0"; PEP 440 knows the former.
        guess = _guess(filename)
        known, other = version_key(guess.version) if guess else (False, "")
        if guess and known:
            key = f"{_key(guess.project)}-{canonicalize_version(str(other))}{suffix}"
            return replace(name, project=guess.project, version=str(other), key=key)
    return name


def _guess(filename: str) -> Name | None:
    """Parse a name as stock pypiserver does: eggs, installers, and sdists from before the standards."""
    from pypiserver.pkg_helpers import guess_pkgname_and_version  # 250 ms, and rarely needed

    guess = guess_pkgname_and_version(filename)
    if guess is None or not guess[0]:
        return None
    name, version = guess
    form: Form = "egg" if filename.endswith(".egg") else "other"
    return Name(filename, normalize(name), version, form, filename)


def _key(project: str) -> str:
    return project.replace("-", "_")
