"""Pages for people never delay anything else, whatever their content and whatever Host is requested."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ops.index import DirectoryStorage, create_index
from ops.index.errors import SandboxUnavailable
from ops.index.http.html_pages import HtmlRenderer
from ops.index.http.readme import Readmes
from ops.index.http.representation import Representation
from tests.index.archives import wheel, wheel_name
from tests.index.http.test_readme_rendering import FakeSandbox
from tests.index.serving import Response, Server, ThreadServer, eventually
from tests.index.test_app import upload

LINES = "Summary: A summary\nDescription-Content-Type: text/markdown\n"


@pytest.fixture
def sandbox() -> Iterator[FakeSandbox]:
    sandbox = FakeSandbox()
    yield sandbox
    sandbox.may_end.set()


@pytest.fixture
def server(tmp_path: Path, sandbox: FakeSandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadServer]:
    """An index with a sandbox in which everything waits for an event."""
    monkeypatch.setattr("ops.index.assembly.Readmes", lambda: Readmes(sandbox, page_wait=600))
    files = Server(tmp_path)  # not started: for its users
    (files.packages / wheel_name("slow", "1.0")).write_bytes(wheel("slow", "1.0", lines=LINES, body="\nits-readme"))
    (files.packages / wheel_name("other", "1.0")).write_bytes(wheel("other", "1.0", lines=LINES))
    index = create_index(packages=DirectoryStorage(files.packages), credentials=DirectoryStorage(files.credentials))
    with ThreadServer(index) as server:
        yield server


def test_everything_is_answered_while_readmes_are_rendered_for_any_number_of_hosts(
    server: ThreadServer, sandbox: FakeSandbox
) -> None:
    def page(number: int) -> Response:
        return server.get("/projects/slow/", Host=f"host-{number}.example")

    sandbox.may_end.clear()
    with ThreadPoolExecutor(50) as pool:
        pages = [pool.submit(page, number) for number in range(50)]
        assert sandbox.begun.wait(60)
        assert server.get("/health", user=None).status == 200
        assert server.get("/").status == 200
        assert server.get("/simple/slow/").status == 200
        assert server.get("/projects/other/").status == 200
        assert upload(server, wheel_name("new", "1.0"), wheel("new", "1.0")).status == 200
        assert not any(page.done() for page in pages)
        sandbox.may_end.set()
        for number, response in enumerate(page.result() for page in pages):
            assert response.status == 200
            assert "<em>its-readme</em>" in response.text
            assert f"http://host-{number}.example/simple/" in response.text
    assert len(sandbox.calls) == 1


def test_installers_are_answered_while_pages_for_any_number_of_hosts_are_rendered(
    server: ThreadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = HtmlRenderer.home
    may_end = threading.Event()

    def slow(*arguments: Any) -> Representation:
        assert may_end.wait(60)
        return home(*arguments)

    monkeypatch.setattr(HtmlRenderer, "home", slow)
    with ThreadPoolExecutor(50) as pool:
        pages = [pool.submit(server.get, "/", Host=f"host-{number}.example") for number in range(50)]
        eventually(lambda: len(server.server.server_state.connections) >= 50)
        assert server.get("/simple/slow/").status == 200
        assert upload(server, wheel_name("new", "1.0"), wheel("new", "1.0")).status == 200
        may_end.set()
        assert all(page.result().status == 200 for page in pages)


def test_a_page_whose_readme_could_not_be_rendered_yet_is_not_cached(
    server: ThreadServer, sandbox: FakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.index.http.readme._RETRY_SECONDS", -1.0)
    sandbox.error = SandboxUnavailable("Resource temporarily unavailable")
    first = server.get("/projects/slow/")
    assert first.status == 200
    assert '<pre class="plain">\nits-readme</pre>' in first.text
    assert "cannot be rendered now" in first.text
    sandbox.error = None
    assert "<em>its-readme</em>" in server.get("/projects/slow/").text


def test_a_stopping_server_sends_pages_that_are_waiting_for_a_readme(
    server: ThreadServer, sandbox: FakeSandbox
) -> None:
    sandbox.may_end.clear()
    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(server.get, "/projects/slow/")
        assert sandbox.begun.wait(60)
        server.server.should_exit = True
        assert page.result().status == 200
        assert "cannot be rendered now" in page.result().text


HOSTILE = {
    "equal-headings": ("text/markdown", "# x\n" * 100_000),
    "a-wide-table": ("text/markdown", "|" + "a|" * 1000 + "\n|" + "-|" * 1000 + "\n" + "a\n" * 100_000),
    "open-tags": ("text/markdown", "<div>" * 100_000),
    "quotes-in-quotes": ("text/markdown", "> " * 200_000),
    "substitutions": (
        "text/x-rst",
        "".join(f".. |s{n}| replace:: |s{n - 1}| |s{n - 1}|\n" for n in range(1, 26)) + ".. |s0| replace:: x\n\n|s25|",
    ),
    "lists-in-lists": ("text/x-rst", "".join("  " * n + "- x\n\n" for n in range(700))),
    "nested-parts": ("multipart/mixed; boundary=x", "--x\nContent-Type: multipart/mixed; boundary=x\n\n" * 10_000),
}


def test_pages_of_hostile_readmes_arrive_in_parallel_while_others_are_served(tmp_path: Path) -> None:
    server = Server(tmp_path)
    for name, (content_type, text) in HOSTILE.items():
        content = wheel(name, "1.0", lines=f"Description-Content-Type: {content_type}\n", body=f"\n{text}")
        (server.packages / wheel_name(name, "1.0")).write_bytes(content)
    with server, ThreadPoolExecutor(len(HOSTILE)) as pool:
        pages = {name: pool.submit(server.get, f"/projects/{name}/") for name in HOSTILE}
        number = 0
        while not all(page.done() for page in pages.values()):
            assert server.get("/health", user=None).status == 200
            name = f"meanwhile-{(number := number + 1)}"
            assert upload(server, wheel_name(name, "1.0"), wheel(name, "1.0")).status == 200
        for page in pages.values():
            assert page.result().status == 200
            assert ('<pre class="plain">' in page.result().text) != ('<div class="readme">' in page.result().text)


def test_html_in_a_readme_that_is_shown_as_text_is_escaped(tmp_path: Path, server: ThreadServer) -> None:
    content = wheel("markup", "1.0", lines=LINES.replace("markdown", "html"), body="\n</pre><b>bold</b>")
    (tmp_path / "packages" / wheel_name("markup", "1.0")).write_bytes(content)
    while (page := server.get("/projects/markup/")).status == 404:
        time.sleep(0.01)  # a directory that took long to read is not read again at once
    assert "&lt;/pre&gt;&lt;b&gt;bold&lt;/b&gt;</pre>" in page.text
