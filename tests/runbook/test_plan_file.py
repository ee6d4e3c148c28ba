"""Plans that are made, approved, and applied unchanged or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.errors import ApprovalError, NotebookError, RunError
from ops.runbook import Notebook, Record, RunOptions, plan_file, run_notebooks, silent
from ops.runbook.plan_file import PlanFile, is_plan_cell
from ops.runbook.record import PLAN_ONLY, NotebookRecord
from ops.workspace import Workspace

MakeNotebook = Callable[..., Path]

LOOK = """
import pathlib
from ops.plan import Change, Outcome, Plan, require_approved
world = pathlib.Path(folder) / "world"
def plan():
    there = world.read_text() if world.exists() else "nothing"
    return Plan("Fill the world", (Change("world", there, "fill it" if there != "full" else "", "+"),), "local")
"""
PLAN = "plan()"
APPLY = """
require_approved(plan)
(pathlib.Path(folder) / "applied").touch()
changes = plan().pending
world.write_text("full")
Outcome("Fill the world", tuple((change.thing, "filled") for change in changes))
"""


@pytest.fixture
def notebook(make_notebook: MakeNotebook, tmp_path: Path) -> Path:
    """A notebook that fills a file."""
    parameters = f"folder: str = {str(tmp_path)!r}\nn: int = 1"
    return make_notebook("01_fill", "# Fill", LOOK, "### Plan", PLAN, "### Apply", APPLY, parameters=parameters)


def planned(notebook: Path, workspace: Workspace, **given: object) -> tuple[Record, PlanFile]:
    record = run_notebooks(
        [notebook], given, options=RunOptions(workspace=workspace, purpose=PLAN_ONLY, on_progress=silent)
    )
    return record, PlanFile.of(record, {"01_fill": Notebook.read(notebook)}, {"01_fill": given})  # type: ignore[dict-item]


def test_planning_stops_at_the_plan_and_stores_it(notebook: Path, workspace: Workspace, tmp_path: Path) -> None:
    record, plan = planned(notebook, workspace)
    assert not (tmp_path / "applied").exists()
    assert record.outcome == "succeeded"
    assert [step.outcome for step in record.notebooks[0].steps] == ["succeeded", "succeeded", "skipped"]
    assert [change["thing"] for change in record.notebooks[0].pending] == ["world"]
    assert Record.read(record.folder) == record
    plan.write(tmp_path / "plan.json")
    assert PlanFile.read(tmp_path / "plan.json") == plan


def test_exactly_the_approved_plan_is_applied_and_its_changes_are_recorded(
    notebook: Path, workspace: Workspace, tmp_path: Path
) -> None:
    _, plan = planned(notebook, workspace)
    record = run_notebooks([notebook], options=RunOptions(workspace=workspace, plan=plan, on_progress=silent))
    assert record.notebooks[0].changes == [{"thing": "world", "done": "filled"}]
    assert (tmp_path / "world").read_text() == "full"


def test_a_plan_is_refused_if_the_target_has_changed(notebook: Path, workspace: Workspace, tmp_path: Path) -> None:
    _, plan = planned(notebook, workspace)
    (tmp_path / "world").write_text("half")
    with pytest.raises(RunError) as caught:
        run_notebooks([notebook], options=RunOptions(workspace=workspace, plan=plan, on_progress=silent))
    assert "the approved plan no longer fits" in caught.value.why
    assert not (tmp_path / "applied").exists()


def test_a_plan_is_refused_for_another_notebook_parameter_or_code(
    notebook: Path, make_notebook: MakeNotebook, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plan = planned(notebook, workspace)
    before = len(list(workspace.records.iterdir()))
    other = make_notebook("02_other", "# Other", PLAN)

    def refusal(*paths: Path, **given: object) -> str:
        with pytest.raises(ApprovalError, match="nothing was run") as caught:
            run_notebooks(paths, given, options=RunOptions(workspace=workspace, plan=plan, on_progress=silent))
        return caught.value.why

    assert "this is a run of 02_other" in refusal(other)
    assert "made with no parameters, but this run has n=2" in refusal(notebook, n=2)
    source = notebook.read_text()
    notebook.write_text(source.replace("fill it", "fill it well"))
    assert "the notebook 01_fill has changed" in refusal(notebook)
    notebook.write_text(source)
    monkeypatch.setattr(plan_file, "code_sha256", lambda: "0" * 64)
    assert "made with different code" in refusal(notebook)
    assert len(list(workspace.records.iterdir())) == before


def test_an_edited_or_invalid_plan_file_is_refused(notebook: Path, workspace: Workspace, tmp_path: Path) -> None:
    _, plan = planned(notebook, workspace)
    file = tmp_path / "plan.json"
    stored = plan.to_json()
    stored["notebooks"][0]["parameters"] = {"n": 7}
    for content in (json.dumps(stored), "[]", "{}", "no JSON"):
        file.write_text(content)
        with pytest.raises(ApprovalError, match="is not a plan that can be applied"):
            PlanFile.read(file)
    with pytest.raises(ApprovalError, match="is not a plan"):
        PlanFile.read(tmp_path / "missing.json")


@pytest.mark.parametrize("response", [True, False])
def test_changes_are_made_only_after_a_yes(
    notebook: Path, workspace: Workspace, tmp_path: Path, response: bool
) -> None:
    asked: list[NotebookRecord] = []

    def ask(entry: NotebookRecord) -> bool:
        assert not (tmp_path / "applied").exists()
        asked.append(entry)
        return response

    if response:
        record = run_notebooks([notebook], options=RunOptions(workspace=workspace, ask=ask, on_progress=silent))
        assert record.outcome == "succeeded"
        asking = RunOptions(workspace=workspace, ask=ask, on_progress=silent)
        run_notebooks([notebook], options=asking)  # nothing to change, so no question
    else:
        with pytest.raises(RunError) as caught:
            run_notebooks([notebook], options=RunOptions(workspace=workspace, ask=ask, on_progress=silent))
        assert "the plan was not approved, and nothing was changed" in caught.value.why
    assert len(asked) == 1
    assert (tmp_path / "applied").exists() == response


def test_a_change_of_the_target_while_a_person_decides_is_refused(
    notebook: Path, workspace: Workspace, tmp_path: Path
) -> None:
    def ask(entry: NotebookRecord) -> bool:
        del entry
        (tmp_path / "world").write_text("half")
        return True

    with pytest.raises(RunError) as caught:
        run_notebooks([notebook], options=RunOptions(workspace=workspace, ask=ask, on_progress=silent))
    assert "no longer fits" in caught.value.why
    assert not (tmp_path / "applied").exists()


def test_a_notebook_without_a_plan_is_not_run(
    make_notebook: MakeNotebook, workspace: Workspace, tmp_path: Path
) -> None:
    path = make_notebook("01_x", "# X", f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(NotebookError, match="01_x cannot be planned"):
        run_notebooks([path], options=RunOptions(workspace=workspace, purpose=PLAN_ONLY, on_progress=silent))
    hidden = make_notebook("02_x", "# X", "def plan(): return 1\nplan()")
    with pytest.raises(RunError) as caught:
        run_notebooks([hidden], options=RunOptions(workspace=workspace, purpose=PLAN_ONLY, on_progress=silent))
    assert "shows no plan" in caught.value.why
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [("provision.plan(here)", True), ("plan = test.plan()\nplan", True), ("planner(1)", False), ("%magic", False)],
)
def test_a_cell_that_plans_is_recognized_by_its_call(source: str, expected: bool) -> None:
    assert is_plan_cell(source) == expected
