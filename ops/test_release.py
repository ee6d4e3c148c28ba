"""Test release: a project with one version, and a wheel that an index must refuse."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ops.clients.client import client_environment, run_client
from ops.errors import PreflightError
from ops.workspace import PROJECT_ROOT

PROBE = "runbook-login-check"
"""A project that no index has: its page is 404 for users of the index, and 401 for others."""

PUBLISHED = "runbook-publishing-check"
"""A project with one release of always the same bytes, which an index accepts repeatedly."""


def write_refused_wheel(folder: Path, project: str = PROBE) -> Path:
    """Write a wheel that twine and uv send but every index refuses, because its name contradicts its metadata.

    The response is 400 for a user who may upload, 403 for one who may not, 409 if the project's name is reserved for
    others, and 401 for others. Nothing is stored.
    """
    return _write_wheel(folder, project, "0", metadata_name="another-name")


def write_published_wheel(folder: Path) -> Path:
    """Write a wheel of always the same bytes, so that it can be published daily but leaves only one file."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write_wheel(folder, PUBLISHED, "1", metadata_name=PUBLISHED)


def _write_wheel(folder: Path, project: str, version: str, *, metadata_name: str) -> Path:
    stem = f"{project.replace('-', '_')}-{version}"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {metadata_name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: pypi-runbook\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["RECORD"] = "".join(f"{stem}.dist-info/{name},,\n" for name in (*files, "RECORD"))
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{name}"), text)
    return path


PROJECT = "pypi-runbook"

_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ops")


@dataclass(frozen=True)
class TrialRelease:
    """A wheel and an sdist of one version.

    Parameters:
        version: a developmental release (PEP 440), which installers ignore unless it is requested.
        wheel: the built wheel.
        sdist: the built sdist.
    """

    version: str
    wheel: Path
    sdist: Path

    @property
    def requirement(self) -> str:
        """Requirement for a client to install."""
        return f"{PROJECT}=={self.version}"

    def altered(self, folder: Path) -> TrialRelease:
        """The same release with different but valid files under the same names."""
        folder.mkdir(parents=True, exist_ok=True)
        wheel, sdist = folder / self.wheel.name, folder / self.sdist.name
        shutil.copyfile(self.wheel, wheel)
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.comment = b"other bytes"
        sdist.write_bytes(gzip.compress(gzip.decompress(self.sdist.read_bytes()), compresslevel=1, mtime=1))
        return TrialRelease(self.version, wheel, sdist)


def build(version: str, folder: Path) -> TrialRelease:
    """Build wheel and sdist from a copy of the source, with the installed tools and without the network.

    Parameters:
        version: replaces that of the source.
        folder: an empty folder for the copy and the result.

    Raises:
        PreflightError: there is no source: the project was not installed from a clone.
        ClientError: the build failed.
    """
    missing = [name for name in _SOURCES if not (PROJECT_ROOT / name).exists()]
    if missing:
        raise PreflightError(
            [f"the source of this project is not here: {', '.join(missing)} missing"], todo="run it from a clone"
        )
    source, built = folder / "source", folder / "built"
    source.mkdir(parents=True)
    for name in _SOURCES:
        if (PROJECT_ROOT / name).is_dir():
            shutil.copytree(PROJECT_ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(PROJECT_ROOT / name, source / name)
    module = source / "ops" / "__init__.py"
    text = module.read_text(encoding="utf-8")
    text = re.sub(r"^__version__ = .*$", f'__version__ = "{version}"', text, flags=re.MULTILINE)
    module.write_text(text, encoding="utf-8")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--sdist",
        "--wheel",
        "--outdir",
        built,
        source,
    ]
    result = run_client("build", command, environment=client_environment("", {"PATH": _path()}))
    result.checked("this project could not be built", todo="see the output of build; `make test` builds it too")
    return TrialRelease(version, next(built.glob("*.whl")), next(built.glob("*.tar.gz")))


def _path() -> str:
    """PATH with the programs of this environment, which build tools may need."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


if __name__ == "__main__":  # in the smoke test's workflow
    write_published_wheel(Path(sys.argv[1]))
