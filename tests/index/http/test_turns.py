"""One user cannot have any number of uploads under way, and those who wait get their turn."""

from __future__ import annotations

import asyncio

import pytest

from ops.index.errors import TooManyUploads
from ops.index.http import turns
from ops.index.http.turns import Turns


def test_an_upload_that_gets_no_turn_is_refused_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.01)

    async def scene() -> None:
        uploads = Turns(2)
        async with uploads.turn("alice"), uploads.turn("alice"):
            with pytest.raises(TooManyUploads, match="2 uploads under way") as refused:
                async with uploads.turn("alice"):
                    pytest.fail("there was no turn")
            assert refused.value.status == 429
            assert refused.value.headers == {"Retry-After": "5"}
            async with uploads.turn("bob"):
                pass
        async with uploads.turn("alice"), uploads.turn("alice"):
            pass
        assert uploads._users == {}

    asyncio.run(scene())


def test_an_upload_that_waits_gets_the_turn_of_one_that_ends() -> None:
    async def scene() -> None:
        uploads, order = Turns(1), []

        async def upload(number: int) -> None:
            async with uploads.turn("alice"):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(upload(number) for number in range(20)))
        assert order == list(range(20))

    asyncio.run(scene())


def test_an_upload_that_is_given_up_while_it_waits_takes_no_turn() -> None:
    async def scene() -> None:
        uploads = Turns(1)

        async def upload() -> None:
            async with uploads.turn("alice"):
                pass

        async with uploads.turn("alice"):
            task = asyncio.ensure_future(upload())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await upload()
        assert uploads._users == {}

    asyncio.run(scene())


def test_no_limit_is_none() -> None:
    async def scene() -> None:
        uploads = Turns(0)
        async with uploads.turn("alice"), uploads.turn("alice"):
            assert uploads._users == {}

    asyncio.run(scene())
