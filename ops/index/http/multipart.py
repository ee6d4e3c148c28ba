"""A form with files, taken apart while it arrives (RFC 7578, RFC 2046 section 5.1).

The bytes of a file go on as they come: however large it is, no more than one piece of it is in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ops.index.errors import BadRequest, TooLarge

MAX_HEADER_BYTES = 16 * 1024
"""Of one part."""

MAX_PARTS = 10_000
MAX_BOUNDARY_BYTES = 200

# What twine, uv and browsers write before nearly every field.
_PLAIN_FIELD = re.compile(rb'\r\nContent-Disposition: form-data; name="([a-z0-9_:]+)"')
_PARAMETER = re.compile(r';\s*([A-Za-z0-9_.*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))')


class Sink(Protocol):
    """What takes the bytes of a file."""

    def write(self, piece: bytes, /) -> object:
        """Take the next ones."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form, as its header describes it.

    Parameters:
        name: of the field.
        filename: as the client names the file; None for a plain field.
    """

    name: str
    filename: str | None


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a ``multipart/form-data`` body; None for a content type that is not multipart.

    Raises:
        BadRequest: it is multipart of another kind, or has no boundary that can be used.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        return None
    if kind != "multipart/form-data":
        raise BadRequest(
            "the form cannot be read: its Content-Type is not multipart/form-data; upload with twine or uv"
        )
    boundary = _parameters(content_type).get("boundary", "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise BadRequest(
            "the form cannot be read: its Content-Type has no boundary that can be used; upload with twine or uv"
        )
    return boundary


class FormParser:
    """Takes a body in pieces of any size.

    Parameters:
        boundary: between the parts.
        sink_for: asked for each part that has a file name; None drops its bytes.
        max_form_bytes: of all plain fields together.
    """

    def __init__(self, boundary: bytes, sink_for: Callable[[Part], Sink | None], *, max_form_bytes: int) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._sink_for = sink_for
        self._left = self._limit = max_form_bytes
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter looks like the others
        self._state: Callable[[], bool] = self._skip_preamble
        self._sink: Sink | None = None
        self._field: tuple[str, bytearray] | None = None
        self._parts = 0
        self.fields: list[tuple[str, str]] = []
        self.complete = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            BadRequest: this is no form.
            TooLarge: its fields are more than is taken.
            PackageIndexError: what a sink raises.
        """
        self._buffer += piece
        while self._state():
            pass

    def finish(self) -> None:
        """Say that this was all.

        Raises:
            BadRequest: the form is cut short.
        """
        if not self.complete:
            raise BadRequest("the form ended early; send it again")

    def _skip_preamble(self) -> bool:
        found = self._buffer.find(self._delimiter)
        if found < 0:
            del self._buffer[: -len(self._delimiter)]
            return False
        return self._pass_delimiter(found)

    def _pass_delimiter(self, at: int) -> bool:
        del self._buffer[: at + len(self._delimiter)]
        self._state = self._begin_part
        return True

    def _begin_part(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer.startswith(b"--"):
            self.complete = True
            self._state = self._skip_epilogue
            return True
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEADER_BYTES:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise BadRequest("the form cannot be read: the header of a part is too long; upload with twine or uv")
            return False
        plain = _PLAIN_FIELD.fullmatch(self._buffer, 0, end)
        if plain is not None:
            part = Part(plain[1].decode(), None)
        else:
            header = self._buffer[:end].decode("utf-8", "replace").lstrip(" \t")
            if header and not header.startswith("\r\n"):
                raise BadRequest("the form cannot be read: its boundary occurs in it; upload with twine or uv")
            part = _part(header)
        del plain, self._buffer[: end + 4]  # a match keeps the buffer as long as it is
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest("the form has too many parts; upload one file with its metadata at a time")
        self._open(part)
        self._state = self._pass_body
        return True

    def _open(self, part: Part) -> None:
        self._sink, self._field = None, None
        if part.filename is None:
            self._field = (part.name, bytearray())
        else:
            self._sink = self._sink_for(part)

    def _pass_body(self) -> bool:
        found = self._buffer.find(self._delimiter)
        ready = found if found >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if ready > 0:
            self._take(bytes(memoryview(self._buffer)[:ready]))
        if found >= 0:
            if self._field is not None:
                name, value = self._field
                self.fields.append((name, value.decode("utf-8", "replace")))
            return self._pass_delimiter(found)
        if ready > 0:
            del self._buffer[:ready]
        return False

    def _take(self, piece: bytes) -> None:
        if self._sink is not None:
            self._sink.write(piece)
        elif self._field is not None:
            self._left -= len(piece)
            if self._left < 0:
                raise TooLarge("the form without its files", limit=self._limit)
            self._field[1].extend(piece)

    def _skip_epilogue(self) -> bool:
        self._buffer.clear()
        return False


def _part(header: str) -> Part:
    for line in header.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition" and value.strip().lower().startswith("form-data"):
            parameters = _parameters(value)
            if "name" in parameters:
                return Part(parameters["name"], parameters.get("filename"))
    raise BadRequest("the form cannot be read: one of its parts has no name; upload with twine or uv")


def _parameters(value: str) -> dict[str, str]:
    """The parameters after the first semicolon; the first of a name counts."""
    found: dict[str, str] = {}
    for name, quoted, bare in _PARAMETER.findall(value):
        text = re.sub(r"\\(.)", r"\1", quoted) if quoted else bare.strip()
        found.setdefault(name.lower(), text)
    return found
