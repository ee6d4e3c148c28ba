"""Searches find projects by name and summary, and notice changes."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from ops.index.http import project_search
from ops.index.http.project_search import ProjectSearch
from ops.index.packages.repository import Repository
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.conftest import Node, Person
from tests.index.serving import eventually


@pytest.fixture
def search(node: Node) -> ProjectSearch:
    """A search in an index of three projects."""
    node.directory.mkdir(parents=True, exist_ok=True)
    for name, summary in (("carrots", "Möhren & more"), ("knife", "Cuts carrots"), ("spoon", "Stirs\n  soup")):
        (node.directory / wheel_name(name, "1.0")).write_bytes(wheel(name, "1.0", lines=f"Summary: {summary}\n"))
    node.repository.package_directory.look(thoroughly=True)
    return ProjectSearch(node.repository)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("carrots", ["carrots", "knife"]),
        ("Knife", ["knife"]),
        ("MÖHREN  &", ["carrots"]),
        ("stirs soup", ["spoon"]),
        ("s", ["carrots", "spoon", "knife"]),
        ("fork", []),
        ("%", []),
    ],
)
def test_names_come_before_summaries_ignoring_case_and_spaces(
    search: ProjectSearch, text: str, names: list[str]
) -> None:
    assert search.find(text) == (names, 0)


def test_a_changed_summary_is_noticed(node: Node, alice: Person, search: ProjectSearch) -> None:
    assert search.find("parsley").names == []
    content = wheel("spoon", "2.0", lines="Summary: Chops parsley\n")
    node.publish(wheel_name("spoon", "2.0"), io.BytesIO(content), identity=alice)
    assert search.find("parsley").names == ["spoon"]
    assert search.find("soup").names == []


def test_the_summary_is_from_the_release_that_installers_choose(
    node: Node, alice: Person, search: ProjectSearch
) -> None:
    for version, summary in (("3.0rc1", "candidate"), ("0.9", "old")):
        content = wheel("spoon", version, lines=f"Summary: {summary}\n")
        node.publish(wheel_name("spoon", version), io.BytesIO(content), identity=alice)
    content = sdist("spoon", "1.0", lines="Summary: source\n")
    node.publish("spoon-1.0.tar.gz", io.BytesIO(content), identity=alice)
    assert search.find("stirs").names == ["spoon"]
    for word in ("candidate", "old", "source"):
        assert search.find(word).names == []


def test_a_search_does_not_wait_forever_and_reports_the_number_of_unread_summaries(
    node: Node, search: ProjectSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_search, "WAIT_SECONDS", 0)
    go_on = threading.Event()
    read = Repository.metadata

    def slowly(*arguments: Any, **named: Any) -> bytes | None:
        assert go_on.wait(60)
        return read(*arguments, **named)

    monkeypatch.setattr(Repository, "metadata", slowly)
    assert search.find("soup") == ([], 3)
    assert search.find("spoon") == (["spoon"], 3)
    go_on.set()
    eventually(lambda: search.find("soup") == (["spoon"], 0))


def test_removed_projects_take_no_memory(node: Node) -> None:
    search = ProjectSearch(node.repository)
    node.directory.mkdir(parents=True, exist_ok=True)
    for number in range(5):
        path = node.directory / wheel_name(f"gone-{number}", "1.0")
        path.write_bytes(wheel(f"gone-{number}", "1.0"))
        node.repository.package_directory.look(thoroughly=True)
        assert search.find("gone").names == [f"gone-{number}"]
        path.unlink()
        node.repository.package_directory.look(thoroughly=True)
    assert search.find("gone").names == []
    assert search._known == {}
