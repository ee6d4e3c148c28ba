"""No page, refusal or reference of the index lets a browser load, frame or guess anything undeclared."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator

import pytest

from ops.index.http.security_headers import secured, security_headers
from tests.index.archives import wheel, wheel_name
from tests.index.chromium import PROGRAM, Chromium
from tests.index.serving import TOKEN, Response, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("index"))
    (server.packages / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    with server:
        yield server


def policy_of(response: Response) -> dict[str, str]:
    """The directives of the one policy of a response."""
    (policy,) = response.headers.get_all("Content-Security-Policy") or [""]
    return {words[0]: " ".join(words[1:]) for part in policy.split(";") if (words := part.split())}


def assert_guarded(response: Response) -> None:
    policy = policy_of(response)
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] in {"'none'", "'self'"}
    assert "unsafe" not in str(policy)
    for name, value in security_headers():
        if name != b"content-security-policy":
            assert response.headers.get_all(name.decode()) == [value.decode()]
    assert re.search("no-store|no-cache", response["cache-control"])


@pytest.mark.parametrize(
    "path",
    ["/", "/?q=spam", "/?q=nothing", "/simple/", "/simple/spam/", "/packages/", "/projects/spam/", "/admin/docs"],
)
def test_every_html_page_has_security_headers(server: Server, path: str) -> None:
    for _ in range(2):  # rendered, and from the cache
        page = server.get(path, Accept="text/html")
        assert page.status == 200
        assert page["content-type"] == "text/html; charset=utf-8"
        assert_guarded(page)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("GET", "/simple/nothing/", 404),
        ("GET", "/simple/Spam", 301),
        ("GET", "/spam", 301),
        ("DELETE", "/simple/", 405),
        ("POST", "/simple/", 405),
        ("POST", "/", 400),
        ("POST", "/RPC2", 400),
        ("POST", "/projects/spam/yank", 400),
        ("GET", "/health", 200),
        ("GET", "/admin/health", 200),
        ("GET", "/admin/users", 401),
        ("GET", "/admin/nothing", 401),
    ],
)
def test_every_refusal_has_security_headers(server: Server, method: str, path: str, status: int) -> None:
    response = server.request(method, path)
    assert response.status == status
    assert_guarded(response)
    if path != "/health":
        assert_guarded(server.request(method, path, user=None))


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "users", 200), ("GET", "nothing", 404), ("PUT", "users", 405)]
)
def test_every_response_of_the_admin_application_has_security_headers(
    server: Server, method: str, path: str, status: int
) -> None:
    response = server.request(method, f"/admin/{path}", user=None, headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status == status
    assert_guarded(response)
    assert response["cache-control"] == "no-store"


def test_the_response_to_an_upload_has_security_headers(server: Server) -> None:
    """pypiserver declares an empty response as HTML."""
    content = wheel("eggs", "1.0")
    fields = {":action": "file_upload", "name": "eggs", "version": "1.0"}
    parts = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    head = f'--b\r\nContent-Disposition: form-data; name="content"; filename="{wheel_name("eggs", "1.0")}"\r\n\r\n'
    body = b"".join([*parts, head.encode(), content, b"\r\n--b--\r\n"])
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = server.request("POST", "/", headers=headers, body=body)
    assert response.status == 200, response.text
    assert_guarded(response)


def test_an_application_s_own_headers_are_kept() -> None:
    own = [(b"X-Frame-Options", b"SAMEORIGIN"), (b"content-type", b"text/html")]
    headers = secured(own)
    assert headers[:2] == own
    assert [value for name, value in headers if name.lower() == b"x-frame-options"] == [b"SAMEORIGIN"]


def test_the_reference_of_the_admin_application_allows_only_its_own_style(server: Server) -> None:
    page = server.get("/admin/docs")
    (style,) = re.findall("<style>(.*?)</style>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy_of(page)["style-src"] == f"'sha256-{digest}'"
    assert " style=" not in page.text


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which(PROGRAM), reason="there is no Chromium")
def test_a_browser_shows_the_reference_with_its_style_and_without_errors(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Chromium(tmp_path_factory.mktemp("chromium")) as chromium:
        chromium.open(f"{server.url_for()}admin/docs")
        assert chromium.run("getComputedStyle(document.querySelector('pre')).borderRadius") != "0px"
        assert chromium.run("document.querySelectorAll('h2').length") >= 4
        assert chromium.complaints() == []
