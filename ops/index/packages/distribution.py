"""Inspection of wheels, sdists and eggs, and comparison with the form they are uploaded with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ops.index.errors import FieldMismatch, InvalidArchive
from ops.index.packages import sdist, wheel
from ops.index.packages.archive import (
    BROKEN,
    Bounds,
    OutOfBoundsError,
    Zip,
    check_tree,
    is_tar,
    is_zip,
    open_zip,
    read_tar,
)
from ops.index.packages.core_metadata import (
    Header,
    InvalidMetadataError,
    quoted,
    read_header,
    requires_python,
    validate,
)
from ops.index.packages.filenames import Form, Name, is_project, normalize, same_version

_EGG_METADATA = "EGG-INFO/PKG-INFO"

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
        metadata = _found(file, name)
    except InvalidArchive:
        return Contents()
    except BROKEN:
        return Contents()
    return Contents() if metadata is None else _contents(name, metadata, read_header(metadata))


def inspect(file: BinaryIO, name: Name, *, bounds: Bounds | None = None) -> Contents:
    """Look at an upload to its end.

    Parameters:
        file: open for reading, and seekable.
        name: what its file name says.
        bounds: of the work; None for those of any archive.

    Raises:
        InvalidArchive: it does not open, is cut short, is built to do harm, or pip or uv could not install it.
        OutOfBoundsError: it is more work than the bounds allow.
    """
    try:
        if is_zip(name):
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
                f"its file name says project {name.project!r}, but {source} says {quoted(project)}; make them agree",
            )
        if version and not same_version(version, name.version):
            raise FieldMismatch(
                name.filename,
                f"its file name says version {name.version!r}, but {source} says {quoted(version)}; make them agree",
            )


def _inspect_zip(file: BinaryIO, name: Name, bounds: Bounds | None) -> Contents:
    with open_zip(file, name, strict=name.form != "egg", bounds=bounds) as archive:
        archive.check()
        if name.form == "wheel":
            return _inspect_wheel(archive, name, bounds)
        if name.form == "egg":
            archive.test()
            if _EGG_METADATA not in archive.paths:
                return Contents()
            metadata = archive.read(_EGG_METADATA)
            return _with_name(_contents(name, metadata, read_header(metadata)), name)
        archive.test()
        files = {path: archive.read(path) for path in archive.paths if sdist.is_root_file(path)}
        pyprojects = [path for path in archive.paths if sdist.is_root_file(path, sdist.PYPROJECT)]
        files |= {path: archive.read(path, limit=sdist.MAX_PYPROJECT_BYTES) for path in pyprojects[:1]}
        return _inspect_sdist(files, archive.paths, name, bounds)


def _inspect_wheel(archive: Zip, name: Name, bounds: Bounds | None) -> Contents:
    folder = wheel.info_folder(name, archive.paths)
    wheel.check_presence(name, folder, archive.paths)
    read = [f"{folder}/{file}" for file in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")]
    archive.test(but=read)
    contents = _validated(name, archive.read(read[0]), read[0], bounds)
    wheel.check_wheel(name, archive.read(read[1], limit=wheel.MAX_WHEEL_BYTES))
    wheel.check_record(name, archive.read(read[2], limit=wheel.MAX_RECORD_BYTES))
    for path in filter(wheel.is_egg_info, archive.paths):
        wheel.check_egg_info(name, path, archive.read(path))
    if read[3] in archive.paths:
        wheel.check_entry_points(name, archive.read(read[3], limit=wheel.MAX_ENTRY_POINTS_BYTES))
    return contents


def _inspect_tar(file: BinaryIO, name: Name, bounds: Bounds | None) -> Contents:
    def wanted(path: str) -> bool:
        return sdist.is_root_file(path) or sdist.is_root_file(path, sdist.PYPROJECT)

    tar = read_tar(file, name, wanted, bounds=bounds)
    return _inspect_sdist(tar.files, tar.paths, name, bounds)


def _inspect_sdist(files: Mapping[str, bytes], paths: Sequence[str], name: Name, bounds: Bounds | None) -> Contents:
    path = sdist.pick_metadata(name, [path for path in files if sdist.is_root_file(path)])
    if path is None:
        raise InvalidArchive(
            name.filename, "it has no core metadata (PKG-INFO) of the project and version in its name; build it again"
        )
    check_tree(name, paths)
    sdist.check_root(name, paths)
    contents = _validated(name, files[path], path, bounds)
    pyproject = files.get(f"{path.rpartition('/')[0]}/{sdist.PYPROJECT}")
    if pyproject is not None and len(pyproject) <= sdist.MAX_PYPROJECT_BYTES:
        if bounds is not None:
            bounds.admit(bounds.examined_bytes, len(pyproject))
        sdist.check_pyproject(name, pyproject)
    return contents


def _validated(name: Name, metadata: bytes, path: str, bounds: Bounds | None) -> Contents:
    header = read_header(metadata)
    if bounds is not None:
        bounds.admit(bounds.examined_bytes, header.examined_bytes)
    validate(metadata, header, member=quoted(path), built=name.form == "wheel")
    return _with_name(_contents(name, metadata, header), name)


def _with_name(contents: Contents, name: Name) -> Contents:
    if contents.name is None or contents.version is None:
        raise InvalidArchive(name.filename, "its core metadata lacks Name or Version; build it again")
    return contents


def _found(file: BinaryIO, name: Name) -> bytes | None:
    """The core metadata in an archive that nobody looks at closely; None if it has none."""
    if is_tar(name):
        tar = read_tar(file, name, sdist.is_root_file, last=lambda path: sdist.is_of(name, path.split("/")[-2]))
        picked = sdist.pick_metadata(name, list(tar.files))
        return None if picked is None else tar.files[picked]
    if not is_zip(name):
        return None
    with open_zip(file, name, strict=False) as archive:
        if name.form == "egg":
            path = _EGG_METADATA if _EGG_METADATA in archive.paths else None
        elif name.filename.endswith(".whl"):
            found = [path for path in archive.paths if path.count("/") == 1 and path.endswith(".dist-info/METADATA")]
            folders = {path: path.removesuffix(".dist-info/METADATA") for path in found}
            found = [path for path in found if wheel.is_of(name, folders[path]) or sdist.is_of(name, folders[path])]
            path = found[0] if len(found) == 1 else None
        else:
            path = sdist.pick_metadata(name, [path for path in archive.paths if sdist.is_root_file(path)])
        return None if path is None else archive.read(path)


def _contents(name: Name, metadata: bytes, header: Header) -> Contents:
    return Contents(
        name=header.first("name"),
        version=header.first("version"),
        requires_python=requires_python(header),
        metadata=metadata,
        static=name.form == "wheel" or (name.form == "sdist" and _is_static(header)),
    )


def _is_static(header: Header) -> bool:
    """Whether an sdist's metadata is what its wheels will have (PEP 643)."""
    return header.version >= (2, 2) and "dynamic" not in header.fields
