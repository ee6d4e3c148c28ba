"""Inspection of wheels, sdists and eggs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import BinaryIO

from ops.index.errors import FieldMismatch, InvalidArchive
from ops.index.packages import sdist, wheel
from ops.index.packages.archive import (
    BROKEN,
    Archive,
    Bounds,
    OutOfBoundsError,
    check_tree,
    is_tar,
    is_zip,
    read_tar,
    read_zip,
)
from ops.index.packages.core_metadata import (
    Contents,
    InvalidMetadataError,
    check_numbers,
    quoted,
    read_header,
    validate,
)
from ops.index.packages.filenames import Form, Name

AT_ONCE = Bounds(members=2_000, unpacked_bytes=16 * 1024**2, read_bytes=512 * 1024, examined_bytes=32 * 1024)
"""Work of some 50 ms at most; nearly all pure-Python uploads need far less."""


_EGG_METADATA = "EGG-INFO/PKG-INFO"

_KINDS: dict[Form, str] = {"wheel": "a wheel", "sdist": "an sdist", "egg": "an egg", "other": "a distribution"}


def preload() -> None:
    """Import what validation needs, once for all workers."""
    import packaging.metadata
    import packaging.requirements  # noqa: F401


def work(payload: bytes, descriptor: int) -> bytes:
    """Inspect an upload, in a worker.

    Parameters:
        payload: the fields of its :class:`Name`, as JSON.
        descriptor: of the file.

    Returns:
        One line of JSON, then its core metadata.
    """
    name = Name(**json.loads(payload))
    try:
        with open(descriptor, "rb", closefd=False) as file:
            contents = inspect(file, name)
    except InvalidArchive as error:
        return json.dumps({"refused": error.reason}).encode() + b"\n"
    fields = {field: getattr(contents, field) for field in ("name", "version", "requires_python", "static")}
    head = json.dumps({"contents": fields, "metadata": contents.metadata is not None})
    return head.encode() + b"\n" + (contents.metadata or b"")


def look_into(file: BinaryIO, name: Name) -> Contents:
    """Read as much as possible of a file already in the directory, however broken.

    Parameters:
        file: open for reading, and seekable.
        name: parsed from its file name.
    """
    try:
        metadata = _found(file, name)
    except InvalidArchive:
        return Contents()
    except BROKEN:
        return Contents()
    return Contents() if metadata is None else Contents.of(metadata, read_header(metadata), name.form)


def inspect(file: BinaryIO, name: Name, *, bounds: Bounds | None = None) -> Contents:
    """Inspect a whole upload.

    Parameters:
        file: open for reading, and seekable.
        name: parsed from its file name.
        bounds: on the work; None for the limits of any archive.

    Raises:
        InvalidArchive: it does not open, is cut short or harmful, or pip or uv could not install it.
        OutOfBoundsError: it takes more work than the bounds allow.
    """
    try:
        check_numbers(name.version)
    except ValueError as error:
        raise InvalidArchive(name.filename, f"its version cannot be installed: {error}; use a smaller one") from None
    try:
        if name.form == "wheel" or is_zip(name):
            return _inspect_zip(file, name, bounds)
        return _inspect_tar(file, name, bounds)
    except (InvalidArchive, OutOfBoundsError):
        raise
    except InvalidMetadataError as error:
        raise InvalidArchive(name.filename, str(error)) from None
    except MemoryError:
        raise InvalidArchive(
            name.filename, "reading it takes more memory than the server has; build it with less in it"
        ) from None
    except BROKEN as error:
        reason = quoted(" ".join(str(error).split()))[1:-1] or type(error).__name__
        raise InvalidArchive(
            name.filename, f"it cannot be opened as {_KINDS[name.form]} ({reason}); build it again"
        ) from error


def check_agreement(name: Name, source: str, project: str | None, version: str | None) -> None:
    """Check that a project and a version, in any spelling, match the file name; empty ones are skipped.

    Parameters:
        source: where they come from, for the error message.

    Raises:
        FieldMismatch: they disagree.
    """
    if name.matches(project or name.project, version or name.version):
        return
    field, ours, theirs = "version", name.version, version
    if project and not name.matches(project, name.version):
        field, ours, theirs = "project", name.project, project
    raise FieldMismatch(
        name.filename,
        f"its file name says {field} {ours!r}, but {source} says {quoted(theirs or '')}; make them agree",
    )


def _inspect_zip(file: BinaryIO, name: Name, bounds: Bounds | None) -> Contents:
    if name.form == "wheel":
        archive = read_zip(file, name, partial(wheel.choose_members, name), bounds=bounds)
        path, metadata = next(iter(archive.files.items()))
        contents = _validated(name, metadata, path, bounds)
        wheel.check_members(name, archive.files)
        return contents
    if name.form == "egg":
        for metadata in read_zip(file, name, _egg_metadata, bounds=bounds).files.values():
            return _with_name(Contents.of(metadata, read_header(metadata), name.form), name)
        return Contents()
    return _inspect_sdist(read_zip(file, name, _sdist_members, bounds=bounds), name, bounds)


def _inspect_tar(file: BinaryIO, name: Name, bounds: Bounds | None) -> Contents:
    def wanted(path: str) -> bool:
        return sdist.is_root_file(path) or sdist.is_root_file(path, sdist.PYPROJECT)

    return _inspect_sdist(read_tar(file, name, wanted, bounds=bounds), name, bounds)


def _inspect_sdist(archive: Archive, name: Name, bounds: Bounds | None) -> Contents:
    path = sdist.choose_metadata(name, [path for path in archive.files if sdist.is_root_file(path)])
    if path is None:
        raise InvalidArchive(
            name.filename, "it has no core metadata (PKG-INFO) of the project and version in its name; build it again"
        )
    check_tree(name, archive.paths)
    sdist.check_root(name, archive.paths)
    contents = _validated(name, archive.files[path], path, bounds)
    root = path.rpartition("/")[0]
    sdist.check_buildable(name, root, archive.paths)
    pyproject = archive.files.get(f"{root}/{sdist.PYPROJECT}")
    if pyproject is not None and len(pyproject) <= sdist.MAX_PYPROJECT_BYTES:
        if bounds is not None:
            bounds.check(bounds.examined_bytes, len(pyproject))
        sdist.check_pyproject(name, pyproject)
    return contents


def _egg_metadata(paths: Sequence[str]) -> dict[str, int | None]:
    return {_EGG_METADATA: None} if _EGG_METADATA in paths else {}


def _sdist_members(paths: Sequence[str]) -> dict[str, int | None]:
    pyprojects = [path for path in paths if sdist.is_root_file(path, sdist.PYPROJECT)]
    return dict.fromkeys(filter(sdist.is_root_file, paths)) | dict.fromkeys(pyprojects[:1], sdist.MAX_PYPROJECT_BYTES)


def _validated(name: Name, metadata: bytes, path: str, bounds: Bounds | None) -> Contents:
    header = read_header(metadata)
    if bounds is not None:
        bounds.check(bounds.examined_bytes, header.examined_bytes)
    validate(metadata, header, member=quoted(path), built=name.form == "wheel")
    return _with_name(Contents.of(metadata, header, name.form), name)


def _with_name(contents: Contents, name: Name) -> Contents:
    if contents.name is None or contents.version is None:
        raise InvalidArchive(name.filename, "its core metadata lacks Name or Version; build it again")
    return contents


def _found(file: BinaryIO, name: Name) -> bytes | None:
    """The unchecked core metadata in an archive; None if it has none."""
    if is_zip(name):
        return next(iter(read_zip(file, name, partial(_choose_metadata, name), check=False).files.values()), None)
    if is_tar(name):
        tar = read_tar(
            file, name, sdist.is_root_file, last=lambda path: sdist.is_root_folder(name, path.split("/")[-2])
        )
        chosen = sdist.choose_metadata(name, list(tar.files))
        return None if chosen is None else tar.files[chosen]
    return None


def _choose_metadata(name: Name, paths: Sequence[str]) -> dict[str, int | None]:
    if name.form == "egg":
        return _egg_metadata(paths)
    if not name.filename.endswith(".whl"):
        chosen = sdist.choose_metadata(name, list(filter(sdist.is_root_file, paths)))
        return {} if chosen is None else {chosen: None}
    suffix = ".dist-info/METADATA"
    folders = {path: path.removesuffix(suffix) for path in paths if path.count("/") == 1 and path.endswith(suffix)}
    found = [
        path
        for path, folder in folders.items()
        if wheel.is_info_folder(name, folder) or sdist.is_root_folder(name, folder)
    ]
    return dict.fromkeys(found) if len(found) == 1 else {}
