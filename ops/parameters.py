"""Notebook parameters: reading a parameters cell with ``ast``, and checking values against it.

papermill only warns about an unknown parameter and injects it anyway, and it reads ``false`` as text and ``1.10`` as a
number. The ``runbook`` command checks parameters before papermill sees them; :mod:`ops.guard` checks them in the
kernel, whichever program runs the notebook.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import reprlib
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ops.errors import NotebookError, ParameterError

Value = str | int | bool | float | list[object]
"""A parameter value: a type that both papermill's injection and JSON preserve."""

TYPES: Mapping[str, type] = {"str": str, "int": int, "bool": bool, "float": float, "list": list}

EXPECTED: Mapping[str, str] = {
    "str": "text",
    "int": "a whole number of at most 18 digits",
    "bool": "true or false",
    "float": "a number",
    "list": "a list: one,two or a JSON array",
}

TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0"})

_INT_LIMIT = 10**18


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
        source: the cell's source, one parameter per line; blank lines and comment lines are skipped.
        notebook: the notebook's name, for the error.

    Raises:
        NotebookError: a line is not ``name: str|int|bool|float|list = literal  # help``.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise NotebookError(
            f"the parameters of {notebook} cannot be read",
            why=f"line {error.lineno}: {error.msg}",
            todo="write one parameter per line: name: str = 'default'  # help",
        ) from None
    helps = _comments(source)
    parameters: dict[str, Parameter] = {}
    for statement in tree.body:
        parameter = _parameter(statement, helps)
        if parameter is None or parameter.name in parameters:
            line = source.splitlines()[statement.lineno - 1].strip()
            raise NotebookError(
                f"the parameters of {notebook} cannot be read",
                why=f"line {statement.lineno} is `{line}`" + (", which defines a name again" if parameter else ""),
                todo="write one parameter per line, typed str, int, bool, float or list: name: str = 'default'  # help",
            )
        parameters[parameter.name] = parameter
    return tuple(parameters.values())


def _comments(source: str) -> Mapping[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("#").strip() for token in tokens if token.type == tokenize.COMMENT}


def declaration(statement: ast.stmt) -> tuple[str, str, ast.expr] | None:
    """Name, type and value of an annotated assignment that may declare a parameter; None for any other statement."""
    if (
        isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and isinstance(statement.annotation, ast.Name)
        and statement.annotation.id in TYPES
        and statement.value is not None
    ):
        return statement.target.id, statement.annotation.id, statement.value
    return None


def _parameter(statement: ast.stmt, helps: Mapping[int, str]) -> Parameter | None:
    declared = declaration(statement)
    if declared is None or statement.lineno != statement.end_lineno:
        return None
    name, kind, given = declared
    try:
        default: object = ast.literal_eval(given)
    except ValueError:
        return None
    value = None if isinstance(default, tuple) else _from_value(kind, default)
    return None if value is None else Parameter(name, kind, value, helps.get(statement.lineno, ""))


def coerce(parameter: Parameter, value: object) -> Value:
    """Convert *value* to the declared type.

    Parameters:
        parameter: the declaration.
        value: a value of the declared type, or text as typed on a command line: ``true``, ``8080``, ``a,b`` or
            ``["a", "b"]``. Text for a ``str`` is kept unchanged, so the version ``1.10`` stays ``"1.10"``.

    Raises:
        ParameterError: *value* cannot be converted, or contains text that is not UTF-8.
    """
    require_utf8(parameter.name, value)
    result = _from_text(parameter.type, value) if isinstance(value, str) else _from_value(parameter.type, value)
    if result is None:
        raise ParameterError(
            f"the parameter {parameter.name} cannot be {_shown(value)}",
            why=f"it is {parameter.type}: {EXPECTED[parameter.type]}",
            todo=f"use for example {parameter.name}={_example(parameter)}",
        )
    return result


