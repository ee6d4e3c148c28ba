"""The corpus served by every contender: small wheels, generated deterministically."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

WHEEL_BYTES = 21_000
"""Size of a small wheel: the median of pure-Python projects, and the size of measured uploads."""

ROOT_PROJECT = "bench-root"
"""The project whose dependencies a cold install fetches."""

_MOMENT = (2024, 1, 1, 0, 0, 0)
_CHUNK = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel and its metadata on a page. *size* is in bytes; digests are SHA-256 in hex."""

    filename: str
    project: str
    version: str
    size: int
    sha256: str
    metadata: bytes

    @property
    def metadata_sha256(self) -> str:
        """Digest of the core metadata (PEP 658)."""
        return hashlib.sha256(self.metadata).hexdigest()


def build_wheel(
    project: str, version: str, *, requires: Sequence[str] = (), size: int = WHEEL_BYTES
) -> tuple[Wheel, bytes]:
    """Build a valid wheel (PEP 427) with one module. Equal arguments give equal bytes.

    Parameters:
        project: the normalized name.
        version: a normalized version.
        requires: its dependencies (PEP 508).
        size: in bytes, reached by padding; 0 for no padding.
    """
    metadata = _metadata(project, version, requires)
    content = _archive(project, version, metadata, 0)
    if size > len(content):
        content = _archive(project, version, metadata, size - len(content))
    return _describe(project, version, content, metadata), content


def write_large_wheel(folder: Path, project: str, version: str, *, size: int) -> Wheel:
    """Write an incompressible wheel of about *size* bytes, without holding it in memory."""
    metadata = _metadata(project, version, ())
    path = folder / _filename(project, version)
    chunk = os.urandom(min(size, _CHUNK))
    digest = hashlib.sha256()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        member = zipfile.ZipInfo(f"{_escaped(project)}/data.bin", _MOMENT)
        with archive.open(member, "w", force_zip64=True) as data:
            for start in range(0, size, len(chunk)):
                piece = chunk[: size - start]
                data.write(piece)
                digest.update(piece)
        _write_info(archive, project, version, metadata, [(member.filename, digest.digest(), size)])
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest()
    return Wheel(path.name, project, version, path.stat().st_size, whole, metadata)


@dataclass(frozen=True)
class Corpus:
    """A flat folder of wheels, as left by ``pip download``, and their metadata."""

    folder: Path
    wheels: tuple[Wheel, ...]

    @classmethod
    def write(
        cls, folder: Path, *, projects: int, versions: int, installed: int = 0, size: int = WHEEL_BYTES
    ) -> Corpus:
        """Write *projects* x *versions* wheels, and a root wheel that depends on the first *installed* projects.

        Parameters:
            folder: created if missing; must be empty.
            installed: number of projects that the root depends on; 0 for no root.
            size: of each wheel, in bytes; 0 for no padding.
        """
        folder.mkdir(parents=True, exist_ok=True)
        corpus = cls(folder, tuple(_write_all(folder, _releases(projects, versions), size)))
        if not installed:
            return corpus
        names = sorted(corpus.projects)[:installed]
        root, content = build_wheel(ROOT_PROJECT, "1.0", requires=names, size=size)
        (folder / root.filename).write_bytes(content)
        return cls(folder, (*corpus.wheels, root))

    @cached_property
    def projects(self) -> Mapping[str, tuple[Wheel, ...]]:
        """The wheels of each project, by its normalized name."""
        found: dict[str, list[Wheel]] = {}
        for wheel in self.wheels:
            found.setdefault(wheel.project, []).append(wheel)
        return {name: tuple(wheels) for name, wheels in found.items()}

    def link(self, folder: Path) -> None:
        """Hard-link these files into a server's own folder; no server may change a released file."""
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in self.wheels:
            os.link(self.folder / wheel.filename, folder / wheel.filename)


def _releases(projects: int, versions: int) -> Iterator[tuple[str, str]]:
    width = len(str(projects))
    for project in range(projects):
        for version in range(versions):
            yield f"bench-project-{project:0{width}}", f"1.{version}"


def _write_all(folder: Path, releases: Iterable[tuple[str, str]], size: int) -> Iterator[Wheel]:
    for project, version in releases:
        wheel, content = build_wheel(project, version, size=size)
        (folder / wheel.filename).write_bytes(content)
        yield wheel


def _escaped(name: str) -> str:
    """The name as escaped in a wheel's file name (PEP 427)."""
    return name.replace("-", "_")


def _filename(project: str, version: str) -> str:
    return f"{_escaped(project)}-{version}-py3-none-any.whl"


def _describe(project: str, version: str, content: bytes, metadata: bytes) -> Wheel:
    digest = hashlib.sha256(content).hexdigest()
    return Wheel(_filename(project, version), project, version, len(content), digest, metadata)


def _metadata(project: str, version: str, requires: Sequence[str]) -> bytes:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project}",
        f"Version: {version}",
        "Summary: A distribution of the benchmark",
        "Requires-Python: >=3.8",
        *(f"Requires-Dist: {requirement}" for requirement in requires),
    ]
    return "\n".join(lines).encode() + b"\n\nNothing to see here.\n"


def _archive(project: str, version: str, metadata: bytes, filling: int) -> bytes:
    """The wheel's bytes. Stored uncompressed, it grows by exactly *filling* bytes."""
    letters = random.Random(f"{project} {version}").randbytes(filling // 2 + 1).hex()[:filling]
    module = f'"""A module of the benchmark."""\n# {letters}\n'.encode()
    name = f"{_escaped(project)}/__init__.py"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(name, _MOMENT), module)
        # A fixed width keeps the growth exact.
        _write_info(archive, project, version, metadata, [(name, hashlib.sha256(module).digest(), len(module))])
    return buffer.getvalue()


def _write_info(
    archive: zipfile.ZipFile, project: str, version: str, metadata: bytes, members: Sequence[tuple[str, bytes, int]]
) -> None:
    info = f"{_escaped(project)}-{version}.dist-info"
    wheel = b"Wheel-Version: 1.0\nGenerator: pypi-runbook-benchmark\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    own = [(f"{info}/METADATA", metadata), (f"{info}/WHEEL", wheel)]
    listed = [*members, *((name, hashlib.sha256(content).digest(), len(content)) for name, content in own)]
    record = "".join(f"{name},sha256={_urlsafe(digest)},{size:08}\n" for name, digest, size in listed)
    for name, content in (*own, (f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode())):
        archive.writestr(zipfile.ZipInfo(name, _MOMENT), content)


def _urlsafe(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
