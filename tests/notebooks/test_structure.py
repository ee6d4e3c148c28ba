"""Every notebook has the skeleton, is thin, declares its parameters for papermill, and is stored as it ran."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ops.runbook import Notebook, list_notebooks
from ops.workspace import PROJECT_ROOT
from tests.notebooks.structure import check, is_secret_name

FOLDER = PROJECT_ROOT / "notebooks"
NOTEBOOKS = list_notebooks(FOLDER)

each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)


def test_the_notebooks_of_the_first_run_and_the_teardown_exist() -> None:
    names = [notebook.name for notebook in NOTEBOOKS]
    assert names[:4] == ["00_start_here", "01_provision", "02_onboard_user", "03_smoke_test"]
    assert "99_tear_down" in names


def test_every_notebook_in_the_folder_is_numbered_once() -> None:
    assert {path.name for path in FOLDER.glob("*.ipynb")} == {notebook.path.name for notebook in NOTEBOOKS}
    numbers = [notebook.number for notebook in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


@each
def test_a_notebook_has_the_skeleton_is_thin_and_is_stored_as_it_ran(notebook: Notebook) -> None:
    problems = check(notebook)
    assert problems == (), "\n".join(problems)


@each
def test_a_notebook_is_valid_and_links_only_to_existing_notebooks(notebook: Notebook) -> None:
    node = nbformat.read(notebook.path, as_version=4)
    nbformat.validate(node)
    for cell in node.cells:
        for target in re.findall(r"\]\(([^)#:]+\.ipynb)", cell.source):
            assert (FOLDER / target).is_file(), target


def seen_by_papermill(path: Path) -> list[tuple[str, str, object, str]]:
    """Output of ``papermill --help-notebook``."""
    parameters = papermill.inspect_notebook(str(path))
    return [
        (name, item["inferred_type_name"], ast.literal_eval(item["default"]), item["help"])
        for name, item in parameters.items()
    ]


def seen_by_us(notebook: Notebook) -> list[tuple[str, str, object, str]]:
    """Output of ``runbook list``."""
    return [(parameter.name, parameter.type, parameter.default, parameter.help) for parameter in notebook.parameters]


@each
def test_papermill_and_ast_see_the_same_parameters(notebook: Notebook) -> None:
    assert seen_by_papermill(notebook.path) == seen_by_us(notebook)


def good() -> Any:
    """A notebook without a fault."""
    node = new_notebook(
        cells=[
            new_markdown_cell("# Do it\n\nDoes it. Run it when it is not done."),
            new_markdown_cell("## Parameters"),
            new_code_cell(
                'target: str = "local"  # where\nconfirm: str = ""  # what goes', metadata={"tags": ["parameters"]}
            ),
            new_code_cell("from ops import guard\n\nguard.check()"),
            new_markdown_cell("## Preflight"),
            new_code_cell(
                "from ops import provision\nfrom ops.targets import open_target\n\nhere = open_target(target)"
            ),
            new_code_cell("provision.preflight(here)", outputs=[new_output("stream", name="stdout", text="good")]),
            new_markdown_cell("## Steps\n\n### Plan"),
            new_code_cell("plan = provision.plan(here)\nplan"),
            new_markdown_cell("## Verification"),
            new_code_cell("provision.verify(here)"),
            new_markdown_cell("## What was done\n\nIt.\n\n## How to undo it\n\nBy hand."),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    for number, cell in enumerate(cell for cell in node.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
    return node


def problems(node: Any, folder: Path, name: str = "01_do_it") -> tuple[str, ...]:
    path = folder / f"{name}.ipynb"
    nbformat.write(node, path)
    return check(Notebook.read(path))


def test_a_notebook_without_a_fault_passes(tmp_path: Path) -> None:
    assert problems(good(), tmp_path) == ()
    assert problems(good(), tmp_path, "99_tear_down") == ()


def source(index: int, text: str) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        node.cells[index].source = text

    return change


def parameters(line: str) -> Callable[[Any], None]:
    return source(2, f'target: str = "local"  # where\n{line}')


def output(**content: Any) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        node.cells[6].outputs = [new_output(**content)]

    return change


def twice(node: Any) -> None:
    node.cells[6].outputs.append(new_output("display_data", data={"text/plain": "b"}))


def not_run(node: Any) -> None:
    node.cells[8].execution_count = None


def out_of_order(node: Any) -> None:
    node.cells[10].execution_count = 17


def timed(node: Any) -> None:
    node.cells[6].metadata["execution"] = {"iopub.status.busy": "2026-01-01"}


def of_papermill(node: Any) -> None:
    node.metadata["papermill"] = {}


def injected(node: Any) -> None:
    node.cells.insert(3, new_code_cell("x = 1", metadata={"tags": ["injected-parameters"]}))


def other_kernel(node: Any) -> None:
    node.metadata.kernelspec.name = "python313"


def untagged(node: Any) -> None:
    node.cells[2].metadata.tags = []


def second_tag(node: Any) -> None:
    node.cells[5].metadata.tags = ["parameters"]


def swapped(node: Any) -> None:
    node.cells[4], node.cells[9] = node.cells[9], node.cells[4]


def no_steps(node: Any) -> None:
    node.cells[7].source = "## Steps"


def empty_step(node: Any) -> None:
    node.cells[7].source = "## Steps\n\n### Nothing\n\n### Plan"


BREAKS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no title": (source(0, "Does it."), "one heading of level 1"),
    "a second title": (source(1, "# Again\n\n## Parameters"), "one heading of level 1"),
    "no summary": (source(0, "# Do it"), "says nothing under the title"),
    "a part in another place": (swapped, "must be Parameters, Preflight, Steps, Verification"),
    "a part missing": (source(4, "Preflight"), "its headings of level 2 are"),
    "a part more": (source(4, "## Preflight\n\n## More"), "its headings of level 2 are"),
    "no step": (no_steps, "no heading of level 3 under Steps"),
    "a step without code": (empty_step, "no code under Nothing"),
    "a last word without text": (
        source(11, "## What was done\n\nIt.\n\n## How to undo it"),
        "nothing is said under How",
    ),
    "no tag": (untagged, "0 cells tagged parameters"),
    "two tags": (second_tag, "2 cells tagged parameters"),
    "injected parameters": (injected, "papermill injected"),
    "no guard": (source(3, "provision.plan(target)"), "its first two code cells are not"),
    "no target": (source(2, "x: int = 1  # x"), "no parameter `target"),
    "another default": (source(2, 'target: str = "modal"  # where'), "no parameter `target"),
    "a secret": (parameters('admin_token: str = ""  # t'), "admin_token would hold a secret"),
    "no help": (parameters("x: int = 1"), "x has no comment"),
    "a union": (parameters("x: int | None = 1  # x"), "cannot be read"),
    "a second =": (parameters("x: int = 1  # as in x=1"), "a second = or #"),
    "a # in a string": (parameters('x: str = "a#b"  # x'), "a second = or #"),
    "def": (source(8, "def f():\n    pass"), "has def"),
    "for": (source(8, "for x in here:\n    x"), "has for"),
    "while": (source(8, "while here:\n    here"), "has while"),
    "if": (source(8, "if here:\n    here"), "has if"),
    "if in an expression": (source(8, "1 if here else 2"), "has if"),
    "try": (source(8, "try:\n    here\nfinally:\n    here"), "has try"),
    "with": (source(8, "with here:\n    here"), "has with"),
    "a comprehension": (source(8, "[x for x in here]"), "has a comprehension"),
    "lambda": (source(8, "lambda: here"), "has lambda"),
    "a magic": (source(8, "%pip install x"), "not plain Python"),
    "a cell magic": (source(8, "%%bash\nls"), "not plain Python"),
    "shell command": (source(8, "!ls"), "not plain Python"),
    "input": (source(8, "x = input('x')"), "calls input()"),
    "exit": (source(8, "exit()"), "calls exit()"),
    "sys.exit": (source(8, "import sys\nsys.exit(0)"), "imports sys"),
    "the environment": (source(8, "import os\nos.environ['X']"), "imports os"),
    "the environment, by another way": (source(8, "provision.os.environ"), "reads or runs environ"),
    "two calls": (source(8, "provision.plan(here)\nprovision.apply(here)"), "makes 2 calls"),
    "another kernel": (other_kernel, "its kernel is 'python313'"),
    "papermill's metadata": (of_papermill, "papermill's metadata"),
    "a cell that was not run": (not_run, "execution count None, and 5"),
    "a cell that was run again": (out_of_order, "execution count 17, and 6"),
    "an empty cell": (source(8, " "), "cell 8 is empty"),
    "times": (timed, "has times"),
    "an error": (output(output_type="error", ename="E", evalue="", traceback=[]), "has an error: E"),
    "stderr": (output(output_type="stream", name="stderr", text="x"), "output from stderr"),
    "two outputs": (twice, "has 2 outputs"),
    "a path": (output(output_type="stream", name="stdout", text="in /home/alice/x"), "a path of the machine"),
    "a path in HTML": (
        output(output_type="display_data", data={"text/html": "<td>/tmp/abc</td>"}),
        "a path of the machine",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_found(name: str, tmp_path: Path) -> None:
    change, sentence = BREAKS[name]
    node = good()
    change(node)
    found = problems(node, tmp_path)
    assert any(sentence in problem for problem in found), found
    assert all(problem.startswith("01_do_it: ") for problem in found)


@pytest.mark.parametrize("name", ["99_tear_down", "21_delete_project", "13_restore", "14_rollback", "15_remove_user"])
def test_a_destructive_notebook_must_have_a_parameter_that_names_the_target(tmp_path: Path, name: str) -> None:
    for line in ("x: int = 1  # x", 'confirm: str = "local"  # c', "confirm: bool = False  # c"):
        node = good()
        parameters(line)(node)
        assert any("that must name it" in problem for problem in problems(node, tmp_path, name))
    node = good()
    source(2, 'target: str = "local"  # where')(node)
    node.metadata["runbook"] = {"destructive": True}
    assert any("that must name it" in problem for problem in problems(node, tmp_path))


@pytest.mark.parametrize("name", ["provision", "1_provision", "01-provision", "01_Provision"])
def test_a_file_with_another_name_is_found(tmp_path: Path, name: str) -> None:
    assert any("not like 01_provision.ipynb" in problem for problem in problems(good(), tmp_path, name))


def test_a_parameter_that_papermill_does_not_see_is_found(tmp_path: Path) -> None:
    node = good()
    parameters("x: int = 1  # as in x=1")(node)
    path = tmp_path / "01_x.ipynb"
    nbformat.write(node, path)
    assert seen_by_papermill(path) != seen_by_us(Notebook.read(path))


@pytest.mark.parametrize("name", ["password", "admin_token", "TOKEN", "api_key", "apikey", "client_secret", "pwd"])
def test_a_name_of_a_secret_is_recognised(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["target", "password_variable", "token_file", "keys", "secretary", "key", "keep"])
def test_a_name_that_only_mentions_a_secret_is_not_one(name: str) -> None:
    assert not is_secret_name(name)
