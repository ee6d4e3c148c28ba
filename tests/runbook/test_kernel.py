"""Kernels of notebooks, and how they are reached."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from ops.runbook import RunOptions, run_notebooks
from ops.workspace import Workspace

CONNECTION = """
import pathlib
from ipykernel.connect import get_connection_info

connection = get_connection_info(unpack=True)
folder = pathlib.Path(connection["ip"]).parent
print(connection["transport"], oct(folder.stat().st_mode)[-3:], any(path.is_socket() for path in folder.iterdir()))
"""


@pytest.mark.parametrize(("folder", "transport"), [("", "ipc 700 True\n"), ("x" * 90, "tcp ")])
def test_a_kernel_listens_on_private_sockets_unless_its_folder_is_too_deep_for_them(
    make_notebook: Callable[..., Path],
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    transport: str,
) -> None:
    if folder:
        (tmp_path / folder).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    record = run_notebooks(
        [make_notebook("01_x", "# X", CONNECTION)], options=RunOptions(workspace=workspace, on_progress=lambda _: None)
    )
    cell = nbformat.read(record.folder / "01_x.ipynb", as_version=4).cells[-1]
    assert cell.outputs[0]["text"].startswith(transport)
