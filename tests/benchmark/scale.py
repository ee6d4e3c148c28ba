"""Scale of the measurements: a two-minute indication, or everything named by the goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ops.errors import ParameterError

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The sizes of one run.

    Parameters:
        name: the value of the parameter ``scale``.
        projects: of the corpus.
        versions: for each project.
        stock: variants of stock pypiserver, as server and bcrypt cost: 5 is the default of ``htpasswd -B``, 12 is ours.
        packages: fetched by a cold install.
        at_once: concurrent installs.
        installs: measurements of a single cold install: it is short, and its goal close to nginx.
        rounds: measurements of everything else.
        seconds: duration of a rate measurement; wrk rounds it to whole seconds.
        budget_seconds: for one contender in one row; after that it skips the remaining rounds.
        connections: persistent connections of the page and upload clients.
        most_uploads: prepared uploads for each measurement.
        project_files: numbers of files in the projects whose pages are requested after an upload.
        projects_listed: number of projects in the index whose lists are requested.
        index_files: numbers of files in the indexes whose pages are compared.
        large_bytes: sizes of the large files.
        start_files: files in the index whose start is measured.
        logins: number of users who log in at once.
        login_cost: bcrypt cost of their passwords.
        login_rounds: maximum number of measurements of that.
        free_bytes: required disk space.
    """

    name: str
    projects: int
    versions: int
    stock: tuple[tuple[Literal["wsgiref", "gunicorn"], int], ...]
    packages: int
    at_once: int
    installs: int
    rounds: int
    seconds: float
    budget_seconds: float
    connections: int = 8
    most_uploads: int
    project_files: tuple[int, ...]
    projects_listed: int
    index_files: tuple[int, ...]
    large_bytes: tuple[int, ...]
    start_files: int
    logins: int
    login_cost: int
    login_rounds: int = 5
    free_bytes: int


QUICK = Scale(
    name="quick",
    projects=20,
    versions=3,
    stock=(("wsgiref", 5), ("gunicorn", 5), ("gunicorn", 12)),
    packages=10,
    at_once=8,
    installs=3,
    rounds=3,
    seconds=2,
    budget_seconds=5,
    most_uploads=1_500,
    project_files=(10, 1_500),
    projects_listed=2_000,
    index_files=(100, 1_000),
    large_bytes=(50_000_000,),
    start_files=1_000,
    logins=30,
    login_cost=10,
    free_bytes=2_000 * MIB,
)

FULL = Scale(
    name="full",
    projects=60,
    versions=10,
    stock=(("wsgiref", 5), ("gunicorn", 5), ("wsgiref", 12), ("gunicorn", 12)),
    packages=40,
    at_once=8,
    installs=40,
    rounds=10,
    seconds=3,
    budget_seconds=40,
    most_uploads=5_000,
    project_files=(10, 100, 1_500, 10_000),
    projects_listed=100_000,
    index_files=(100, 1_000, 10_000, 100_000, 1_000_000),
    large_bytes=(200_000_000, 2_000_000_000),
    start_files=10_000,
    logins=300,
    login_cost=12,
    free_bytes=30_000 * MIB,
)


def find_scale(name: str) -> Scale:
    """The scale called *name*.

    Raises:
        ParameterError: unknown scale.
    """
    scales = {scale.name: scale for scale in (QUICK, FULL)}
    if name not in scales:
        raise ParameterError(
            f"there is no scale {name!r}", why=f"the scales are {' and '.join(scales)}", todo="give one of these"
        )
    return scales[name]
