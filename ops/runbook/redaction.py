"""Masking every secret that is known, in every form in which it is likely to come out.

What can be found is what a program does to a value on its way to a page: quoting it for a URL, JSON, HTML, Python or a
shell, writing it in hexadecimal, or in base64, also as a part of something longer (``Authorization: Basic`` is
``user:password``, so the password starts at any of three byte offsets). What cannot: a value that was encrypted,
compressed, hashed or cut to pieces with something else between them. :class:`ops.secret.Secret`, which never shows
itself, stands before this; the scan of the finished record (:mod:`ops.runbook.record`) stands behind it.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

MASK = "********"

MINIMUM_LENGTH = 6
"""Anything shorter is not masked: it would be found everywhere, and the masks would spell it out. The index itself asks
for 12 characters of password."""

SecretSource = Callable[[], Iterable[str]]
"""Where secrets are known from; asked again before each masking, so it should be quick when nothing changed."""

_BASE64_RUN = r"[A-Za-z0-9+/_-]*"
_BETWEEN = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]|\r?\n[ \t]*")
"""What a terminal's colours, or a line's width, puts into the middle of a value."""

_PERCENT = re.compile(r"%[0-9A-F]{2}")

_FORMAT_WORDS = frozenset(
    """
    cells metadata nbformat nbformat_minor outputs source cell_type execution_count output_type name text data
    id tags code markdown raw stream stdout stderr display_data execute_result error ename evalue traceback
    papermill parameters injected-parameters kernelspec language language_info display_name python python3
    ipython ipython3 completed pending running failed status succeeded skipped interrupted started seconds
    notebooks
    """.split()  # noqa: SIM905 - a list of words, one a line, is harder to read
)
"""Words of the notebook format and of our own record. A string that is one of them, and nothing else, stays: masked,
the file would be no notebook any more. So a password that is such a word is masked inside text only."""


def forms(secret: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How *secret* looks after what programs do to values.

    Returns:
        the forms that stand for themselves, and the base64 cores (RFC 4648), around which the rest of the run of base64
        is masked as well, since its first and last characters hold a few bits of the secret.
    """
    data = secret.encode("utf-8", "surrogatepass")
    spelled = set(_escaped(secret))
    for form in tuple(spelled):
        # Quoted twice: JSON in a Python string, a Python string in JSON.
        spelled.update(_escaped(form))
    spelled.update({data.hex(), data.hex().upper(), data.hex(" "), data.hex(":")})
    for percent in ("%%%02x", "%%%02X"):
        spelled.add("".join(percent % byte for byte in data))
    cores = {
        core for form in {secret, *_lines(secret)} for core in _base64_cores(form.encode("utf-8", "surrogatepass"))
    }
    return tuple(sorted(spelled, key=len, reverse=True)), tuple(sorted(cores, key=len, reverse=True))


def _escaped(text: str) -> list[str]:
    data = text.encode("utf-8", "surrogatepass")
    found = [
        text,
        repr(text)[1:-1],
        ascii(text)[1:-1],
        repr(data)[2:-1],
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1].replace("/", "\\/"),
        shlex.quote(text).removeprefix("'").removesuffix("'"),
    ]
    for quoted in (
        urllib.parse.quote(data),
        urllib.parse.quote(data, safe=""),
        urllib.parse.quote_plus(data),
        urllib.parse.quote(data, safe="!$&'()*+,;="),  # RFC 3986, section 3.2.1: what userinfo may hold
    ):
        found += [quoted, _PERCENT.sub(lambda match: match[0].lower(), quoted)]
    for quoted in (html.escape(text), html.escape(text, quote=False)):
        found += [
            quoted,
            quoted.replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
            quoted.replace("&#x27;", "&apos;"),
        ]
    return found


def _lines(secret: str) -> list[str]:
    # A key of several lines is shown line by line, indented or numbered.
    if "\n" not in secret:
        return []
    return [line.strip() for line in secret.splitlines() if len(line.strip()) >= 2 * MINIMUM_LENGTH]


