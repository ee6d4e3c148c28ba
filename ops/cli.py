"""The command ``runbook``: a thin face over the notebooks, their records and the local target."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ops import __version__
from ops.errors import ParameterError, RunbookError
from ops.private_files import UMASK
from ops.workspace import PROJECT_ROOT, Workspace

if TYPE_CHECKING:
    from ops.runbook import Record
    from ops.targets import Target

NOTEBOOKS = PROJECT_ROOT / "notebooks"
FIRST_RUN = ("01_provision", "02_onboard_user", "03_smoke_test")
"""What `runbook up` runs, in this order."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, those of the process when not given; return its exit code.

    0 is success, 1 a run that failed, 2 a call that makes no sense, 130 a run that was interrupted.
    """
    options = _parser().parse_args(arguments)
    os.umask(UMASK)  # what this process and its kernels write is the operator's alone
    try:
        return int(options.call(options))
    except ParameterError as error:
        print(f"runbook: {error}", file=sys.stderr)
        return EXIT_USAGE
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
        # Whoever read our output (head, say) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runbook", description="Operate a private Python package index by its notebooks."
    )
    parser.add_argument("--version", action="version", version=f"runbook {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="run notebooks headlessly, in order, and keep a record",
        description="Run notebooks headlessly, in order, and keep a record. The first that fails ends the run.",
    )
    run.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help="its name (01_provision), its number, or a path")
    _add_parameter_option(run)
    run.set_defaults(call=_run)

    up = commands.add_parser(
        "up",
        help="from nothing to a working index with one user, on this machine",
        description=f"Run {', '.join(FIRST_RUN)} and say how to use what is there now. Run again, it finds everything "
        "in place.",
    )
    _add_parameter_option(up)
    up.set_defaults(call=_up)

    status = commands.add_parser(
        "status",
        help="say what runs, where, and for whom",
        description="Say what runs, where, and for whom.",
    )
    _add_target_options(status)
    status.set_defaults(call=_status)

    history = commands.add_parser(
        "history",
        help="list the deployments of a target",
        description="List the deployments of a target, newest first.",
    )
    _add_target_options(history)
    history.add_argument(
        "--current", action="store_true", help="only the version that is deployed; nothing when none is"
    )
    history.set_defaults(call=_history)

    rollback = commands.add_parser(
        "rollback",
        help="deploy the version of before again, and prove that it works",
        description="Deploy the version of before again, and prove that it works. Packages, users and secrets stay.",
    )
    _add_target_options(rollback)
    rollback.add_argument(
        "--to", metavar="VERSION", help="of `runbook history`; the one before the deployed one when not given"
    )
    rollback.set_defaults(call=_rollback)

    for name, call, text in (
        ("stop", _stop, "stop the index on this machine; packages, users and secrets stay"),
        ("list", _list, "list the notebooks with their parameters"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(call=call)
    return parser


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="local", metavar="TARGET", help="local (the default) or modal")
    parser.add_argument(
        "--environment", metavar="NAME", help="of Modal; MODAL_ENVIRONMENT, or Modal's own default, when not given"
    )


def _add_parameter_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the notebooks, of the type that they declare; may be given again. Never a secret: those "
        "come from the environment, a file or a prompt",
    )


def _parameters(given: Sequence[str]) -> Mapping[str, str]:
    parameters: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterError(
                f"{item!r} is no parameter",
                why="a parameter is given as NAME=VALUE",
                todo="write it like -p target=local; `runbook list` names the parameters of each notebook",
            )
        parameters[name] = value
    return parameters


def _execute(
    notebooks: Sequence[str], parameters: Mapping[str, str], workspace: Workspace, *, name: str = ""
) -> Record:
    from ops.installation import Installation
    from ops.runbook import find_notebook, run_notebooks

    paths: list[Path] = [find_notebook(name, NOTEBOOKS).path for name in notebooks]
    installation = Installation(workspace)
    before = installation.addresses()
    try:
        return run_notebooks(paths, parameters, workspace=workspace, name=name)
    finally:
        # Also after a run that failed later: the old address is somebody else's now.
        if told := installation.told(before):
            print(f"\n{told}")


def _run(options: argparse.Namespace) -> int:
    record = _execute(options.notebooks, _parameters(options.parameter), Workspace.default())
    print(f"\nReport: {record.report}")
    return 0


def _up(options: argparse.Namespace) -> int:
    from ops.installation import Installation

    workspace = Workspace.default()
    installation = Installation(workspace)
    with installation.exclusive():
        before = installation.state()
        record = _execute(FIRST_RUN, _parameters(options.parameter), workspace, name="up")
        if installation.state() == before:
            print("\nEverything was in place; nothing was changed.")
        print(f"\n{installation.summary(report=record.report)}")
    return 0


def _open(options: argparse.Namespace) -> Target:
    from ops.targets import open_target

    if options.target == "local":
        if options.environment:
            raise ParameterError(
                "the local target has no environments",
                why=f"--environment {options.environment} was given without --target modal",
                todo=f"add: --target modal --environment {options.environment}",
            )
        return open_target(options.target)
    return open_target(options.target, environment=options.environment)


def _status(options: argparse.Namespace) -> int:
    target = _open(options)
    if options.target == "local":
        from ops.installation import Installation

        print(Installation(Workspace.default()).summary())
        return 0
    from ops.status import status

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
    from ops.runbook import list_notebooks

    for notebook in list_notebooks(NOTEBOOKS):
        print(f"{notebook.name}   {notebook.title}")
        rows = [(f"-p {each.name}={each.default!r}", each.type, each.help) for each in notebook.parameters]
        width = max(len(row[0]) for row in rows)
        for given, kind, text in rows:
            print(f"    {given:<{width}}  {kind:<5}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
