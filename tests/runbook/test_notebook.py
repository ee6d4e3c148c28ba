"""Reading a notebook, and finding one by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from ops.errors import NotebookError
from ops.runbook.notebook import Notebook, Step, find_notebook, headings, list_notebooks, select_notebooks


class MakeNotebook(Protocol):
    def __call__(self, name: str, *sources: str, parameters: str = ..., folder: Path | None = ...) -> Path: ...


@pytest.fixture
def folder(make_notebook: MakeNotebook, tmp_path: Path) -> Path:
    """Three notebooks of a runbook, and one that does not belong to it."""
    notebooks = tmp_path / "notebooks"
    make_notebook("01_provision", "# Provision\n\nMakes the `index`. And more.", folder=notebooks)
    make_notebook("02_onboard_user", "# Onboard", folder=notebooks)
    make_notebook("99_tear_down", "# Tear down", folder=notebooks)
    make_notebook("scratch", "# Mine", folder=notebooks)
    return notebooks


def test_the_numbered_notebooks_of_a_folder_are_listed_in_order(folder: Path) -> None:
    assert [notebook.name for notebook in list_notebooks(folder)] == ["01_provision", "02_onboard_user", "99_tear_down"]


def test_a_notebook_knows_its_number_title_summary_and_parameters(make_notebook: MakeNotebook) -> None:
    path = make_notebook(
        "07_x",
        "# The *title* of `it`\n\nDoes [one](http://x) thing. Then another.\n\nMore.",
        "1",
        parameters="a: int = 1  # h",
    )
    notebook = Notebook.read(path)
    assert (notebook.number, notebook.name) == ("07", "07_x")
    assert notebook.title == "The *title* of it"
    assert [parameter.name for parameter in notebook.parameters] == ["a"]


@pytest.mark.parametrize("name", ["01_provision", "provision", "01", "1", "01_provision.ipynb"])
def test_a_notebook_is_found_by_its_name_its_number_or_its_file(folder: Path, name: str) -> None:
    assert find_notebook(name, folder).name == "01_provision"


def test_a_notebook_is_found_by_a_path_anywhere(folder: Path, make_notebook: MakeNotebook, tmp_path: Path) -> None:
    path = make_notebook("mine", "# Mine", folder=tmp_path / "else where {x}")
    assert find_notebook(str(path), folder).path == path


def test_an_unknown_notebook_is_refused_with_the_existing_ones_and_a_guess(folder: Path) -> None:
    with pytest.raises(NotebookError, match="there is no notebook 'onbord_user'") as caught:
        find_notebook("onbord_user", folder)
    assert "01_provision, 02_onboard_user, 99_tear_down" in caught.value.why
    assert caught.value.todo == "did you mean onboard_user?"


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "{}", '{"cells": [{"source": "x"}]}', '{"cells": [1]}'])
def test_a_file_that_is_not_a_notebook_is_refused_with_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "01_x.ipynb"
    path.write_text(content)
    with pytest.raises(NotebookError, match="is not a notebook"):
        Notebook.read(path)


def test_a_path_to_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match="cannot be read") as caught:
        find_notebook(str(tmp_path / "01_gone.ipynb"), tmp_path)
    assert caught.value.why == "No such file or directory"


def test_code_belongs_to_the_heading_of_level_two_or_three_above_it(make_notebook: MakeNotebook) -> None:
    path = make_notebook(
        "01_x",
        "# T",
        "0",
        "## Parameters",
        "1",
        "## Steps",
        "### Plan",
        "2",
        "#### deeper\n\ntext",
        "3",
        "",
        "## Empty",
        "## Last",
        "4",
    )
    # "#### deeper" has more than the three # that make a cell Markdown here, so it is a comment in code.
    assert Notebook.read(path).steps == (
        Step("T", (1,)),
        Step("Parameters", (3,)),
        Step("Plan", (6, 7, 8)),
        Step("Last", (12,)),
    )


def test_a_heading_in_fenced_code_does_not_count() -> None:
    text = "## One\n```bash\n# not one\n~~~\n## nor this\n```\n### Two ##\n#nor-this\n"
    assert list(headings(text)) == [(2, "One"), (3, "Two")]


@pytest.mark.parametrize(
    ("given", "start", "expected"),
    [
        (["1", "onboard_user"], "", ["01_provision", "02_onboard_user"]),
        (["0*"], "", ["01_provision", "02_onboard_user"]),
        (["99", "*_provision", "99_tear_down"], "", ["99_tear_down", "01_provision"]),
        (["*"], "02", ["02_onboard_user", "99_tear_down"]),
    ],
)
def test_names_numbers_and_patterns_select_each_notebook_once_in_order(
    folder: Path, given: list[str], start: str, expected: list[str]
) -> None:
    assert [path.stem for path in select_notebooks(given, folder, start=start)] == expected


def test_a_pattern_or_start_that_matches_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(NotebookError, match="no notebook matches '8\\*'"):
        select_notebooks(["8*"], folder)
    with pytest.raises(NotebookError, match="cannot start from 99_tear_down"):
        select_notebooks(["0*"], folder, start="99")
