"""Long pages, made of blocks of entries: a change rebuilds only the blocks that hold it.

The name of an entry decides whether a block ends with it. So servers that list the same entries build the same blocks
and the same bytes, whatever their lists were before. Each block is compressed separately and ends with a whole
byte (RFC 1951), so that compressed blocks can be joined into one gzip member (RFC 1952).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

Item = TypeVar("Item")

LONG: Final = 64 * 1024
"""Minimum length in bytes of a page made of blocks. A shorter one compresses better as a whole."""

_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_TAIL: Final = b"\x03\0"
"""An empty block marked as the last one."""


@dataclass(frozen=True, slots=True)
class Entries(Generic[Item]):
    """A list in a page.

    Parameters:
        items: the listed items.
        name: text of an item, which decides whether a block ends with it.
        render: renders consecutive items.
        length: average number of items in a block.
        separator: between two items.
    """

    items: tuple[Item, ...]
    name: Callable[[Item], str]
    render: Callable[[Sequence[Item]], str]
    length: int
    separator: str = ""


Page: TypeAlias = Sequence["str | Entries[Any]"]
"""Texts and lists, in order."""


class _Block(NamedTuple):
    """Consecutive items of a list, or a text, and its bytes.

    Parameters:
        key: the place of the list in the page, the name of the first item, and whether no item comes before it.
        items: of the list; none of a text.
        plain: its bytes.
        packed: the same, compressed; None until needed.
        digest: SHA-256 of the plain bytes; likewise.
    """

    key: tuple[int, str, bool]
    items: tuple[Any, ...]
    plain: bytes | memoryview
    packed: bytes | memoryview = b""
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """The bytes of a page.

    Parameters:
        body: all of it.
        packed: the same as gzip; None for a short page.
        digest: of the body, made of those of its blocks; empty for a short page.
        blocks: of a long page. Their bytes are parts of the other two.
        tag: of a stored page: the entity tag that it was given before.
    """

    body: bytes
    packed: bytes | None = None
    digest: bytes = b""
    blocks: Mapping[tuple[int, str, bool], _Block] = field(default_factory=dict)
    tag: str = ""


def rendered(page: Page, before: RenderedPage | None = None) -> RenderedPage:
    """Render a page.

    Parameters:
        page: its texts and lists.
        before: an earlier state of the page, whose blocks are reused.
    """
    known = {} if before is None else before.blocks
    blocks = [block for place, part in enumerate(page) for block in _blocks(place, part, known)]
    body = b"".join([block.plain for block in blocks])
    if len(body) < LONG:
        return RenderedPage(body)
    blocks = [block if block.digest else _finished(block) for block in blocks]
    end = struct.pack("<LL", zlib.crc32(body), len(body) & 0xFFFFFFFF)
    packed = b"".join([_HEAD, *[block.packed for block in blocks], _TAIL, end])
    digest = hashlib.sha256(b"".join([block.digest for block in blocks])).digest()
    return RenderedPage(body, packed, digest, {block.key: block for block in _placed(blocks, body, packed)})


def _blocks(place: int, part: str | Entries[Any], known: Mapping[tuple[int, str, bool], _Block]) -> Iterator[_Block]:
    if isinstance(part, str):
        yield _Block((place, "", True), (), part.encode("utf-8", "replace"))
        return
    items, name = part.items, part.name
    start = 0
    while start < len(items):
        key = (place, name(items[start]), not start)
        block = known.get(key)
        stop = start + (1 if block is None else len(block.items))
        if (
            block is None
            or items[start:stop] != block.items
            or not (stop == len(items) or _ends(part, items[stop - 1]))
        ):
            stop = start + 1
            while stop < len(items) and not _ends(part, items[stop - 1]):
                stop += 1
            listed = items[start:stop]
            text = (part.separator if start else "") + part.render(listed)
            block = _Block(key, listed, text.encode("utf-8", "replace"))
        yield block
        start = stop


def _ends(part: Entries[Any], item: Any) -> bool:
    """True if a block ends with this item."""
    return zlib.crc32(part.name(item).encode("utf-8", "replace")) % part.length == 0


def _finished(block: _Block) -> _Block:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = compressor.compress(block.plain) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return block._replace(packed=packed, digest=hashlib.sha256(block.plain).digest())


def _placed(blocks: Sequence[_Block], body: bytes, packed: bytes) -> Iterator[_Block]:
    """The blocks, with their bytes as views of the page's."""
    body_view, packed_view = memoryview(body), memoryview(packed)
    start, packed_start = 0, len(_HEAD)
    for block in blocks:
        stop, packed_stop = start + len(block.plain), packed_start + len(block.packed)
        yield _Block(block.key, block.items, body_view[start:stop], packed_view[packed_start:packed_stop], block.digest)
        start, packed_start = stop, packed_stop
