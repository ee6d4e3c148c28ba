"""Parser of the command line: every command and its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from ops import __version__
from ops.cli import EXIT_FAILED, EXIT_USAGE, records, runs, targets

_NOTEBOOK = "its name (01_provision), its number, a path, or a pattern like '0*'"
_FIRST = ", ".join(runs.FIRST_RUN)
_ENVIRONMENT = "of Modal; MODAL_ENVIRONMENT, or Modal's own default, if omitted"
_RECORDS = "list (the default); scan: remove secrets found in them, and exit with 1 if any; summary: in Markdown"


class _Parser(argparse.ArgumentParser):
    """A parser with a configurable exit code for usage errors."""

    usage_code = EXIT_USAGE

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.usage_code, f"{self.prog}: {message}\n")


def make_parser() -> _Parser:
    """The parser; each command's namespace has its function as ``call`` and its parser as ``parser``."""
    parser = _Parser(prog="runbook", description="Operate a private Python package index with notebooks.")
    parser.add_argument("--version", action="version", version=f"runbook {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, call: Any, text: str, more: str = "") -> _Parser:
        made: _Parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}".strip())
        made.set_defaults(call=call, parser=made)
        return made

    run = command(
        "run",
        runs.run,
        "run notebooks, in order, and keep a record",
        "The first that fails ends the run. Notebooks skip what is already in place, so they can always be run again.",
    )
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"{_NOTEBOOK}; those of `runbook up` if omitted")
    _add_run_options(run)
    run.add_argument("--from", dest="start", default="", metavar="NOTEBOOK", help="skip those before this one")
    run.add_argument("--resume", action="store_true", help="continue the last run, from its first unfinished notebook")
    run.add_argument(
        "--plan", type=Path, metavar="FILE", help="apply exactly this plan, from `runbook plan --out FILE`"
    )
    run.add_argument("--ask", action="store_true", help="show each plan, and ask before applying it")

    plan = command(
        "plan",
        runs.show_plans,
        "show what notebooks would change, and change nothing",
        "Exit code: 0 nothing to change, 2 changes to make, 1 failed.",
    )
    plan.usage_code = EXIT_FAILED
    plan.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help=_NOTEBOOK)
    _add_run_options(plan)
    plan.add_argument("--out", metavar="FILE", help="write the plan as JSON, for `runbook run --plan`; - for stdout")

    up = command("up", runs.up, "set up a working index with one user on this machine", f"Runs {_FIRST}.")
    _add_run_options(up)

    lab = command(
        "open",
        runs.open_lab,
        "open copies of notebooks in JupyterLab, and keep a record",
        "Arguments after -- are passed on to JupyterLab. The notebooks themselves do not change.",
    )
    lab.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"{_NOTEBOOK}; all if omitted")
    _add_run_options(lab)

    status = command("status", targets.show_status, "show what runs, where, and for whom")
    _add_target_options(status)
    status.add_argument(
        "--json", action="store_true", help="as JSON; for every target and environment, if none is named"
    )

    history = command("history", targets.show_history, "list the deployments of a target, newest first")
    _add_target_options(history)
    history.add_argument("--current", action="store_true", help="only the deployed version; nothing if there is none")

    rollback = command(
        "rollback",
        targets.rollback,
        "deploy the previous version again, and verify that it works",
        "Packages, users and secrets stay.",
    )
    _add_target_options(rollback)
    rollback.add_argument("--to", metavar="VERSION", help="from `runbook history`; the previous one if omitted")

    command("stop", targets.stop, "stop the index on this machine; packages, users and secrets stay")
    command("list", runs.list_all, "list the notebooks with their parameters")

    token = command(
        "token", targets.list_tokens, "create, list and revoke tokens that stand for a user, for example in a CI job"
    )
    _add_token_actions(token.add_subparsers(title="actions", metavar="ACTION", required=True))

    listing = command("records", records.records, "list the records of runs, newest first")
    listing.add_argument("action", nargs="?", default="list", choices=("list", "scan", "summary"), help=_RECORDS)
    listing.add_argument("--notebook", default="", metavar="NAME", help="only runs of this notebook")
    listing.add_argument("--outcome", default="", choices=("succeeded", "failed", "interrupted", "running"))
    listing.add_argument(
        "--target", default="", metavar="TARGET", help="only runs on this target, such as local or modal.main"
    )
    listing.add_argument("--since", default="", metavar="DATE", help="only runs since then, in ISO 8601, UTC")
    listing.add_argument("--json", action="store_true", help="the list as JSON")

    diff = command("diff", records.diff, "compare two runs", "Exit code: 0 equal, 2 different, 1 failed.")
    diff.usage_code = EXIT_FAILED
    for name in ("first", "second"):
        diff.add_argument(name, metavar="RECORD", help="its number or name in `runbook records`, or its folder")

    report = command("report", records.report, "create one page about all runs")
    report.add_argument("--out", type=Path, metavar="FILE", help="the page; index.html next to the records if omitted")
    return parser


def _add_token_actions(actions: argparse._SubParsersAction[_Parser]) -> None:
    def action(name: str, call: Any, text: str) -> _Parser:
        made = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(call=call, parser=made)
        _add_target_options(made)
        return made

    create = action("create", targets.create_token, "create a token in a private file, or in the target's secret store")
    create.add_argument("owner", metavar="USER", help="its owner; it can never do more than this user")
    create.add_argument("--role", default="", choices=("reader", "publisher", "admin"), help="the user's if omitted")
    create.add_argument(
        "--project", action="append", default=[], metavar="NAME", help="allow uploads to this project only; repeatable"
    )
    create.add_argument(
        "--days", type=float, default=90, metavar="DAYS", help="until it expires, at most 365 (default: 90)"
    )
    create.add_argument("--label", default="", metavar="TEXT", help="one line, for people")
    create.add_argument("--out", type=Path, metavar="FILE", help="a new file; one in the user's folder if omitted")
    create.add_argument("--secret", default="", metavar="NAME", help="a secret of the target's store instead of a file")
    listing = action("list", targets.list_tokens, "list the tokens, newest first, with their last use")
    listing.add_argument("--owner", default="", metavar="USER", help="only this user's")
    revoke = action("revoke", targets.revoke_token, "revoke a token; every server refuses it within five seconds")
    revoke.add_argument("id", metavar="ID", help="from `runbook token list`; also the second part of the token")


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
        help="parameters in YAML or JSON, NAME: VALUE; repeatable; -p takes precedence",
    )
    parser.add_argument("--target", metavar="TARGET", help="the same as -p target=TARGET: local or modal")
    parser.add_argument("--environment", metavar="NAME", help=_ENVIRONMENT)


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="", metavar="TARGET", help="local (the default) or modal")
    parser.add_argument("--environment", metavar="NAME", help=_ENVIRONMENT)
