"""Troubleshooting: every error leads to an entry of the guide and every entry to an error; every fault is reported."""

from __future__ import annotations

import ast
import re

import pytest

from ops import errors, guard, onboard, troubleshoot
from ops.errors import GUIDE, IndexRequestError, RunbookError, RunError, VerificationError
from ops.index.auth.passwords import InvalidCredentials
from ops.index.errors import PackageIndexError
from ops.runbook import Notebook
from ops.runbook.failure import failure_of
from ops.workspace import PROJECT_ROOT, Workspace
from tests.fakes import FakeTarget

pytest_plugins = ["tests.operations"]

GROUPS = {"The runbook", "Plans and confirmations", "Snapshots", "The target", "The clients and the index"}


def entries() -> dict[str, str]:
    """The text of each entry, by its anchor in JupyterLab and on GitHub."""
    notebook = Notebook.read(PROJECT_ROOT / "notebooks" / f"{GUIDE}.ipynb")
    text = "\n".join(cell.source for cell in notebook.cells if cell.kind == "markdown")
    found = re.findall(r"^#### (.+)\n((?:(?!#).*\n?)*)", text, re.MULTILINE)
    return {title.replace(" ", "-"): body for title, body in found if title not in GROUPS}


def tree(root: type[Exception]) -> set[type[Exception]]:
    """A class and all its subclasses."""
    return {root}.union(*(tree(child) for child in root.__subclasses__()))


def test_every_error_has_an_entry_and_every_entry_an_error() -> None:
    ours = {kind.__name__ for kind in tree(RunbookError) if kind.__module__ == errors.__name__}
    expected = ours | {IndexRequestError("x", status=status).entry for status in errors.STATUSES}
    missing = expected - entries().keys()
    assert not missing, f"write an entry into {GUIDE} for {', '.join(sorted(missing))}"
    assert entries().keys() - expected == {guard.UNEXPECTED}


def test_every_status_of_the_index_has_an_entry() -> None:
    assert InvalidCredentials in tree(PackageIndexError)  # it is defined outside the tree's module
    answered = {kind.status for kind in tree(PackageIndexError) if issubclass(kind, PackageIndexError)}
    assert answered == errors.STATUSES


def test_every_class_of_error_is_raised_somewhere() -> None:
    called = {
        node.func.id
        for path in (PROJECT_ROOT / "ops").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    named = {
        node.id
        for path in (PROJECT_ROOT / "ops" / "targets").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name)
    }
    assert {entry for entry in entries() if "-" not in entry} - called - named == {guard.UNEXPECTED}


@pytest.mark.parametrize("name", entries())
def test_an_entry_says_symptom_check_and_fix(name: str) -> None:
    assert re.findall(r"^- \*\*(\w+)\.\*\* \S", entries()[name], re.MULTILINE) == ["Symptom", "Check", "Fix"]


def test_an_error_names_its_entry_in_its_last_line_wherever_it_is_shown() -> None:
    error = IndexRequestError("no", status=401, why="because", todo="log in")
    assert str(error).splitlines()[2] == "What to do: log in. See 90_troubleshoot#IndexRequestError-401."
    assert guard.explanation(error)[2].endswith("#IndexRequestError-401.")
    assert failure_of(type(error).__name__, str(error)).todo == "log in. See 90_troubleshoot#IndexRequestError-401"
    assert IndexRequestError("no", status=418).entry == IndexRequestError("no").entry == "IndexRequestError"
    assert str(RunbookError("no")) == "no.\nWhat to do: See 90_troubleshoot#RunbookError."


def test_the_error_of_a_run_keeps_the_entry_of_its_cause() -> None:
    error = RunError("it failed", todo="log in. See 90_troubleshoot#BusyError. The report is r.html")
    assert str(error).count(GUIDE) == 1


def test_in_jupyterlab_the_entry_is_a_link() -> None:
    shown = guard.FoldedTraceback("<trace>", "BusyError")._repr_html_()
    assert 'href="90_troubleshoot.ipynb#BusyError"' in shown
    assert "&lt;trace&gt;" in shown


def test_without_an_index_every_check_still_runs_and_the_verification_lists_all(target: FakeTarget) -> None:
    target.problems = ["no room", "no air"]
    assert [row[2] for row in troubleshoot.machine(target).rows] == ["yes", "NO", "NO", "yes"]
    assert "90_troubleshoot#NotDeployedError" in troubleshoot.index(target).rows[0][1]
    assert troubleshoot.logins(target).rows == (("nothing", "there is nothing to look at", "yes"),)
    with pytest.raises(VerificationError, match="3 of 5 checks failed") as raised:
        troubleshoot.verify(target)
    for found in ("no room", "no air", "there is no index"):
        assert found in raised.value.why


def test_a_healthy_index_has_nothing_to_fix(provisioned: FakeTarget) -> None:
    onboard.apply(onboard.describe(provisioned, username="alice"))
    assert troubleshoot.logins(provisioned).rows == (("user alice", "accepted (200)", "yes"),)
    assert troubleshoot.verify(provisioned).rows == (("6", "0"),)


def test_a_fault_of_the_index_is_reported_with_its_entry(provisioned: FakeTarget, workspace: Workspace) -> None:
    onboard.apply(onboard.describe(provisioned, username="alice"))
    onboard.apply(onboard.describe(provisioned, username="bob"))
    (workspace.user("local", "bob") / ".pypirc").unlink()
    provisioned.index.users.pop("alice")
    provisioned.index.token = "another"
    provisioned.old = "runs with another code"
    rows = {row[0]: row[1:] for row in (*troubleshoot.index(provisioned).rows, *troubleshoot.logins(provisioned).rows)}
    assert rows["server"][1] == "yes"
    assert rows["code that runs"][1] == "NO"
    assert rows["admin token"][0].endswith("90_troubleshoot#IndexRequestError-401")
    assert rows["user alice"] == ("refused (401); see 90_troubleshoot#IndexRequestError-401", "NO")
    assert "cannot be read" in rows["user bob"][0]


def test_an_unresponsive_index_is_reported_with_the_error_in_its_log(provisioned: FakeTarget) -> None:
    provisioned.failure = "OSError: no room"
    (row,) = troubleshoot.index(provisioned).rows
    assert "OSError: no room" in row[1]
    assert row[1].endswith("90_troubleshoot#NotRespondingError")


def test_a_hostile_name_is_escaped(provisioned: FakeTarget, workspace: Workspace) -> None:
    (workspace.users("local") / "<b>x").mkdir(parents=True)
    assert "<b>" not in troubleshoot.logins(provisioned)._repr_html_()
