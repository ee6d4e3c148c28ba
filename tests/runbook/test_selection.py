"""Choosing notebooks and parameters on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ops.errors import NotebookError, ParameterError
from ops.runbook.selection import read_parameters, select_notebooks

MakeNotebook = Callable[..., Path]


@pytest.fixture
def folder(make_notebook: MakeNotebook, tmp_path: Path) -> Path:
    """Three notebooks."""
    for name in ("01_provision", "02_onboard_user", "99_tear_down"):
        make_notebook(name, "# X", folder=tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "start", "expected"),
    [
        (["1", "onboard_user"], "", ["01_provision", "02_onboard_user"]),
        (["0*"], "", ["01_provision", "02_onboard_user"]),
        (["99", "*_provision", "99_tear_down"], "", ["99_tear_down", "01_provision"]),
        (["*"], "02", ["02_onboard_user", "99_tear_down"]),
    ],
)
def test_names_numbers_and_patterns_choose_each_notebook_once_in_order(
    folder: Path, given: list[str], start: str, expected: list[str]
) -> None:
    assert [path.stem for path in select_notebooks(given, folder, start=start)] == expected


def test_a_pattern_or_a_start_that_fits_nothing_is_an_error(folder: Path) -> None:
    with pytest.raises(NotebookError, match="no notebook matches '8\\*'"):
        select_notebooks(["8*"], folder)
    with pytest.raises(NotebookError, match="cannot start from 99_tear_down"):
        select_notebooks(["0*"], folder, start="99")


def test_parameters_of_a_file_are_typed_and_single_ones_go_over_them(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("port: 8000\nusername: bob\nnames: [a, b]\n")
    assert read_parameters(["username=eve", "x=a=b"], [file]) == {
        "port": 8000, "username": "eve", "names": ["a", "b"], "x": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("content", ["- a", "just text", "a: [", "1: x", "\x00"])
def test_a_file_that_holds_no_parameters_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(content)
    with pytest.raises(ParameterError):
        read_parameters([], [file])
    with pytest.raises(ParameterError, match="cannot be read"):
        read_parameters([], [tmp_path / "missing.yaml"])
    with pytest.raises(ParameterError, match="NAME=VALUE"):
        read_parameters(["nonsense"])