def require_type(parameter: Parameter, value: object) -> Value:
    """Check that *value*, found in a kernel, has the declared type; text is not converted.

    Raises:
        ParameterError: it has another type, cannot be stored as JSON, or contains text that is not UTF-8.
    """
    require_utf8(parameter.name, value)
    result = _from_value(parameter.type, value)
    if result is None:
        meant = _from_text(parameter.type, value) if isinstance(value, str) else None
        example = parameter.default if meant is None else meant
        raise ParameterError(
            f"the parameter {parameter.name} cannot be {_shown(value)}",
            why=f"it is {parameter.type}: {EXPECTED[parameter.type]}; this is {_kind(value)}",
            todo=f"write {parameter.name} = {example!r} in Python, or -y '{parameter.name}: {json.dumps(example)}' "
            "for papermill"
            + (f"; papermill -r {parameter.name} VALUE keeps a number as text" if parameter.type == "str" else ""),
        )
    return result


def require_utf8(name: str, value: object) -> None:
    """Refuse text that is not UTF-8 in the value of the parameter *name*.

    Raises:
        ParameterError: there is some.
    """
    try:
        json.dumps(value, ensure_ascii=False, default=_shown).encode()
    except UnicodeEncodeError:  # PEP 383: bytes in another encoding arrive as lone surrogates
        raise ParameterError(
            f"the value of {name} is not UTF-8 text",
            why=f"{value!a} contains bytes in another encoding, and run records are written in UTF-8",
            todo="switch the terminal or script that sets it to UTF-8",
        ) from None
    except (ValueError, TypeError, RecursionError):
        return  # not JSON: refused for its type


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # an int with more digits than Python converts
        return "a number with thousands of digits"


def _kind(value: object) -> str:
    if value is None:
        return "None"
    return {str: "text", bool: "bool", int: "int", float: "float", list: "a list", dict: "a mapping"}.get(
        type(value), type(value).__name__
    )


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
            result = _from_value("list", json.loads(stripped))
        except (ValueError, RecursionError):
            return None
    else:
        result = [part.strip() for part in stripped.split(",") if part.strip()]
    return result


def _from_value(kind: str, value: object) -> Value | None:
    if kind == "float" and type(value) is int:
        value = float(value) if abs(value) < _INT_LIMIT else None
    if kind == "list" and isinstance(value, tuple):
        value = list(value)
    # Exact types: bool is a subclass of int, and True is not a port number.
    if type(value) is not TYPES[kind]:
        return None
    if type(value) is int and abs(value) >= _INT_LIMIT:
        return None
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None
    return value  # type: ignore[return-value]  # narrowed by the table, which mypy cannot follow


def _example(parameter: Parameter) -> str:
    default = parameter.default
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, list):
        return json.dumps(default) if default else "one,two"
    return str(default) or "text"


def distribute(
    given: Mapping[str, object], declared: Mapping[str, Sequence[Parameter]]
) -> Mapping[str, Mapping[str, Value]]:
    """Distribute the parameters of a run to its notebooks.

    Parameters:
        given: name to value, typed or as text.
        declared: notebook name to its parameters. Each given name must belong to at least one notebook, and is passed
            to every notebook that declares it.

    Returns:
        notebook name to its values, in declaration order.

    Raises:
        ParameterError: no notebook declares a name, or a value has the wrong type.
    """
    refuse_unknown(given, declared)
    return {
        notebook: {
            parameter.name: coerce(parameter, given[parameter.name])
            for parameter in parameters
            if parameter.name in given
        }
        for notebook, parameters in declared.items()
    }


def refuse_unknown(given: Iterable[str], declared: Mapping[str, Sequence[Parameter]]) -> None:
    """Refuse names that none of the notebooks declares.

    Raises:
        ParameterError: with the valid names and the nearest one.
    """
    valid = {parameter.name: parameter for parameters in declared.values() for parameter in parameters}
    unknown = [name for name in given if name not in valid]
    if unknown:
        close = difflib.get_close_matches(unknown[0], valid, n=1)
        listing = "; ".join(str(parameter) for parameter in valid.values()) or "none at all"
        raise ParameterError(
            f"there is no parameter {' and no parameter '.join(unknown)} in {', '.join(declared)}",
            why=f"{'together they take' if len(declared) > 1 else 'it takes'} {listing}",
            todo=f"did you mean {close[0]}?" if close else "use one of these names",
        )
