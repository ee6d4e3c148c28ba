"""The pages that a person reads: the projects of the index, and one project with its files and its README."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.index.http import simple_pages
from ops.index.http.readme import About, describe
from ops.index.http.readmes import NotRendered, Readmes
from ops.index.http.representation import Representation
from ops.index.http.security_headers import source_hash
from ops.index.packages.filenames import is_project, normalize, version_key
from ops.index.packages.models import File, Project
from ops.index.packages.repository import Repository

if TYPE_CHECKING:
    import jinja2

_TEMPLATES = Path(__file__).parent / "templates"

_MEANINGS = {
    "archived": "It is no longer worked on and takes no uploads; what is here stays.",
    "deprecated": "It is superseded; look for what its maintainers recommend instead.",
    "quarantined": "It is under suspicion: nothing of it can be downloaded or uploaded.",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One project in the list."""

    name: str
    latest: str | None
    files: int
    uploaded: datetime | None
    status: str


@dataclass(frozen=True, slots=True)
class Release:
    """The files of one version, however their names spell it."""

    version: str
    files: tuple[File, ...]

    @property
    def uploaded(self) -> datetime:
        """When its first file came."""
        return min(file.upload_time for file in self.files)

    @property
    def yanked(self) -> bool:
        """Whether all of its files are yanked."""
        return all(file.yanked is not None for file in self.files)

    @property
    def prerelease(self) -> bool:
        """Whether installers pass it over unless asked (PEP 440)."""
        known, version = version_key(self.version)
        return known and bool(version.is_prerelease)


class HtmlPages:
    """Makes the pages for people. Everything in it takes long enough to belong into a thread.

    Parameters:
        catalogue: what there is.
        readmes: what was made of READMEs.
        heading: what the list of projects is called.
    """

    def __init__(self, repository: Repository, readmes: Readmes, *, heading: str = "Packages") -> None:
        self._repository = repository
        self._readmes = readmes
        self._heading = heading
        self._rows: dict[str, tuple[Any, Row]] = {}

    def home(self, base: str, query: str = "") -> Representation:
        """The list of all projects, or of those with *query* in their name.

        Parameters:
            base: the index's own address, ending in a slash.
            query: what to search for; an empty string for everything.
        """
        names = self._repository.projects()
        self._prune(names)
        wanted = normalize(query.strip())
        found = [name for name in names if wanted in name]
        counted = _count(len(names), "project")
        return self._page(
            "home.html",
            up="",
            base=base,
            heading=self._heading,
            total=len(names),
            rows=self._table(found),
            query=query.strip(),
            counted=f"{len(found)} of {counted}" if wanted else counted,
        )

    def project(self, name: str, base: str, abouts: Mapping[str, About] | None = None) -> Representation | None:
        """The page of one project; None when there is none.

        Parameters:
            name: normalized.
            base: the index's own address, ending in a slash.
            abouts: what to show of READMEs, by the SHA-256 of their files, besides those that are known.

        Raises:
            NotRendered: it has a README that is in neither.
        """
        project = self._repository.project(name)
        if project is None:
            return None
        releases = releases_of(project)
        latest = latest_of(releases)
        about = self._about(latest, abouts or {}) if latest is not None and simple_pages.offered(project) else About()
        return self._page(
            "project.html",
            up="../../",
            base=base,
            project=project,
            releases=releases,
            latest=latest.version if latest else None,
            requires_python=next((file.requires_python for file in latest.files if file.requires_python), None)
            if latest
            else None,
            installable=is_project(name),
            downloadable=bool(simple_pages.offered(project)),
            meaning=_MEANINGS.get(project.status, ""),
            about=about,
        )

    def warm_up(self) -> None:
        """Import what the first page needs."""
        _ = self._environment

    def _table(self, names: Iterable[str]) -> list[Row]:
        rows = []
        for name in names:
            mark = self._repository.project_stamp(name)
            known = self._rows.get(name)
            if known is None or known[0] != mark:
                project = self._repository.project(name)
                if project is None:
                    continue
                self._rows[name] = known = (mark, _row(project))
            rows.append(known[1])
        return rows

    def _prune(self, names: Sequence[str]) -> None:
        """Forget projects that are gone as soon as there are more rows than projects."""
        if len(self._rows) > len(names):
            for gone in set(self._rows.copy()).difference(names):
                self._rows.pop(gone, None)

    def _about(self, release: Release, abouts: Mapping[str, About]) -> About:
        """What the metadata of a version says of it; a wheel's if there is one, else what an sdist says for now."""
        for file in sorted(
            release.files, key=lambda file: (not file.filename.endswith(".whl"), file.metadata_sha256 is None)
        ):
            about = abouts.get(file.sha256) or self._readmes.known(file.sha256)
            if about is not None:
                return about
            metadata = self._repository.metadata(file.path, unserved=True)
            if metadata is None:
                continue
            description = describe(metadata)
            if not description.plain:
                raise NotRendered(file.sha256, description)
            about = description.unrendered()
            self._readmes.keep(file.sha256, about)
            return about
        return About()

    def _page(self, template: str, **context: Any) -> Representation:
        text = self._environment.get_template(template).render(**context)
        return Representation(
            text.encode("utf-8", "replace"),
            content_type="text/html; charset=utf-8",
            policy=self._policy,
        )

    @cached_property
    def _environment(self) -> jinja2.Environment:
        import jinja2
        from markupsafe import Markup

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            auto_reload=False,
        )
        environment.globals["style"] = Markup(_asset("style.css"))  # noqa: S704 - ours, and named by its hash in the policy
        environment.globals["script"] = Markup(_asset("script.js"))  # noqa: S704 - likewise
        environment.filters["address"] = simple_pages.file_address
        environment.filters["iso"] = simple_pages.timestamp
        environment.filters["day"] = lambda moment: f"{moment:%Y-%m-%d}"
        environment.filters["minute"] = lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC"
        environment.filters["size"] = human_size
        return environment

    @cached_property
    def _policy(self) -> bytes:
        """Nothing from elsewhere, no script but ours, whatever a README contains (CSP level 3)."""
        return "; ".join(
            (
                "default-src 'none'",
                f"script-src {source_hash(_asset('script.js'))}",
                f"style-src {source_hash(_asset('style.css'))}",
                "img-src 'self' data:",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            )
        ).encode()


def releases_of(project: Project) -> list[Release]:
    """The versions of a project, newest first, each with its files."""
    found: dict[tuple[bool, Any], list[File]] = {}
    for file in sorted(project.files, key=lambda file: file.filename):
        found.setdefault(version_key(file.version), []).append(file)
    return [Release(files[0].version, tuple(files)) for _, files in sorted(found.items(), reverse=True)]


def latest_of(releases: list[Release]) -> Release | None:
    """The version that an installer would pick: the newest one neither yanked nor a pre-release, if there is such."""
    for release in releases:
        if not release.yanked and not release.prerelease:
            return release
    return next((release for release in releases if not release.yanked), releases[0] if releases else None)


def human_size(size: int) -> str:
    """Bytes as a person reads them, in binary units."""
    if size < 1024:
        return _count(size, "byte")
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1000 or unit == "TiB":
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    raise AssertionError(size)


def _row(project: Project) -> Row:
    latest = latest_of(releases_of(project))
    return Row(
        name=project.name,
        latest=latest.version if latest else None,
        files=len(project.files),
        uploaded=max((file.upload_time for file in project.files), default=None),
        status=project.status,
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8").strip()
