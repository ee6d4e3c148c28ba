"""Selection of notebooks and of their parameters, as they are given on the command line."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ops.errors import NotebookError, ParameterError
from ops.runbook.notebook import find_notebook, list_notebooks

_WILDCARDS = frozenset("*?[")


def select_notebooks(given: Sequence[str], folder: Path, *, start: str = "") -> list[Path]:
    """The notebooks that *given* names, in that order, each once.

    Parameters:
        given: names, numbers, paths, or patterns such as ``0*``, which match names and numbers.
        folder: of the runbook's notebooks.
        start: the first of them to run; all when empty.

    Raises:
        NotebookError: there is no such notebook, or *start* is none of them.
    """
    paths: dict[Path, None] = {}
    for name in given:
        paths |= dict.fromkeys(
            _matching(name, folder) if _WILDCARDS & set(name) else [find_notebook(name, folder).path]
        )
    chosen = list(paths)
    if not start:
        return chosen
    first = find_notebook(start, folder).path
    if first not in chosen:
        raise NotebookError(
            f"the run cannot start from {first.stem}",
            why=f"it is of {', '.join(path.stem for path in chosen) or 'no notebook'}",
            todo="name one of these after --from",
        )
    return chosen[chosen.index(first) :]


def _matching(pattern: str, folder: Path) -> list[Path]:
    notebooks = list_notebooks(folder)
    found = [each.path for each in notebooks if any(fnmatch.fnmatch(w, pattern) for w in (each.name, each.number))]
    if not found:
        raise NotebookError(
            f"no notebook matches {pattern!r}",
            why=f"there are {', '.join(notebook.name for notebook in notebooks)}",
            todo="quote the pattern, so that the shell leaves it alone, and let it match a name or number",
        )
    return found


def read_parameters(pairs: Sequence[str], files: Sequence[Path] = ()) -> dict[str, Any]:
    """The parameters of a run: those of the files, and over them those given one by one.

    Parameters:
        pairs: each ``NAME=VALUE``.
        files: YAML or JSON, each a mapping of names to values.

    Raises:
        ParameterError: one of them is no parameter, or a file cannot be read.
    """
    parameters: dict[str, Any] = {}
    for file in files:
        parameters |= _from_file(file)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ParameterError(
                f"{pair!r} is no parameter",
                why="a parameter is given as NAME=VALUE",
                todo="write it like -p target=local; `runbook list` names the parameters of each notebook",
            )
        parameters[name] = value
    return parameters


def _from_file(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ParameterError(
            f"the parameters in {file} cannot be read", why=why, todo="write one NAME: VALUE a line, in YAML"
        ) from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ParameterError(
            f"{file} holds no parameters",
            why="it is no mapping of names to values",
            todo="write one NAME: VALUE a line, in YAML",
        )
    return found
