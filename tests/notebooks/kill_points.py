"""Runs notebooks in processes that are killed by SIGKILL right before a step, which changes something.

    python -m tests.notebooks.kill_points [MODULE ...]

A step is a line of ``ops`` that changes a file, a process or the index, a write to a bucket, or a call of Modal.

Reads a request as JSON from each line of standard input: notebook, parameters, the number of the step, or 0 to kill
nothing, and a word in the names of the counted steps. Responds with a line of JSON: whether it was killed, the names of
the steps after the plan, and the error.

Parameters:
    MODULE: to import once, instead of in each run.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from typing import Any

import nbformat
import obstore

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
from ops.snapshots import backup
from ops.workspace import PROJECT_ROOT

_CHANGES = {"os.kill", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "subprocess.Popen"}
_PACKAGE = f"{PROJECT_ROOT / 'ops'}{os.sep}"
_CALLS = {
    *("AppCreate", "FunctionCreate", "AppPublish", "AppSetTags", "AppStop", "SecretUpdate", "SecretDelete"),
    *("VolumePutFiles", "VolumePutFiles2", "VolumeRemoveFile", "VolumeRemoveFile2", "VolumeDelete", "DictDelete"),
}
_CREATING_CALLS = {"SecretGetOrCreate", "VolumeGetOrCreate", "DictGetOrCreate"}
"""Calls of Modal that look something up unless they are to create it."""
_COMMANDS = {"deploy", "rollover", "rollback"}
"""Words of Modal's command that change something."""


class KillPoint:
    """Counts the steps of this process, and kills it before a given one.

    Consecutive changes by one line, as for the files of a folder, are one step.

    Parameters:
        number: of the step, from 1.
        word: in the names of the counted steps.
    """

    def __init__(self, number: int, word: str) -> None:
        self.steps: list[str] = []
        self._left = number
        self._word = word
        sys.addaudithook(self._hear)
        for name in ("put", "delete"):
            setattr(obstore, name, self._before_write(getattr(obstore, name)))
        if "modal" in sys.modules:
            self._hear_modal()

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if threading.current_thread() is threading.main_thread():
            if _changes(event, arguments):
                self._step(_line_of_ops())
        elif event == "subprocess.Popen" and _COMMANDS & set(words := arguments[1][2:5]):
            self._step(" ".join(words))

    def _before_write(self, write: Any) -> Any:
        def counted(store: Any, path: str, *arguments: Any, **options: Any) -> Any:
            self._step(f"{write.__name__} {path}")
            return write(store, path, *arguments, **options)

        return counted

    def _hear_modal(self) -> None:
        from modal.client import _Client

        send = _Client._call_unary

        async def counted(client: Any, method: Any, request: Any, **options: Any) -> Any:
            name = method.name.rpartition("/")[2]
            if name in _CALLS or (name in _CREATING_CALLS and request.object_creation_type):
                self._step(name)
            return await send(client, method, request, **options)

        _Client._call_unary = counted  # type: ignore[assignment,method-assign]

    def _step(self, name: str) -> None:
        if name not in self.steps[-1:]:
            self.steps.append(name)
            self._left -= self._word in name
            if self._left == 0 and self._word in name:
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


def run(notebook: str, parameters: dict[str, Any], number: int, word: str, result: dict[str, Any]) -> None:
    """Run the cells of a notebook, and record the steps after its plan."""
    point: KillPoint | None = None
    names: dict[str, Any] = {}
    for cell in nbformat.read(PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells:
        if cell.cell_type != "code" or cell.source == GUARD:
            continue
        try:
            exec(cell.source, names)
        finally:
            result["steps"] = point.steps if point else []
        if "parameters" in cell.metadata.get("tags", ()):
            names |= parameters
        if point is None and is_plan_cell(cell.source):
            point = KillPoint(number, word)


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    backup.THREADS = 1  # which makes the order of its writes the same each time
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            result: dict[str, Any] = {"killed": False, "steps": [], "error": ""}
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
            sys.stdout.write('{"killed": true, "steps": [], "error": ""}\n')
            sys.stdout.flush()
        elif status:
            sys.exit(f"a notebook ended with {status}")


if __name__ == "__main__":
    main()
