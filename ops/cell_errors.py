"""Errors of a notebook's cells, shown as three lines with the traceback folded in."""

from __future__ import annotations

import html
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from IPython.core.error import UsageError
from IPython.display import display

from ops.errors import ParameterError, RunbookError

INTERRUPTED = "Interrupted. Run the notebook again: it finds in place what was done already."


def install(shell: Any) -> None:
    """Have IPython's *shell* show errors this way from now on."""
    shell.set_custom_exc((Exception, KeyboardInterrupt), _show)


class FoldedTraceback:
    """A traceback that is kept in the notebook and unfolded only on request."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"(a traceback of {self.text.count(chr(10))} lines is folded into the notebook's output)"

    def _repr_html_(self) -> str:
        return f"<details><summary>Traceback</summary><pre>{html.escape(self.text)}</pre></details>"


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
        "What to do: run the notebook from its start; if it comes back, report it with the traceback below.",
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
        display(FoldedTraceback("".join(traceback.format_exception(kind, error, _of_the_cell(trace)))))  # type: ignore[no-untyped-call]


def _of_the_cell(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the notebook's cell on, without IPython's own frames."""
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
