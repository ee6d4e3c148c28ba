"""Text with the encodings of single characters undone, and the position of each character in the original.

It undoes HTML entities, percent-encoding, the escapes of Python, JSON, JavaScript and the shell, and what a terminal
puts into the middle of a value: colours, line ends with indentation, carriage returns.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_GAPS = (
    r"\x1b\[[0-9;:?<=>]*[ -/]*[@-~]",  # ECMA-48 control sequences
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)",  # titles and hyperlinks
    r"\x1b[()][A-Z0-9]",
    r"\n[ \t]*",
    r"\r\n?[ \t]*",
    r"\ \ (?<![ \t]\ \ )[ \t]*\r?\n[ \t]*",  # lines padded with spaces
    r"\\\r?\n[ \t]*",  # a shell's continuation
)
"""Gaps between the characters of a value. Each starts with a fixed character, so that :mod:`re` skips the
others quickly."""

_ENCODINGS = (
    r"&(?:amp;)*(?:\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,20});",
    r"%(?:25)*[0-9A-Fa-f]{2}(?:%(?:25)*[0-9A-Fa-f]{2})*",
    r"\\\\*u[0-9A-Fa-f]{4}(?:\\+u[0-9A-Fa-f]{4})*",
    r"\\\\*u\{[0-9A-Fa-f]{1,6}\}",
    r"\\\\*U[0-9A-Fa-f]{8}",
    r"\\\\*x[0-9A-Fa-f]{2}(?:\\+x[0-9A-Fa-f]{2})*",
    r"\\\\*[0-3][0-7]{2}(?:\\+[0-3][0-7]{2})*",
)
"""Escapes of one character, or of several."""

_GAP = re.compile("|".join(_GAPS))
_ENCODED = re.compile("|".join(_ENCODINGS))
_BORDER = re.compile("[│┃║|]")
_LINE = re.compile(r"[^\n\0]+")
_PADDING = r"(?:[ \t]|\x1b\[[0-9;:?]*[A-Za-z])*"
_CELL = re.compile(f"{_PADDING}(?P<content>.*?){_PADDING}", re.DOTALL)

_LONGEST_LINE = 1000
"""Characters; a longer line is not a row of a terminal table."""


@dataclass(frozen=True)
class DecodedText:
    """A text without its encodings.

    Parameters:
        text: the decoded text.
        origin: start and end of each character in the original.
    """

    text: str
    origin: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, original: str) -> DecodedText:
        """Decode *original*."""
        whole = cls(original, tuple((index, index + 1) for index in range(len(original))))
        return whole.without(_GAP, lambda _: "").without(_ENCODED, _decoded)

    def without(self, pattern: re.Pattern[str], decode: Callable[[re.Match[str]], str]) -> DecodedText:
        """The same with each match of *pattern* decoded by *decode*."""
        pieces: list[str] = []
        origin: list[tuple[int, int]] = []
        position = 0
        for match in pattern.finditer(self.text):
            start, end = match.span()
            pieces += [self.text[position:start], decoded := decode(match)]
            origin += self.origin[position:start]
            origin += [self.span(start, end)] * len(decoded)
            position = end
        return DecodedText("".join([*pieces, self.text[position:]]), (*origin, *self.origin[position:]))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Position in the original of the characters from *start* to *end*."""
        return self.origin[start][0], self.origin[end - 1][1]


def without_encodings(text: str) -> str:
    """*text* without its encodings, for when positions do not matter."""
    return _ENCODED.sub(_decoded, _GAP.sub("", text))


def _decoded(match: re.Match[str]) -> str:
    found = match[0]
    if found[0] == "&":
        return html.unescape(f"&{found.split(';')[-2].removeprefix('&')};")
    if found[0] == "%":
        return _text_of(bytes.fromhex("".join(part[-2:] for part in found.split("%")[1:])))
    return _unescaped([unit for unit in found.split("\\") if unit])


def _unescaped(units: list[str]) -> str:
    kind, first = units[0][0], units[0][1:].strip("{}")
    if kind == "x":
        return _text_of(bytes.fromhex("".join(unit[1:] for unit in units)))
    if kind == "U" or "{" in units[0]:
        return chr(min(int(first, 16), 0x10FFFF))
    if kind == "u":
        return bytes.fromhex("".join(unit[1:] for unit in units)).decode("utf-16-be", "surrogatepass")
    return _text_of(bytes(int(unit, 8) for unit in units))


def _text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def table_columns(text: str) -> Iterator[list[tuple[int, int]]]:
    """The columns of each table in *text* with ruled cells, as the positions of their cells.

    A value wider than its column continues in the cell below.
    """
    if _BORDER.search(text) is None:
        return
    block: list[list[tuple[int, int]]] = []
    for match in _LINE.finditer(text):
        row = list(_cells(match)) if match.end() - match.start() <= _LONGEST_LINE else []
        if block and len(row) != len(block[0]):
            yield from _columns(block)
            block = []
        if len(row) > 1:
            block.append(row)
    yield from _columns(block)


def _columns(block: list[list[tuple[int, int]]]) -> Iterator[list[tuple[int, int]]]:
    return (list(column) for column in zip(*block, strict=True)) if len(block) > 1 else iter(())


def _cells(line: re.Match[str]) -> Iterator[tuple[int, int]]:
    start = 0
    for cell in _BORDER.split(line[0]):
        content = _CELL.fullmatch(cell)
        first, last = content.span("content") if content else (0, 0)
        offset = line.start() + start
        yield offset + first, offset + last
        start += len(cell) + 1
