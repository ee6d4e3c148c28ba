"""Runs notebooks in processes that are killed by SIGKILL right before a step: a line of ``ops`` that changes something.

    python -m tests.notebooks.kill_points

Reads a request as JSON from each line of standard input: notebook, parameters, and the number of the step, or 0 to kill
nothing. Responds with a line of JSON: whether it was killed, the number of steps after the plan, and the error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import nbformat

# Imported once: each notebook runs in a fork of this process.
from ops import (  # noqa: F401
    back_up,
    incident,
    manage_releases,
    offboard,
    onboard,
    provision,
    restore,
    rotation,
    tear_down,
    upgrade,
)
from ops.errors import RunbookError
from ops.runbook.notebook import GUARD
from ops.runbook.plan_file import is_plan_cell
from ops.targets import local  # noqa: F401
from ops.workspace import PROJECT_ROOT

_CHANGES = {"os.kill", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "subprocess.Popen"}
_PACKAGE = f"{PROJECT_ROOT / 'ops'}{os.sep}"


class KillPoint:
    """Counts the steps of this process, and kills it before a given one.

    Consecutive changes by one line, as for the files of a folder, are one step.
    """

    def __init__(self, number: int) -> None:
        self.steps = 0
        self._number = number
        self._line = ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.current_thread() is not threading.main_thread() or not _changes(event, arguments):
            return
        line = _line_of_ops()
        self.steps += line != self._line
        self._line = line
        if self.steps == self._number:
            self._number = 0  # the kill is a change too
            os.kill(os.getpid(), signal.SIGKILL)


def _changes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(arguments[0], str | os.PathLike) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if event == "http.client.send":
        return isinstance(arguments[1], bytes) and arguments[1].startswith((b"POST ", b"PUT ", b"DELETE "))
    return event in _CHANGES


def _line_of_ops() -> str:
    """The location in the operation that led to the change."""
    frame = sys._getframe(1)
    lines = []
    while frame := frame.f_back:  # type: ignore[assignment]  # None at the end
        if frame.f_code.co_filename.startswith(_PACKAGE):
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
    return " ".join(lines)


def run(notebook: str, parameters: dict[str, Any], number: int, result: dict[str, Any]) -> None:
    """Run the cells of a notebook, and record the number of steps after its plan."""
    point: KillPoint | None = None
    names: dict[str, Any] = {}
    for cell in nbformat.read(PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells:
        if cell.cell_type != "code" or cell.source == GUARD:
            continue
        try:
            exec(cell.source, names)
        finally:
            result["steps"] = point.steps if point else 0
        if "parameters" in cell.metadata.get("tags", ()):
            names |= parameters
        if point is None and is_plan_cell(cell.source):
            point = KillPoint(number)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            result: dict[str, Any] = {"killed": False, "steps": 0, "error": ""}
            try:
                run(**request, result=result)
            except RunbookError as error:
                result["error"] = str(error)
            except Exception as error:  # noqa: BLE001 - the test shows it
                result["error"] = f"unexpected: {error!r}"
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == signal.SIGKILL:
            sys.stdout.write('{"killed": true, "steps": 0, "error": ""}\n')
            sys.stdout.flush()
        elif status:
            sys.exit(f"a notebook ended with {status}")


if __name__ == "__main__":
    main()
