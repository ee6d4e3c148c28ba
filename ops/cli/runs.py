"""Commands that run notebooks: run, plan, up, open and list."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ops.cli import EXIT_CHANGES
from ops.errors import ApprovalError, ParameterError, RunbookError, RunError
from ops.workspace import PROJECT_ROOT, Workspace

if TYPE_CHECKING:
    from ops.runbook import Record
    from ops.runbook.record import NotebookRecord

NOTEBOOKS = PROJECT_ROOT / "notebooks"
FIRST_RUN = ("01_provision", "02_onboard_user", "03_smoke_test")
"""The notebooks of `runbook up`, in order."""


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters of a run; sets the environment of Modal for its kernels."""
    named = [f"target={options.target}"] if options.target else []
    if options.environment:
        os.environ["MODAL_ENVIRONMENT"] = options.environment
    return read_parameters([*named, *options.parameter], options.parameters_file)


def read_parameters(pairs: Sequence[str], files: Sequence[Path] = ()) -> dict[str, Any]:
    """The parameters of a run: those from files, overridden by those given one by one.

    Parameters:
        pairs: each ``NAME=VALUE``.
        files: YAML or JSON, each a mapping of names to values.

    Raises:
        ParameterError: one of them is not a parameter, or a file cannot be read.
    """
    parameters: dict[str, Any] = {}
    for file in files:
        parameters |= _from_file(file)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterError(
                f"{pair!r} is no parameter",
                why="a parameter is given as NAME=VALUE",
                todo="write it like -p target=local; `runbook list` names the parameters of each notebook",
            )
        parameters[name] = value
    return parameters


