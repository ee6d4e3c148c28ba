"""An OpenAPI document as a page to read, without scripts and without anything from the network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from ops.index.http.security_headers import NOTHING, source_hash

_STYLE: Final = """
body{font:1rem/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
pre,code{font:.9rem/1.45 ui-monospace,monospace}
pre{overflow-x:auto;background:#f3f4f6;padding:.75rem;border-radius:.4rem}
h2{margin-top:2.5rem;border-top:1px solid #d0d7de;padding-top:1rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid #e5e7eb}
@media(prefers-color-scheme:dark){body{background:#111418;color:#e6e8eb}pre{background:#1d2127}h2,th,td{border-color:#333}}
"""

POLICY: Final = f"style-src {source_hash(_STYLE)}; {NOTHING.decode()}"
"""The Content-Security-Policy of the page: nothing but its own style."""


def reference_page(document: Mapping[str, Any], *, root: str = "") -> str:
    """The page.

    Parameters:
        document: OpenAPI 3.1, as FastAPI makes it.
        root: before every path, such as ``/admin``.
    """
    info = document["info"]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{escape(info['title'])}</h1>",
            *(f"<p>{_prose(paragraph)}</p>" for paragraph in info.get("description", "").strip().split("\n\n")),
            '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
            *(
                line
                for path, methods in document["paths"].items()
                for method, operation in methods.items()
                for line in _operation(document, method.upper(), root + path, operation)
            ),
            "</main></body></html>",
        ]
    )


def _operation(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(operation["operationId"])}">{escape(operation["summary"])}</h2>'
    yield f"<p><code><strong>{method}</strong> {escape(path)}</code></p>"
    yield f"<p>{_prose(operation.get('description', ''))}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    examples: list[Any] = []
    if body is not None:
        schema = _resolved(document, body)
        examples = schema.get("examples", [])
        yield "<h3>Fields</h3><table><thead><tr><th>name</th><th>what</th></tr></thead><tbody>"
        for name, field in schema["properties"].items():
            needed = " (required)" if name in schema.get("required", ()) else ""
            meaning = _prose(field.get("description", ""))
            yield f"<tr><td><code>{escape(name)}</code>{needed}</td><td>{meaning}</td></tr>"
        yield "</tbody></table>"
        for example in examples:
            yield f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"
    yield f"<h3>From a shell</h3><pre>{escape(_command(method, path, examples))}</pre>"
    yield "<h3>Answers</h3><table><thead><tr><th>status</th><th>meaning</th></tr></thead><tbody>"
    for status, answer in sorted(operation["responses"].items()):
        yield f"<tr><td>{escape(str(status))}</td><td>{_prose(answer['description'])}</td></tr>"
    yield "</tbody></table>"


def _command(method: str, path: str, examples: list[Any]) -> str:
    """A command that shows neither token nor password to whoever lists processes or reads the shell's history."""
    parts = [f'curl -X {method} "$URL{path}"']
    parts.append('-H @- <<< "Authorization: Bearer $AUTH_TOKEN"')
    if examples:
        parts[1:1] = ["--json @user.json"]
    return " ".join(parts)


def _prose(text: str) -> str:
    """Text with `code` between backquotes."""
    pieces = escape(text).split("`")
    return "".join(piece if place % 2 == 0 else f"<code>{piece}</code>" for place, piece in enumerate(pieces))


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference names."""
    reference = schema.get("$ref")
    return schema if reference is None else document["components"]["schemas"][reference.rpartition("/")[2]]
