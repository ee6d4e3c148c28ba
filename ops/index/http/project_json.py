"""Projects and releases as JSON, in the form of the public index's legacy JSON API.

Dependency bots and older tools read it. MD5 digests and download counts are missing. The specification is the public
index's own documentation, "JSON API".
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from ops.index.http.release_list import latest_of, releases_of
from ops.index.http.simple_pages import file_address, offered, timestamp
from ops.index.packages.filenames import parse, same_version
from ops.index.packages.models import File, Project

_TYPES = {"wheel": "bdist_wheel", "sdist": "sdist", "egg": "bdist_egg"}


def project_json(project: Project, base: str) -> bytes:
    """All releases of a project, and the files of the one that an installer would choose.

    Parameters:
        project: without files if it is quarantined.
        base: the address of the index, with a final slash.
    """
    releases: dict[str, list[dict[str, Any]]] = {}
    for file in reversed(offered(project)):
        releases.setdefault(file.version, []).append(_file(file, base))
    latest = latest_of(releases_of(project))
    assert latest is not None  # noqa: S101 - a project without files has a page of its own
    newest = latest.version
    page = {"info": _info(project, newest, base), "releases": releases, "urls": releases.get(newest, [])}
    return json.dumps(page).encode()


def release_json(project: Project, version: str, base: str) -> bytes | None:
    """One release of a project; None when it has no such version.

    Parameters:
        project: without files if it is quarantined.
        version: in any spelling (PEP 440).
        base: the address of the index, with a final slash.
    """
    found = next((known for known in project.versions if same_version(known, version)), None)
    if found is None:
        return None
    urls = [_file(file, base) for file in reversed(offered(project)) if file.version == found]
    return json.dumps({"info": _info(project, found, base), "urls": urls}).encode()


def _info(project: Project, version: str, base: str) -> dict[str, Any]:
    files = [file for file in project.files if file.version == version]
    yanked = all(file.yanked is not None for file in files)
    return {
        "name": project.name,
        "version": version,
        "requires_python": next((file.requires_python for file in files if file.requires_python is not None), None),
        "yanked": yanked,
        "yanked_reason": next((file.yanked for file in files if file.yanked), None) if yanked else None,
        "project_url": f"{base}projects/{project.name}/",
    }


def _file(file: File, base: str) -> dict[str, Any]:
    name = parse(file.filename)
    form = "other" if name is None else name.form
    return {
        "filename": file.filename,
        "url": base + file_address(file),
        "packagetype": _TYPES.get(form, form),
        "python_version": file.filename.split("-")[-3] if form == "wheel" else "source",
        "digests": {"sha256": file.sha256},
        "size": file.size,
        "requires_python": file.requires_python,
        "upload_time": file.upload_time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds"),
        "upload_time_iso_8601": timestamp(file.upload_time),
        "yanked": file.yanked is not None,
        "yanked_reason": file.yanked or None,
    }
