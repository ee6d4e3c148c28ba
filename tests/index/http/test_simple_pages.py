"""The simple pages, read by pypi-simple, which implements every standard that they follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypi_simple import ProjectPage, RepositoryPage
from pypi_simple.pep691 import Project as JsonProject

from ops.index.http import simple_pages
from ops.index.http.blocks import rendered
from ops.index.http.negotiation import HTML, HTML_V1, JSON_V1
from ops.index.http.simple_pages import content_type, file_address, format_upload_time
from ops.index.packages.models import File, Project

ADDRESS = "https://index.example/team/simple/spam/"


def project_page(project: Project, form: str) -> bytes:
    return rendered(simple_pages.project_page(project, form)).body


def project_list(names: Sequence[str], form: str) -> bytes:
    return rendered(simple_pages.project_list(names, form)).body


MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

_words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40)


def file(filename: str = "spam-1.0-py3-none-any.whl", **changes: object) -> File:
    fields: dict[str, object] = {
        "filename": filename,
        "path": filename,
        "project": "spam",
        "version": "1.0",
        "size": 1234,
        "sha256": "ab" * 32,
        "upload_time": MOMENT,
        "requires_python": None,
        "metadata_sha256": None,
        "yanked": None,
    }
    return File(**{**fields, **changes})  # type: ignore[arg-type]  # each test names fields that there are


def read(project: Project, form: str) -> ProjectPage:
    content = project_page(project, form)
    if form == JSON_V1:
        return ProjectPage.from_json_data(json.loads(content), ADDRESS)
    return ProjectPage.from_html(project.name, content, base_url=ADDRESS)


@pytest.fixture(params=[HTML, HTML_V1, JSON_V1], ids=["html", "v1+html", "v1+json"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_page_declares_its_api_version(form: str) -> None:
    page = read(Project("spam", (file(),)), form)
    assert page.repository_version == "1.4"


def test_a_page_lists_each_file_with_its_url_and_hash(form: str) -> None:
    wheel = file(path="older/spam-1.0-py3-none-any.whl")
    (package,) = read(Project("spam", (wheel,)), form).packages
    assert package.filename == wheel.filename
    assert package.url == "https://index.example/team/packages/older/spam-1.0-py3-none-any.whl"
    assert package.digests == {"sha256": "ab" * 32}


def test_a_page_repeats_requires_python_verbatim(form: str) -> None:
    (package,) = read(Project("spam", (file(requires_python='>=3.8,!=3.9.*,<4;"&'),)), form).packages
    assert package.requires_python == '>=3.8,!=3.9.*,<4;"&'


def test_the_core_metadata_is_announced_with_its_digest(form: str) -> None:
    project = Project("spam", (file(metadata_sha256="cd" * 32),))
    (package,) = read(project, form).packages
    assert package.has_metadata is True
    assert package.metadata_digests == {"sha256": "cd" * 32}


def test_the_json_has_the_core_metadata_only_under_its_new_name() -> None:
    """Under the old one, pip 22.3 fails on every page (PEP 714)."""
    files = (file(metadata_sha256="cd" * 32), file("spam-1.0.tar.gz"))
    with_metadata, without = json.loads(project_page(Project("spam", files), JSON_V1))["files"]
    assert with_metadata == {
        "filename": "spam-1.0-py3-none-any.whl",
        "url": "../../packages/spam-1.0-py3-none-any.whl",
        "hashes": {"sha256": "ab" * 32},
        "size": 1234,
        "upload-time": "2026-01-02T03:04:05.000678Z",
        "core-metadata": {"sha256": "cd" * 32},
    }
    assert without.keys() == with_metadata.keys()
    assert without["core-metadata"] is False


@pytest.mark.parametrize("form", [HTML, HTML_V1])
def test_the_html_has_the_core_metadata_under_both_names(form: str) -> None:
    files = (file(metadata_sha256="cd" * 32), file("spam-1.0.tar.gz"))
    parser = _Strict()
    parser.feed(project_page(Project("spam", files), form).decode())
    with_metadata, without = (attributes for tag, attributes in parser.all if tag == "a")
    assert with_metadata == {
        "href": f"../../packages/spam-1.0-py3-none-any.whl#sha256={'ab' * 32}",
        "data-core-metadata": f"sha256={'cd' * 32}",
        "data-dist-info-metadata": f"sha256={'cd' * 32}",
    }
    assert without.keys() == {"href"}


def test_a_file_without_metadata_announces_none(form: str) -> None:
    (package,) = read(Project("spam", (file(),)), form).packages
    assert not package.has_metadata


@pytest.mark.parametrize("reason", ['broken on "Windows" <3 & more', "", "Ünïcode"])
def test_a_yanked_file_is_marked_with_the_reason(form: str, reason: str) -> None:
    (package,) = read(Project("spam", (file(yanked=reason),)), form).packages
    assert package.is_yanked
    assert (package.yanked_reason or "") == reason


def test_a_file_that_is_not_yanked_is_not_marked(form: str) -> None:
    (package,) = read(Project("spam", (file(),)), form).packages
    assert not package.is_yanked


@pytest.mark.parametrize("status", ["archived", "deprecated"])
def test_a_page_has_the_status_of_its_project(form: str, status: str) -> None:
    page = read(Project("spam", (file(),), status, "use <eggs> instead"), form)
    assert page.status is not None
    assert page.status.value == status
    assert page.status_reason == "use <eggs> instead"
    assert len(page.packages) == 1


def test_a_quarantined_project_offers_no_files(form: str) -> None:
    page = read(Project("spam", (file(),), "quarantined"), form)
    assert page.status is not None
    assert page.status.value == "quarantined"
    assert page.packages == []


def test_the_json_has_everything_required_by_pep_700() -> None:
    files = (file("spam-1.0.tar.gz"), file("spam-2.0.tar.gz", version="2.0", size=0))
    page = JsonProject.model_validate_json(project_page(Project("spam", files), JSON_V1))
    assert page.versions == ["1.0", "2.0"]
    assert [entry.size for entry in page.files] == [1234, 0]
    assert [entry.upload_time for entry in page.files] == [MOMENT, MOMENT]


def test_times_are_in_utc_with_a_z() -> None:
    elsewhere = datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert format_upload_time(elsewhere) == "2026-01-02T03:04:05.000000Z"


def test_a_file_with_a_plus_or_a_space_in_its_path_is_still_found(form: str) -> None:
    local = file("spam-1.0+local-py3-none-any.whl", path="a b/100%/spam-1.0+local-py3-none-any.whl")
    (package,) = read(Project("spam", (local,)), form).packages
    assert package.url.endswith("/packages/a%20b/100%25/spam-1.0%2Blocal-py3-none-any.whl")
    assert unquote(file_address(local)) == "packages/" + local.path


def test_a_path_that_is_not_utf_8_keeps_its_bytes() -> None:
    assert file_address(file(path="\udcff/spam-1.0.tar.gz")) == "packages/%FF/spam-1.0.tar.gz"


def test_the_list_of_projects_names_each_of_them() -> None:
    names = ["a", "spam-eggs", "z0"]
    page = RepositoryPage.from_html(project_list(names, HTML), base_url="https://index.example/simple/")
    assert [link.text for link in page.links] == names
    assert [link.url for link in page.links] == [f"https://index.example/simple/{name}/" for name in names]
    assert json.loads(project_list(names, JSON_V1)) == {
        "meta": {"api-version": "1.4"},
        "projects": [{"name": name} for name in names],
    }


def test_a_content_type_has_a_charset_only_where_meaningful() -> None:
    assert content_type(JSON_V1) == "application/vnd.pypi.simple.v1+json"
    assert content_type(HTML) == "text/html; charset=utf-8"
    assert content_type(HTML_V1) == "application/vnd.pypi.simple.v1+html; charset=utf-8"


class _Strict(HTMLParser):
    """Collects the tags of a page, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.all]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


@given(reason=_words, requires=_words, status=_words, path=_words)
def test_no_property_of_a_file_becomes_markup(reason: str, requires: str, status: str, path: str) -> None:
    hostile = file(yanked=reason, requires_python=requires, path=f"{path}/spam-1.0.tar.gz")
    content = project_page(Project("spam", (hostile,), "archived", status), HTML)
    parser = _Strict()
    parser.feed(content.decode())
    assert parser.tags == ["html", "head", *["meta"] * (5 if status else 4), "title", "body", "h1", "a", "br"]
    (package,) = read(Project("spam", (hostile,), "archived", status), HTML).packages
    assert package.yanked_reason == reason
    assert package.requires_python == requires
    assert urljoin(ADDRESS, "../../" + file_address(hostile)) == package.url
