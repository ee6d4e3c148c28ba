"""Pages that are rendered from blocks equal pages rendered at once."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ops.index.http.blocks import LONG, Entries, Page, RenderedPage, rendered


def spell(items: Sequence[str]) -> str:
    """The text of some items, each of them long, so that few make a long page."""
    return ",".join(f"{item}:{item * 40}" for item in items)


def page(*lists: Sequence[str], end: str = "]") -> Page:
    return "[", *(Entries(tuple(items), str, spell, 4, ",") for items in lists), end


names = st.lists(st.integers(0, 400).map(lambda number: f"name-{number:04}-{number * 7919}"), max_size=300)
LISTED = [f"name-{number:04}" for number in range(400)]


@given(st.lists(st.tuples(names, names), min_size=1, max_size=5))
def test_a_page_does_not_depend_on_its_earlier_state(history: list[tuple[list[str], list[str]]]) -> None:
    before: RenderedPage | None = None
    for first, second in history:
        before = rendered(page(first, second), before)
        assert before == rendered(page(first, second))
        assert before.body.decode() == f"[{spell(first)}{spell(second)}]"
        if before.packed is not None:
            assert gzip.decompress(before.packed) == before.body


def test_only_changed_blocks_are_rendered() -> None:
    seen: list[str] = []

    def listen(items: Sequence[str]) -> str:
        seen.extend(items)
        return spell(items)

    def show(items: Sequence[str]) -> Page:
        return ("[", Entries(tuple(items), str, listen, 4, ","), "]")

    before = rendered(show(LISTED))
    assert seen == LISTED
    for changed in ([*LISTED[:200], "new", *LISTED[200:]], LISTED[:-1], LISTED[1:], [*LISTED, "last"]):
        seen.clear()
        after = rendered(show(changed), before)
        assert after.body.decode() == f"[{spell(changed)}]"
        assert len(seen) < 60
    seen.clear()
    rendered(show(LISTED), before)
    assert seen == []


def test_a_short_page_is_not_split_into_blocks() -> None:
    short, long = rendered(page(["spam"])), rendered(page(LISTED))
    assert len(short.body) < LONG <= len(long.body)
    assert short.packed is None
    assert not short.blocks
    assert long.packed is not None


def test_blocks_hold_no_copy_of_the_page() -> None:
    long = rendered(page(LISTED))
    for block in long.blocks.values():
        assert isinstance(block.plain, memoryview)
        assert block.plain.obj is long.body
        assert isinstance(block.packed, memoryview)
        assert block.packed.obj is long.packed
