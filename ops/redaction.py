"""Masking of every known secret, in every form in which programs show values.

Finds the forms in :mod:`ops.secret_forms` and :mod:`ops.decoded_text`, and the halves of a secret in
neighbouring cells of a table, in lines, or on the two output streams. Does not find a value that was encrypted,
compressed, hashed, or mixed with other text. :class:`ops.secret.Secret`, which never shows itself, comes before this;
the scan of the finished record (:mod:`ops.runbook.record`) after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ops.decoded_text import DecodedText, table_columns, without_encodings
from ops.secret_forms import MINIMUM_LENGTH, Form, forms, lines_of

MASK = "********"

TOKEN_FORMS = re.compile(r"pyidx_m?[0-9a-f]{12}_[0-9a-f]{16,64}|X190b2tlbl9fOnB5aWR4[A-Za-z0-9+/_-]+")
"""Tokens of the index, which are masked even if unknown: plain, and as base64 in a Basic header."""

SecretSource = Callable[[], Iterable[str]]
"""Source of known secrets, called before each masking: it should be quick if nothing has changed."""

_FORMAT_WORDS = frozenset(
    """
    cells metadata nbformat nbformat_minor outputs source cell_type execution_count output_type name text data
    id tags code markdown raw stream stdout stderr display_data execute_result error ename evalue traceback
    papermill parameters injected-parameters kernelspec language language_info display_name python python3
    ipython ipython3 completed pending running failed status succeeded skipped interrupted started seconds
    notebooks
    """.split()  # noqa: SIM905 - a list of words, one a line, is harder to read
)
"""Words of the notebook format and of our own record. A string equal to one of them is kept: if masked,
the file would no longer be a notebook. So a password that is such a word is masked only inside longer text."""


class Redactor:
    """Replaces secrets with asterisks, in text and in everything made of text.

    Parameters:
        secrets: those known from the start.
        sources: of secrets that become known while a notebook runs.
    """

    def __init__(self, secrets: Iterable[str] = (), sources: Sequence[SecretSource] = ()) -> None:
        self._sources = tuple(sources)
        self._given: set[str] = set()
        self._secrets: set[str] = set()
        self._forms: frozenset[Form] = frozenset()
        self._masks: dict[str, str] = {}
        self._clean: set[str] = set()
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Add secrets, each also without surrounding white space."""
        given = set(secrets) - self._given
        if not given:
            return
        self._given |= given
        new = {form for secret in given for form in (secret, secret.strip(), *lines_of(secret))}
        new = {form for form in new if len(form) >= MINIMUM_LENGTH} - self._secrets
        if not new:
            return
        self._secrets |= new
        self._forms |= {form for secret in new for form in forms(secret)}
        self._masks.clear()
        self._clean.clear()

    def refresh(self) -> None:
        """Read the sources again."""
        for source in self._sources:
            self.add(*source())

    def finds(self, text: str) -> bool:
        """True if *text* contains a secret, in any form."""
        return self._mask(text) != text

    def text(self, text: str) -> str:
        """*text* with each secret masked."""
        self.refresh()
        return self._mask(text)

    def tree(self, value: Any) -> Any:
        """A JSON-like structure with each secret masked in its strings and keys; the same object if there is none."""
        self.refresh()
        return value if self.is_clean(value) else self._tree(value)

    def notebook(self, node: Any) -> Any:
        """A notebook (format 4), as a mapping of the same type, with each secret masked.

        Consecutive pieces of one stream are joined first: a program that flushes in the middle of a line
        splits it into two outputs. An image or other binary output that contains a secret is removed.
        """
        self.refresh()
        cells = [_flowing(cell) if len(cell.get("outputs", ())) > 1 else cell for cell in node["cells"]]
        whole = {**node, "cells": cells}
        if self.is_clean([whole, _streams(cells)]):
            return type(node)(whole)
        copied = self._tree({**node, "cells": ()})
        copied["cells"] = [self._cell(cell) for cell in cells]
        return type(node)(copied)

    def finds_in(self, document: Any) -> bool:
        """True if a JSON-like structure, such as a stored notebook, contains a secret."""
        self.refresh()
        cells = document.get("cells", ()) if isinstance(document, Mapping) else ()
        return not self.is_clean([document, _streams(cells)])

    def is_clean(self, value: Any) -> bool:
        """True if no string of a structure, and no list of lines joined to one text, contains a known secret.

        Nearly every save of a notebook adds only a few strings to the previous one: only new ones are searched, all
        at once.
        """
        texts: set[str] = set()
        rest = [value]
        while rest:
            item = rest.pop()
            if isinstance(item, str):
                texts.add(item)
            elif isinstance(item, Mapping):
                rest += item.keys()
                rest += item.values()
            elif isinstance(item, list | tuple):
                rest += item
                if len(item) > 1 and isinstance(item[0], str) and all(type(line) is str for line in item):
                    texts.add("".join(item))
        new = [text for text in texts - self._clean - _FORMAT_WORDS if len(text) >= MINIMUM_LENGTH]
        if not new:
            return True
        joined = "\0".join(new)
        if self._spans(joined):
            return False
        self._clean.update(new)
        return True

    def _cell(self, cell: Any) -> Any:
        if "outputs" not in cell:
            return self._tree(cell)
        copied = self._tree({**cell, "outputs": ()})
        outputs = [dict(output) for output in cell["outputs"]]
        streams = [output for output in outputs if output.get("output_type") == "stream"]
        for pieces in _orders(streams):
            masked = self._pieces([output["text"] for output in pieces])
            for output, text in zip(pieces, masked, strict=True):
                output["text"] = text
        copied["outputs"] = [type(cell)(self._output(output)) for output in outputs]
        return type(cell)(copied)

    def _output(self, output: dict[str, Any]) -> Any:
        masked = self._tree(output)
        data = output.get("data", {})
        binary = [mime for mime in data if mime.startswith("image/") and mime != "image/svg+xml"]
        if spoiled := [mime for mime in binary if masked["data"][mime] != data[mime]]:
            for mime in spoiled:
                del masked["data"][mime]
            masked["data"].setdefault("text/plain", f"{MASK} ({', '.join(spoiled)} contained a secret and was removed)")
        return masked

    def _tree(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if value in _FORMAT_WORDS else self._mask(value)
        if isinstance(value, Mapping):
            masked = {self._tree(key): self._tree(item) for key, item in value.items()}
            # Keeps nbformat's own mapping type: papermill reads its items as attributes.
            return masked if type(value) is dict else type(value)(masked)  # type: ignore[call-arg]  # of any mapping
        if isinstance(value, list | tuple):
            if len(value) > 1 and all(type(item) is str for item in value):
                # The lines of a stored text.
                value = self._pieces(value)
            return [self._tree(item) for item in value]
        return value

    def _mask(self, text: str) -> str:
        if len(text) < MINIMUM_LENGTH:
            return text
        known = self._masks.get(text)
        if known is None:
            # A notebook is masked again at each save, and nearly all of its strings are unchanged.
            known = self._masks[text] = _masked(text, self._spans(text))
        return known

    def _pieces(self, pieces: Sequence[str]) -> list[str]:
        """The pieces of one text, with each secret in the joined text masked."""
        spans = self._spans("".join(pieces))
        if not spans:
            return list(pieces)
        own = _split(spans, [len(piece) for piece in pieces])
        return [_masked(piece, spans) for piece, spans in zip(pieces, own, strict=True)]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Spans of secrets in *text*, in order and without overlaps."""
        found = [match.span() for match in TOKEN_FORMS.finditer(text)]
        rest = text
        if whole := [form for form in self._forms if form.whole in text]:
            found = _merged([*found, *(span for form in whole for span in form.spans(text))])
            # A secret found whole must not be found again as part of the surrounding lines.
            rest = _replaced(text, found, lambda secret: "\0" * len(secret))
        more = self._encoded(rest)
        for column in table_columns(rest):
            cells = [rest[start:end] for start, end in column]
            own = _split(self._encoded("".join(cells)), [len(cell) for cell in cells])
            more += [(start + a, start + b) for (start, _), spans in zip(column, own, strict=True) for a, b in spans]
        return _merged([*found, *more]) if more else found

    def _encoded(self, text: str) -> list[tuple[int, int]]:
        """Spans of secrets in *text* with encoded characters, or cut short."""
        plain = without_encodings(text)
        shortened = "…" in plain or ".." in plain
        forms = [form for form in self._forms if form.head in plain]
        forms += [
            form
            for form in self._forms
            if form.tail and (form.tail in plain or (shortened and form.whole[:4] in plain))
        ]
        spans = _merged(span for form in forms for span in form.partial_spans(plain)) if forms else []
        if not spans or plain == text:
            return spans
        view = DecodedText.of(text)
        return [view.span(*span) for span in spans]


def _split(spans: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """The spans of a joined text as spans of its pieces, given their sizes."""
    position = 0
    for size in sizes:
        own = [(max(first - position, 0), min(last - position, size)) for first, last in spans]
        yield [(first, last) for first, last in own if first < last]
        position += size


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, with overlapping ones merged."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        elif start < end:
            merged.append((start, end))
    return merged


def _masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    return _replaced(text, spans, lambda _: MASK)


def _replaced(text: str, spans: Iterable[tuple[int, int]], new: Callable[[str], str]) -> str:
    pieces, position = list[str](), 0
    for start, end in spans:
        pieces += [text[position:start], new(text[start:end])]
        position = end
    return "".join([*pieces, text[position:]])


def _orders(streams: Sequence[Any]) -> tuple[list[Any], ...]:
    """The orders in which a cell's outputs may contain the halves of one text: as they came, or one stream first."""
    if len(streams) < 2:
        return ()
    by_name = sorted(streams, key=lambda output: output["name"], reverse=True)
    return list(streams), by_name, sorted(streams, key=lambda output: output["name"])


def _streams(cells: Iterable[Any]) -> list[str]:
    """Text that each cell wrote to its streams, once per order."""
    found: list[str] = []
    for cell in cells:
        outputs = cell.get("outputs", ())
        if len(outputs) < 2:
            continue
        streams = [output for output in outputs if output.get("output_type") == "stream"]
        found += ["".join("".join(output["text"]) for output in pieces) for pieces in _orders(streams)]
    return found


def _flowing(cell: Any) -> Any:
    """The cell with consecutive pieces of a stream joined."""
    joined: list[Any] = []
    for output in cell["outputs"]:
        if output.get("output_type") == "stream":
            text = output["text"] if isinstance(output["text"], str) else "".join(output["text"])
            if joined and joined[-1].get("name") == output["name"]:
                joined[-1]["text"] += text
                continue
            joined.append(type(cell)({**output, "text": text}))
        else:
            joined.append(output)
    return type(cell)({**cell, "outputs": joined})
