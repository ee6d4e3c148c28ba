"""Lines quoted from a log."""

from __future__ import annotations

from ops.targets.target import as_lines, last_error

TRACEBACK = """\
Traceback (most recent call last):
  File "/root/pypi_deploy.py", line 81, in server
    from ops.index import Options
ModuleNotFoundError: No module named 'fastapi'
Runner failed with exit code: 1
Stopping.
"""


def test_the_last_exception_is_the_error_even_if_lines_follow_it() -> None:
    assert last_error(TRACEBACK.splitlines()) == "ModuleNotFoundError: No module named 'fastapi'"


def test_without_an_exception_it_is_the_last_line_that_mentions_an_error() -> None:
    assert last_error(["error: one", "error: no such volume", "Stopping."]) == "error: no such volume"


def test_a_log_without_errors_has_none() -> None:
    assert last_error(["GET /health 200", ""]) == ""


def test_a_very_long_error_is_truncated() -> None:
    assert len(last_error(["ValueError: " + "x" * 5000])) == 300


def test_pieces_become_lines_with_or_without_a_newline_and_without_terminal_control() -> None:
    assert as_lines(["one\ntwo\n", "three", "\x1b[31mfour\x1b[0m\r\n"]) == ["one", "two", "three", "four"]
