"""Pages of the simple repository API, in HTML and in JSON.

    PEP 503   the HTML, and normalized names
    PEP 592   yanked files
    PEP 629   the version of the API
    PEP 658   core metadata beside the file
    PEP 691   the JSON
    PEP 700   versions, sizes and upload times
    PEP 714   the key for core metadata; HTML has the old key too, but JSON does not: older versions of pip fail on it
    PEP 740   the URL of a file's provenance
    PEP 752   namespaces of a project, in JSON, if enabled
    PEP 792   project status

Pure functions from models to texts. Addresses are relative, so that the index works under any prefix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final
from urllib.parse import quote

from ops.index.http.blocks import Entries, Page
from ops.index.http.negotiation import JSON_V1
from ops.index.packages.models import File, Project

API_VERSION = "1.4"
"""1.1 is PEP 700, 1.3 is PEP 740, 1.4 is PEP 792; 1.2 is optional and absent."""

NO_KEYS: Final[Mapping[str, Any]] = {}

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="pypi:repository-version" content="{version}">
{more}<title>{title}</title>
</head>
<body>
<h1>{title}</h1>
"""
_TAIL = "</body>\n</html>\n"

_FILES: Final = 64
"""Average number of files in a block of a page: some 20 kB."""

_VERSIONS: Final = 256
_PROJECTS: Final = 512

_json = json.JSONEncoder(separators=(",", ":")).encode


def content_type(form: str) -> str:
    """The Content-Type of a page in *form*, one of those in :mod:`ops.index.http.negotiation`."""
    return form if form == JSON_V1 else f"{form}; charset=utf-8"


def project_page(project: Project, form: str, more: Mapping[str, Any] = NO_KEYS, version: str = API_VERSION) -> Page:
    """The page of one project, at ``simple/<name>/``.

    A quarantined project's page has no files: an index must not offer them (PEP 792).

    Parameters:
        more: further keys of the JSON.
        version: of the API in JSON; that of HTML is frozen (PEP 833).
    """
    return _project_json(project, more, version) if form == JSON_V1 else _project_html(project)


def project_list(names: Sequence[str], form: str, version: str = API_VERSION) -> Page:
    """The page of all projects, at ``simple/``."""
    render = _names_json if form == JSON_V1 else _names_html
    listed = Entries(tuple(names), str, render, _PROJECTS, "," if form == JSON_V1 else "")
    if form == JSON_V1:
        return f'{{"meta":{{"api-version":"{version}"}},"projects":[', listed, "]}"
    return _HEAD.format(version=API_VERSION, title="Simple index", more=""), listed, _TAIL


def file_address(file: File) -> str:
    """The URL of a file, relative to the root of the index."""
    return "packages/" + quote(os.fsencode(file.path))


def format_upload_time(moment: datetime) -> str:
    """ISO 8601 in UTC with a ``Z`` (PEP 700)."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def offered(project: Project) -> tuple[File, ...]:
    """The files of a project that may currently be downloaded."""
    return () if project.status == "quarantined" else project.files


def _project_json(project: Project, more: Mapping[str, Any], version: str) -> Page:
    status = ""
    if project.status != "active" or project.status_reason:
        told = {"status": project.status, **({"reason": project.status_reason} if project.status_reason else {})}
        status = f',"project-status":{_json(told)}'
    return (
        f'{{"meta":{{"api-version":"{version}"}},"name":{_json(project.name)},"versions":[',
        Entries(project.versions, str, _versions_json, _VERSIONS, ","),
        '],"files":[',
        Entries(offered(project), _filename, _files_json, _FILES, ","),
        f"]{status}{''.join(f',{_json(key)}:{_json(value)}' for key, value in more.items())}}}",
    )


def _versions_json(versions: Sequence[str]) -> str:
    return _json(versions)[1:-1]


def _names_json(names: Sequence[str]) -> str:
    return _json([{"name": name} for name in names])[1:-1]


def _files_json(files: Sequence[File]) -> str:
    return _json([_file_json(file) for file in files])[1:-1]


def _filename(file: File) -> str:
    return file.filename


def _file_json(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "filename": file.filename,
        "url": "../../" + file_address(file),
        "hashes": {"sha256": file.sha256},
        "size": file.size,
        "upload-time": format_upload_time(file.upload_time),
    }
    if file.requires_python is not None:
        entry["requires-python"] = file.requires_python
    if file.metadata_sha256 is not None:
        entry["core-metadata"] = {"sha256": file.metadata_sha256}
    else:
        entry["core-metadata"] = False
    if file.provenance:
        entry["provenance"] = file.provenance
    if file.yanked is not None:
        entry["yanked"] = file.yanked or True
    return entry


def _project_html(project: Project) -> Page:
    more = ""
    if project.status != "active" or project.status_reason:
        more = f'<meta name="pypi:project-status" content="{escape(project.status)}">\n'
        if project.status_reason:
            more += f'<meta name="pypi:project-status-reason" content="{escape(project.status_reason)}">\n'
    head = _HEAD.format(version=API_VERSION, title=f"Links for {escape(project.name)}", more=more)
    return head, Entries(offered(project), _filename, _files_html, _FILES), _TAIL


def _names_html(names: Sequence[str]) -> str:
    return "".join([f'<a href="{quote(name)}/">{escape(name)}</a><br>\n' for name in names])


def _files_html(files: Sequence[File]) -> str:
    return "".join([f"<a {_attributes(file)}>{escape(file.filename)}</a><br>\n" for file in files])


def _attributes(file: File) -> str:
    attributes = {"href": f"../../{file_address(file)}#sha256={file.sha256}"}
    if file.requires_python is not None:
        attributes["data-requires-python"] = file.requires_python
    if file.metadata_sha256 is not None:
        digest = f"sha256={file.metadata_sha256}"
        attributes["data-core-metadata"] = attributes["data-dist-info-metadata"] = digest
    if file.provenance:
        attributes["data-provenance"] = file.provenance
    if file.yanked is not None:
        attributes["data-yanked"] = file.yanked
    return " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())
