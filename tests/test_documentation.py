"""Checks of what people read: links that lead somewhere, a complete table of notebooks, public names, plain openings.

Each check has a fault made by hand beside it, so that it is known to find one, and says what to do.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.runbook import contents
from ops.workspace import PROJECT_ROOT

LINK = re.compile(r"!?\[[^\]]*\]\((?P<to>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
QUESTIONS = ("Who", "What", "Where", "How", "Whether", "Which", "Why", "When")
REGISTRY = re.compile(r"https?://[a-z.]*(?:pypi|python-?hosted|npm-?js|debian)\.", re.IGNORECASE)


def tracked(*patterns: str) -> list[Path]:
    """The files of the repository that match, without those that only lie there."""
    listed = subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [path for name in sorted(set(listed.split("\0"))) if name and (path := PROJECT_ROOT / name).is_file()]


PAGES = tracked("*.md")
MODULES = tracked("ops/*.py", "deployments/*.py")
TESTS = tracked("tests/*.py")


def anchors(page: str) -> set[str]:
    """The fragments that a page's headings make, as GitHub spells them."""
    found: set[str] = set()
    for match in HEADING.finditer(FENCED.sub("", page)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match["text"]).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def broken_links(path: Path, text: str) -> Iterator[str]:
    """Every relative link of a page to a file or heading that is not there."""
    for match in LINK.finditer(FENCED.sub("", text)):
        target, _, fragment = match["to"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists():
            yield f"{path.name} links to {match['to']}, which does not exist: correct the link or add the file"
        elif fragment and file.suffix == ".md" and fragment not in anchors(file.read_text() if target else text):
            yield f"{path.name} links to {match['to']}, but there is no such heading: name one that exists"


def missing_notebooks(readme: str, notebooks: list[str]) -> list[str]:
    """The notebooks that the table in README does not list."""
    rows = [line for line in readme.splitlines() if line.startswith("|")]
    return [name for name in notebooks if not any(f"(notebooks/{name}.ipynb)" in row for row in rows)]


def opening(source: str) -> str:
    """The first word of a module's docstring; empty when it has none."""
    return ((ast.get_docstring(ast.parse(source)) or "").split() or [""])[0].strip(",:;.—")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_every_link_of_a_page_leads_to_something(page: Path) -> None:
    assert list(broken_links(page, page.read_text())) == []


@pytest.mark.parametrize(
    "text", ["[the notebook](notebooks/77_absent.ipynb)", "[below](#no-such-heading)", "![picture](absent.png)"]
)
def test_a_broken_link_is_found(text: str) -> None:
    assert len(list(broken_links(PROJECT_ROOT / "README.md", text))) == 1


def test_the_readme_lists_every_notebook() -> None:
    names = [path.stem for path in sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))]
    missing = missing_notebooks((PROJECT_ROOT / "README.md").read_text(), names)
    assert missing == [], f"add a row to the table of notebooks in README.md for {', '.join(missing)}"


def test_a_notebook_that_the_readme_does_not_list_is_found() -> None:
    assert missing_notebooks("| [01](notebooks/01_provision.ipynb) |", ["01_provision", "02_x"]) == ["02_x"]


def test_what_is_made_of_the_notebooks_is_made_of_them_as_they_are() -> None:
    outdated = [path for path, text in contents.make().items() if path.read_text() != text]
    assert outdated == [], "run: python -m ops.runbook.contents"


@pytest.mark.parametrize("module", [*MODULES, *TESTS], ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_a_module_opens_with_a_noun_or_a_verb(module: Path) -> None:
    word = opening(module.read_text())
    assert word, f"{module.name} has no docstring: say in one line what it holds or does"
    assert word not in QUESTIONS, f"{module.name} opens with {word!r}: say what it holds or does, not what it answers"


def test_an_opening_question_is_found() -> None:
    assert opening('"""What the index has."""') in QUESTIONS


def test_no_tracked_file_names_a_registry_host() -> None:
    for path in tracked():
        if path.suffix not in {".png", ".whl"}:
            found = REGISTRY.search(path.read_text("utf-8", "replace"))
            assert found is None, f"{path.relative_to(PROJECT_ROOT)} names {found and found[0]}: say 'the public index'"


PRIVATE = {
    "door": "auth", "exchange": "request", "shelf": "response_cache",
    "lanes": "verification_queue", "flight": "pending login", "roster": "user_cache", "vault": "credential_files",
    "placing": "transaction", "settling": "rollback", "keeping": "file_info", "marks": "annotations",
    "spellings": "filename_index", "freshness": "revalidation", "housekeeping": "lifespan", "catalogue": "repository",
    "patience": "polling", "throwaway": "temporary_user", "hiding": "hidden names", "whereabouts": "path",
}  # fmt: skip
"""Names that only insiders know, and the field's."""


def private_names(source: str) -> Iterator[str]:
    """Every name that a module defines with a word of the private language in it."""
    for node in ast.walk(ast.parse(source)):
        name = ""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
        for word in words:
            if word in PRIVATE:
                yield f"{name} says {word!r}: say {PRIVATE[word]!r}, so that grep and a newcomer find it"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_names_are_the_terms_of_the_field(module: Path) -> None:
    assert list(private_names(module.read_text())) == []
    assert module.stem not in PRIVATE, f"rename it: say {PRIVATE[module.stem]!r}"


@pytest.mark.parametrize("line", ["class Shelf: ...", "def f(door): ...", "self._roster = 1", "def take_flight(): ..."])
def test_a_private_name_is_found(line: str) -> None:
    assert len(list(private_names(line))) == 1


def test_no_class_name_stands_for_two_things() -> None:
    defined: dict[str, list[str]] = {}
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                defined.setdefault(node.name, []).append(str(module.relative_to(PROJECT_ROOT)))
    twice = {name: places for name, places in defined.items() if len(places) > 1}
    assert twice == {}, "give one of each pair a name of its own"
