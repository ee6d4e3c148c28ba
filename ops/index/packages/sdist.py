"""Checks of the files in an sdist that installers read (PEP 517, PEP 518, PEP 625)."""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from ops.index.errors import InvalidArchive
from ops.index.packages.core_metadata import quoted
from ops.index.packages.filenames import Name

MAX_PYPROJECT_BYTES = 256 * 1024

_BACKEND = re.compile(r"\s*[^\W\d]\w*(\.\w+)*\s*(:\s*\w+(\.\w+)*\s*)?")
"""A module, optionally with an object in it. Linear: each repetition begins with its own character."""

PYPROJECT = "pyproject.toml"
SETUP = "setup.py"
METADATA = "PKG-INFO"


def is_root_file(path: str, file: str = METADATA) -> bool:
    """True if a member is this file in a folder at the root of the archive."""
    return path.endswith(f"/{file}") and path.removeprefix("./").count("/") == 1


def choose_metadata(name: Name, candidates: Sequence[str]) -> str | None:
    """Choose the PKG-INFO in the folder ``name-version``, or the only one; None if that is ambiguous."""
    named = [path for path in candidates if is_root_folder(name, path.removeprefix("./").removesuffix(f"/{METADATA}"))]
    found = named or candidates
    return found[0] if len(found) == 1 else None


def is_root_folder(name: Name, folder: str) -> bool:
    """True if a folder is ``name-version``, in any spelling."""
    project, _, version = folder.rpartition("-")
    return name.matches(project, version)


def check_root(name: Name, paths: Iterable[str]) -> None:
    """Refuse anything but a single root folder, which is where pip looks for the project.

    Raises:
        InvalidArchive: the root has more, or less.
    """
    first = None
    for path in paths:
        root, slash, _ = path.partition("/")
        if root == ".":
            why = f"its member {quoted(path)} begins with a dot"
        elif not slash:
            why = f"its member {quoted(path)} is in no folder"
        elif first is not None and root != first:
            why = f"it has two folders at its root, {quoted(first)} and {quoted(root)}"
        else:
            first = root
            continue
        raise InvalidArchive(
            name.filename,
            f"{why}, so pip does not find the project in it; build it again, with everything in one folder "
            "'name-version' (PEP 625)",
        )


def check_buildable(name: Name, folder: str, paths: Sequence[str]) -> None:
    """Refuse an sdist without any instructions for building it: pip and uv do.

    Raises:
        InvalidArchive: it has neither pyproject.toml nor setup.py.
    """
    if f"{folder}/{PYPROJECT}" not in paths and f"{folder}/{SETUP}" not in paths:
        raise InvalidArchive(
            name.filename,
            f"it has neither {PYPROJECT} nor {SETUP}, so pip and uv cannot build it; build it again, for example by "
            "`python -m build`",
        )


def check_pyproject(name: Name, content: bytes) -> None:
    """Refuse a pyproject.toml that pip and uv cannot build from.

    Raises:
        InvalidArchive: it is not TOML, or its build-system table is invalid.
    """
    try:
        settings = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InvalidArchive(
            name.filename, f"its {PYPROJECT} is not TOML that installers can read ({quoted(why)[1:-1]}); correct it"
        ) from None
    build_system: Any = settings.get("build-system")
    if build_system is None:
        return
    requires = build_system.get("requires") if isinstance(build_system, dict) else None
    if not isinstance(requires, list) or not all(isinstance(entry, str) for entry in requires):
        raise InvalidArchive(
            name.filename,
            f"the table [build-system] in its {PYPROJECT} has no list of strings 'requires' (PEP 518), so it cannot be "
            "built; name its build backend there",
        )
    backend = build_system.get("build-backend", "setuptools")
    if not isinstance(backend, str) or _BACKEND.fullmatch(backend) is None:
        raise InvalidArchive(
            name.filename,
            f"build-system.build-backend in its {PYPROJECT} is not the name of a module (PEP 517); write one such as "
            "'hatchling.build'",
        )
    folders = build_system.get("backend-path", [])
    if not isinstance(folders, list) or not all(isinstance(folder, str) and _is_inside(folder) for folder in folders):
        raise InvalidArchive(
            name.filename,
            f"build-system.backend-path in its {PYPROJECT} is not a list of folders of the project (PEP 517); "
            "correct it",
        )
    for entry in requires[:1000]:
        if (problem := _requirement_problem(entry)) is not None:
            raise InvalidArchive(
                name.filename,
                f"{quoted(entry)} in build-system.requires of its {PYPROJECT} is no requirement (PEP 508): {problem}; "
                "write one such as 'hatchling>=1.27'",
            )


def _is_inside(folder: str) -> bool:
    path = posixpath.normpath(folder)
    return not path.startswith("/") and path.split("/")[0] != ".."


def _requirement_problem(text: str) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement  # not needed to list files

    try:
        Requirement(text)
    except (InvalidRequirement, RecursionError, ValueError) as error:
        return quoted((str(error).splitlines() or ["nested too deeply"])[0])[1:-1]
    return None
