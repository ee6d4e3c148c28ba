"""Plan files: the plans of given notebooks, parameters and code, to be approved and then applied unchanged."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ops.errors import ApprovalError
from ops.parameters import Value
from ops.private_files import replace_file
from ops.runbook.notebook import Notebook
from ops.runbook.record import Record
from ops.workspace import PROJECT_ROOT

SCHEMA = 1

_CODE = ("ops", "deployments")
"""The folders of the clone that, besides the notebooks, determine what applying a plan does."""
_SUFFIXES = frozenset({".py", ".html", ".css", ".js", ".j2", ".txt", ".in"})


def is_plan_cell(source: str) -> bool:
    """True if a cell calls a function or method named ``plan``."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(getattr(call, "attr", getattr(call, "id", "")) == "plan" for call in calls)


@dataclass(frozen=True)
class PlannedNotebook:
    """The plan of one notebook.

    Parameters:
        name: ``01_provision``.
        source: the SHA-256 of its cells, without outputs.
        parameters: the given ones.
        plan: from :meth:`ops.plan.Plan.to_json`.
    """

    name: str
    source: str
    parameters: Mapping[str, Any]
    plan: Mapping[str, Any]


@dataclass(frozen=True)
class PlanFile:
    """The plans of one `runbook plan`.

    Parameters:
        made: time of creation, in ISO 8601, UTC.
        code: the SHA-256 of the code that made them.
        revision: its commit, for people.
        notebooks: in order.
    """

    made: str
    code: str
    revision: Mapping[str, Any]
    notebooks: tuple[PlannedNotebook, ...]

    @classmethod
    def of(cls, record: Record, notebooks: Mapping[str, Notebook], given: Mapping[str, Mapping[str, Value]]) -> Self:
        """The plan file of a finished run that stopped each notebook at its plan."""
        planned = tuple(
            PlannedNotebook(entry.name, source_sha256(notebooks[entry.name]), dict(given[entry.name]), entry.plan or {})
            for entry in record.notebooks
        )
        return cls(record.started, code_sha256(), record.provenance.revision, planned)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan file.

        Raises:
            ApprovalError: it is not a plan file, or was changed after it was written.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            signed = stored.pop("sha256")
            if signed != _sha256(stored):
                raise ValueError("it was changed after it was written")
            if stored.pop("schema") != SCHEMA:
                raise ValueError("another version of this project wrote it")
            notebooks = tuple(PlannedNotebook(**notebook) for notebook in stored.pop("notebooks"))
            return cls(**stored, notebooks=notebooks)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ApprovalError(
                f"{path} is not a plan that can be applied",
                why=getattr(error, "strerror", None) or str(error),
                todo="make one with: runbook plan NOTEBOOK --out FILE",
            ) from None

    def to_json(self) -> dict[str, Any]:
        """The content of the file; ``sha256`` covers everything else."""
        stored = {"schema": SCHEMA, **asdict(self), "notebooks": [asdict(notebook) for notebook in self.notebooks]}
        return {**stored, "sha256": _sha256(stored)}

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner only.

        Raises:
            OSError: it cannot be written.
        """
        replace_file(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n")

    @property
    def approved(self) -> Mapping[str, str]:
        """The SHA-256 of each notebook's plan."""
        return {notebook.name: notebook.plan["sha256"] for notebook in self.notebooks}

    @property
    def parameters(self) -> Mapping[str, Any]:
        """All given parameters."""
        return {key: value for notebook in self.notebooks for key, value in notebook.parameters.items()}

    def require(self, notebooks: Mapping[str, Notebook], given: Mapping[str, Mapping[str, Value]]) -> None:
        """Refuse to apply the plans to anything but what they were made from.

        Parameters:
            notebooks: the notebooks to run, by their names in the record.
            given: their parameters.

        Raises:
            ApprovalError: a notebook, a parameter or the code differs.
        """
        problems = []
        if list(notebooks) != [planned.name for planned in self.notebooks]:
            planned_names = ", ".join(planned.name for planned in self.notebooks)
            problems.append(f"it is a plan of {planned_names}, but this is a run of {', '.join(notebooks)}")
        else:
            for planned in self.notebooks:
                if planned.source != source_sha256(notebooks[planned.name]):
                    problems.append(f"the notebook {planned.name} has changed")
                if dict(planned.parameters) != dict(given[planned.name]):
                    problems.append(
                        f"it was made with {_shown(planned.parameters)}, but this run has {_shown(given[planned.name])}"
                    )
        if self.code != code_sha256():
            commit = str(self.revision.get("commit", ""))[:12]
            problems.append(f"it was made with different code{f', of the commit {commit}' if commit else ''}")
        if problems:
            raise ApprovalError(
                "the plan was made for another run, and nothing was run",
                why="; ".join(problems),
                todo="run what was planned, or make a new plan with `runbook plan` and have it approved",
            )


def source_sha256(notebook: Notebook) -> str:
    """The SHA-256 of a notebook's cells, without their outputs."""
    return _sha256([[cell.kind, cell.source] for cell in notebook.cells])


def code_sha256(root: Path = PROJECT_ROOT) -> str:
    """The SHA-256 of the code and requirements in the clone *root*."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (root / folder).rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _sha256(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in parameters.items()) or "no parameters"
