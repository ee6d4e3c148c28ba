"""What is shown while notebooks run."""

from __future__ import annotations

import io

from ops.runbook.progress import ConsoleProgress, Progress


def test_a_step_is_one_line_begun_when_it_starts_and_ended_when_it_ends() -> None:
    stream = io.StringIO()
    show = ConsoleProgress(stream)
    show(Progress("01_provision", 3, 9, "Plan", "running"))
    assert stream.getvalue() == "01_provision   3/9  Plan … "
    show(Progress("01_provision", 3, 9, "Plan", "succeeded", 0.44))
    show(Progress("01_provision", 4, 9, "Apply", "running"))
    show(Progress("01_provision", 4, 9, "Apply", "failed", 12))
    assert stream.getvalue() == "01_provision   3/9  Plan … ok 0.4 s\n01_provision   4/9  Apply … FAILED 12.0 s\n"


def test_nothing_but_text_and_line_ends_is_written() -> None:
    stream = io.StringIO()
    ConsoleProgress(stream)(Progress("01_x", 1, 1, "X", "running"))
    ConsoleProgress(stream)(Progress("01_x", 1, 1, "X", "interrupted", 1))
    assert all(character.isprintable() or character == "\n" for character in stream.getvalue())


def test_a_stream_that_knows_only_ascii_gets_ascii() -> None:
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    ConsoleProgress(stream)(Progress("01_x", 1, 1, "Prüfung", "running"))
    assert data.getvalue() == b"01_x   1/1  Pr?fung ... "