def _base64_cores(data: bytes) -> list[str]:
    cores = []
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data).decode("ascii")
        # The sextets that hold no bit of what stands before and none of what comes after.
        core = encoded[-(-8 * offset // 6) : 8 * (offset + len(data)) // 6]
        cores += [core, core.replace("+", "-").replace("/", "_")]
    return cores


class Redactor:
    """Replaces secrets by asterisks, in text and in everything made of text.

    Parameters:
        secrets: those known from the start.
        sources: where more of them become known while a notebook runs.
    """

    def __init__(self, secrets: Iterable[str] = (), sources: Sequence[SecretSource] = ()) -> None:
        self._sources = tuple(sources)
        self._given: set[str] = set()
        self._secrets: set[str] = set()
        self._spelled: tuple[str, ...] = ()
        self._cores: tuple[tuple[str, re.Pattern[str]], ...] = ()
        self._masks: dict[str, str] = {}
        self._clean: set[str] = set()
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn more secrets; each also without the white space around it."""
        given = set(secrets) - self._given
        if not given:
            return
        self._given |= given
        new = {form for secret in given for form in (secret, secret.strip(), *_lines(secret))}
        new = {form for form in new if len(form) >= MINIMUM_LENGTH} - self._secrets
        if not new:
            return
        self._secrets |= new
        spelled, cores = set(self._spelled), {core for core, _ in self._cores}
        for secret in new:
            own_spelled, own_cores = forms(secret)
            spelled.update(own_spelled)
            cores.update(own_cores)
        # The longest first: a secret that is the beginning of another must not leave the other's end behind.
        self._spelled = tuple(sorted(spelled, key=lambda form: (-len(form), form)))
        self._cores = tuple(
            (core, re.compile(_BASE64_RUN + re.escape(core) + _BASE64_RUN + "={0,2}"))
            for core in sorted(cores, key=lambda core: (-len(core), core))
        )
        self._masks.clear()
        self._clean.clear()

    def refresh(self) -> None:
        """Ask the sources again."""
        for source in self._sources:
            self.add(*source())

    def finds(self, text: str) -> bool:
        """Whether a secret stands in *text*, in any form."""
        return self._mask(text) != text

    def text(self, text: str) -> str:
        """*text* with each secret masked."""
        self.refresh()
        return self._mask(text)

    def tree(self, value: Any) -> Any:
        """A structure as JSON has them, with each secret masked in its strings and keys; itself if there is none."""
        self.refresh()
        return value if self.is_clean(value) else self._tree(value)

    def notebook(self, node: Any) -> Any:
        """A notebook (format 4), as a mapping of the same kind, with each secret masked wherever it stands.

        Pieces of one stream that follow each other are joined first: a program that flushes in the middle of a line
        makes outputs of their own of its halves. An image or another binary output that holds a secret is taken out.
        """
        self.refresh()
        cells = [_flowing(cell) if len(cell.get("outputs", ())) > 1 else cell for cell in node["cells"]]
        streams = [
            ["".join(output["text"] for output in cell["outputs"] if output.get("name") == name)]
            for cell in cells
            if len(cell.get("outputs", ())) > 1
            for name in ("stdout", "stderr")
        ]
        whole = {**node, "cells": cells}
        if self.is_clean([whole, streams]):
            return type(node)(whole)
        copied = self._tree({**node, "cells": ()})
        copied["cells"] = [self._cell(cell) for cell in cells]
        return type(node)(copied)

    def is_clean(self, value: Any) -> bool:
        """Whether no string of a structure, and no list of lines as one text, holds a secret that is known by now.

        Nearly every save of a notebook adds a few strings to those of the save before: only new ones are searched, all
        of them at once.
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
        if self._masked_through(self._masked(joined)) != joined:
            return False
        self._clean.update(new)
        return True

    def _cell(self, cell: Any) -> Any:
        if "outputs" not in cell:
            return self._tree(cell)
        copied = self._tree({**cell, "outputs": ()})
        outputs = [dict(output) for output in cell["outputs"]]
        for name in ("stdout", "stderr"):
            # Halves with the other stream between them: joined only when that is what shows the secret.
            pieces = [output for output in outputs if output.get("name") == name]
            whole = "".join(output["text"] for output in pieces)
            if len(pieces) > 1 and self._mask(whole) != "".join(self._mask(output["text"]) for output in pieces):
                pieces[0]["text"] = whole
                outputs = [output for output in outputs if output is pieces[0] or output not in pieces[1:]]
        copied["outputs"] = [type(cell)(self._output(output)) for output in outputs]
        return type(cell)(copied)

    def _output(self, output: dict[str, Any]) -> Any:
        masked = self._tree(output)
        data = output.get("data", {})
        binary = [mime for mime in data if mime.startswith("image/") and mime != "image/svg+xml"]
        if spoiled := [mime for mime in binary if masked["data"][mime] != data[mime]]:
            for mime in spoiled:
                del masked["data"][mime]
            masked["data"].setdefault("text/plain", f"{MASK} ({', '.join(spoiled)} held a secret and was taken out)")
        return masked

    def _tree(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if value in _FORMAT_WORDS else self._mask(value)
        if isinstance(value, Mapping):
            masked = {self._tree(key): self._tree(item) for key, item in value.items()}
            # nbformat's own mapping, where it was one: papermill reads its items as attributes.
            return masked if type(value) is dict else type(value)(masked)  # type: ignore[call-arg]  # of any mapping
        if isinstance(value, list | tuple):
            return [self._tree(item) for item in value]
        return value

    def _mask(self, text: str) -> str:
        if len(text) < MINIMUM_LENGTH:
            return text
        known = self._masks.get(text)
        if known is None:
            # A notebook is masked again at each save, and nearly all of its strings are those of the save before.
            known = self._masks[text] = self._masked_through(self._masked(text))
        return known

    def _masked(self, text: str) -> str:
        for form in self._spelled:
            if form in text:
                text = text.replace(form, MASK)
        for core, pattern in self._cores:
            if core in text:
                text = pattern.sub(MASK, text)
        return text

    def _masked_through(self, text: str) -> str:
        """Mask also what colours or line ends have cut in pieces."""
        whole = _BETWEEN.sub("", text)
        if whole == text or not any(form in whole for form in (*self._spelled, *(core for core, _ in self._cores))):
            return text
        kept: list[int] = []
        position = 0
        for match in _BETWEEN.finditer(text):
            kept.extend(range(position, match.start()))
            position = match.end()
        kept.extend(range(position, len(text)))
        joined = "".join(text[index] for index in kept)
        spans = sorted(self._spans(joined))
        if not spans:
            return text
        pieces, done = list[str](), 0
        for start, end in spans:
            first, last = kept[start], kept[end - 1] + 1
            if first >= done:
                pieces += [text[done:first], MASK]
            done = max(done, last)
        return "".join([*pieces, text[done:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        for form in self._spelled:
            start = text.find(form)
            while start >= 0:
                yield start, start + len(form)
                start = text.find(form, start + 1)
        for core, pattern in self._cores:
            if core in text:
                yield from (match.span() for match in pattern.finditer(text))


def _flowing(cell: Any) -> Any:
    """The cell with the pieces of a stream joined that follow each other."""
    joined: list[Any] = []
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            text = output["text"] if isinstance(output["text"], str) else "".join(output["text"])
            if joined and joined[-1].get("name") == output["name"]:
                joined[-1]["text"] += text
                continue
            joined.append(type(cell)({**output, "text": text}))
        else:
            joined.append(output)
    return type(cell)({**cell, "outputs": joined})
