"""Files generated from the notebooks: the page about them, and the forms of the workflows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml

from ops.runbook import contents

MakeNotebook = Callable[..., Path]

PLAN = """Do it on the target local

what                          is       to do
────────────────────────────  ───────  ───────────────
user smoke-6b0751e3154b       unknown  create | delete
files in ~/pypi-runbook/.x/a  missing  write 5 files

2 changes to make.
"""
PARAMETERS = """target: str = "local"  # where
port: int = 0  # local only, the port
name: str = "a"  # the "name"
count: int = 3  # how many
dry_run: bool = False  # true shows the plan
"""
MARKS = "<!-- {0}: begin, made by `make notebooks` -->\nold\n<!-- {0}: end -->\n"
FORM = """on:
  workflow_dispatch:
    inputs:
      # inputs of 01_do: begin, made by hand
      old: {}
      # inputs of 01_do: end
"""


@pytest.fixture
def root(make_notebook: MakeNotebook, tmp_path: Path) -> Path:
    """A clone with two notebooks, a page about them, and a workflow."""
    do = make_notebook(
        "01_do", "# Do it\n\nDoes\nit. Run it once.\n\nMore.", "do.plan()", "## How to undo it\n\nUndo\nit.",
        parameters=PARAMETERS, folder=tmp_path / "notebooks",
    )  # fmt: skip
    node = nbformat.read(do, as_version=4)
    node.cells[2].outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": PLAN}, execution_count=1)]
    nbformat.write(node, do)
    make_notebook("10_look", "# Look\n\nLooks.", "look()", parameters=PARAMETERS, folder=tmp_path / "notebooks")
    (tmp_path / "notebooks" / "README.md").write_text(
        f"before\n{MARKS.format('tutorial')}between\n{MARKS.format('operations')}after\n"
    )
    workflows = tmp_path / ".github" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "do.yaml").write_text(FORM)
    return tmp_path


def test_the_page_gives_each_notebook_s_purpose_parameters_changes_and_undo(root: Path) -> None:
    assert root / "notebooks" / "README.md" in contents.write(root)
    page = (root / "notebooks" / "README.md").read_text()
    tutorial, _, operations = page.partition("between")
    assert "### [01_do](01_do.ipynb)\n\n**Do it.** Does it. Run it once.\n" in tutorial
    assert '| `name` | str | `"a"` | the "name" |' in tutorial
    assert "user smoke-… → create \\| delete; files in .x/a → write 5 files.\n" in tutorial
    assert "*Undo.* Undo it.\n" in tutorial
    assert "### [10_look](10_look.ipynb)\n\n**Look.** Looks.\n" in operations
    assert "*Changes.* Nothing in the index, with the default parameters.\n" in operations
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert contents.write(root) == (), "a second time changes nothing"


def test_a_form_has_all_but_local_parameters_and_plans_by_default(
    root: Path,
) -> None:
    contents.write(root)
    text = (root / ".github" / "workflows" / "do.yaml").read_text()
    inputs = yaml.safe_load(text)[True]["workflow_dispatch"]["inputs"]
    assert inputs == {
        "name": {"description": 'the "name"', "type": "string", "default": "a"},
        "count": {"description": "how many", "type": "number", "default": 3},
        "dry_run": {"description": "true shows the plan", "type": "boolean", "default": True},
    }
