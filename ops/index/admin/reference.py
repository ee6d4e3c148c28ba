"""Reference page: an OpenAPI document in HTML, without scripts and without anything from the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ops.index.http import html_templates


def reference_page(document: Mapping[str, Any], *, root: str = "") -> bytes:
    """Render an OpenAPI document.

    Its commands keep the token and passwords out of the process list and the shell's history.

    Parameters:
        document: OpenAPI 3.1, as FastAPI generates it.
        root: prefix of every path, such as ``/admin``.
    """
    info = document["info"]
    return html_templates.render_template(
        "reference.html",
        title=info["title"],
        paragraphs=info.get("description", "").strip().split("\n\n"),
        operations=list(_operations(document, root)),
    )


def reference_policy() -> str:
    """The Content-Security-Policy of the page."""
    return html_templates.policy("reference.css", script=None).decode()


def _operations(document: Mapping[str, Any], root: str) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            yield {
                "id": operation["operationId"],
                "summary": operation["summary"],
                "method": method.upper(),
                "path": root + path,
                "description": operation.get("description", ""),
                "body": None if schema is None else _resolved(document, schema),
                "responses": sorted(operation["responses"].items()),
            }


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Content of the page for a schema, which may be a reference."""
    reference = schema.get("$ref")
    found = schema if reference is None else document["components"]["schemas"][reference.rpartition("/")[2]]
    fields = {name: {"description": field.get("description", "")} for name, field in found["properties"].items()}
    return {"properties": fields, "required": found.get("required", ()), "examples": found.get("examples", ())}
