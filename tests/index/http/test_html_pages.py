"""Pages for people: their content, their safety, and their behaviour in a browser."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import pytest

from ops.index.http.html_pages import ROWS, HtmlRenderer
from ops.index.http.html_templates import human_size
from ops.index.http.project_search import ProjectSearch
from ops.index.http.readme import NotRendered, Readmes
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.chromium import PROGRAM, Chromium
from tests.index.conftest import Node
from tests.index.serving import Response, Server

README = """# Billing

Invoices, *with* [a link](https://elsewhere.example/docs) and `code`.

| a | b |
|---|---|
| 1 | 2 |

```python
print("hello")
```

<script>document.title = "stolen"</script>
<img src="http://127.0.0.1:{port}/tracker.png" alt="a picture" onerror="document.title = 'stolen'">
<a href="javascript:document.title = 'stolen'">innocent</a>
<style>body {{ display: none }}</style>
<iframe src="http://127.0.0.1:{port}/frame"></iframe>
"""

browser = pytest.mark.skipif(not PROGRAM, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def foreigner() -> Iterator[socket.socket]:
    """Another site on this machine, which must not be contacted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, foreigner: socket.socket) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("browse"))
    readme = README.format(port=foreigner.getsockname()[1])
    lines = "Summary: Invoices & <dunning>\nRequires-Python: >=3.9\nDescription-Content-Type: text/markdown\n"
    for version in ("1.0", "2.0", "3.0rc1"):
        content = wheel("acme-billing", version, lines=lines, body=f"\n{readme}")
        (server.packages / wheel_name("acme-billing", version)).write_bytes(content)
        (server.packages / f"acme_billing-{version}.tar.gz").write_bytes(sdist("acme-billing", version))
    for number in range(40):
        name = f"team-tool-{number}" if number else "a-name-that-is-so-long-that-it-cannot-fit-on-any-telephone-at-all"
        (server.packages / wheel_name(name, "0.1")).write_bytes(wheel(name, "0.1"))
    (server.packages / wheel_name("old-tool", "1.0")).write_bytes(wheel("old-tool", "1.0"))
    with server:
        for path, body in (
            ("acme-billing/yank", b'{"version": "1.0", "reason": "wrong <rounding>"}'),
            ("old-tool/status", b'{"status": "deprecated", "reason": "use team-tool-1"}'),
        ):
            headers = {"Content-Type": "application/json"}
            assert server.request("POST", f"/projects/{path}", headers=headers, body=body).status == 200
        yield server


