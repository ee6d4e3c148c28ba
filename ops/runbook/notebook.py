"""Notebooks: title, parameters, headings and steps. Reading one runs nothing."""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ops.errors import NotebookError
from ops.parameters import Parameter, parse_parameters

PARAMETERS_TAG = "parameters"

GUARD = "from ops import guard\n\nguard.check()"
"""The first code cell after the parameters, which checks them, whatever program runs the notebook."""

_WILDCARDS = frozenset("*?[")
_NUMBERED = re.compile(r"(?P<number>[0-9]{2})_(?P<rest>.+)")
_HEADING = re.compile(r" {0,3}(?P<marks>#{1,6})[ \t]+(?P<text>.+?)[ \t]*#*[ \t]*")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell, as stored."""

    kind: str
    source: str
    tags: frozenset[str] = frozenset()
    execution_count: int | None = None
    outputs: Sequence[Mapping[str, Any]] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heading:
    """A Markdown heading: its level (1 to 6), its text without markup, and the cell that holds it."""

    level: int
    text: str
    cell: int


@dataclass(frozen=True, slots=True)
class Step:
    """The code cells under one heading."""

    title: str
    cells: tuple[int, ...]


@dataclass(frozen=True)
class Notebook:
    """One operation of the runbook, read from its file.

    Parameters:
        path: the ``.ipynb`` file.
        cells: its cells, in order.
        metadata: its metadata.
    """

    path: Path
    cells: tuple[Cell, ...]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Read the file *path*, notebook format 4.

        Raises:
            NotebookError: the file does not exist or is not a notebook.
        """
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")), path.resolve())
        except OSError as error:
            raise NotebookError(
                f"the notebook {path} cannot be read",
                why=error.strerror or str(error),
                todo="`runbook list` lists the notebooks",
            ) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NotebookError(
                f"{path} is not a notebook",
                why="it is not JSON in notebook format 4",
                todo="open it in Jupyter, or restore it from version control",
            ) from None

    @classmethod
    def of(cls, document: Mapping[str, Any], path: Path) -> Notebook:
        """The notebook in *document*, in notebook format 4, named by *path*."""
        return cls(path, tuple(_cell(cell) for cell in document["cells"]), document.get("metadata", {}))

    @property
    def name(self) -> str:
        """The file name without its suffix: ``01_provision``."""
        return self.path.stem

    @property
    def number(self) -> str:
        """The two digits at the start of its name, or an empty string."""
        match = _NUMBERED.fullmatch(self.name)
        return match["number"] if match else ""

    @cached_property
    def headings(self) -> tuple[Heading, ...]:
        """All Markdown headings, in order."""
        return tuple(
            Heading(level, text, index)
            for index, cell in enumerate(self.cells)
            if cell.kind == "markdown"
            for level, text in headings(cell.source)
        )

    @property
    def title(self) -> str:
        """The text of its first heading of level 1, or its name."""
        return next((heading.text for heading in self.headings if heading.level == 1), self.name)

    @property
    def parameters_cell(self) -> Cell | None:
        """The cell tagged ``parameters``."""
        return next((cell for cell in self.cells if cell.kind == "code" and PARAMETERS_TAG in cell.tags), None)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its parameters, in order; none without a parameters cell.

        Raises:
            NotebookError: the cell contains anything but parameters.
        """
        cell = self.parameters_cell
        return parse_parameters(cell.source, notebook=self.name) if cell else ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its code cells, by heading."""
        return steps(((cell.kind, cell.source) for cell in self.cells), title=self.title)


def _cell(stored: Mapping[str, Any]) -> Cell:
    source = stored["source"]
    metadata = stored.get("metadata", {})
    return Cell(
        kind=stored["cell_type"],
        source=source if isinstance(source, str) else "".join(source),
        tags=frozenset(metadata.get("tags", ())),
        execution_count=stored.get("execution_count"),
        outputs=tuple(stored.get("outputs", ())),
        metadata=metadata,
    )


def _plain(markdown: str) -> str:
    return _LINK.sub(r"\1", markdown).replace("`", "").replace("**", "").strip("* ")


def lines(markdown: str) -> Iterator[tuple[int, str]]:
    """Each non-blank line with its level as an ATX heading (CommonMark 4.2), or 0.

    The text of a heading is without markup. Fenced code has no headings.
    """
    fence = ""
    for line in markdown.splitlines():
        level, text = 0, line
        if match := _FENCE.match(line):
            if not fence:
                fence = match[1]
            elif match[1] == fence:
                fence = ""
        elif not fence and (match := _HEADING.fullmatch(line)):
            level, text = len(match["marks"]), _plain(match["text"])
        if line.strip():
            yield level, text


def headings(markdown: str) -> Iterator[tuple[int, str]]:
    """The headings of a text, as level and plain text."""
    return ((level, text) for level, text in lines(markdown) if level)


def steps(cells: Iterable[tuple[str, str]], *, title: str) -> tuple[Step, ...]:
    """Group the code cells by the heading of level 2 or 3 above them; empty cells are skipped.

    Parameters:
        cells: kind and source of each cell, in order.
        title: the name of the step before the first heading.
    """
    found: list[Step] = []
    current, members = title, list[int]()
    for index, (kind, source) in enumerate(cells):
        if kind == "markdown":
            texts = [text for level, text in headings(source) if level in {2, 3}]
            if texts:
                if members:
                    found.append(Step(current, tuple(members)))
                current, members = texts[-1], []
        elif kind == "code" and source.strip():
            members.append(index)
    if members:
        found.append(Step(current, tuple(members)))
    return tuple(found)


def list_notebooks(folder: Path) -> tuple[Notebook, ...]:
    """The notebooks in *folder* named ``NN_name.ipynb``, sorted by number."""
    return tuple(Notebook.read(path) for path in _numbered(folder))


def find_notebook(name: str, folder: Path) -> Notebook:
    """Find a notebook by ``01_provision``, ``provision``, ``01``, ``1``, or a path.

    Raises:
        NotebookError: no notebook or more than one matches; the error lists all notebooks.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and (path.is_file() or path.name != name):
        return Notebook.read(path)
    candidates = _numbered(folder)
    wanted = path.stem if path.suffix == ".ipynb" else name
    matches = [candidate for candidate in candidates if wanted in _names_of(candidate)]
    if len(matches) == 1:
        return Notebook.read(matches[0])
    names = [candidate.stem for candidate in candidates]
    close = difflib.get_close_matches(wanted, [word for path in candidates for word in _names_of(path)], n=1)
    raise NotebookError(
        f"there is no notebook {name!r} in {folder}",
        why=f"there are {', '.join(names) or 'none'}",
        todo=f"did you mean {close[0]}?" if close else "use one of these names, a number, or a path",
    )


def _numbered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.ipynb") if _NUMBERED.fullmatch(path.stem))


def _names_of(path: Path) -> tuple[str, ...]:
    match = _NUMBERED.fullmatch(path.stem)
    return (path.stem, match["rest"], match["number"], match["number"].lstrip("0")) if match else (path.stem,)


def select_notebooks(given: Sequence[str], folder: Path, *, start: str = "") -> list[Path]:
    """The notebooks named by *given*, in that order, each once.

    Parameters:
        given: names, numbers, paths, or patterns such as ``0*``, which match names and numbers.
        folder: of the runbook's notebooks.
        start: the first of them to run; empty for all.

    Raises:
        NotebookError: there is no such notebook, or *start* is not one of them.
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
            why=f"it has {', '.join(path.stem for path in chosen) or 'no notebooks'}",
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
            todo="quote the pattern, so that the shell does not expand it, and make it match a name or number",
        )
    return found
