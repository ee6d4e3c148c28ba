"""Parameters of a notebook, read from its parameters cell by ``ast``, and checks of values against them.

papermill itself warns about an unknown parameter and injects it all the same, takes ``false`` for a string and ``1.10``
for a number. So everything is decided here, before papermill sees it.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ops.errors import NotebookError, ParameterError

Value = str | int | bool | float | list[object]
"""What a parameter can hold: exactly what survives papermill's injection and a JSON file unchanged."""

TYPES: Mapping[str, type] = {"str": str, "int": int, "bool": bool, "float": float, "list": list}

TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0"})

_SECRET_NAME = re.compile(
    r"(^|_)(password|passwd|pwd|passphrase|secret|token|credential|api_?key|private_?key|access_?key)s?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of a parameters cell: ``name: type = default  # help``."""

    name: str
    type: str
    default: Value
    help: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.type}, default {self.default!r})"


def parse_parameters(source: str, *, notebook: str = "the notebook") -> tuple[Parameter, ...]:
    """Read a parameters cell.

    Parameters:
        source: the cell's text, one parameter a line; comments of their own and blank lines are passed over.
        notebook: its name, for the error.

    Raises:
        NotebookError: a line is something else than ``name: str|int|bool|float|list = literal  # help``.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise NotebookError(
            f"the parameters of {notebook} cannot be read",
            why=f"line {error.lineno}: {error.msg}",
            todo="write one parameter a line: name: str = 'default'  # help",
        ) from None
    helps = _comments(source)
    parameters: dict[str, Parameter] = {}
    for statement in tree.body:
        parameter = _parameter(statement, helps)
        if parameter is None or parameter.name in parameters:
            line = source.splitlines()[statement.lineno - 1].strip()
            raise NotebookError(
                f"the parameters of {notebook} cannot be read",
                why=f"line {statement.lineno} is `{line}`" + (", a name for the second time" if parameter else ""),
                todo="write one parameter a line, of type str, int, bool, float or list: name: str = 'default'  # help",
            )
        parameters[parameter.name] = parameter
    return tuple(parameters.values())


def _comments(source: str) -> Mapping[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("#").strip() for token in tokens if token.type == tokenize.COMMENT}


def _parameter(statement: ast.stmt, helps: Mapping[int, str]) -> Parameter | None:
    if not (
        isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(statement.annotation, ast.Name)
        and statement.annotation.id in TYPES
        and statement.value is not None
        and statement.lineno == statement.end_lineno
    ):
        return None
    try:
        default: object = ast.literal_eval(statement.value)
    except ValueError:
        return None
    kind = statement.annotation.id
    value = None if isinstance(default, tuple) else _from_value(kind, default)
    return None if value is None else Parameter(statement.target.id, kind, value, helps.get(statement.lineno, ""))


def is_secret_name(name: str) -> bool:
    """Whether a parameter of this name would hold a secret, which is never a parameter.

    ``password`` and ``admin_token`` would; ``token_variable``, which names where one is found, would not.
    """
    return _SECRET_NAME.search(name) is not None


def coerce(parameter: Parameter, value: object) -> Value:
    """Make *value* what the parameter declares.

    Parameters:
        parameter: the declaration.
        value: a value of that type, or the text that a person typed: ``true``, ``8080``, ``a,b`` or ``["a", "b"]``.
            Text for a ``str`` is taken as it is, so the version ``1.10`` stays ``"1.10"``.

    Raises:
        ParameterError: it cannot be that, or a text in it is not UTF-8.
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # bytes of another encoding come as lone surrogates (PEP 383)
        raise ParameterError(
            f"the value of {parameter.name} is not text in UTF-8",
            why=f"{value!a} holds bytes of another encoding, and the record of a run is written in UTF-8",
            todo="set the terminal or script that gives it to UTF-8",
        ) from None
    result = _from_text(parameter.type, value) if isinstance(value, str) else _from_value(parameter.type, value)
    if result is None:
        expected = {
            "str": "text",
            "int": "a whole number",
            "bool": "true or false",
            "float": "a number",
            "list": "a list: one,two or a JSON array",
        }[parameter.type]
        raise ParameterError(
            f"the parameter {parameter.name} cannot be {value!r}",
            why=f"it is {parameter.type}: {expected}",
            todo=f"give it like {parameter.name}={_example(parameter)}",
        )
    return result


def _from_text(kind: str, text: str) -> Value | None:
    stripped = text.strip()
    result: Value | None = None
    if kind == "str":
        result = text
    elif kind == "bool":
        result = True if stripped.lower() in TRUE else False if stripped.lower() in FALSE else None
    elif kind == "int":
        result = int(stripped) if re.fullmatch(r"[+-]?[0-9]{1,18}", stripped) else None
    elif kind == "float":
        try:
            result = float(stripped)
        except ValueError:
            return None
        result = result if math.isfinite(result) else None
    elif stripped.startswith("["):
        try:
            result = json.loads(stripped)
        except ValueError:
            return None
    else:
        result = [part.strip() for part in stripped.split(",") if part.strip()]
    return result


def _from_value(kind: str, value: object) -> Value | None:
    if kind == "float" and type(value) is int:
        return float(value)
    if kind == "list" and isinstance(value, tuple):
        return list(value)
    # bool is a subclass of int: True is no port number.
    if type(value) is TYPES[kind]:
        return value  # type: ignore[return-value]  # narrowed by the table, which mypy cannot follow
    return None


def _example(parameter: Parameter) -> str:
    default = parameter.default
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, list):
        return json.dumps(default) if default else "one,two"
    return str(default) or "text"


def assign(
    given: Mapping[str, object], declared: Mapping[str, Sequence[Parameter]]
) -> Mapping[str, Mapping[str, Value]]:
    """Hand out the parameters of one run to its notebooks.

    Parameters:
        given: name to value, typed or as text.
        declared: notebook name to its parameters. Each given name must be a parameter of at least one of them, and goes
            to each that has it.

    Returns:
        notebook name to the values that it is given, in its own order of declaration.

    Raises:
        ParameterError: a name that no notebook has, or a value of another type; the error lists the valid ones.
    """
    valid = {parameter.name: parameter for parameters in declared.values() for parameter in parameters}
    unknown = [name for name in given if name not in valid]
    if unknown:
        name = unknown[0]
        close = difflib.get_close_matches(name, valid, n=1)
        several = len(declared) > 1
        listing = "; ".join(str(parameter) for parameter in valid.values()) or "none at all"
        raise ParameterError(
            f"there is no parameter {' and no parameter '.join(unknown)} in {', '.join(declared)}",
            why=f"{'together they take' if several else 'it takes'} {listing}",
            todo=f"did you mean {close[0]}?" if close else "use one of these names",
        )
    return {
        notebook: {
            parameter.name: coerce(parameter, given[parameter.name])
            for parameter in parameters
            if parameter.name in given
        }
        for notebook, parameters in declared.items()
    }
