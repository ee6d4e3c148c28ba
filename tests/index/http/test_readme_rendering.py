"""READMEs are rendered once per file, one at a time, and shown as text if they cannot be rendered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from ops.index.errors import SandboxUnavailable, WorkCancelled, WorkFailed
from ops.index.http import readme as module
from ops.index.http.readme import About, Description, Readmes
from ops.index.sandbox.sandbox import Limits, Sandbox

MARKDOWN = Description("A summary", "*word* <script>", "text/markdown")


class FakeSandbox(Sandbox):
    """A fake sandbox whose results and timing the test controls."""

    def __init__(self) -> None:
        super().__init__("none:none", Limits(cpu_seconds=1, wall_seconds=1))
        self.calls: list[bytes] = []
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self.error: Exception | None = None

    def close(self) -> None:
        self.error = WorkCancelled()
        self.may_end.set()

    def run(self, payload: bytes, *files: int, cancellation: object = None) -> bytes:
        self.calls.append(payload)
        self.begun.set()
        assert self.may_end.wait(60)
        if self.error is not None:
            raise self.error
        return b"<em>" + payload.split()[-1] + b"</em>"


@pytest.fixture
def sandbox() -> Iterator[FakeSandbox]:
    sandbox = FakeSandbox()
    yield sandbox
    sandbox.may_end.set()


def run(work: Callable[[], Awaitable[About]]) -> About:
    async def running() -> About:
        return await work()

    return asyncio.run(running())


def readme(text: str = "word") -> Description:
    return Description("A summary", text, "text/markdown")


def test_a_readme_is_rendered_in_another_process_and_sanitised() -> None:
    readmes = Readmes(page_wait=600)
    try:
        about = run(lambda: readmes.about("ab", MARKDOWN))
    finally:
        readmes.close()
    assert about.summary == "A summary"
    assert "<em>word</em>" in about.readme
    assert "<script>" not in about.readme
    assert about.final


def test_a_rendered_readme_is_cached_by_the_digest_of_its_file(sandbox: FakeSandbox) -> None:
    readmes = Readmes(sandbox)
    assert readmes.known("ab") is None
    about = run(lambda: readmes.about("ab", readme()))
    assert readmes.known("ab") == about
    assert run(lambda: readmes.about("ab", readme())) == about
    run(lambda: readmes.about("cd", readme()))
    assert len(sandbox.calls) == 2


def test_a_failure_is_cached_too_with_its_reason_and_the_text(sandbox: FakeSandbox) -> None:
    readmes = Readmes(sandbox)
    sandbox.error = WorkFailed("it needs more than 512 MiB of memory")
    about = run(lambda: readmes.about("ab", readme("<b>word")))
    assert about.readme is None
    assert about.text == "<b>word"
    assert "could not be rendered: it needs more than 512 MiB of memory." in about.note
    sandbox.error = None
    assert run(lambda: readmes.about("ab", readme())) == about
    assert len(sandbox.calls) == 1


def test_invalid_restructuredtext_is_shown_as_text_with_a_note() -> None:
    readmes = Readmes(page_wait=600)
    try:
        about = run(lambda: readmes.about("ab", Description("", "broken `text <\n=", "")))
    finally:
        readmes.close()
    assert about.text == "broken `text <\n="
    assert "not valid reStructuredText" in about.note


def test_concurrent_requests_share_one_rendering(sandbox: FakeSandbox) -> None:
    readmes = Readmes(sandbox, page_wait=60)

    async def all_at_once() -> list[About]:
        sandbox.may_end.clear()
        tasks = [asyncio.ensure_future(readmes.about("ab", readme())) for _ in range(50)]
        assert await asyncio.to_thread(sandbox.begun.wait, 60)
        sandbox.may_end.set()
        return await asyncio.gather(*tasks)

    assert len(set(asyncio.run(all_at_once()))) == 1
    assert len(sandbox.calls) == 1


def test_a_page_waits_only_briefly_and_the_rendering_continues(sandbox: FakeSandbox) -> None:
    readmes = Readmes(sandbox, page_wait=0.01)

    async def twice() -> tuple[About, About]:
        sandbox.may_end.clear()
        early = await readmes.about("ab", readme())
        sandbox.may_end.set()
        while readmes.known("ab") is None:
            await asyncio.sleep(0.01)
        return early, await readmes.about("ab", readme())

    early, late = asyncio.run(twice())
    assert (early.readme, early.text, early.final) == (None, "word", False)
    assert "still being rendered" in early.note
    assert late.readme == "<em>word</em>"
    assert len(sandbox.calls) == 1


def test_one_is_rendered_at_a_time_few_wait_and_the_rest_are_shown_as_text(sandbox: FakeSandbox) -> None:
    readmes = Readmes(sandbox, page_wait=60)

    async def many() -> list[About]:
        sandbox.may_end.clear()
        tasks = [asyncio.ensure_future(readmes.about(f"{n}", readme())) for n in range(100)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(waiting) == module._QUEUE + 1
        assert len(sandbox.calls) <= 1
        sandbox.may_end.set()
        assert all(about.readme for about in await asyncio.gather(*waiting))
        return [task.result() for task in done]

    for about in asyncio.run(many()):
        assert (about.text, about.final) == ("word", False)


def test_a_failure_for_lack_of_a_process_is_retried_later(
    sandbox: FakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    readmes = Readmes(sandbox)
    sandbox.error = SandboxUnavailable("Resource temporarily unavailable")
    first = run(lambda: readmes.about("ab", readme()))
    assert (first.text, first.final) == ("word", False)
    sandbox.error = None
    assert run(lambda: readmes.about("ab", readme())) == first
    later = time.monotonic() + 31
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert run(lambda: readmes.about("ab", readme())).readme == "<em>word</em>"


def test_an_interrupted_rendering_is_not_cached(sandbox: FakeSandbox) -> None:
    readmes = Readmes(sandbox)
    sandbox.error = WorkCancelled()
    assert not run(lambda: readmes.about("ab", readme())).final
    assert readmes.known("ab") is None


def test_after_closing_a_readme_is_shown_as_text() -> None:
    readmes = Readmes()
    readmes.close()
    assert run(lambda: readmes.about("ab", readme())).text == "word"


def test_the_cache_is_bounded_and_evicts_the_least_recently_used(
    sandbox: FakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MEMORY", 10_000)
    readmes = Readmes(sandbox)
    for digest in ("a", "b", "c", "a", "d"):
        run(lambda digest=digest: readmes.about(digest, readme()))  # type: ignore[misc]
    for digest in ("e",):
        readmes.known("a")
        run(lambda digest=digest: readmes.about(digest, readme()))  # type: ignore[misc]
    assert readmes.known("a") is not None
    assert readmes.known("b") is None
    assert readmes._size <= 10_000


def test_the_newest_entry_is_kept_whatever_its_size(sandbox: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMORY", 10)
    readmes = Readmes(sandbox)
    run(lambda: readmes.about("a", readme()))
    assert readmes.known("a") is not None
