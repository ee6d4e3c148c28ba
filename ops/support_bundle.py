"""Support bundle: a zip file that describes a target for whoever is helping, without secrets.

Its texts are masked like records of runs, and searched for secrets before the file is written. It does contain user
names, addresses and paths.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ops import provision, troubleshoot
from ops.errors import RunbookError, VerificationError
from ops.plan import Change, Finding, Outcome, Plan, proven
from ops.private_files import private_folder, replace_file
from ops.secret import REGISTER_VARIABLE
from ops.status import status
from ops.table import Table, counted
from ops.targets import Target
from ops.workspace import Workspace, shown

LOG_LINES = 500
RECORDS = 20
"""Number of included records, the newest, without their notebooks."""

_CREDENTIALS = (
    re.compile(r"\$2[abxy]\$[0-9]{2}\$[./A-Za-z0-9]{53}"),
    re.compile(r"(?i)\b(?:basic|bearer) +([A-Za-z0-9+/=._~-]{16,})"),
)
"""Password hashes, and Authorization headers (RFC 7617, RFC 6750)."""


def plan(target: Target, *, bundle: bool = False) -> Plan:
    """The file that would be written. Reads only.

    Parameters:
        target: the target that it describes.
        bundle: False to write nothing.
    """
    path = _path(target)
    now = "there is an older one" if path.exists() else "missing"
    change = Change(f"support bundle {shown(path)}", now, "write it, mode 0600", "~" if path.exists() else "+")
    held = "" if bundle else "Nothing is written, since the parameter bundle is false."
    return Plan(_caption(target), (change,), target.place, held=held)


def _caption(target: Target) -> str:
    return f"Support bundle of the target {target.name}"


def apply(target: Target, *, bundle: bool = False) -> Outcome:
    """Write the bundle: status, checks, versions, plan, summaries of the last runs, and the end of the server's log.

    A part that is unavailable is replaced by the error.

    Parameters:
        target: the target.
        bundle: False to write nothing.

    Raises:
        VerificationError: it contains a secret that cannot be masked; nothing was written.
    """
    if not bundle:
        return Outcome(_caption(target), (), "Nothing was written, since the parameter bundle is false.")
    path = _path(target)
    texts = _masked(_texts(target))
    private_folder(path.parent)
    replace_file(path, _packed(texts))
    note = "It holds user names, addresses and paths: check it before you send it."
    return Outcome(_caption(target), ((shown(path), f"written, {counted(len(texts), 'file')}, mode 0600"),), note)


def verify(target: Target, *, bundle: bool = False) -> Table:
    """Read the bundle back, and search it for every secret known here.

    Raises:
        VerificationError: it contains one.
    """
    if not bundle:
        return Table.of("The bundle as it is read", ("what", "seen"), [("the bundle", "none was to be written")])
    with zipfile.ZipFile(_path(target)) as packed:
        texts = {name: packed.read(name).decode() for name in packed.namelist()}
    masked = _masked(texts)
    findings = [
        Finding(name, "no secret", "no secret" if masked[name] == text else "a secret", masked[name] == text)
        for name, text in texts.items()
    ]
    return proven("The bundle as it is read", findings, todo="delete it, and rotate what was in it")


def _path(target: Target) -> Path:
    return Workspace.default().home / "support" / f"{target.name}.zip"


def _texts(target: Target) -> dict[str, str]:
    """The contents, by file name."""
    sources: Mapping[str, Callable[[], object]] = {
        "status.txt": lambda: status(target),
        "checks.txt": lambda: "\n\n".join(
            repr(look(target)) for look in (troubleshoot.machine, troubleshoot.index, troubleshoot.logins)
        ),
        "plan.txt": lambda: repr(provision.plan(target)),
        "versions.txt": _versions,
        "records.json": _records,
        "server.log": lambda: target.logs(LOG_LINES),
    }
    return {name: _content(source) for name, source in sources.items()}


def _content(source: Callable[[], object]) -> str:
    try:
        return f"{source()}\n"
    except RunbookError as error:
        return f"{type(error).__name__}: {error}\n"


def _versions() -> str:
    installed = {f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}
    return "\n".join([f"Python {platform.python_version()} on {platform.platform()}", *sorted(installed)])


def _records() -> str:
    from ops.runbook.record import list_records

    found = []
    for record in list_records(Workspace.default().records)[:RECORDS]:
        stored = record.to_json()
        for entry in stored["notebooks"]:
            for details in ("steps", "plan", "parameters"):
                del entry[details]
        found.append({key: value for key, value in stored.items() if key not in {"parameters", "who", "report"}})
    return json.dumps(found, indent=1, ensure_ascii=False)


def _masked(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts without the secrets known here, masked like a record of a run."""
    from ops.redaction import Redactor
    from ops.runbook.workspace_secrets import passwords_in_urls, recorded_secrets, scan, workspace_sources

    registers = [recorded_secrets(Path(named))] if (named := os.environ.get(REGISTER_VARIABLE)) else []
    redactor = Redactor(sources=(*workspace_sources(Workspace.default(), os.environ), *registers))
    for text in texts.values():
        found = [match[match.lastindex or 0] for pattern in _CREDENTIALS for match in pattern.finditer(text)]
        redactor.add(*passwords_in_urls(text), *found)
    with tempfile.TemporaryDirectory(prefix="runbook-") as folder:
        for name, text in texts.items():
            (Path(folder) / name).write_text(redactor.text(text), "utf-8")
        scan(Path(folder), redactor)
        masked = {name: (Path(folder) / name).read_text("utf-8") for name in texts}
        if left := scan(Path(folder), redactor):
            raise VerificationError(
                "no support bundle was written",
                why=f"{', '.join(path.name for path in left)} would contain a secret that cannot be masked",
                todo="describe the problem in words instead, and rotate that secret",
            )
    return masked


def _packed(texts: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in texts.items():
            packed.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    return buffer.getvalue()


__all__ = ["apply", "plan", "verify"]