class Page(HTMLParser):
    """Parts of a page."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        assert response.status == 200, response.text
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(response.text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        for name, value in attrs:
            if name == "href" and tag == "a" and value:
                self.links.append(value)
            elif name in {"src", "href", "srcset", "poster", "data"} and value:
                self.loaded.append(value)

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in {"style", "script"}:
            self.words.append(data)


def test_the_home_page_lists_every_project_with_its_details(server: Server) -> None:
    page = Page(server.get("/"))
    assert "42 projects" in page.text
    assert re.search(r"acme-billing Invoices & <dunning> 2\.0 6 files \d{4}-\d\d-\d\d", page.text)
    assert "old-tool deprecated 1.0 1 file" in page.text
    assert page.links.count("projects/acme-billing/") == 1


def test_the_search_works_without_javascript(server: Server) -> None:
    page = Page(server.get("/?q=Team_Tool.3"))
    assert "projects/team-tool-3/" in page.links
    assert "projects/team-tool-30/" in page.links
    assert "projects/acme-billing/" not in page.links
    assert "11 of 42 projects" in page.text
    nothing = Page(server.get("/?q=%3Cscript%3E"))
    assert "0 of 42 projects" in nothing.text
    assert nothing.tags.count("script") == 1
    assert ("value", "<script>") in nothing.attributes


def test_an_empty_index_says_how_to_publish(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Server(tmp_path_factory.mktemp("empty")) as server:
        page = Page(server.get("/"))
        assert f"twine upload --repository-url {server.url} dist/*" in page.text
        assert f"uv publish --publish-url {server.url} dist/*" in page.text


def test_a_project_page_shows_versions_files_and_how_to_install(server: Server) -> None:
    page = Page(server.get("/projects/acme-billing/"))
    assert f"pip install --index-url {server.url}simple/ acme-billing" in page.text
    assert f"uv pip install --default-index {server.url}simple/ acme-billing" in page.text
    assert "Invoices & <dunning>" in page.text
    assert "3.0rc1 pre-release 2 files" in page.text
    assert "1.0 yanked 2 files" in page.text
    assert "wrong <rounding>" in page.text
    assert "Python >=3.9" in page.text
    content = (server.packages / wheel_name("acme-billing", "2.0")).read_bytes()
    assert hashlib.sha256(content).hexdigest() in page.text


def test_the_status_of_a_project_is_explained(server: Server) -> None:
    page = Page(server.get("/projects/old-tool/"))
    assert "This project is deprecated." in page.text
    assert "use team-tool-1" in page.text


def test_every_link_of_a_page_leads_somewhere(server: Server) -> None:
    for path in ("/", "/?q=acme", "/projects/acme-billing/", "/projects/old-tool/"):
        for link in Page(server.get(path)).links:
            target = urlsplit(urljoin(f"{server.url.rstrip('/')}{path}", link))
            if target.hostname == "127.0.0.1":
                assert server.request("HEAD", target.path).status == 200, link


def test_a_page_loads_nothing_and_allows_only_its_own_script(server: Server) -> None:
    for path in ("/", "/projects/old-tool/"):
        response = server.get(path)
        assert Page(response).loaded == ["data:,"]
        policy = response["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        for tag in ("script", "style"):
            (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert response["referrer-policy"] == "no-referrer"
        assert response["x-content-type-options"] == "nosniff"


def test_a_readme_cannot_include_scripts_styles_or_frames(server: Server) -> None:
    page = Page(server.get("/projects/acme-billing/"))
    assert page.tags.count("script") == 1
    assert page.tags.count("style") == 1
    assert "iframe" not in page.tags
    assert not any(name.startswith("on") or "javascript:" in (value or "") for name, value in page.attributes)
    assert "Invoices, with a link and code ." in page.text


def test_the_commands_have_the_client_s_url_which_is_never_markup(server: Server) -> None:
    page = server.get("/projects/old-tool/", Host="index.example:8443")
    assert "http://index.example:8443/simple/" in page.text
    for host in ("<b>", 'x"onclick=', "a b", ""):
        response = server.get("/projects/old-tool/", Host=host)
        assert "http://localhost/simple/" in response.text or response.status == 400
        assert "onclick=" not in response.text
        assert "<b>" not in response.text


@pytest.fixture(scope="module")
def readmes() -> Iterator[Readmes]:
    readmes = Readmes(page_wait=600)
    yield readmes
    readmes.close()


def shown(node: Node, readmes: Readmes, project: str) -> str:
    renderer = HtmlRenderer(node.repository, readmes, ProjectSearch(node.repository))
    try:
        page = renderer.project(project, "http://localhost/")
    except NotRendered as missing:
        asyncio.run(readmes.about(missing.digest, missing.description))
        page = renderer.project(project, "http://localhost/")
    assert page is not None
    return page.plain().body.decode()


@pytest.mark.parametrize(
    ("metadata_version", "lines"), [("2.4", "Dynamic: Requires-Dist\n"), ("1.1", "")], ids=["dynamic", "old"]
)
def test_the_page_of_a_project_without_wheels_shows_metadata_of_the_sdist(
    node: Node, readmes: Readmes, metadata_version: str, lines: str
) -> None:
    content = sdist(
        "foo",
        "1.0",
        lines=f"{lines}Summary: Möhren in words\nDescription-Content-Type: text/markdown\n",
        body="About *carrots*.",
        metadata_version=metadata_version,
    )
    node.directory.mkdir(parents=True, exist_ok=True)
    (node.directory / "foo-1.0.tar.gz").write_bytes(content)
    page = shown(node, readmes, "foo")
    assert "Möhren in words" in page
    assert "About <em>carrots</em>." in page


def test_metadata_for_installers_takes_precedence(node: Node, readmes: Readmes) -> None:
    node.directory.mkdir(parents=True, exist_ok=True)
    for suffix, lines in ((".tar.gz", "Dynamic: License\nSummary: before\n"), (".tgz", "Summary: for good\n")):
        (node.directory / f"foo-1.0{suffix}").write_bytes(sdist("foo", "1.0", lines=lines))
    assert "for good" in shown(node, readmes, "foo")


def test_author_licence_links_and_dependencies_are_shown_and_are_never_markup(node: Node, readmes: Readmes) -> None:
    node.directory.mkdir(parents=True, exist_ok=True)
    lines = (
        "Author: <b>Ada</b>\nLicense-Expression: MIT\nProject-URL: <i>Source, https://example.com/a?b=%22%3E<script>\n"
        "Project-URL: Evil, javascript:alert(1)\nRequires-Dist: bar>=1\nRequires-Dist: absent<2\n"
    )
    (node.directory / wheel_name("foo", "1.0")).write_bytes(wheel("foo", "1.0", lines=lines))
    (node.directory / wheel_name("bar", "1.0")).write_bytes(wheel("bar", "1.0"))
    page = shown(node, readmes, "foo")
    for text in ("&lt;b&gt;Ada&lt;/b&gt;", "MIT", '<a href="../bar/">bar&gt;=1</a>', "<li>absent&lt;2</li>"):
        assert text in page
    for markup in ("<b>Ada", "<i>Source", "javascript:", "><script>"):
        assert markup not in page.partition("<script>")[0]


def many(node: Node, count: int) -> HtmlRenderer:
    """The pages of an index of many projects."""
    node.directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"tool-{number:03}"
        lines = f"Summary: Cuts <number> {'Möhren' if number == 107 else number}\n"
        (node.directory / wheel_name(name, "1.0")).write_bytes(wheel(name, "1.0", lines=lines))
    node.repository.package_directory.look(thoroughly=True)
    return HtmlRenderer(node.repository, Readmes(), ProjectSearch(node.repository))


def listed(renderer: HtmlRenderer, query: str = "", place: int = 1) -> tuple[list[str], Page]:
    """The projects on a page of the list, and the page."""
    page = Page(Response(200, http.client.HTTPMessage(), renderer.home("http://localhost/", query, place).body))
    return [link.split("/")[1] for link in page.links if link.startswith("projects/")], page


def test_a_long_list_has_pages_that_link_to_each_other(node: Node) -> None:
    renderer = many(node, 2 * ROWS + 8)
    names = list(node.repository.projects())
    first, page = listed(renderer)
    assert first == names[:ROWS]
    assert "108 projects" in page.text
    assert "Page 1 of 3" in page.text
    assert [link for link in page.links if "page=" in link] == ["./?page=2", "./?page=3"]
    second, page = listed(renderer, place=2)
    assert second == names[ROWS : 2 * ROWS]
    assert [link for link in page.links if "page=" in link] == ["./?page=1", "./?page=1", "./?page=3", "./?page=3"]
    for place in (3, 4, 9_999_999):
        assert listed(renderer, place=place)[0] == names[2 * ROWS :]
    assert listed(renderer, place=0)[0] == first


def test_pages_of_hits_keep_the_search(node: Node) -> None:
    hits, page = listed(many(node, ROWS + 8), "cuts <", 2)
    assert len(hits) == 8
    assert "./?q=cuts%20%3C&page=1" in page.links


def test_a_search_without_hits_says_so(node: Node) -> None:
    hits, page = listed(many(node, 3), "nowhere")
    assert hits == []
    assert "No project has this in its name or summary." in page.text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (2_000_000, "1.9 MiB"),
        (2**40, "1.0 TiB"),
    ],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert human_size(size) == text


def _colours(css: str) -> dict[str, tuple[float, float, float]]:
    found = {}
    for name, value in re.findall(r"--([a-z-]+):#([0-9a-f]{6})", css):
        channels = [int(value[start : start + 2], 16) / 255 for start in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        found[name] = (red, green, blue)
    return found


def test_all_text_has_enough_contrast_in_light_and_dark_mode(server: Server) -> None:
    """At least 4.5 to 1, as required by WCAG 2 at level AA."""
    (style,) = re.findall("<style>(.*?)</style>", server.get("/").text, re.DOTALL)
    light, dark = re.findall(r":root\{(.*?)\}", style)
    for colours in (_colours(light), _colours(dark)):
        luminance = {n: 0.2126 * r + 0.7152 * g + 0.0722 * b for n, (r, g, b) in colours.items()}
        pairs = [(t, b) for t in ("ink", "quiet", "link") for b in ("paper", "fill")]
        for text, background in [*pairs, ("mark", "mark-fill"), ("ink", "mark-fill")]:
            high, low = sorted((luminance[text], luminance[background]), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, background)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium


@browser
@pytest.mark.browser
def test_a_search_is_sent_with_the_return_key(server: Server, chromium: Chromium) -> None:
    chromium.open(server.url_for())
    chromium.type("#q", "Team_Tool.3")
    for kind in ("keyDown", "keyUp"):
        chromium.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    chromium.until("document.getElementById('count')?.textContent.startsWith('11 of 42 projects')")
    assert chromium.run("document.querySelectorAll('.projects tbody tr').length") == 11
    assert chromium.complaints() == []


@browser
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", ["", "projects/acme-billing/"])
def test_a_page_fits_on_a_phone(server: Server, chromium: Chromium, path: str, dark: bool) -> None:
    chromium.open(server.url_for() + path, width=360, height=700, dark=dark)
    assert chromium.run("document.scrollingElement.scrollWidth") <= 360
    background = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) is dark


@browser
@pytest.mark.browser
def test_the_command_can_be_copied_with_the_browser_s_url(server: Server, chromium: Chromium) -> None:
    chromium.open(server.url_for() + "projects/acme-billing/")
    origin = chromium.run("location.origin")
    chromium.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    chromium.run("document.querySelector('[data-copy=pip-command]').click()")
    chromium.until("document.querySelector('[data-copy=pip-command]').textContent === 'Copied'")
    copied = chromium.run("navigator.clipboard.readText()")
    assert copied == f"pip install --index-url {origin}/simple/ acme-billing"
    # Behind an untrusted proxy the server does not know its own URL.
    shown = "document.querySelector('#uv-command').textContent"
    script = chromium.run("document.querySelector('script').textContent")
    chromium.run("document.querySelectorAll('[data-url]').forEach(each => each.textContent = 'http://inside/simple/')")
    assert "http://inside/simple/" in chromium.run(shown)
    chromium.run("{" + script + "}")
    assert chromium.run(shown) == f"uv pip install --default-index {origin}/simple/ acme-billing"


@browser
@pytest.mark.browser
def test_a_readme_makes_the_browser_contact_no_other_site(
    server: Server, chromium: Chromium, foreigner: socket.socket
) -> None:
    chromium.open(server.url_for() + "projects/acme-billing/")
    assert chromium.run("document.title") == "acme-billing 2.0"
    assert chromium.run("document.querySelector('.readme img').alt") == "a picture"
    with pytest.raises(BlockingIOError):
        foreigner.accept()


@browser
@pytest.mark.browser
@pytest.mark.parametrize("path", ["", "projects/acme-billing/"])
def test_everything_has_an_accessible_name(server: Server, chromium: Chromium, path: str) -> None:
    chromium.open(server.url_for() + path)
    chromium.run("document.querySelector('.readme')?.remove()")  # its author's responsibility
    chromium.call("Accessibility.enable")
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "link", "searchbox", "heading", "textbox", "navigation", "main", "columnheader"}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if role in named - {"main"} and not node.get("ignored"):
            assert node.get("name", {}).get("value"), node
    roles = [node.get("role", {}).get("value") for node in nodes]
    assert {"main", "navigation", "heading"} <= set(roles)
    assert chromium.run("document.querySelectorAll('main > h1').length") == 1
    chromium.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert chromium.run("document.activeElement.className") == "skip"
