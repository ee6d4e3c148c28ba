"""Contents of the runbook: notebooks/README.md and the forms of the workflows.

    python -m ops.runbook.contents      # writes both; so does `make notebooks`

Both are generated from the notebooks: their prose, parameters cells and stored plans. A test keeps them current.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ops.parameters import Parameter
from ops.private_files import replace_file
from ops.runbook.notebook import Cell, Notebook, list_notebooks
from ops.runbook.plan_file import is_plan_cell
from ops.workspace import PROJECT_ROOT

TUTORIAL = re.compile(r"0[0-3]_")
"""Matches the notebooks that a newcomer walks through, in order; every other one is a separate operation."""

_MADE = "made by `make notebooks`"
_FORM = re.compile(
    r"^(?P<indent> *)# inputs of (?P<name>\w+): begin\b.*?^ *# inputs of (?P=name): end\n", re.MULTILINE | re.DOTALL
)
_INPUT_TYPES = {"bool": "boolean", "int": "number", "float": "number"}
_VOLATILE = re.compile(r"\b[0-9a-f]{12}\b|(?<=dev)[0-9]+")
"""Matches what differs between runs: random names and times."""
_CLONE = "~/pypi-runbook/"


def make(root: Path = PROJECT_ROOT) -> dict[Path, str]:
    """The text of each file generated from the notebooks of the clone *root*."""
    notebooks = list_notebooks(root / "notebooks")
    page = root / "notebooks" / "README.md"
    workflows = sorted((root / ".github" / "workflows").glob("*.yaml"))
    return {
        page: _with_entries(page.read_text(encoding="utf-8"), notebooks),
        **{path: _with_forms(path.read_text(encoding="utf-8"), notebooks) for path in workflows},
    }


def write(root: Path = PROJECT_ROOT) -> tuple[Path, ...]:
    """Write these files, and return those that changed."""
    changed = {path: text for path, text in make(root).items() if path.read_text(encoding="utf-8") != text}
    for path, text in changed.items():
        mode = path.stat().st_mode
        replace_file(path, text)
        path.chmod(mode)
    return tuple(changed)


# --- notebooks/README.md ---


def _with_entries(page: str, notebooks: tuple[Notebook, ...]) -> str:
    """The page with each marked part generated again."""
    tutorial = [notebook for notebook in notebooks if TUTORIAL.match(notebook.name)]
    operations = [notebook for notebook in notebooks if notebook not in tutorial]
    for name, text in (
        ("tutorial", "\n\n".join(map(_entry, tutorial))),
        ("operations", "\n\n".join(map(_entry, operations))),
    ):
        begin, end = f"<!-- {name}: begin, {_MADE} -->", f"<!-- {name}: end -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def _entry(notebook: Notebook) -> str:
    """A notebook's purpose, parameters, changes, and how to undo them."""
    rows = [
        f"| `{each.name}` | {each.type} | `{json.dumps(each.default, ensure_ascii=False)}` | {_cell(each.help)} |"
        for each in notebook.parameters
    ]
    parts = [
        f"### [{notebook.name}]({notebook.path.name})",
        f"**{notebook.title}.** {_first_paragraph(notebook)}",
        "\n".join(["| parameter | type | default | |", "|---|---|---|---|", *rows]),
        f"*Changes.* {_changes(notebook)}",
        f"*Undo.* {' '.join(_section(notebook, 'How to undo it').split())}",
    ]
    return "\n\n".join(parts)


def _first_paragraph(notebook: Notebook) -> str:
    text = notebook.cells[0].source.partition("\n")[2].strip()
    return " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split())


def _section(notebook: Notebook, heading: str) -> str:
    """The text under a heading of level 2."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.kind == "markdown")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _changes(notebook: Notebook) -> str:
    planning = next((cell for cell in notebook.cells if cell.kind == "code" and is_plan_cell(cell.source)), None)
    rows = list(_planned(planning)) if planning else []
    if not rows:
        return "Nothing in the index, with the default parameters."
    return "As its plan shows at first: " + "; ".join(f"{_cell(thing)} → {_cell(todo)}" for thing, todo in rows) + "."


def _planned(cell: Cell) -> Iterator[tuple[str, str]]:
    """Subject of each row of a stored plan, and the change."""
    text = next(("".join(output["data"]["text/plain"]) for output in cell.outputs if "data" in output), "")
    lines = iter(text.splitlines())
    rule = next((line for line in lines if line.startswith("──")), "")
    columns = [match.span() for match in re.finditer("─+", rule)]
    for line in lines:
        if not line.strip():
            return
        thing, *_, todo = (line[start:end].strip() for start, end in columns)
        yield _VOLATILE.sub("…", thing).replace(_CLONE, ""), _VOLATILE.sub("…", todo).replace(_CLONE, "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# --- workflows ---


def _with_forms(workflow: str, notebooks: tuple[Notebook, ...]) -> str:
    """A workflow with the inputs of each marked notebook generated again."""
    by_name = {notebook.name: notebook for notebook in notebooks}

    def form(match: re.Match[str]) -> str:
        lines = [f"# inputs of {match['name']}: begin, {_MADE}"]
        for parameter in by_name[match["name"]].parameters:
            if parameter.name != "target" and not parameter.help.startswith("local only"):
                lines += _input(parameter)
        lines.append(f"# inputs of {match['name']}: end")
        return "".join(f"{match['indent']}{line}\n" for line in lines)

    return _FORM.sub(form, workflow)


def _input(parameter: Parameter) -> list[str]:
    """One input of a form. A form plans by default: its ``dry_run`` is on unless cleared."""
    default = True if parameter.name == "dry_run" else parameter.default
    return [
        f"{parameter.name}:",
        f"  description: {json.dumps(parameter.help, ensure_ascii=False)}",
        f"  type: {_INPUT_TYPES.get(parameter.type, 'string')}",
        f"  default: {json.dumps(default, ensure_ascii=False)}",
    ]


if __name__ == "__main__":
    for path in write():
        sys.stdout.write(f"wrote {path}\n")
