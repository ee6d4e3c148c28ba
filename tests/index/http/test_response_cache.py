"""Rendered responses are cached as long as they are valid, and no longer."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from ops.index.http.representation import Representation
from ops.index.http.response_cache import ResponseCache


class World:
    """The content of pages."""

    def __init__(self, *, near: bool = False, lifetime: float = 60, capacity: int = 100_000) -> None:
        self.stamp = 0
        self.marks: dict[str, int] = {}
        self.rendered: list[str] = []
        self.response_cache: ResponseCache[str] = ResponseCache(
            lambda: self.stamp, capacity=capacity, lifetime=lifetime, near=near
        )

    def change(self, name: str) -> None:
        self.marks[name] = self.marks.get(name, 0) + 1
        self.stamp += 1

    async def fetch(self, name: str, size: int = 100) -> bytes | None:
        def render() -> Representation | None:
            self.rendered.append(name)
            if name not in self.marks:
                return None
            return Representation(b"%d" % self.marks[name] + b" " * size, content_type="text/plain")

        page = await self.response_cache.fetch(name, lambda: self.marks.get(name), render)
        return None if page is None else page.body.strip()


@pytest.fixture
def world() -> World:
    return World()


def test_unchanged_content_is_rendered_once(world: World) -> None:
    async def scenario() -> None:
        world.change("spam")
        assert world.response_cache.ready("spam") is None
        assert await world.fetch("spam") == b"1"
        page = world.response_cache.ready("spam")
        assert page is not None
        assert page.body.strip() == b"1"
        assert await world.fetch("spam") == b"1"

    asyncio.run(scenario())
    assert world.rendered == ["spam"]


def test_a_change_elsewhere_causes_no_rendering(world: World) -> None:
    async def scenario() -> None:
        world.change("spam")
        await world.fetch("spam")
        world.change("eggs")
        assert world.response_cache.ready("spam") is None, "its mark must be checked first"
        assert await world.fetch("spam") == b"1"
        assert world.response_cache.ready("spam") is not None

    asyncio.run(scenario())
    assert world.rendered == ["spam"]


@pytest.mark.parametrize("lifetime", [60, 0])
def test_cheap_marks_are_checked_on_the_event_loop(lifetime: float) -> None:
    world = World(near=True, lifetime=lifetime)

    async def scenario() -> None:
        world.change("spam")
        await world.fetch("spam")
        world.change("eggs")
        page = world.response_cache.ready("spam")
        assert page is not None
        assert page.body.strip() == b"1"
        world.change("spam")
        assert world.response_cache.ready("spam") is None
        assert await world.fetch("spam") == b"2"

    asyncio.run(scenario())
    assert world.rendered == ["spam", "spam"]


def test_a_response_without_a_mark_is_not_cached() -> None:
    """Content appeared between the check of the mark and the rendering; once it is gone, the mark is None again."""
    world = World(near=True)

    async def scenario() -> None:
        page = await world.response_cache.fetch(
            "spam", lambda: None, lambda: Representation(b"x", content_type="text/plain")
        )
        assert page is not None
        assert world.response_cache.ready("spam") is None

    asyncio.run(scenario())


def test_marks_of_large_responses_are_checked_in_a_thread() -> None:
    world = World(near=True, capacity=10**7)

    async def scenario() -> None:
        world.change("spam")
        await world.fetch("spam", size=300_000)
        assert world.response_cache.ready("spam") is not None
        world.change("eggs")
        assert world.response_cache.ready("spam") is None
        await world.fetch("spam")
        assert world.response_cache.ready("spam") is not None

    asyncio.run(scenario())
    assert world.rendered == ["spam"]


def test_a_change_shows_at_once(world: World) -> None:
    async def scenario() -> None:
        world.change("spam")
        await world.fetch("spam")
        world.change("spam")
        assert world.response_cache.ready("spam") is None
        assert await world.fetch("spam") == b"2"

    asyncio.run(scenario())


def test_removed_content_is_evicted(world: World) -> None:
    async def scenario() -> None:
        world.change("spam")
        await world.fetch("spam")
        del world.marks["spam"]
        world.stamp += 1
        assert await world.fetch("spam") is None
        assert world.response_cache.ready("spam") is None

    asyncio.run(scenario())


def test_concurrent_requests_cause_one_rendering(world: World) -> None:
    async def scenario() -> list[bytes | None]:
        world.change("spam")
        return await asyncio.gather(*(world.fetch("spam") for _ in range(20)))

    assert asyncio.run(scenario()) == [b"1"] * 20
    assert world.rendered == ["spam"]


def test_a_request_after_a_change_does_not_get_a_rendering_started_before_it(world: World) -> None:
    """Users must see the file they just uploaded, even while another slow rendering is in progress."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> Representation:
        mark = world.marks["spam"]
        begun.set()
        go_on.wait(60)
        return Representation(b"%d" % mark, content_type="text/plain")

    async def scenario() -> None:
        world.change("spam")
        before = asyncio.ensure_future(world.response_cache.fetch("spam", lambda: world.marks["spam"], slowly))
        await asyncio.to_thread(begun.wait, 10)
        world.change("spam")
        assert await world.fetch("spam") == b"2"
        go_on.set()
        await before
        assert await world.fetch("spam") == b"2", "the late rendering must not replace the newer one"

    asyncio.run(scenario())


