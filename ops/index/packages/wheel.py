"""Checks of the files in a wheel that installers read (binary distribution format, PEP 427)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from ops.index.errors import InvalidArchive
from ops.index.packages.archive import MAX_COMPONENT_BYTES
from ops.index.packages.core_metadata import quoted, read_header
from ops.index.packages.filenames import Name

MAX_BYTES = {"WHEEL": 256 * 1024, "RECORD": 64 * 1024**2, "entry_points.txt": 1024**2}
"""Maximum size of these files in bytes."""

_INFO = ".dist-info"
_SCHEMES = ("purelib", "platlib", "headers", "scripts", "data")
_SCRIPTS = ("console_scripts", "gui_scripts")
_WHEEL_VERSION = re.compile(r"(?P<major>[0-9]{1,9})(\.[0-9]{1,9})+", re.ASCII)
_SPELLED = re.compile(rb"^Wheel-Version:", re.MULTILINE)
"""As required by uv."""
_SIZE = re.compile(r"[0-9]{0,19}", re.ASCII)

_TAG = re.compile(r"[a-z0-9_.]+")
_MAX_BUILD_NUMBER = 2**64 - 1
"""uv stores build numbers in 64 bits."""

_RESERVED = re.compile(r"(?:pythonw?|python3(?:\.[0-9]+t?)?|pypy3?|graalpy)(?:\.exe)?", re.IGNORECASE | re.ASCII)
"""Names of interpreters, which uv does not overwrite with scripts."""

_SCRIPT = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*(\s*\[\s*[\w-]+(=\w+)?(,\s*\w+(=\w+)?)*\s*\])?")
"""Object references of scripts that both pip and uv accept. Linear: each repetition begins with its own character."""


def choose_members(name: Name, paths: Sequence[str]) -> dict[str, int | None]:
    """Choose the members of a wheel to read: METADATA comes first.

    Returns:
        The paths with their maximum sizes; None for the limit of core metadata.

    Raises:
        InvalidArchive: a member that installers need is missing, or there is one that they cannot place.
    """
    _check_filename(name)
    folder = _info_folder(name, paths)
    _check_presence(name, folder, paths)
    members: dict[str, int | None] = {f"{folder}/METADATA": None}
    members |= {f"{folder}/{file}": limit for file, limit in MAX_BYTES.items() if f"{folder}/{file}" in paths}
    return members | dict.fromkeys(filter(_is_egg_info, paths))


def check_members(name: Name, files: Mapping[str, bytes]) -> None:
    """Check the files that :func:`choose_members` chose, except METADATA.

    Raises:
        InvalidArchive: pip or uv would refuse the wheel because of one of them.
    """
    for path, content in files.items():
        file = path.rpartition("/")[2]
        if _is_egg_info(path):
            _check_egg_info(name, path, content)
        elif file == "WHEEL":
            _check_wheel(name, content)
        elif file == "RECORD":
            _check_record(name, content)
        elif file == "entry_points.txt":
            _check_entry_points(name, content)


def is_info_folder(name: Name, folder: str) -> bool:
    """True if pip considers a folder the metadata of the project and version in *name*."""
    project, _, version = folder.removesuffix(_INFO).partition("-")
    return name.matches(project, version)


def _check_filename(name: Name) -> None:
    """Refuse tags that never match in uv, and a build number that it cannot parse."""
    _, _, *build, python, abi, platform = name.filename.removesuffix(".whl").split("-")
    for tag in (python, abi, platform):
        if _TAG.fullmatch(tag) is None:
            raise InvalidArchive(
                name.filename,
                f"its tag {quoted(tag)} has characters other than lower-case letters, digits, '_' and '.'; rename it",
            )
    digits = build[0][: len(build[0]) - len(build[0].lstrip("0123456789"))] if build else "0"
    if int(digits) > _MAX_BUILD_NUMBER:
        raise InvalidArchive(name.filename, f"its build number {digits} is too large for uv; use a smaller one")


def _info_folder(name: Name, paths: Iterable[str]) -> str:
    """The folder of metadata, ``{distribution}-{version}.dist-info``.

    Dots, capitals and any spelling of the version are accepted. A dash in the name is not: pip unpacks such a
    wheel, but can neither read nor remove it afterwards.

    Raises:
        InvalidArchive: there is none, more than one, or one that belongs to another project or version.
    """
    folders = sorted({top for path in paths if (top := path.partition("/")[0]).endswith(_INFO)})
    ours = [folder for folder in folders if is_info_folder(name, folder)]
    if not folders:
        raise InvalidArchive(
            name.filename, "it has no core metadata (METADATA in a folder *.dist-info, PEP 427); build it again"
        )
    if not ours:
        expected = "-".join(name.filename.split("-")[:2]) + _INFO
        raise InvalidArchive(
            name.filename,
            f"its folder of metadata is {quoted(folders[0])}, where installers look for {quoted(expected)} (PEP 427); "
            "build it again with a current build tool",
        )
    if len(folders) > 1:
        second = next(folder for folder in folders if folder != ours[0])
        raise InvalidArchive(
            name.filename, f"it has a second folder of metadata, {quoted(second)}; pip would refuse it"
        )
    return ours[0]


def _check_presence(name: Name, folder: str, paths: Sequence[str]) -> None:
    """Refuse a wheel that lacks a file that installers need, or has data that they cannot place."""
    known = frozenset(paths)
    if f"{folder}/METADATA" not in known:
        raise InvalidArchive(name.filename, f"it has no core metadata ({folder}/METADATA, PEP 427); build it again")
    for needed in ("WHEEL", "RECORD"):
        if f"{folder}/{needed}" not in known:
            raise InvalidArchive(name.filename, f"it has no {needed} file (PEP 427); build it again")
    for path in paths:
        top, _, rest = path.partition("/")
        if top.endswith(".data") and rest and not path.endswith("/"):
            scheme, slash, _ = rest.partition("/")
            if not slash or scheme not in _SCHEMES:
                raise InvalidArchive(
                    name.filename,
                    f"its member {quoted(path)} is not in one of the folders {', '.join(_SCHEMES)} of {quoted(top)}, "
                    "so installers cannot place it; move it",
                )
        if top.endswith(".data") and rest.startswith("scripts/"):
            _check_script_file(name, path, rest.removeprefix("scripts/"))


def _check_script_file(name: Name, path: str, script: str) -> None:
    if "/" in script:
        raise InvalidArchive(name.filename, f"its script {quoted(path)} is in a folder, which uv refuses; move it")
    if _RESERVED.fullmatch(script) is not None:
        why = "has the name of an interpreter, which uv refuses; rename it"
        raise InvalidArchive(name.filename, f"its script {quoted(path)} {why}")


def _is_egg_info(path: str) -> bool:
    """True if pip would take a member, once unpacked, for the metadata of another project installed by setuptools."""
    return path.endswith((".egg-info", ".egg-info/PKG-INFO")) and path.count("/") == path.endswith("/PKG-INFO")


def _check_egg_info(name: Name, path: str, content: bytes) -> None:
    """Refuse setuptools metadata without name or version: pip fails in every environment that contains it."""
    header = read_header(content)
    if header.first("name") is None or header.first("version") is None:
        raise InvalidArchive(
            name.filename,
            f"its member {quoted(path)} lacks Name or Version, so pip fails once it is there; leave it out",
        )


def _check_wheel(name: Name, content: bytes) -> None:
    """Refuse a WHEEL file that pip or uv would refuse."""
    _text(name, "WHEEL", content)
    values = read_header(content).fields.get("wheel-version")
    if not values:
        raise InvalidArchive(name.filename, "its WHEEL file has no Wheel-Version in its first lines; build it again")
    found = _WHEEL_VERSION.fullmatch(values[0].strip())
    if found is None or int(found["major"]) > 1 or not _SPELLED.search(content):
        raise InvalidArchive(
            name.filename,
            f"the line {quoted(f'Wheel-Version: {values[0]}')} in its WHEEL file is not one that installers know; "
            "build it again with 'Wheel-Version: 1.0'",
        )


def _check_record(name: Name, content: bytes) -> None:
    """Refuse a RECORD file that pip or uv cannot parse. Neither compares it with the archive."""
    lines = csv.reader(io.StringIO(_text(name, "RECORD", content), newline=""))
    try:
        for row in lines:
            if len(row) != 3 or _SIZE.fullmatch(row[2]) is None:
                why = "is empty" if not row else f"is {quoted(','.join(row))}"
                raise InvalidArchive(
                    name.filename,
                    f"line {lines.line_num} of its RECORD {why}, not a path, a digest and a size with commas between; "
                    "build it again",
                )
    except csv.Error as error:
        raise InvalidArchive(
            name.filename, f"line {lines.line_num} of its RECORD cannot be parsed ({error}); build it again"
        ) from None


def _check_entry_points(name: Name, content: bytes) -> None:
    """Refuse an entry_points.txt that pip or uv cannot parse, or whose scripts they cannot create.

    The standard library's configparser takes quadratic time for some lines, so the file is parsed here.
    """
    group, key = "", ""
    indent = 0
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(_text(name, "entry_points.txt", content).splitlines(), 1):
        text = line.strip()
        if not text or text[0] == "#" or (text[0] == ";" and not group):
            continue
        deeper = len(line) - len(line.lstrip()) > indent
        continued = bool(key) and deeper
        if not continued:
            indent = len(line) - len(line.lstrip())
        why = ""
        if text[0] == "[" and not continued:
            group, key = text[1:-1], ""
            why = "" if text.endswith("]") else "it has no closing bracket"
        elif not group:
            why = "it is above the first group"
        elif "=" not in text:
            why = "it has no '='" if text[0] != ";" else "pip only knows comments that begin with '#'"
        elif continued:
            why = "it is indented more than the one above, which makes it a part of that" if group in _SCRIPTS else ""
        else:
            key, _, value = (part.strip() for part in text.partition("="))
            why = _script_problem(key, value) if group in _SCRIPTS else ""
        if not why and not continued:
            why = "it is there twice" if (group, key) in seen else ""
            seen.add((group, key))
        if why:
            raise InvalidArchive(
                name.filename,
                f"installers refuse line {number} of its entry_points.txt, {quoted(text)}: {why}; correct it",
            )


def _script_problem(key: str, value: str) -> str:
    if not key or key in {".", ".."} or "/" in key or "\\" in key or "\0" in key:
        return "a script cannot have this name"
    if _RESERVED.fullmatch(key) is not None:
        return "uv refuses scripts with the name of an interpreter"
    if len(key.encode()) > MAX_COMPONENT_BYTES:
        return "this name of a script is too long for a file"
    if _SCRIPT.fullmatch(value) is None:
        return "a script is written as 'name = package.module:function'"
    return ""


def _text(name: Name, file: str, content: bytes) -> str:
    if file == "entry_points.txt" and content.startswith(b"\xef\xbb\xbf"):
        raise InvalidArchive(name.filename, f"its {file} begins with a byte order mark; save it without")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InvalidArchive(
            name.filename, f"line {number} of its {file} is not UTF-8, so installers cannot read it; build it again"
        ) from None
