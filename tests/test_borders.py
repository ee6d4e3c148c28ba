"""Imports run one way: notebooks -> operations -> targets, clients -> index; and the folders are as documented."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.workspace import PROJECT_ROOT

FOUNDATIONS = frozenset(
    {
        "ops",
        "ops.decoded_text",
        "ops.errors",
        "ops.parameters",
        "ops.polling",
        "ops.private_files",
        "ops.redaction",
        "ops.revisions",
        "ops.secret",
        "ops.secret_forms",
        "ops.settings",
        "ops.table",
        "ops.workspace",
    }
)
"""Modules outside the folders; each part may use those allowed below."""

JUPYTER = frozenset(
    {"IPython", "ipykernel", "jupyter_client", "jupyter_core", "nbclient", "nbconvert", "nbformat", "papermill", "zmq"}
)


MASKED_AS_RECORDS = frozenset({"ops.runbook.record", "ops.redaction", "ops.runbook.workspace_secrets"})
"""Imports of the support bundle from the runner: the records of runs, and the masking of secrets in them."""


def part(module: str) -> str:
    """The part of the architecture that a module belongs to."""
    names = module.split(".")
    if module in FOUNDATIONS or len(names) == 1:
        return "foundations"
    if names[1] in {"index", "targets", "clients", "runbook", "snapshots"}:
        return names[1]
    return "cli" if names[1] == "cli" else "operations"


ALLOWED = {
    "foundations": {"foundations"},
    "index": {"index"},
    "targets": {"targets", "index", "foundations"},
    "clients": {"clients", "foundations"},
    "runbook": {"runbook", "foundations"},
    "snapshots": {"snapshots", "targets", "foundations"},
    "operations": {"operations", "snapshots", "targets", "clients", "foundations"},
    "cli": {"cli", "operations", "snapshots", "targets", "clients", "runbook", "foundations"},
}
"""Parts that each part may import. ``ops`` itself only has the version, so the index must not even
import that; nothing imports the command."""


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """All modules below a package, by their dotted names."""
    for path in sorted(package.rglob("*.py")):
        names = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(names[:-1] if names[-1] == "__init__" else names), path


def imported(name: str, source: str, *, package: bool = False, known: frozenset[str] = frozenset()) -> Iterator[str]:
    """The modules that the module *name* imports, anywhere in it; relative imports resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".") if package else name.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                # `from ops import provision` imports a module, `from ops import __version__` a name.
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def violations(package: Path) -> list[str]:
    """Every import in *package* that crosses a border the wrong way."""
    found = []
    every = dict(modules(package))
    known = frozenset(every)
    for name, path in every.items():
        for target in imported(name, path.read_text(), package=path.name == "__init__.py", known=known):
            top = target.split(".", maxsplit=1)[0]
            if name == "ops.support_bundle" and target in MASKED_AS_RECORDS:
                continue
            if top == "ops" and not (target == "ops" and part(name) != "index"):
                if part(target) not in ALLOWED[part(name)]:
                    found.append(f"{name} imports {target}")
            elif top == "tests":
                found.append(f"{name} imports {target}: tests use the package, never the other way round")
            elif part(name) == "index" and (top == "modal" or top in JUPYTER):
                found.append(f"{name} imports {target}, which does not belong in the server")
            elif part(name) != "targets" and top == "modal":
                found.append(f"{name} imports modal, which only the targets may import")
            elif part(name) != "runbook" and top in JUPYTER and name != "ops.guard":  # it runs in the kernel
                found.append(f"{name} imports {target}, which only the runner and the guard may import")
    return found


def test_no_import_crosses_a_border_the_wrong_way() -> None:
    advice = "imports follow the arrows in CONTRIBUTING: move what is needed down, or pass it as an argument"
    assert violations(PROJECT_ROOT / "ops") == [], advice


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("index/pages.py", "from ops.settings import APP_NAME"),
        ("index/pages.py", "from ops import __version__"),
        ("index/pages.py", "from .. import errors"),
        ("index/pages.py", "def f():\n    import modal"),
        ("index/pages.py", "import nbformat"),
        ("targets/local.py", "from ops.provision import plan"),
        ("targets/local.py", "from ..clients import pip"),
        ("clients/pip.py", "from ops.targets.local import LocalTarget"),
        ("clients/pip.py", "import ops.index.packages.filenames"),
        ("runbook/runner.py", "from ops import provision"),
        ("runbook/runner.py", "from ops.index import names"),
        ("runbook/runner.py", "from ops.cli import main"),
        ("provision.py", "from ops.index.auth.users import UserFile"),
        ("provision.py", "from ops.runbook import run_notebooks"),
        ("provision.py", "import modal"),
        ("secret.py", "from ops.targets import open_target"),
        ("provision.py", "from tests.benchmark import Benchmark"),
    ],
)
def test_an_import_across_a_border_is_found(tmp_path: Path, module: str, line: str) -> None:
    package = tmp_path / "ops"
    for name in (
        "__init__.py", "cli.py", "errors.py", "settings.py", "secret.py", "provision.py",
        "index/__init__.py", "index/pages.py", "index/names.py", "index/users.py",
        "targets/__init__.py", "targets/local.py", "clients/__init__.py", "clients/pip.py",
        "runbook/__init__.py", "runbook/runner.py",
    ):  # fmt: skip
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    assert violations(package) == []
    (package / module).write_text(line)
    assert len(violations(package)) == 1, violations(package)


