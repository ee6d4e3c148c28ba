"""The guard of a notebook: checks its parameters before anything else, and keeps errors short.

    from ops import guard

    guard.check()

It runs in the kernel, so it works the same in Jupyter, VS Code, papermill, nbconvert, nbclient and nbval. Parameters
are declared once, in the parameters cell: IPython keeps the source of each executed cell in ``In``.
"""

from __future__ import annotations

import ast
import html
import inspect
import linecache
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from IPython import get_ipython
from IPython.core.error import UsageError
from IPython.display import display

from ops.errors import GUIDE, INTERRUPTED, ParameterError, RunbookError
from ops.parameters import TYPES, Parameter, declaration, refuse_unknown, require_type


def check() -> None:
    """Check the parameters of the notebook in this kernel, and shorten all later errors to three lines.

    Until they are valid no other cell runs, even if the program continues after an error (``nbconvert
    --allow-errors``). Does nothing outside IPython.

    Raises:
        ParameterError: a parameter is unknown, has the wrong type, or the parameters cell was not run.
    """
    shell = get_ipython()
    if shell is None:
        return
    install(shell)
    if _gate not in shell.ast_transformers:
        shell.ast_transformers.append(_gate)
    names: Mapping[str, Any] = shell.user_ns
    declared, given = _read(_sources(names["In"], inspect.currentframe()))
    try:
        _require_declared(declared, [name for name in given if name in names])
        for parameter in declared.values():
            require_type(parameter, names.get(parameter.name))
    except ParameterError as error:
        _gate.closed_by = error
        raise
    _gate.closed_by = None


def refuse() -> None:
    """Run in place of a cell while the parameters are wrong.

    Raises:
        ParameterError: always.
    """
    raise ParameterError(
        "this cell was not run",
        why=str(_gate.closed_by).splitlines()[0],
        todo="correct the parameter, then run the parameters cell and the one with guard.check() again",
    )


class _Gate(ast.NodeTransformer):
    """Replaces each cell by a refusal while the parameters are wrong, except those that correct or check them."""

    closed_by: ParameterError | None = None

    def visit(self, node: ast.AST) -> ast.AST:
        """Let a cell pass, or replace it."""
        if self.closed_by is None or not isinstance(node, ast.Module) or _corrects(node):
            return node
        return ast.parse("from ops import guard\n\nguard.refuse()")


_gate = _Gate()


def _corrects(cell: ast.Module) -> bool:
    """True if a cell checks the parameters, or only assigns or deletes names and calls nothing."""
    nodes = list(ast.walk(cell))
    if any(ast.unparse(node) == "guard.check" for node in nodes if isinstance(node, ast.Attribute)):
        return True
    plain = all(isinstance(statement, ast.Assign | ast.AnnAssign | ast.Delete) for statement in cell.body)
    return plain and not any(isinstance(node, ast.Call) for node in nodes)


def _require_declared(declared: Mapping[str, Parameter], given: Sequence[str]) -> None:
    if not declared:
        raise ParameterError(
            "the parameters of this notebook are not set",
            why="the cell under the heading Parameters was not run in this kernel",
            todo="run the notebook from its start",
        )
    refuse_unknown(given, {"this notebook": list(declared.values())})


def _sources(history: Sequence[str], frame: FrameType | None) -> list[str]:
    """The source of each executed cell, oldest first.

    Parameters:
        history: IPython's ``In``, which nbval disables.
        frame: that of :func:`check`, called by a cell. IPython compiles all cells as files of one folder, whose lines
            are in :mod:`linecache`.
    """
    if len(history) > 1 or frame is None or frame.f_back is None:
        return [str(source) for source in history]
    folder = Path(frame.f_back.f_code.co_filename).parent
    return ["".join(linecache.getlines(name)) for name in list(linecache.cache) if Path(name).parent == folder]