def _from_file(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ParameterError(
            f"the parameters in {file} cannot be read", why=why, todo="write one NAME: VALUE a line, in YAML"
        ) from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ParameterError(
            f"{file} holds no parameters",
            why="it is not a mapping of names to values",
            todo="write one NAME: VALUE a line, in YAML",
        )
    return found


def _execute(
    notebooks: Sequence[Path], parameters: dict[str, Any], *, stream: TextIO | None = None, **how: Any
) -> Record:
    """Run notebooks, and print the recap to *stream*, even if they fail."""
    from ops.runbook import Record, RunInterruptedError, RunOptions, run_notebooks
    from ops.runbook.summary import tell

    stream = stream or sys.stdout
    try:
        record = run_notebooks(notebooks, parameters, options=RunOptions(workspace=Workspace.default(), **how))
    except RunError as error:
        if error.record is not None:
            tell(Record.read(error.record), stream, os.environ)
        raise
    except RunInterruptedError as interrupted:
        tell(interrupted.record, stream, os.environ)
        raise
    tell(record, stream, os.environ)
    return record


def run(options: argparse.Namespace) -> int:
    """Run notebooks."""
    from ops.runbook.notebook import select_notebooks
    from ops.runbook.plan_file import PlanFile

    given, how = _given(options), dict[str, Any](ask=_ask if options.ask else None)
    names: Sequence[str] = options.notebooks or FIRST_RUN
    if options.plan:
        how["plan"] = PlanFile.read(options.plan)
        names = options.notebooks or [notebook.name for notebook in how["plan"].notebooks]
        given = how["plan"].parameters | given
    if options.resume:
        names, given, how["resumes"] = _unfinished(options, given)
    paths = select_notebooks(names, NOTEBOOKS, start=options.start)
    record = _execute(paths, given, **how)
    print(f"Report: {record.report}")
    return 0


def _unfinished(options: argparse.Namespace, given: dict[str, Any]) -> tuple[Sequence[str], dict[str, Any], str]:
    """The notebooks that the last run did not complete, its parameters, and its name."""
    from ops.runbook.record import RUN, SUCCEEDED, list_records

    if options.notebooks or options.start or options.plan:
        raise ParameterError(
            "--resume continues the last run",
            why="notebooks, --from and --plan select others",
            todo="omit these, or omit --resume",
        )
    last = next((record for record in list_records(Workspace.default().records) if record.purpose == RUN), None)
    left = [entry for entry in last.notebooks if entry.outcome != SUCCEEDED] if last else []
    if last is None or not left:
        raise RunbookError(
            "there is nothing to resume",
            why="the last run completed all its notebooks" if last else "there is no record of a run",
            todo="name the notebooks that you want to run",
        )
    print(f"Continuing {last.folder.name} from {left[0].name}.")
    return [entry.name for entry in left], {**last.parameters, **given}, last.folder.name


def _ask(entry: NotebookRecord) -> bool:
    from ops.runbook.summary import plan_lines

    print("", *plan_lines(entry), sep="\n    ")
    try:
        return input(f"Apply this plan of {entry.name}? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        print()
        return False


def show_plans(options: argparse.Namespace) -> int:
    """Show and store the plans of notebooks."""
    from ops.parameters import distribute
    from ops.runbook import ConsoleProgress, Notebook
    from ops.runbook.notebook import select_notebooks
    from ops.runbook.plan_file import PlanFile
    from ops.runbook.summary import plan_lines

    given = _given(options)
    paths = select_notebooks(options.notebooks, NOTEBOOKS)
    progress = ConsoleProgress(sys.stderr, detailed=False)
    record = _execute(paths, given, purpose="plan", on_progress=progress, stream=sys.stderr)
    text = sys.stderr if options.out == "-" else sys.stdout
    for entry in record.notebooks:
        print(entry.name, *plan_lines(entry), sep="\n  ", file=text)
    notebooks = {entry.name: Notebook.read(path) for entry, path in zip(record.notebooks, paths, strict=True)}
    values = distribute(given, {name: notebook.parameters for name, notebook in notebooks.items()})
    plan = PlanFile.of(record, notebooks, values)
    if options.out == "-":
        print(json.dumps(plan.to_json(), indent=2, ensure_ascii=False))
    elif options.out:
        try:
            plan.write(Path(options.out))
        except OSError as error:
            raise ApprovalError(
                f"the plan cannot be written to {options.out}", why=str(error.strerror), todo="name another file"
            ) from None
        print(f"Written to {options.out}, SHA-256 {plan.to_json()['sha256']}")
    return EXIT_CHANGES if any(entry.pending for entry in record.notebooks) else 0


def up(options: argparse.Namespace) -> int:
    """Run the first notebooks, and print how to use the result."""
    from ops.runbook.notebook import select_notebooks
    from ops.status import installation
    from ops.targets.lock import exclusive

    # Not the target's own lock, which the notebooks take in their own processes.
    with exclusive(Workspace.default().create().home / "up.lock", what="the workspace"):
        record = _execute(select_notebooks(FIRST_RUN, NOTEBOOKS), _given(options), name="up")
        if not any(entry.changes for entry in record.notebooks):
            print("\nEverything was in place; nothing was changed.")
        print(f"\n{installation(report=record.report)}")
    return 0


def open_lab(options: argparse.Namespace) -> int:
    """Open copies of notebooks in JupyterLab."""
    from ops.runbook.lab import open_notebooks
    from ops.runbook.notebook import select_notebooks
    from ops.runbook.summary import recap

    paths = select_notebooks(options.notebooks or ["*"], NOTEBOOKS)
    record = open_notebooks(paths, _given(options), workspace=Workspace.default(), arguments=options.passed_on)
    print(f"\n{recap(record)}\nReport: {record.report}")
    return 0


def list_all(options: argparse.Namespace) -> int:
    """List the notebooks with their parameters."""
    del options
    from ops.runbook import list_notebooks
    from ops.table import columns

    for notebook in list_notebooks(NOTEBOOKS):
        print(f"{notebook.name}   {notebook.title}")
        rows = [(f"-p {each.name}={each.default!r}", each.type, each.help) for each in notebook.parameters]
        print(*(f"    {line}" for line in columns(rows)), sep="\n")
    return 0
