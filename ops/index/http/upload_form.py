"""Upload forms, parsed as they arrive (RFC 7578).

A file's bytes are passed on as they arrive: at most one piece is in memory, however large the file is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from multipart import (
    MultipartSegment,
    ParserError,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from ops.index.config import Options
from ops.index.errors import BadRequest, PackageIndexError, TooLarge
from ops.index.packages.releases import Uploader
from ops.index.packages.staged import Staged
from ops.index.packages.uploads import Publisher

MAX_HEADER_BYTES = 16 * 1024
"""Longest header line of a part."""

MAX_PARTS = 10_000
MAX_BOUNDARY_BYTES = 200

FILE_FIELDS = ("content", "gpg_signature")
"""Fields of the upload API that hold files. The bytes of others are dropped."""

_MAX_PLAIN_BYTES = 64 * 1024
"""Longest body that is not multipart; it has no file."""


class Sink(Protocol):
    """A writer for the bytes of a file."""

    def write(self, piece: bytes, /) -> object:
        """Take the next bytes."""


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a ``multipart/form-data`` body; None for a content type that is not multipart.

    Raises:
        BadRequest: it is another kind of multipart, or has no usable boundary.
    """
    kind, parameters = parse_options_header(content_type)
    if not kind.startswith("multipart/"):
        return None
    if kind != "multipart/form-data":
        raise BadRequest(
            "the form cannot be read: its Content-Type is not multipart/form-data; upload with twine or uv"
        )
    boundary: bytes = parameters.get("boundary", "").encode("latin-1", "replace")
    if not 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
        raise BadRequest("the form cannot be read: its Content-Type has no usable boundary; upload with twine or uv")
    return boundary


class FormParser:
    """Parser of a multipart body that arrives in pieces of any size.

    Parameters:
        boundary: between the parts.
        sink_for: called for each part with a file name; None drops its bytes.
        max_form_bytes: limit for all plain fields together.
    """

    def __init__(
        self, boundary: bytes, sink_for: Callable[[MultipartSegment], Sink | None], *, max_form_bytes: int
    ) -> None:
        self._parser = PushMultipartParser(boundary, max_header_size=MAX_HEADER_BYTES)
        self._sink_for = sink_for
        self._left = self._limit = max_form_bytes
        self._parts = 0
        self._name = ""
        self._value: bytearray | None = None
        self._sink: Sink | None = None
        self.fields: list[tuple[str, str]] = []

    def feed(self, piece: bytes) -> None:
        """Parse the next bytes.

        Raises:
            BadRequest: it is not a form.
            TooLarge: its fields exceed the limit.
            PackageIndexError: raised by a sink.
        """
        if not piece:
            return
        try:
            for event in self._parser.parse(piece):
                if event is None:
                    if self._value is not None:
                        self.fields.append((self._name, self._value.decode("utf-8", "replace")))
                elif isinstance(event, MultipartSegment):
                    self._open(event)
                elif self._sink is not None:
                    self._sink.write(event)
                elif self._value is not None:
                    self._left -= len(event)
                    if self._left < 0:
                        raise TooLarge("the form without its files", limit=self._limit)
                    self._value += event
        except ParserLimitReached:
            raise BadRequest(
                "the form cannot be read: the header of a part is too long; upload with twine or uv"
            ) from None
        except ParserError as error:
            raise BadRequest(f"the form cannot be read: {error.args[0]}; upload with twine or uv") from None

    def finish(self) -> None:
        """End of the body.

        Raises:
            BadRequest: the form is incomplete.
        """
        try:
            self._parser.close()
        except ParserError:
            raise BadRequest("the form ended early; send it again") from None

    def _open(self, part: MultipartSegment) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest("the form has too many parts; upload one file with its metadata at a time")
        if not part.name:
            raise BadRequest("the form cannot be read: one of its parts has no name; upload with twine or uv")
        self._name, self._value, self._sink = part.name, None, None
        if part.filename is None:
            self._value = bytearray()
        else:
            self._sink = self._sink_for(part)


class UploadForm:
    """Receiver of an upload's body.

    After an error the rest is dropped and :meth:`finish` raises: most clients read no response while sending.

    Parameters:
        content_type: of the body.
        publisher: stages the files.
        identity: of the user who sends it.
        announced: minimum size of the file, in bytes.
        options: limits.

    ``fields`` are the plain fields in order; ``files`` have field name and file. A body that is not
    ``multipart`` is in ``plain``, for pypiserver to parse.
    """

    def __init__(
        self, content_type: str, publisher: Publisher, identity: Uploader, *, announced: int, options: Options
    ) -> None:
        self.content_type = content_type
        self.plain = bytearray()
        self.files: list[tuple[str, Staged]] = []
        self.error: PackageIndexError | None = None
        self._publisher = publisher
        self._identity = identity
        self._announced = announced
        self.fields: list[tuple[str, str]] = []
        self._parser: FormParser | None = None
        try:
            boundary = boundary_of(content_type)
        except BadRequest as error:
            self.error = error
        else:
            if boundary is not None:
                self._parser = FormParser(boundary, self._stage, max_form_bytes=options.max_form_bytes)
                self.fields = self._parser.fields
        self.multipart = self._parser is not None

    def feed(self, pieces: list[bytes]) -> None:
        """Parse the next bytes; errors are kept for :meth:`finish`."""
        if self.error is not None:
            return
        try:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._parser is not None:
                self._parser.feed(piece)
            elif len(self.plain) + len(piece) > _MAX_PLAIN_BYTES:
                raise TooLarge("the request", limit=_MAX_PLAIN_BYTES)
            else:
                self.plain += piece
        except PackageIndexError as error:
            self.error = error
            self.discard()

    def finish(self, pieces: list[bytes]) -> None:
        """Parse the last bytes.

        Raises:
            PackageIndexError: the body is incomplete, or was refused earlier.
        """
        self.feed(pieces)
        if self.error is not None:
            raise self.error
        if self._parser is not None:
            self._parser.finish()
        for field, staged in self.files:
            if field == "gpg_signature":
                self._publisher.check_signature(staged)

    def discard(self) -> None:
        """Remove the staged files."""
        files, self.files = self.files, []
        for _, staged in files:
            staged.discard()

    def _stage(self, part: MultipartSegment) -> Staged | None:
        field, filename = part.name or "", part.filename or ""
        if field not in FILE_FIELDS or any(field == other for other, _ in self.files):
            return None
        announced = self._announced if field == "content" else 0
        staged = self._publisher.stage(filename, announced=announced, identity=self._identity)
        self.files.append((field, staged))
        return staged
