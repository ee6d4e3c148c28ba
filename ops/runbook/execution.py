"""Execution of one notebook with papermill's client, masked at each save. Imported only when a notebook runs."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellExecutionComplete, CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import ensure_async, run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager

from ops.private_files import replace_file
from ops.redaction import Redactor
from ops.runbook.kernel import kernel_environment, kernel_manager

CELL_TIMEOUT = 30 * 60
"""Default time limit of a cell in seconds: enough for a build on a slow network."""

START_TIMEOUT = 120
"""Seconds that a kernel may take to respond for the first time."""

INTERRUPT_GRACE = 3
"""Seconds that an interrupted cell has to finish before its kernel is killed."""

IOPUB_TIMEOUT = 30
"""Seconds to wait for a cell's last output after its code has finished; nbclient's 4 are too few on a busy machine."""

_LOG = logging.getLogger("papermill")
_LOG.addHandler(logging.NullHandler())

CellCallback = Callable[[Any, int, str], None]
"""Called with the notebook, a cell's index and its status: ``running``, ``completed`` or ``failed``."""

AfterCell = Callable[[Any, int], Mapping[str, str] | None]
"""Called with the notebook and the index of a completed cell. Returns variables for the kernel's environment,
usually none, or None to end the notebook there."""


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Options of one execution, for the runner and for papermill alike.

    Parameters:
        save_to: where the masked notebook is saved at the start and the end of each cell.
        copy_to: a second such place.
        environment: of the kernel; this process's when None.
        cwd: the kernel's directory; this process's when None.
        scratch: a folder for the kernel's files; a temporary one when None.
        on_cell: called for each cell.
        after_cell: called after each cell; decides whether to continue.
        start_timeout: seconds that the kernel may take to start.
        execution_timeout: seconds that one cell may take; None for no limit.
        progress_bar: as in papermill, like all that follow.
        log_output: whether masked outputs go to papermill's log.
        stdout_file: a stream for the cells' standard output.
        stderr_file: the same for standard error.
        autosave_cell_every: seconds between saves within a long cell.
    """

    save_to: Path | None = None
    copy_to: Path | None = None
    environment: Mapping[str, str] | None = None
    cwd: Path | None = None
    scratch: Path | None = None
    on_cell: CellCallback | None = None
    after_cell: AfterCell | None = None
    start_timeout: int = START_TIMEOUT
    execution_timeout: int | None = CELL_TIMEOUT
    progress_bar: bool | dict[str, Any] = False
    log_output: bool = False
    stdout_file: Any = None
    stderr_file: Any = None
    autosave_cell_every: int = 30


def execute(notebook: Any, redactor: Redactor, options: ExecutionOptions) -> Any:
    """Run all cells until one fails, and return the masked notebook.

    A cell that fails, runs too long or loses its kernel ends the notebook and gets an error output.

    Raises:
        RuntimeError: the kernel did not start.
        KeyboardInterrupt: after the cell was interrupted, the kernel ended and the notebook saved.
    """
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        scratch = options.scratch or Path(folder)
        manager = RedactingManager(notebook, redactor, options)
        manager.notebook_start()
        client = RedactingClient(manager, redactor, scratch, options)
        kernel_log = scratch / "kernel.log"
        try:
            with kernel_log.open("ab") as stream, _masked_log(redactor):
                start: dict[str, Any] = {
                    "env": kernel_environment(
                        scratch, os.environ if options.environment is None else options.environment
                    ),
                    # Output of the kernel's process itself would reach the terminal unmasked.
                    "stdout": stream,
                    "stderr": stream,
                }
                if options.cwd is not None:
                    start["cwd"] = str(options.cwd)
                client.execute(**start)
        finally:
            manager.cleanup_pbar()
            manager.notebook_complete()
        return redactor.notebook(manager.nb)


@contextmanager
def _masked_log(redactor: Redactor) -> Iterator[None]:
    def mask(record: logging.LogRecord) -> bool:
        record.msg, record.args = redactor.text(record.getMessage()), ()
        # At DEBUG nbclient logs each message of the kernel, even a secret flushed letter by letter.
        return record.levelno > logging.DEBUG

    _LOG.addFilter(mask)
    try:
        yield
    finally:
        _LOG.removeFilter(mask)


class RedactingManager(NotebookExecutionManager):  # type: ignore[misc]  # papermill is untyped
    """Saves atomically and only masked content; reports each cell to the runner."""

    def __init__(self, notebook: Any, redactor: Redactor, options: ExecutionOptions) -> None:
        self.output_path: str | None
        super().__init__(
            notebook,
            output_path=str(options.save_to) if options.save_to else None,
            log_output=options.log_output,
            progress_bar=options.progress_bar,
            autosave_cell_every=options.autosave_cell_every,
        )
        self._redactor = redactor
        self._on_cell = options.on_cell
        self._copy_to = options.copy_to

    def save(self, **arguments: Any) -> None:
        """Write the masked notebook, so that a run killed at any moment leaves a complete and safe one."""
        del arguments
        if self.output_path:
            masked = self._redactor.notebook(self.nb)
            for path in filter(None, (Path(self.output_path), self._copy_to)):
                write_notebook(masked, path)
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, cell_index: int | None = None, **arguments: Any) -> None:
        """Record the start, save, and report."""
        super().cell_start(cell, cell_index, **arguments)
        self._tell(cell, cell_index)

    def cell_complete(self, cell: Any, cell_index: int | None = None, **arguments: Any) -> None:
        """Record the end, save, and report."""
        super().cell_complete(cell, cell_index, **arguments)
        self._tell(cell, cell_index)

    def notebook_complete(self, **arguments: Any) -> None:
        """Record the end and save. A cell that never ran stays ``pending``; papermill would call it completed."""
        never_run = [cell for cell in self.nb.cells if cell.metadata.papermill["status"] == self.PENDING]
        save, self.output_path = self.output_path, None
        super().notebook_complete(**arguments)
        for cell in never_run:
            cell.metadata.papermill["status"] = self.PENDING
        self.output_path = save
        self.save()

    def _tell(self, cell: Any, index: int | None) -> None:
        if self._on_cell is not None and index is not None:
            self._on_cell(self.nb, index, cell.metadata.papermill["status"])


class RedactingClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill is untyped
    """Ends a notebook at the first cell that does not complete, whatever the reason."""

    def __init__(self, manager: RedactingManager, redactor: Redactor, scratch: Path, options: ExecutionOptions) -> None:
        super().__init__(
            manager,
            timeout=options.execution_timeout,
            startup_timeout=options.start_timeout,
            iopub_timeout=IOPUB_TIMEOUT,
            log=_LOG,
            log_output=options.log_output,
            stdout_file=options.stdout_file,
            stderr_file=options.stderr_file,
        )
        self._redactor = redactor
        self._scratch = scratch
        self._after_cell = options.after_cell
        self._unfinished: dict[str, str] = {}
        self._complete = False

    def create_kernel_manager(self) -> AsyncKernelManager:
        """Always this interpreter's kernel."""
        self.km = kernel_manager(self._scratch, self.log)
        return self.km

    def execute(self, **start: Any) -> Any:
        """Start the kernel, run the cells, end the kernel."""
        self.reset_execution_trackers()
        try:
            with self.setup_kernel(**start):
                self.papermill_execute_cells()
                self.set_widgets_metadata()
        finally:
            # nbclient does not end a kernel that was still starting when the run was interrupted.
            if self.km is not None and self.km.has_kernel:
                self._cleanup_kernel()
        return self.nb

    def _cleanup_kernel(self) -> None:
        """End the kernel, once, even if Ctrl-C is raised again meanwhile."""
        run_to_its_end(self._async_cleanup_kernel)

    def papermill_execute_cells(self) -> None:
        """Run cell by cell. papermill's own loop considers a cell that timed out or lost its kernel completed."""
        for index, cell in enumerate(self.nb.cells):
            self.nb_man.cell_start(cell, index)
            self._complete = False
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self._failed(index, error)
                return
            except CellTimeoutError as error:
                self._end_cell(index)
                self._failed(index, error, "TimeoutError", f"the cell ran for longer than {self.timeout} seconds")
                return
            except DeadKernelError as error:
                self._failed(
                    index, error, "DeadKernelError", "the kernel ended while the cell ran" + self._last_words()
                )
                return
            except BaseException as error:
                self._end_cell(index)
                name = type(error).__name__
                self._failed(
                    index, error, name, "the run was interrupted" if name == "KeyboardInterrupt" else str(error)
                )
                raise
            finally:
                self._finish_lines()
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
            if self._after_cell is not None:
                variables = self._after_cell(self.nb, index)
                if variables is None:
                    return
                if variables:
                    run_sync(self._set_variables)(variables)

    async def _set_variables(self, variables: Mapping[str, str]) -> None:
        """Set environment variables of the running kernel, invisibly to the notebook."""
        code = f"__import__('os').environ.update({dict(variables)!r})"
        message = self.kc.execute(code, silent=True, store_history=False)
        while True:
            reply = await ensure_async(self.kc.shell_channel.get_msg(timeout=IOPUB_TIMEOUT))
            if reply["parent_header"].get("msg_id") == message:
                return

    def _failed(self, index: int, error: BaseException, ename: str = "", evalue: str = "") -> None:
        cell = self.nb.cells[index]
        errors = [number for number, output in enumerate(cell.outputs) if output.output_type == "error"]
        if ename and not any(cell.outputs[number].ename == ename for number in errors):
            text = f"{ename}: {evalue}"
            output = {"output_type": "error", "ename": ename, "evalue": evalue, "traceback": [text]}
            # The cause before the resulting KeyboardInterrupt, whose traceback says where the cell was.
            cell.outputs.insert(errors[0] if errors else len(cell.outputs), nbformat.from_dict(output))
        self.nb_man.cell_exception(cell, cell_index=index, exception=error)

    def _end_cell(self, index: int) -> None:
        """Interrupt the running cell, and let it clean up; the kernel itself is ended afterwards."""
        with suppress(Exception, KeyboardInterrupt):
            run_to_its_end(lambda: self._interrupt(index))

    async def _interrupt(self, index: int) -> None:
        await ensure_async(self.km.interrupt_kernel())
        # Ctrl-C stopped the event loop with nbclient's tasks in it: they receive the reply and the last output.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            _, late = await asyncio.wait(left, timeout=INTERRUPT_GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        else:
            await ensure_async(self.kc.shell_channel.get_msg(timeout=INTERRUPT_GRACE))
        # Ctrl-C may have been raised in the very task that receives the outputs: the last ones are still to be read.
        cell = self.nb.cells[index]
        async with asyncio.timeout(INTERRUPT_GRACE):  # a cell may ignore the interrupt, and print forever
            while not self._complete and not any(output.output_type == "error" for output in cell.outputs):
                message = await ensure_async(self.kc.iopub_channel.get_msg(timeout=None))
                with suppress(CellExecutionComplete):  # perhaps of what ran before this cell
                    super().process_message(message, cell, index)

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Add an output to its cell, and note when the cell is complete."""
        try:
            return super().process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            self._complete = True
            raise

    def _last_words(self) -> str:
        try:
            lines = (self._scratch / "kernel.log").read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return ": " + " | ".join(lines[-3:]) if lines else ""

    def log_output_message(self, output: Any) -> None:
        """Pass an output on to papermill's log and files: masked, and for streams only whole lines."""
        if output.output_type == "stream":
            lines, end, rest = (self._unfinished.pop(output.name, "") + output.text).rpartition("\n")
            self._unfinished[output.name] = rest
            if not end:
                return
            output = {**output, "text": lines + end}
        super().log_output_message(nbformat.from_dict(self._redactor.tree(output)))

    def _finish_lines(self) -> None:
        for name, text in self._unfinished.items():
            output = {"output_type": "stream", "name": name, "text": self._redactor.text(text)}
            super().log_output_message(nbformat.from_dict(output))
        self._unfinished.clear()


def run_to_its_end(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to completion after Ctrl-C.

    The signal interrupts whichever task of the loop is running. Tasks that await it raise KeyboardInterrupt again
    when the loop continues, out of the loop, and would interrupt the coroutine as well.
    """
    loop = ensure_event_loop()
    if loop.is_running():  # within Jupyter, where nbclient's loop is in another thread
        run_sync(function)()
        return
    task = loop.create_task(function())
    while not task.done():
        with suppress(KeyboardInterrupt):
            loop.run_until_complete(task)
    task.result()


def write_notebook(notebook: Any, path: Path) -> None:
    """Write a notebook atomically: *path* holds the previous or the complete new one."""
    # Written at each start and end of a cell: it must survive a kill, but is not worth waiting for the disk.
    replace_file(path, nbformat.writes(nbformat.from_dict(notebook)), sync=False)