def test_a_failure_reaches_all_waiting_requests_and_is_not_cached(world: World) -> None:
    async def scenario() -> None:
        world.change("spam")

        def fail() -> Representation:
            raise OSError("the disk is on fire")

        failures = await asyncio.gather(
            *(world.response_cache.fetch("spam", lambda: 1, fail) for _ in range(3)), return_exceptions=True
        )
        assert [type(failure) for failure in failures] == [OSError] * 3
        assert await world.fetch("spam") == b"1"

    asyncio.run(scenario())


def test_a_response_that_fills_the_whole_cache_is_kept(world: World) -> None:
    async def scenario() -> None:
        for name, size in (("long", 40_000), ("short", 100), ("endless", 200_000)):
            world.change(name)
            await world.fetch(name, size=size)
        assert world.response_cache.ready("long") is None, "something has changed since"
        await world.fetch("long", size=40_000)
        assert world.response_cache.ready("long") is not None
        assert world.response_cache.ready("endless") is None

    asyncio.run(scenario())
    assert world.rendered == ["long", "short", "endless"]


def test_memory_is_bounded_and_requested_responses_stay(world: World) -> None:
    async def scenario() -> None:
        for index in range(100):
            world.change(f"p{index}")
        await world.fetch("p0", size=5_000)
        for index in range(1, 100):
            await world.fetch(f"p{index}", size=5_000)
            assert world.response_cache.ready("p0") is not None
        kept = [index for index in range(100) if world.response_cache.ready(f"p{index}")]
        assert 5 < len(kept) < 20

    asyncio.run(scenario())


def test_memory_stays_bounded_if_responses_are_compressed_after_they_were_cached(world: World) -> None:
    body = random.Random(0).randbytes(2_500).hex().encode()

    async def scenario() -> None:
        cache = world.response_cache
        for index in range(300):
            page = await cache.fetch(
                f"p{index}", lambda: 1, lambda: Representation(body, content_type="text/plain"), gzip=False
            )
            assert page is not None
            assert len(page.gzipped().body) < len(body)
        assert len([index for index in range(300) if cache.last(f"p{index}")]) < 20

    asyncio.run(scenario())


def test_a_loaded_response_is_cached_with_the_mark_from_before_it_was_loaded() -> None:
    world = World(near=True)

    def load(name: str, *, changing: bool) -> Representation | None:
        if name not in world.marks:
            return None
        page = Representation(b"%d" % world.marks[name], content_type="text/plain")
        if changing:
            world.change(name)
        return page

    async def scenario() -> None:
        cache = world.response_cache
        assert cache.load("spam", lambda: 0, lambda: load("spam", changing=False)) is None
        world.change("spam")
        page = cache.load("spam", lambda: world.marks["spam"], lambda: load("spam", changing=False))
        assert page is not None
        assert cache.ready("spam") is page
        world.change("eggs")
        assert cache.ready("spam") is page
        cache.load("spam", lambda: world.marks["spam"], lambda: load("spam", changing=True))
        assert cache.ready("spam") is None

    asyncio.run(scenario())
    assert not world.rendered