def notebook_imports(path: Path) -> Iterator[str]:
    """Imports of a notebook's code cells."""
    known = frozenset(name for name, _ in modules(PROJECT_ROOT / "ops"))
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield from imported("notebook", "".join(cell["source"]), known=known)


def test_notebooks_import_operations_and_open_a_target_and_nothing_else() -> None:
    for path in sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb")):
        for target in notebook_imports(path):
            if target == "tests.benchmark":  # for developers, not part of the package
                assert path.name == "10_benchmark.ipynb", path.name
                continue
            allowed = part(target) == "operations" or target in {"ops.targets", "ops.settings"}
            assert allowed, f"{path.name}: {target}"


def test_the_foundations_and_the_settings_need_only_the_standard_library() -> None:
    for module in FOUNDATIONS:
        path = PROJECT_ROOT / "ops" / ("__init__.py" if module == "ops" else f"{module.split('.')[1]}.py")
        for target in imported(module, path.read_text(), package=module == "ops"):
            top = target.split(".", maxsplit=1)[0]
            assert top == "ops" or top in sys.stdlib_module_names, f"{module} imports {target}"


def test_no_module_has_a_catch_all_name() -> None:
    names = {name.rsplit(".", maxsplit=1)[-1] for name, _ in modules(PROJECT_ROOT / "ops")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base"}


def test_the_folders_are_as_documented() -> None:
    rooms = {path.name for path in PROJECT_ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert rooms - {"__pycache__", "dist", "build", "node_modules"} <= {
        "notebooks",
        "deployments",
        "ops",
        "tests",
        "docs",
    }
    names = {path.name for path in (PROJECT_ROOT / "notebooks").iterdir() if not path.name.startswith(".")}
    assert {name for name in names if not name.endswith(".ipynb")} == {"README.md"}
    folders = {path.name for path in (PROJECT_ROOT / "ops").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= {"cli", "index", "targets", "clients", "runbook", "snapshots"}


STEPS = frozenset({"apply", "describe", "instructions", "plan", "preflight", "verify"})
"""Steps of notebooks: functions of the same name in the modules of operations mean the same."""

IN_WORKERS = frozenset({"preload", "work"})
"""Functions that :class:`ops.index.sandbox.sandbox.Sandbox` calls by name in its child processes."""


def twice(*kinds: type[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef], inside: bool) -> dict[str, list[str]]:
    """The names defined in more than one place of the package, with the modules.

    Parameters:
        kinds: definitions to look at.
        inside: also within functions and classes.
    """
    places: dict[str, list[str]] = {}
    for module, path in modules(PROJECT_ROOT / "ops"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree) if inside else tree.body:
            if isinstance(node, kinds):
                places.setdefault(node.name, []).append(module)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_class_name_has_two_meanings() -> None:
    assert twice(ast.ClassDef, inside=True) == {}, "name one of them by what sets it apart"


def test_no_function_name_has_two_meanings() -> None:
    """Names with an underscore are known in one module only, and methods in one class and its relatives."""
    found = twice(ast.FunctionDef, ast.AsyncFunctionDef, inside=False)
    public = {name for name in found if not name.startswith("_")}
    assert public - STEPS - IN_WORKERS <= {"main"}, "name one of them by what sets it apart"
    elsewhere = {place for name in public & STEPS for place in found[name] if part(place) != "operations"}
    assert elsewhere == set(), "these are names of notebooks' steps: name the function by what it does"


def test_contributing_names_the_modules_between_the_folders() -> None:
    named = (PROJECT_ROOT / ".github" / "CONTRIBUTING.md").read_text().partition("The modules of `ops/` itself:")[2]
    table = named.partition("\nEvery change")[0]
    there = {path.stem for path in (PROJECT_ROOT / "ops").glob("*.py")} - {"__init__"}
    assert {word for word in table.split("`")[1::2] if word != "ops/"} == there, (
        "correct the table of modules in CONTRIBUTING"
    )
