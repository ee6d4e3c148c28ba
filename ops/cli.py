"""The command ``runbook``: a thin face over the notebooks, their records and the targets."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from ops import __version__
from ops.errors import ApprovalError, ParameterError, RunbookError, RunError
from ops.private_files import UMASK
from ops.workspace import PROJECT_ROOT, Workspace

if TYPE_CHECKING:
    from ops.runbook import Record
    from ops.runbook.record import NotebookRecord
    from ops.targets import Target

NOTEBOOKS = PROJECT_ROOT / "notebooks"
FIRST_RUN = ("01_provision", "02_onboard_user", "03_smoke_test")
"""The notebooks of `runbook up`, in order."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CHANGES = 2
"""Of `runbook plan` and `runbook diff`: there are changes. A call of these that makes no sense exits with 1."""
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """A parser whose exit code for a wrong call can be set."""

    usage_code = EXIT_USAGE

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.usage_code, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, those of the process when not given; return its exit code.

    0 is success, 1 a failed run, 2 a wrong call, 130 an interrupted run. Of `plan` and `diff` 2 says that there are
    changes, and a wrong call is 1.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if given[:1] == ["open"] and "--" in given else len(given)
    options, unknown = _parser().parse_known_args(given[:end])
    options.passed_on = given[end + 1 :]
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    os.umask(UMASK)  # what this process and its kernels write is the operator's alone
    try:
        return int(options.call(options))
    except ParameterError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return int(options.parser.usage_code)
    except RunbookError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return EXIT_FAILED
    except PermissionError as error:
        print(
            f"runbook: {error.filename} cannot be used by this user.\n"
            "What to do: run as the user who owns it, or name another folder in PYPI_RUNBOOK_HOME.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("runbook: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, say) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> _Parser:
    parser = _Parser(prog="runbook", description="Operate a private Python package index by its notebooks.")
    parser.add_argument("--version", action="version", version=f"runbook {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, call: Any, text: str, more: str = "") -> _Parser:
        made: _Parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip())
        made.set_defaults(call=call, parser=made)
        return made

    run = command(
        "run",
        _run,
        "run notebooks, in order, and keep a record",
        "The first that fails ends the run. A notebook finds in place what was done already, so it can always be run "
        "again.",
    )
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"{_NOTEBOOK}; those of `runbook up` if omitted")
    _add_run_options(run)
    run.add_argument("--from", dest="start", default="", metavar="NOTEBOOK", help="leave out those before this one")
    run.add_argument(
        "--resume", action="store_true", help="go on with the last run, from its first unfinished notebook"
    )
    run.add_argument("--plan", type=Path, metavar="FILE", help="apply exactly this plan, of `runbook plan --out FILE`")
    run.add_argument("--ask", action="store_true", help="show each plan, and ask before its changes are made")

    plan = command(
        "plan",
        _plan,
        "show what notebooks would change, and change nothing",
        "Exit code: 0 nothing to change, 2 changes to make, 1 failed.",
    )
    plan.usage_code = EXIT_FAILED
    plan.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help=_NOTEBOOK)
    _add_run_options(plan)
    plan.add_argument("--out", metavar="FILE", help="write the plan as JSON, for `runbook run --plan`; - for stdout")

    up = command("up", _up, "from nothing to a working index with one user, on this machine", f"Runs {_FIRST}.")
    _add_run_options(up)

    lab = command(
        "open",
        _lab,
        "open copies of notebooks in JupyterLab, and keep a record",
        "What follows -- is passed on to JupyterLab. The notebooks themselves stay as they are.",
    )
    lab.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"{_NOTEBOOK}; all if omitted")
    _add_run_options(lab)

    status = command("status", _status, "say what runs, where, and for whom")
    _add_target_options(status)
    status.add_argument(
        "--json", action="store_true", help="as JSON; of every target and environment, if none is named"
    )

    history = command("history", _history, "list the deployments of a target, the newest first")
    _add_target_options(history)
    history.add_argument("--current", action="store_true", help="only the version that is deployed; nothing if none is")

    rollback = command(
        "rollback",
        _rollback,
        "deploy the version of before again, and prove that it works",
        "Packages, users and secrets stay.",
    )
    _add_target_options(rollback)
    rollback.add_argument(
        "--to", metavar="VERSION", help="of `runbook history`; the one before the deployed one if omitted"
    )

    command("stop", _stop, "stop the index on this machine; packages, users and secrets stay")
    command("list", _list, "list the notebooks with their parameters")

    records = command("records", _records, "list the records of runs, the newest first")
    records.add_argument("action", nargs="?", default="list", choices=("list", "scan", "summary"), help=_RECORDS)
    records.add_argument("--notebook", default="", metavar="NAME", help="only runs of this notebook")
    records.add_argument("--outcome", default="", choices=("succeeded", "failed", "interrupted", "running"))
    records.add_argument("--target", default="", metavar="TARGET", help="only runs on it, as in local or modal.main")
    records.add_argument("--since", default="", metavar="DATE", help="only runs from then on, in ISO 8601, UTC")
    records.add_argument("--json", action="store_true", help="the list as JSON")

    diff = command("diff", _diff, "compare two runs", "Exit code: 0 they are alike, 2 they differ, 1 failed.")
    diff.usage_code = EXIT_FAILED
    for name in ("first", "second"):
        diff.add_argument(name, metavar="RECORD", help="its number or name in `runbook records`, or its folder")

    report = command("report", _report, "make one page over all runs")
    report.add_argument("--out", type=Path, metavar="FILE", help="the page; index.html beside the records if omitted")
    return parser


