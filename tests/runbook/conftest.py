"""Small notebooks, written where the test wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

MakeNotebook = Callable[..., Path]


@pytest.fixture
def make_notebook(tmp_path: Path) -> MakeNotebook:
    """Write a notebook of cells, and return its path.

    A cell that starts with ``#`` is Markdown, any other is code; *parameters* becomes the tagged cell after
    the first one.
    """

    def make(name: str, *sources: str, parameters: str = "", folder: Path | None = None, **metadata: Any) -> Path:
        cells = [
            new_markdown_cell(source) if source.startswith(("# ", "## ", "### ")) else new_code_cell(source)
            for source in sources
        ]
        if parameters:
            cells.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        node = new_notebook(
            cells=cells,
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, **metadata},
        )
        path = (folder or tmp_path) / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(node, path)
        return path

    return make
