"""Rules for notebooks: their skeleton, their lack of logic, and their stored outputs.

All problems of a notebook are reported at once, each as a sentence with its location.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ops.errors import NotebookError
from ops.runbook.notebook import GUARD, Cell, Notebook, lines

SKELETON = ("Parameters", "Preflight", "Steps", "Verification", "What was done", "How to undo it")
"""The headings of level 2, in this order, after one of level 1 that says what the notebook does and when to run it.
Each step under *Steps* has a heading of level 3."""

DESTRUCTIVE = re.compile(r"tear_?down|remove|delete|destroy|purge|restore|rollback", re.IGNORECASE)
"""Matches names of notebooks that destroy something."""

CONFIRMATION = re.compile(r"confirm")
"""Matches the parameter that must name what is destroyed: a str, empty by default."""

_SECRET_NAME = re.compile(
    r"(^|_)(password|passwd|pwd|passphrase|secret|token|credential|api_?key|private_?key|access_?key)s?$", re.IGNORECASE
)

_FILE_NAME = re.compile(r"[0-9]{2}_[a-z][a-z0-9_]*\.ipynb")
_BRANCHING: dict[type[ast.AST], str] = {
    ast.FunctionDef: "def", ast.AsyncFunctionDef: "async def", ast.ClassDef: "class", ast.Lambda: "lambda",
    ast.For: "for", ast.AsyncFor: "async for", ast.While: "while", ast.If: "if", ast.IfExp: "if", ast.Match: "match",
    ast.Try: "try", ast.TryStar: "try", ast.With: "with", ast.AsyncWith: "async with", ast.Raise: "raise",
    ast.Assert: "assert", ast.ListComp: "a comprehension", ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension", ast.GeneratorExp: "a comprehension", ast.Delete: "del", ast.Global: "global",
    ast.Await: "await",
}  # fmt: skip
_FORBIDDEN_CALLS = frozenset(
    {"input", "exit", "quit", "eval", "exec", "open", "getattr", "setattr", "compile", "print"}
)
_FORBIDDEN_MODULES = frozenset({"os", "sys", "subprocess", "shutil", "requests", "getpass", "time"})
_STORE = "store it with python -m ops.runbook.store"
_OF_THIS_MACHINE = re.compile(r"(?<![\w/])/(?:tmp|root|work|home/\w+|Users/\w+|private/var|var/folders)/")


def check(notebook: Notebook) -> tuple[str, ...]:
    """All problems of *notebook*; empty if there are none."""
    found = [*_skeleton(notebook), *_parameters(notebook), *_kernel(notebook), *_stored(notebook)]
    for number, cell in enumerate(notebook.cells):
        if cell.kind == "code" and cell is not notebook.parameters_cell:
            found += [f"cell {number} {problem}" for problem in _thin(cell)]
    return tuple(f"{notebook.name}: {problem}" for problem in found)


def _skeleton(notebook: Notebook) -> Iterator[str]:
    if not _FILE_NAME.fullmatch(notebook.path.name):
        yield f"its file is named {notebook.path.name}, not like 01_provision.ipynb"
    first = notebook.cells[0] if notebook.cells else None
    titles = [heading for heading in notebook.headings if heading.level == 1]
    if len(titles) != 1 or first is None or titles[0].cell != 0:
        yield "it needs one heading of level 1, in its first cell"
    if first is None or not any(level == 0 for level, _ in lines(first.source)):
        yield "its first cell says nothing under the title: what it does and when to run it"
    seconds = tuple(heading.text for heading in notebook.headings if heading.level == 2)
    if seconds != SKELETON:
        yield f"its headings of level 2 are {', '.join(seconds) or 'none'}, but must be {', '.join(SKELETON)}"
        return
    contents = _contents(notebook)
    if not any(part == "Steps" and step for part, step in contents):
        yield "there is no heading of level 3 under Steps"
    for (part, step), kinds in contents.items():
        if "code" not in kinds and (step if part == "Steps" else part in {"Preflight", "Verification"} and not step):
            yield f"there is no code under {step or part}"
    for part in ("What was done", "How to undo it"):
        if not contents[part, ""]:
            yield f"nothing is said under {part}"


def _contents(notebook: Notebook) -> dict[tuple[str, str], set[str]]:
    """The kinds of content under each heading of level 2, and under each of level 3 in it: text, code or nothing."""
    part = step = ""
    contents: dict[tuple[str, str], set[str]] = {}
    for cell in notebook.cells:
        found = lines(cell.source) if cell.kind == "markdown" else [(0, "")] * bool(cell.source.strip())
        for level, text in found:
            if level in {1, 2}:
                part, step = text, ""
            elif level == 3:
                step = text
            contents.setdefault((part, step), set())
            if not level:
                kind = "code" if cell.kind == "code" else "text"
                contents[part, step].add(kind)
                contents[part, ""].add(kind)
    return contents


def _parameters(notebook: Notebook) -> Iterator[str]:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.tags]
    if len(tagged) != 1 or tagged[0].kind != "code":
        yield f"it has {len(tagged)} cells tagged parameters, but must have one, of code"
        return
    code = [cell for cell in notebook.cells if cell.kind == "code"]
    if [cell.source for cell in code[:2]] != [tagged[0].source, GUARD]:
        yield "its first two code cells are not the parameters and `from ops import guard`, `guard.check()`"
    if any("injected-parameters" in cell.tags for cell in notebook.cells):
        yield "it has the cell that papermill injected: it was stored from a run's record"
    try:
        parameters = notebook.parameters
    except NotebookError as error:
        yield str(error).replace("\n", " ")
        return
    target = next((parameter for parameter in parameters if parameter.name == "target"), None)
    if target is None or target.type != "str" or target.default != "local":
        yield 'it has no parameter `target: str = "local"`'
    for parameter in parameters:
        if is_secret_name(parameter.name):
            yield (
                f"its parameter {parameter.name} would hold a secret, and papermill writes parameters down: take it "
                "from the environment, a file of mode 0600 or a prompt (ops/secret.py)"
            )
        if not parameter.help:
            yield f"its parameter {parameter.name} has no comment that describes it"
    for parameter in parameters:
        line = next(line for line in tagged[0].source.splitlines() if line.startswith(parameter.name))
        if line.count("=") > 1 or line.count("#") > 1:
            yield f"the line of its parameter {parameter.name} has a second = or #, and papermill would not see it"
    if DESTRUCTIVE.search(notebook.name) or notebook.metadata.get("runbook", {}).get("destructive"):
        named = [parameter for parameter in parameters if CONFIRMATION.search(parameter.name)]
        if not any(parameter.type == "str" and parameter.default == "" for parameter in named):
            yield 'it destroys something, but has no parameter like `confirm: str = ""` that must name it'


def _thin(cell: Cell) -> Iterator[str]:
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:
        yield "is not plain Python: replace a magic or shell command with a call of a function in ops/"
        return
    for kind in sorted({_BRANCHING[type(node)] for node in ast.walk(tree) if type(node) in _BRANCHING}):
        yield f"has {kind}: branches, loops and functions live in ops/"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] in _FORBIDDEN_MODULES:
                    yield f"imports {name}: access to the machine belongs in ops/"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FORBIDDEN_CALLS:
            yield f"calls {node.func.id}()"
        elif isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "system"}:
            yield f"reads or runs {node.attr}"
    calls = [statement for statement in tree.body if any(isinstance(node, ast.Call) for node in ast.walk(statement))]
    if len(calls) > 1:
        yield f"makes {len(calls)} calls, but may make only one: a cell is a step"


def _kernel(notebook: Notebook) -> Iterator[str]:
    kernelspec = notebook.metadata.get("kernelspec", {})
    if kernelspec.get("name") != "python3":
        yield f"its kernel is {kernelspec.get('name')!r}, but must be python3: {_STORE} {notebook.name}"
    if "papermill" in notebook.metadata:
        yield "it has papermill's metadata: it was stored from a run's record"


def _stored(notebook: Notebook) -> Iterator[str]:
    """Problems of the stored outputs: people read them, and nbval compares them."""
    expected = 0
    for number, cell in enumerate(notebook.cells):
        if {"execution", "papermill", "ExecuteTime"} & set(cell.metadata):
            yield f"cell {number} has times in its metadata"
        if cell.kind != "code":
            continue
        if not cell.source.strip():
            yield f"cell {number} is empty"
            continue
        expected += 1
        if cell.execution_count != expected:
            count = f"{cell.execution_count}, and {expected} after a clean run"
            yield f"cell {number} has the execution count {count}: {_STORE} {notebook.name}"
        for output in cell.outputs:
            if output["output_type"] == "error":
                yield f"cell {number} has an error: {output.get('ename')}"
            if output.get("name") == "stderr":
                yield f"cell {number} has output from stderr"
            if match := _OF_THIS_MACHINE.search(_text(output)):
                yield f"cell {number} shows a path of the machine that it ran on, {match[0]}…"
        if len(cell.outputs) > 1:
            yield f"cell {number} has {len(cell.outputs)} outputs, but may have only one: nbval compares their number"


def _text(output: object) -> str:
    """All text of a stored output, joined."""
    if isinstance(output, str):
        return output
    if isinstance(output, dict):
        return "\n".join(_text(value) for key, value in output.items() if not str(key).startswith("image/"))
    if isinstance(output, list | tuple):
        return "".join(_text(item) for item in output)
    return ""


def is_secret_name(name: str) -> bool:
    """True if a parameter with this name would hold a secret, which is never allowed.

    True for ``password`` and ``admin_token``, false for ``token_variable``, which only says where to find one.
    """
    return _SECRET_NAME.search(name) is not None
