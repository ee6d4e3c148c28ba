"""Progress on the console while notebooks run."""

from __future__ import annotations

import io
import time

import pytest

from ops.runbook import progress as progress_module
from ops.runbook.progress import ConsoleProgress, Progress


def test_a_step_is_one_line_written_partly_at_its_start_and_partly_at_its_end() -> None:
    stream = io.StringIO()
    show = ConsoleProgress(stream)
    show(Progress("01_provision", 3, 9, "Plan", "running"))
    assert stream.getvalue() == "01_provision   3/9  Plan … "
    show(Progress("01_provision", 3, 9, "Plan", "succeeded", 0.44))
    show(Progress("01_provision", 4, 9, "Apply", "running"))
    show(Progress("01_provision", 4, 9, "Apply", "failed", 12))
    assert stream.getvalue() == "01_provision   3/9  Plan … ok 0.4 s\n01_provision   4/9  Apply … FAILED 12.0 s\n"


def test_only_text_and_line_ends_are_written() -> None:
    stream = io.StringIO()
    ConsoleProgress(stream)(Progress("01_x", 1, 1, "X", "running"))
    ConsoleProgress(stream)(Progress("01_x", 1, 1, "X", "interrupted", 1))
    assert all(character.isprintable() or character == "\n" for character in stream.getvalue())


def test_an_ascii_stream_gets_ascii() -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    ConsoleProgress(stream)(Progress("01_x", 1, 1, "Prüfung", "running"))
    assert data.getvalue() == b"01_x   1/1  Pr?fung ... "


def test_plans_and_changes_are_below_the_line_of_their_step() -> None:
    stream = io.StringIO()
    step = Progress("01_x", 1, 1, "Plan", "succeeded", 1, lines=("+ server  start it", "1 to make"))
    ConsoleProgress(stream)(step)
    assert stream.getvalue() == "ok 1.0 s\n    + server  start it\n    1 to make\n"
    ConsoleProgress(stream := io.StringIO(), detailed=False)(step)
    assert stream.getvalue() == "ok 1.0 s\n"


def test_a_terminal_shows_elapsed_seconds_and_removes_them_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress_module, "TICK_SECONDS", 0.01)
    stream = Terminal()
    show = ConsoleProgress(stream)
    show(Progress("01_x", 1, 1, "Wait", "running"))
    while "s" not in stream.getvalue().partition("… ")[2]:
        time.sleep(0.01)
    show(Progress("01_x", 1, 1, "Wait", "succeeded", 2))
    seen: list[str] = []
    for character in stream.getvalue():
        if character == "\b":
            seen.pop()
        else:
            seen.append(character)
    assert "".join(seen).split() == ["01_x", "1/1", "Wait", "…", "ok", "2.0", "s"]