def _read(sources: Sequence[str]) -> tuple[dict[str, Parameter], list[str]]:
    """The declared parameters, and other assigned names.

    Parameters:
        sources: the executed cells, oldest first. A cell that ran again appears again: the last one counts.

    Returns:
        the parameters declared in any cell; the other names assigned in the last cell that declares any, or in the
        cells of plain assignments right after it, where papermill injects the given values.
    """
    declared: dict[str, Parameter] = {}
    given: list[str] = []
    injectable = False
    for source in sources:
        statements = _parsed(source)
        found = [parameter for statement in statements if (parameter := _declared(statement))]
        if found:
            declared.update({parameter.name: parameter for parameter in found})
            given, injectable = [], True
        elif not all(isinstance(statement, ast.Assign | ast.AnnAssign) for statement in statements):
            injectable = False
        if injectable:
            given += [target for statement in statements for target in _targets(statement) if target not in declared]
    return declared, given


def _parsed(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError):
        return []


def _declared(statement: ast.stmt) -> Parameter | None:
    """The parameter that an annotated assignment declares. Its value is checked later: it may have been replaced."""
    if (declared := declaration(statement)) is None:
        return None
    name, kind, value = declared
    try:
        default = require_type(Parameter(name, kind, ""), ast.literal_eval(value))
    except (ValueError, ParameterError):
        default = TYPES[kind]()
    return Parameter(name, kind, default)


def _targets(statement: ast.stmt) -> list[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


UNEXPECTED = "Unexpected"
"""The entry in the guide for unexpected errors."""


def install(shell: Any) -> None:
    """Make IPython's *shell* show errors this way."""
    shell.set_custom_exc((Exception, KeyboardInterrupt), _show)


class FoldedTraceback:
    """A traceback that is folded into the notebook, below a link to the error's entry.

    Parameters:
        text: the traceback.
        entry: the heading of the error in the guide.
    """

    def __init__(self, text: str, entry: str) -> None:
        self.text = text
        self.entry = entry

    def __repr__(self) -> str:
        return f"(a traceback of {self.text.count(chr(10))} lines is folded into the notebook's output)"

    def _repr_html_(self) -> str:
        link = f'<p><a href="{GUIDE}.ipynb#{self.entry}">How to fix this: {GUIDE}, {self.entry}</a></p>'
        return f"<details><summary>Traceback</summary><pre>{html.escape(self.text)}</pre></details>{link}"


def explanation(error: BaseException) -> list[str]:
    """The lines shown for *error*: what happened, why, and what to do; one line for an interrupt."""
    if isinstance(error, KeyboardInterrupt):
        return [INTERRUPTED]
    if isinstance(error, RunbookError):
        return error._render_traceback_()
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return [
        f"Unexpected {type(error).__name__}: {first}",
        f"Why: the runbook did not foresee it; it was raised {_origin(error.__traceback__)}.",
        f"What to do: run the notebook from its start; if it happens again, report it. See {GUIDE}#{UNEXPECTED}.",
    ]


def _show(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    tb_offset: int | None = None,
) -> None:
    """Show an exception, as IPython's handler for custom exceptions."""
    del tb_offset
    if isinstance(error, SyntaxError | UsageError):
        shell.showtraceback((kind, error, trace))
        return
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # for %tb and %debug
    shell._showtraceback(kind, error, explanation(error))  # noqa: SLF001 - the method that IPython lets a shell replace
    if not isinstance(error, ParameterError | KeyboardInterrupt):
        text = "".join(traceback.format_exception(kind, error, _of_the_cell(trace)))
        entry = error.entry if isinstance(error, RunbookError) else UNEXPECTED
        display(FoldedTraceback(text, entry))  # type: ignore[no-untyped-call]


def _of_the_cell(trace: TracebackType | None) -> TracebackType | None:
    """The traceback starting at the notebook's cell, without IPython's own frames."""
    start = trace
    while start is not None and "IPython" in start.tb_frame.f_code.co_filename.split("site-packages")[-1]:
        start = start.tb_next
    return start or trace


def _origin(trace: TracebackType | None) -> str:
    """The last place in this package that the error went through, or the line of the cell."""
    package = Path(__file__).parent
    frames = traceback.extract_tb(trace)
    if own := [frame for frame in frames if Path(frame.filename).is_relative_to(package)]:
        return f"in {Path(own[-1].filename).relative_to(package.parent)}, line {own[-1].lineno}"
    # IPython names cells after files that do not exist.
    lines = [frame.lineno for frame in frames if not Path(frame.filename).exists()]
    return f"in line {lines[-1]} of this cell" if lines else "in this cell"