_NOTEBOOK = "its name (01_provision), its number, a path, or a pattern like '0*'"
_FIRST = ", ".join(FIRST_RUN)
_ENVIRONMENT = "of Modal; MODAL_ENVIRONMENT, or Modal's own default, if omitted"
_RECORDS = "list (the default); scan: remove secrets found in them, and exit with 1 if any; summary: in Markdown"


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the notebooks, of the type that they declare; repeatable. Never a secret: those come from "
        "the environment, a file or a prompt",
    )
    parser.add_argument(
        "-f",
        "--parameters-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="parameters in YAML or JSON, NAME: VALUE; repeatable, and -p goes over it",
    )
    parser.add_argument("--target", metavar="TARGET", help="the same as -p target=TARGET: local or modal")
    parser.add_argument("--environment", metavar="NAME", help=_ENVIRONMENT)


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="", metavar="TARGET", help="local (the default) or modal")
    parser.add_argument("--environment", metavar="NAME", help=_ENVIRONMENT)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The parameters of a run; sets the environment of Modal for its kernels."""
    from ops.runbook.selection import read_parameters

    named = [f"target={options.target}"] if options.target else []
    if options.environment:
        os.environ["MODAL_ENVIRONMENT"] = options.environment
    return read_parameters([*named, *options.parameter], options.parameters_file)


def _execute(
    notebooks: Sequence[Path], parameters: dict[str, Any], *, stream: TextIO | None = None, **how: Any
) -> Record:
    """Run notebooks, and show the recap on *stream* however they end."""
    from ops.runbook import Record, RunInterruptedError, run_notebooks
    from ops.runbook.summary import tell

    stream = stream or sys.stdout
    try:
        record = run_notebooks(notebooks, parameters, workspace=Workspace.default(), **how)
    except RunError as error:
        if error.record is not None:
            tell(Record.read(error.record), stream, os.environ)
        raise
    except RunInterruptedError as interrupted:
        tell(interrupted.record, stream, os.environ)
        raise
    tell(record, stream, os.environ)
    return record


def _run(options: argparse.Namespace) -> int:
    from ops.runbook.plan_file import PlanFile
    from ops.runbook.selection import select_notebooks

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
            "--resume goes on with the last run",
            why="notebooks, --from and --plan choose others",
            todo="leave these out, or leave out --resume",
        )
    last = next((record for record in list_records(Workspace.default().records) if record.purpose == RUN), None)
    left = [entry for entry in last.notebooks if entry.outcome != SUCCEEDED] if last else []
    if last is None or not left:
        raise RunbookError(
            "there is nothing to resume",
            why="the last run completed all its notebooks" if last else "there is no record of a run",
            todo="name the notebooks that you want to run",
        )
    print(f"Going on with {last.folder.name} from {left[0].name}.")
    return [entry.name for entry in left], {**last.parameters, **given}, last.folder.name


def _ask(entry: NotebookRecord) -> bool:
    from ops.runbook.summary import plan_lines

    print("", *plan_lines(entry), sep="\n    ")
    try:
        return input(f"Apply this plan of {entry.name}? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        print()
        return False


def _plan(options: argparse.Namespace) -> int:
    from ops.parameters import assign
    from ops.runbook import ConsoleProgress, Notebook
    from ops.runbook.plan_file import PlanFile
    from ops.runbook.selection import select_notebooks
    from ops.runbook.summary import plan_lines

    given = _given(options)
    paths = select_notebooks(options.notebooks, NOTEBOOKS)
    progress = ConsoleProgress(sys.stderr, detailed=False)
    record = _execute(paths, given, purpose="plan", on_progress=progress, stream=sys.stderr)
    text = sys.stderr if options.out == "-" else sys.stdout
    for entry in record.notebooks:
        print(entry.name, *plan_lines(entry), sep="\n  ", file=text)
    notebooks = {entry.name: Notebook.read(path) for entry, path in zip(record.notebooks, paths, strict=True)}
    values = assign(given, {name: notebook.parameters for name, notebook in notebooks.items()})
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


def _up(options: argparse.Namespace) -> int:
    from ops.installation import Installation
    from ops.runbook.selection import select_notebooks

    installation = Installation(Workspace.default())
    with installation.exclusive():
        record = _execute(select_notebooks(FIRST_RUN, NOTEBOOKS), _given(options), name="up")
        if not any(entry.changes for entry in record.notebooks):
            print("\nEverything was in place; nothing was changed.")
        print(f"\n{installation.summary(report=record.report)}")
    return 0


def _lab(options: argparse.Namespace) -> int:
    from ops.runbook.lab import open_notebooks
    from ops.runbook.selection import select_notebooks
    from ops.runbook.summary import recap

    paths = select_notebooks(options.notebooks or ["*"], NOTEBOOKS)
    record = open_notebooks(paths, _given(options), workspace=Workspace.default(), arguments=options.passed_on)
    print(f"\n{recap(record)}\nReport: {record.report}")
    return 0


def _open(options: argparse.Namespace) -> Target:
    from ops.targets import open_target

    target = options.target or "local"
    if target == "local" and options.environment:
        raise ParameterError(
            "the local target has no environments",
            why=f"--environment {options.environment} was given without --target modal",
            todo=f"add: --target modal --environment {options.environment}",
        )
    return open_target(target, environment=options.environment)


def _status(options: argparse.Namespace) -> int:
    from ops.status import status, status_json
    from ops.targets import known_places

    if options.json:
        named = [(options.target, options.environment)] if options.target else known_places()
        print(json.dumps([status_json(*place) for place in named], indent=2, ensure_ascii=False))
        return 0
    target = _open(options)
    if target.name == "local":
        from ops.installation import Installation

        print(Installation(Workspace.default()).summary())
    else:
        print(status(target))
    return 0


def _history(options: argparse.Namespace) -> int:
    from ops.rollback import current, history

    print(current(_open(options)) if options.current else history(_open(options)))
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from ops import rollback

    target = _open(options)
    print(rollback.roll_back(target, version=options.to))
    print(f"\n{rollback.verify(target)}")
    return 0


def _stop(options: argparse.Namespace) -> int:
    del options
    from ops.targets import open_target

    target = open_target("local")
    with target.lock():
        stopped = target.stop()
    print("The index was stopped; its data stays." if stopped else "No index runs on this machine; nothing to stop.")
    return 0


def _list(options: argparse.Namespace) -> int:
    del options
    from ops.columns import columns
    from ops.runbook import list_notebooks

    for notebook in list_notebooks(NOTEBOOKS):
        print(f"{notebook.name}   {notebook.title}")
        rows = [(f"-p {each.name}={each.default!r}", each.type, each.help) for each in notebook.parameters]
        print(*(f"    {line}" for line in columns(rows)), sep="\n")
    return 0


def _records(options: argparse.Namespace) -> int:
    from ops.runbook import list_records
    from ops.runbook.record_list import choose, table
    from ops.runbook.secret_scan import scan_all
    from ops.runbook.summary import markdown

    workspace = Workspace.default()
    if options.action == "scan":
        spoiled = scan_all(workspace)
        mark = "::error::" if os.environ.get("GITHUB_ACTIONS") == "true" else ""
        for path in spoiled:
            print(f"{mark}a secret stood in {path.relative_to(workspace.records)}, and was taken out")
        return EXIT_FAILED if spoiled else 0
    records = list_records(workspace.records)
    chosen = choose(
        records,
        notebook=options.notebook,
        outcome=options.outcome,
        target=options.target,
        since=options.since,
    )
    if options.action == "summary":
        print(markdown(reversed(chosen)), end="")
    elif options.json:
        print(json.dumps([{"folder": str(each.folder), **each.to_json()} for each in chosen], indent=2))
    else:
        print(table(chosen, records) if chosen else "There are no such records.")
    return 0


def _diff(options: argparse.Namespace) -> int:
    from ops.runbook.record_list import differences, find_record

    records = Workspace.default().records
    lines = differences(find_record(options.first, records), find_record(options.second, records))
    print("\n".join(lines) or "The two runs are alike, but for their times.")
    return EXIT_CHANGES if lines else 0


def _report(options: argparse.Namespace) -> int:
    from ops.runbook.overview import write_overview

    print(f"Report: {write_overview(Workspace.default().records, options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
