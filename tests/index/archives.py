"""Small distributions, built in memory."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping


def core_metadata(name: str, version: str, *, lines: str = "", metadata_version: str = "2.4", body: str = "") -> bytes:
    text = f"Metadata-Version: {metadata_version}\nName: {name}\nVersion: {version}\n{lines}\n{body}"
    return text.encode()


def wheel(
    name: str,
    version: str,
    *,
    lines: str = "",
    body: str = "",
    payload: bytes = b"",
    metadata: bytes | None = None,
    leave_out: str = "",
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """A wheel's bytes; *payload* makes two of one name differ."""
    stem = name.replace("-", "_").replace(".", "_")
    folder = f"{stem}-{version}.dist-info"
    members = {
        f"{stem}/__init__.py": payload,
        f"{folder}/METADATA": core_metadata(name, version, lines=lines, body=body) if metadata is None else metadata,
        f"{folder}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **(more or {}),
    }
    members = {path: content for path, content in members.items() if not leave_out or not path.endswith(leave_out)}
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},{len(content)}\n"
        for path, content in members.items()
    )
    if leave_out != "RECORD":
        members[f"{folder}/RECORD"] = (record + f"{folder}/RECORD,,\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def wheel_name(name: str, version: str, tags: str = "py3-none-any") -> str:
    return f"{name.replace('-', '_').replace('.', '_')}-{version}-{tags}.whl"


def sdist(
    name: str,
    version: str,
    *,
    lines: str = "",
    body: str = "",
    metadata_version: str = "2.4",
    payload: bytes = b"",
    folder: str | None = None,
    setup: str | None = "setup.py",
    members: list[tuple[tarfile.TarInfo, bytes]] | None = None,
) -> bytes:
    """An sdist's bytes, as ``.tar.gz``, with a file of the name *setup* that says nothing."""
    folder = folder or f"{name.replace('-', '_').replace('.', '_')}-{version}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = core_metadata(name, version, lines=lines, metadata_version=metadata_version, body=body)
        for path, data in (("PKG-INFO", content), ("data.bin", payload), (setup, b"")):
            if path is not None:
                archive.addfile(_tar_member(f"{folder}/{path}", len(data)), io.BytesIO(data))
        for member, data in members or []:
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def sdist_zip(name: str, version: str, *, setup: str | None = "setup.py") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}-{version}/PKG-INFO", core_metadata(name, version))
        if setup is not None:
            archive.writestr(f"{name}-{version}/{setup}", b"")
    return buffer.getvalue()


def _tar_member(path: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size = size
    return member
