"""The index over HTTP: access, responses, and robustness against any input."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import bcrypt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pypi_simple import ACCEPT_HTML_ONLY, ACCEPT_JSON_ONLY, NoSuchProjectError, PyPISimple

from ops.index.packages.filenames import is_project
from tests.index.archives import sdist, wheel, wheel_name
from tests.index.serving import JSON, PASSWORD, TOKEN, Http, Response, Server, authorization, eventually, send_request

pytestmark = pytest.mark.usefixtures("watched")

TWINE = {"User-Agent": "twine/7.0.0 requests/2.34 Python/3.12"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("application"), "--max-upload-size", "8M")
    add(server, "spam", "1.0", lines="Requires-Python: >=3.9\n")
    add(server, "spam", "2.0")
    for number in range(30):
        add(server, f"filler-{number}", "1.0")
    (server.packages / "sub").mkdir()
    (server.packages / "sub" / "Eggs_and.Ham-0.1.tar.gz").write_bytes(sdist("Eggs-and.Ham", "0.1"))
    with server:
        yield server


def add(server: Server, name: str, version: str, **contents: str) -> bytes:
    """Put a wheel into the directory behind the server's back."""
    content = wheel(name, version, **contents)  # type: ignore[arg-type]  # only texts are given
    (server.packages / wheel_name(name, version)).write_bytes(content)
    return content


def show(server: Server, name: str, version: str) -> None:
    """Add a file while the server runs, and wait until it is listed: after a slow scan the server pauses briefly."""
    add(server, name, version)
    eventually(lambda: server.get(f"/simple/{name}/").status == 200)


def form(boundary: str = "b", **fields: str | tuple[str, bytes]) -> bytes:
    body = b""
    for name, value in fields.items():
        key = ":action" if name == "action" else name
        head = f'Content-Disposition: form-data; name="{key}"'
        if isinstance(value, tuple):
            filename, content = value
            body += f'--{boundary}\r\n{head}; filename="{filename}"\r\n\r\n'.encode() + content + b"\r\n"
        else:
            body += f"--{boundary}\r\n{head}\r\n\r\n{value}\r\n".encode()
    return body + f"--{boundary}--\r\n".encode()


def upload(
    server: Http, filename: str, content: bytes, *, path: str = "/", user: str = "alice", **headers: str
) -> Response:
    name, version = filename.split("-")[:2]
    body = form(action="file_upload", name=name, version=version, content=(filename, content))
    fields = {"Content-Type": "multipart/form-data; boundary=b", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return server.request("POST", path, user=user, headers=fields, body=body)


def change(server: Server, path: str, body: object, *, user: str = "alice", **headers: str) -> Response:
    fields = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return server.request("POST", path, user=user, headers=fields, body=json.dumps(body).encode())


# Access


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/simple/",
        "/simple/spam/",
        "/packages/",
        "/packages/spam-1.0-py3-none-any.whl",
        "/projects/spam/",
        "/spam/json",
        "/nothing",
        "/favicon.ico",
        "/robots.txt",
        "/legacy/",
        "/RPC2",
        "/admin",
        "/admin/docs",
        "/admin/users",
        "/admin/nothing",
        "/health/",
    ],
)
def test_without_credentials_every_path_is_401(server: Server, method: str, path: str) -> None:
    response = server.request(method, path, user=None)
    assert response.status == 401
    assert re.match(r'(Basic|Bearer) realm="', response["www-authenticate"])
    if method != "HEAD":
        assert len(response.text.strip().splitlines()) == 1


def test_the_realm_is_the_one_stored_in_keyrings(server: Server) -> None:
    assert server.get("/simple/", user=None)["www-authenticate"].startswith('Basic realm="pypi"')


@pytest.mark.parametrize(("user", "password"), [("alice", "x"), ("nobody", PASSWORD), ("alice", ""), ("", "")])
def test_all_wrong_credentials_get_the_same_refusal(server: Server, user: str, password: str) -> None:
    response = server.request("GET", "/simple/spam/", user=user, password=password)
    assert response.status == 401
    assert response["www-authenticate"].startswith("Basic realm=")


def test_health_needs_no_login_and_reveals_nothing(server: Server) -> None:
    response = server.get("/health", user=None)
    assert (response.status, response.text) == (200, "ok\n")
    assert server.request("HEAD", "/health", user=None).status == 200
    assert server.request("POST", "/health", user=None, body=b"").status == 401


def test_an_upload_without_credentials_is_refused_before_its_body_is_sent(server: Server) -> None:
    for expect in (b"Expect: 100-continue\r\n", b""):
        response = server.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n" + expect + b"\r\n")
        assert response.startswith(b"HTTP/1.1 401 ")
        assert (b"connection: close" in response.lower()) is bool(expect)


def test_a_refused_upload_gets_its_refusal_even_after_sending_all_of_its_body(server: Server) -> None:
    body = form(action="file_upload", content=("spam-9.tar.gz", bytes(4 * 1024 * 1024)))
    for _ in range(3):
        assert server.request("POST", "/", user=None, body=body).status == 401


def test_many_wrong_passwords_are_throttled(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Server(tmp_path_factory.mktemp("guesses"), "--bcrypt-rounds", "10") as server:
        for number in range(40):  # each wait doubles, so eventually one is not over yet
            response = server.request("GET", "/simple/", password=f"guess {number}")
            if response.status == 429:
                break
            assert response.status == 401
        assert response.status == 429
        assert int(response["retry-after"]) >= 1
        assert server.get("/simple/", user="adam").status in {200, 429}


def test_a_new_password_works_at_once_and_the_old_one_stops(server: Server) -> None:
    def register(password: str) -> int:
        body = json.dumps({"username": "carol", "password": password}).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        return server.request("POST", "/admin/register_user", user=None, headers=headers, body=body).status

    first, second = "the first password", "the second password"
    assert register(first) == 201
    assert server.request("GET", "/simple/", user="carol", password=first).status == 200
    assert register(second) == 200
    assert server.request("GET", "/simple/", user="carol", password=second).status == 200
    eventually(lambda: server.request("GET", "/simple/", user="carol", password=first).status == 401)


# The simple pages


@pytest.mark.parametrize("accept", [ACCEPT_JSON_ONLY, ACCEPT_HTML_ONLY], ids=["json", "html"])
def test_an_independent_client_finds_the_files_on_disk(server: Server, accept: str) -> None:
    with PyPISimple(server.url + "simple/", auth=("alice", PASSWORD)) as client:
        projects = client.get_index_page(accept=accept).projects
        assert {"spam", "eggs-and-ham"} <= set(projects)
        seen = {}
        for project in projects:
            page = client.get_project_page(project, accept=accept)
            assert page.project == project
            for package in page.packages:
                seen[package.filename] = package.digests["sha256"]
                if package.has_metadata:
                    client.get_package_metadata(package)  # checks the digest
        with pytest.raises(NoSuchProjectError):
            client.get_project_page("nothing", accept=accept)
    on_disk = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in server.packages.rglob("*")
        if path.suffix in {".whl", ".gz"} and ".index" not in path.parts
    }
    assert seen == on_disk


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple/Spam/", "/simple/spam/"),
        ("/simple/spam", "/simple/spam/"),
        ("/simple/Eggs_and.Ham", "/simple/eggs-and-ham/"),
        ("/simple/eggs--and...ham/", "/simple/eggs-and-ham/"),
        ("/simple", "/simple/"),
        ("/packages", "/packages/"),
        ("/spam", "/simple/spam/"),
        ("/Spam/", "/simple/spam/"),
        ("/projects/Spam/", "/projects/spam/"),
        ("/projects/spam", "/projects/spam/"),
        ("/projects", "/"),
        ("/projects/", "/"),
        ("/simple/Spam/?format=text%2Fhtml", "/simple/spam/?format=text%2Fhtml"),
    ],
)
def test_other_spellings_redirect_to_the_page(server: Server, path: str, location: str) -> None:
    for prefix in ("", "/team/index"):
        response = server.get(path)
        assert response.status == 301
        assert not urlsplit(response["location"]).netloc
        assert urljoin(f"http://x{prefix}{path}", response["location"]) == f"http://x{prefix}{location}"


@pytest.mark.parametrize(
    "path",
    [
        "/simple/nothing/",
        "/nothing/",
        "/projects/nothing/",
        "/nothing/json",
        "/simple/..%2F..%2Fetc/",
        "/simple/-/",
        "/simple/a%20b/",
        "/simple//",
        "//example.org/",
        "/simple/%E2%80%AEspam/",
        "/simple/spam/extra",
        "/simple/%2E%2E/",
        "/simple/.spam/",
        "/simple/spam%0A/",
        "/simple/spam%2B/",
        "/simple/spam;x/",
        "/projects/-/",
        "/projects/-spam/",
        "/-spam/",
        "/" + "a" * 5000,
    ],
)
def test_missing_projects_are_404_without_a_redirect_elsewhere(server: Server, path: str) -> None:
    response = server.get(path)
    assert response.status == 404
    assert response.headers["location"] is None


def test_every_project_that_is_listed_has_its_pages(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Including those that only pypiserver considers projects: it has filled many directories."""
    server = Server(tmp_path_factory.mktemp("names"))
    add(server, "_private", "1.0")
    for name in ("foo_-1.0.tar.gz", "foo+bar-1.0.tar.gz", "Foo!-1.0.tgz", "_-1.0.tar.gz", "a" * 245 + ".zip"):
        (server.packages / name).write_bytes(sdist("x", "1.0"))
    names = ["-", "-private", "a" * 245, "foo!", "foo+bar", "foo-"]
    with server:
        assert json.loads(server.get("/simple/", Accept=JSON).body)["projects"] == [{"name": name} for name in names]
        for path in ("/", "/simple/"):
            links = [
                link for link in re.findall(r'href="([^"#]+/)"', server.get(path).text) if link not in {"./", "-/help/"}
            ]
            assert len(links) == len(names)
            for link in links:
                page = server.get(urljoin(path, link))
                assert page.status == 200
                assert "-1.0" in page.text or "a.zip" in page.text
        for name in names:
            assert server.get(f"/{name}/")["location"] == f"../simple/{name}/"
            if not is_project(name):
                assert "pip install" not in server.get(f"/projects/{name}/").text, "it would fail"
        assert urljoin("/simple/Foo+Bar", server.get("/simple/Foo+Bar")["location"]) == "/simple/foo+bar/"
        assert change(server, "/projects/-private/yank", {"version": "1.0"}).status == 200


def test_dynamic_metadata_of_an_sdist_is_shown_only_to_people(server: Server) -> None:
    content = sdist("carrot", "1.0", lines="Dynamic: Requires-Dist\nSummary: Möhren\n")
    (server.packages / "carrot-1.0.tar.gz").write_bytes(content)
    eventually(lambda: server.get("/projects/carrot/").status == 200)
    assert "Möhren" in server.get("/projects/carrot/").text
    (entry,) = json.loads(server.get("/simple/carrot/", Accept=JSON).body)["files"]
    assert entry["core-metadata"] is False
    assert "metadata" not in server.get("/simple/carrot/").text
    assert server.get("/packages/carrot-1.0.tar.gz.metadata").status == 404


def test_the_form_of_a_page_is_negotiated(server: Server) -> None:
    assert server.get("/simple/spam/")["content-type"] == "text/html; charset=utf-8"
    assert server.get("/simple/spam/", Accept=JSON)["content-type"] == JSON
    assert server.get("/simple/", Accept=JSON)["content-type"] == JSON
    assert server.get("/simple/spam/?format=" + JSON.replace("+", "%2B"))["content-type"] == JSON
    assert server.get(f"/simple/spam/?format={JSON}")["content-type"] == JSON
    assert server.get(f"/simple/?x=1&format={JSON}", Accept="text/html")["content-type"] == JSON
    assert server.get("/simple/spam/?format=text/html", Accept=JSON)["content-type"].startswith("text/html")
    assert server.get("/simple/spam/?format=image/png", Accept=JSON).status == 406
    for query in ("xformat=text/html", "q=format=text/html", "format", "format="):
        assert server.get(f"/simple/spam/?{query}", Accept=JSON)["content-type"] == JSON
    for path in ("/simple/", "/simple/spam/"):
        response = server.get(path, Accept="image/png")
        assert response.status == 406
        assert JSON in response.text
    assert "Accept" in server.get("/simple/spam/")["vary"]
    assert "Authorization" in server.get("/simple/spam/")["vary"]


@pytest.mark.parametrize("path", ["/", "/simple/", "/simple/spam/", "/projects/spam/"])
def test_a_page_is_compressed_conditional_and_private(server: Server, path: str) -> None:
    plain, packed = server.get(path), server.get(path, Accept_Encoding="gzip")
    assert gzip.decompress(packed.body) == plain.body
    assert packed["content-encoding"] == "gzip"
    assert "private" in plain["cache-control"]
    for response in (plain, packed):
        again = server.get(path, If_None_Match=response["etag"])
        assert (again.status, again.body) == (304, b"")
        assert again["etag"] == response["etag"]
        head = server.request("HEAD", path, headers={"Accept-Encoding": response["content-encoding"] or "identity"})
        assert (head.status, head.body, head["content-length"]) == (200, b"", response["content-length"])
    assert server.get(path, If_None_Match='"other"').status == 200


def test_files_added_and_removed_behind_the_server_s_back_are_noticed_at_once(server: Server) -> None:
    assert server.get("/simple/late/").status == 404
    add(server, "late", "1.0")
    eventually(lambda: server.get("/simple/late/").status == 200)
    assert "late" in server.get("/simple/").text
    add(server, "late", "1.1")
    eventually(lambda: "1.1" in server.get("/simple/late/").text)
    for version in ("1.0", "1.1"):
        (server.packages / wheel_name("late", version)).unlink()
    eventually(lambda: server.get("/simple/late/").status == 404)


def test_a_file_replaced_in_place_is_noticed_after_a_while(server: Server) -> None:
    show(server, "mended", "1.0")
    before = server.get("/simple/mended/").text
    path = server.packages / wheel_name("mended", "1.0")
    with path.open("r+b") as file:
        file.write(wheel("mended", "1.0", body="longer " * 50))
    eventually(lambda: hashlib.sha256(path.read_bytes()).hexdigest() in server.get("/simple/mended/").text)
    assert server.get("/simple/mended/").text != before


def test_pages_of_stock_pypiserver_are_still_there(server: Server) -> None:
    assert "spam-1.0-py3-none-any.whl" in server.get("/packages/").text
    page = json.loads(server.get("/spam/json").body)
    assert page["info"]["version"] == "2.0"
    assert page["releases"]["1.0"][0]["url"] == f"{server.url}packages/spam-1.0-py3-none-any.whl"


# Changes


def test_an_uploaded_file_is_on_the_page_once_the_upload_has_its_response(server: Server) -> None:
    for number, path in enumerate(("/", "/legacy/", "/legacy")):
        assert server.get("/simple/").status == 200
        name = wheel_name("fresh", f"1.{number}")
        content = wheel("fresh", f"1.{number}")
        assert upload(server, name, content, path=path).status == 200
        assert hashlib.sha256(content).hexdigest() in server.get("/simple/fresh/").text
        assert server.get(f"/packages/{name}").body == content


def test_credentials_in_latin_1_as_sent_by_twine_can_upload(server: Server) -> None:
    """pypiserver's form parser only knows UTF-8."""
    entry = bcrypt.hashpw("pässword of zoë".encode(), bcrypt.gensalt(4)).decode()
    with (server.credentials / ".htpasswd").open("a") as users:
        users.write(f"zoe:{entry}\n")
    credentials = base64.b64encode("zoe:pässword of zoë".encode("latin-1")).decode()

    fields = {"Authorization": f"Basic {credentials}", "Content-Type": "multipart/form-data; boundary=b"}
    body = form(
        action="file_upload", name="latin", version="1.0", content=(wheel_name("latin", "1.0"), wheel("latin", "1.0"))
    )

    eventually(lambda: server.request("POST", "/", user=None, headers=fields, body=body).status == 200)


def test_identical_bytes_again_succeed_and_different_ones_are_refused(server: Server) -> None:
    name = wheel_name("twice", "1.0")
    assert upload(server, name, wheel("twice", "1.0")).status == 200
    assert upload(server, name, wheel("twice", "1.0")).status == 200
    other = wheel("twice", "1.0", payload=b"other")
    assert upload(server, name, other).status == 409
    refused = upload(server, name, other, **TWINE)
    assert refused.status == 400
    assert len(refused.text.strip().splitlines()) == 1


def test_a_reader_cannot_upload_and_a_publisher_cannot_remove(server: Server) -> None:
    assert upload(server, wheel_name("mine", "1.0"), wheel("mine", "1.0"), user="rea").status == 403
    assert server.get("/simple/mine/").status == 404
    assert upload(server, wheel_name("mine", "1.0"), wheel("mine", "1.0")).status == 200
    body = form(action="remove_pkg", name="mine", version="1.0")
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert server.request("POST", "/", headers=headers, body=body).status == 403
    assert server.get("/simple/mine/").status == 200
    assert server.request("POST", "/", user="adam", headers=headers, body=body).status == 200
    assert server.get("/simple/mine/").status == 404


def test_a_too_large_upload_is_refused_before_it_is_sent(server: Server) -> None:
    credentials = f"Authorization: {authorization('alice')}\r\n".encode()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nExpect: 100-continue\r\n"
    response = server.raw(head + credentials + b"Content-Length: 999999999\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 413 ")


def test_a_too_large_file_is_refused_even_if_a_body_of_that_size_is_allowed(server: Server) -> None:
    body = form(action="file_upload", name="huge", version="1.0", content=("huge-1.0.tar.gz", bytes(9 * 1024 * 1024)))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert server.request("POST", "/", headers=headers, body=body).status == 413
    assert server.get("/simple/huge/").status == 404


def test_a_release_is_yanked_and_unyanked(server: Server) -> None:
    show(server, "wrong", "1.0")
    response = change(server, "/projects/Wrong/yank", {"version": "1.0", "reason": "breaks <b>"})
    assert (response.status, json.loads(response.body)["files"]) == (200, [wheel_name("wrong", "1.0")])
    (file,) = json.loads(server.get("/simple/wrong/", Accept=JSON).body)["files"]
    assert file["yanked"] == "breaks <b>"
    assert change(server, "/projects/wrong/unyank", {"filename": wheel_name("wrong", "1.0")}).status == 200
    (file,) = json.loads(server.get("/simple/wrong/", Accept=JSON).body)["files"]
    assert not file.get("yanked")


def test_a_quarantined_project_can_be_neither_listed_nor_downloaded(server: Server) -> None:
    show(server, "bad", "1.0")
    path = f"/packages/{wheel_name('bad', '1.0')}"
    assert change(server, "/projects/bad/status", {"status": "quarantined", "reason": "x"}, user="adam").status == 200
    page = json.loads(server.get("/simple/bad/", Accept=JSON).body)
    assert page["files"] == []
    assert page["project-status"] == {"status": "quarantined", "reason": "x"}
    assert server.get(path).status == 403
    assert server.get(path + ".metadata").status == 403
    assert change(server, "/projects/bad/status", {"status": "active"}, user="adam").status == 200
    assert server.get(path).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/projects/spam/yank", {}, 400),
        ("/projects/spam/yank", [], 400),
        ("/projects/spam/yank", {"version": 1}, 400),
        ("/projects/spam/yank", {"version": "1.0", "reason": "two\nlines"}, 400),
        ("/projects/spam/yank", {"version": "1.0", "reason": "x" * 2000}, 400),
        ("/projects/spam/yank", {"version": "1.0", "extra": "x"}, 400),
        ("/projects/spam/yank", {"version": "99"}, 404),
        ("/projects/nothing/yank", {"version": "1.0"}, 404),
        ("/projects/spam/status", {}, 400),
        ("/projects/spam/status", {"status": "sleeping"}, 400),
        ("/projects/../yank", {"version": "1.0"}, 404),
        ("/projects/spam/delete", {"version": "1.0"}, 405),
        ("/simple/", {}, 405),
    ],
)
def test_an_invalid_change_is_refused_with_an_explanation(server: Server, path: str, body: object, status: int) -> None:
    response = change(server, path, body)
    assert response.status == status
    assert len(response.text.strip().splitlines()) == 1


def test_a_change_must_be_json(server: Server) -> None:
    assert change(server, "/projects/spam/yank", {"version": "1.0"}, Content_Type="text/plain").status == 400
    headers = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"[" * 60_000, b"\xff", b"1" * 5_000):
        assert server.request("POST", "/projects/spam/yank", headers=headers, body=body).status == 400
    assert server.request("POST", "/projects/spam/yank", headers=headers, body=b" " * 100_000).status == 413


def test_a_reader_cannot_change_anything(server: Server) -> None:
    assert change(server, "/projects/spam/yank", {"version": "1.0"}, user="rea").status == 403
    assert change(server, "/projects/spam/status", {"status": "archived"}, user="rea").status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[", "Host": "x"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_make_a_browser_change_anything(server: Server, headers: dict[str, str]) -> None:
    response = change(server, "/projects/spam/yank", {"version": "1.0"}, **headers)
    assert response.status == 403
    assert upload(server, wheel_name("forged", "1.0"), wheel("forged", "1.0"), **headers).status == 403
    assert server.get("/simple/forged/").status == 404


def test_the_index_s_own_pages_can_make_changes(server: Server) -> None:
    show(server, "own", "1.0")
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": server.url.rstrip("/")}, {"Sec-Fetch-Site": "none"}):
        assert change(server, "/projects/own/yank", {"version": "1.0"}, **headers).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_are_not_allowed(server: Server, method: str) -> None:
    response = server.request(method, "/simple/spam/")
    assert response.status == 405
    assert "GET" in response["allow"]


# The admin application


def test_the_admin_application_needs_its_token_and_its_reference_a_login(server: Server) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/admin/docs", "/admin/openapi.json", "/admin/health"):
        assert server.get(path).status == 200
        assert server.request("GET", path, user=None, headers=bearer).status == 200
        assert server.request("GET", path, user=None, headers={"Authorization": "Bearer wrong"}).status == 401
    assert server.get("/admin/users", user="adam").status == 401
    users = json.loads(server.request("GET", "/admin/users", user=None, headers=bearer).body)
    assert {"username": "rea", "role": "reader", "projects": None} in users
    for path in ("/admin/users", "/admin/nothing"):
        assert server.request("GET", path, user=None, headers={"Authorization": "Bearer wrong"}).status == 401
    assert server.request("GET", "/admin/nothing", user=None, headers=bearer).status == 404


# Robustness


def test_requests_of_all_kinds_share_a_connection(server: Server) -> None:
    connection = server.connect()
    for _ in range(3):
        assert send_request(connection, "GET", "/simple/spam/").status == 200
        assert send_request(connection, "GET", "/simple/spam/", user=None).status == 401
        assert send_request(connection, "HEAD", "/simple/spam/").status == 200
        assert send_request(connection, "GET", "/simple/spam/", body=b"ignored").status == 200
        assert send_request(connection, "POST", "/nothing", body=b"ignored").status == 405
        assert send_request(connection, "GET", "/health", user=None).status == 200
    connection.close()


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    assert server.get("/simple/spam/").status == 200
    credentials = f"Authorization: {authorization('alice')}\r\nHost: x\r\n"
    paths = [
        "/simple/spam/",
        "/health",
        "/packages/spam-1.0-py3-none-any.whl",
        "/simple/spam/",
        "/nothing-here/",
        "/health",
    ]
    request = "".join(f"GET {path} HTTP/1.1\r\n{credentials}\r\n" for path in paths[:-1])
    request += f"GET {paths[-1]} HTTP/1.1\r\n{credentials}Connection: close\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(request.encode())
        response = b""
        while piece := connection.recv(65536):
            response += piece
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) [A-Z]", response)]
    assert statuses == [200, 200, 200, 200, 404, 200]


def test_an_http_1_0_client_gets_its_page_and_a_closed_connection(server: Server) -> None:
    assert server.get("/simple/spam/").status == 200
    credentials = f"Authorization: {authorization('alice')}\r\n"
    for line in ("GET /simple/spam/ HTTP/1.0\r\n", "GET /simple/spam/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"):
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            connection.sendall(f"{line}{credentials}\r\n".encode())
            response = b""
            while piece := connection.recv(65536):
                response += piece
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in response.lower()
        assert response.endswith(b"</html>\n")


def test_headers_that_never_end_are_cut_off(server: Server) -> None:
    with socket.socket() as connection:
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 16384
        )  # so that sent data does not just wait in a buffer
        connection.settimeout(60)
        connection.connect((server.host, server.port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 4 * 1024 * 1024:
                sent += connection.send(b"x" * 4096)
    assert sent < 1024 * 1024


@pytest.mark.parametrize(
    "line",
    [
        b"GET /%00 HTTP/1.1",
        b"GET /simple/%zz/ HTTP/1.1",
        b"GET /simple/%ff/ HTTP/1.1",
        b"GET /simple/\xc3\xa9/ HTTP/1.1",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET http://other.example/simple/spam/ HTTP/1.1",
        b"GET //simple//spam// HTTP/1.1",
        b"GET /simple/spam/#x HTTP/1.1",
        b"GET ? HTTP/1.1",
        b"GET /?\xff HTTP/1.1",
        b"GET /?q=%ff%00&q=2 HTTP/1.1",
        b"GET /packages/?\xc3\xa9=\xff HTTP/1.1",
        b"POST /RPC2?\xff HTTP/1.1",
        b"CONNECT x:1 HTTP/1.1",
        b"GET /simple/spam/ HTTP/9.9",
        b"GET /" + b"a/" * 20_000 + b" HTTP/1.1",
        b"\x00\x01\x02",
        b"GET /admin/..%2f HTTP/1.1",
        b"GET /admin/%00 HTTP/1.1",
    ],
)
def test_an_odd_request_line_is_not_a_server_error(server: Server, line: bytes) -> None:
    head = f"Host: x\r\nAuthorization: {authorization('alice')}\r\nContent-Length: 0\r\n\r\n".encode()
    response = server.raw(line + b"\r\n" + head)
    assert re.match(rb"HTTP/1\.1 [234]", response), response[:200]


_NAMES = st.sampled_from(
    [
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "Content-Length",
        "Content-Type",
        "Cookie",
        "Expect",
        "Host",
        "If-Match",
        "If-Modified-Since",
        "If-None-Match",
        "If-Range",
        "Origin",
        "Range",
        "Sec-Fetch-Site",
        "Transfer-Encoding",
        "Upgrade",
        "X-Forwarded-For",
        "X-Forwarded-Host",
    ]
)
_VALUES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"bytes=0-", b"*", b"chunked", b"gzip;q=1e9", b"-1", b"websocket", b"Basic ====", b"Bearer \xff", b"1, 2"]
    ),
)
_PATHS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda head, rest: head + rest,
        st.sampled_from(
            [b"", b"simple/", b"packages/", b"projects/", b"admin/", b"spam/", b"simple/spam/", b"?q=", b"legacy/"]
        ),
        st.sampled_from(
            [b"", b"spam", b"..", b"%2e%2e/", b"%00", b"%", b"\xff", b"spam-1.0-py3-none-any.whl", b"json", b"a" * 300]
        ),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"get"]),
    path=_PATHS,
    headers=st.lists(st.tuples(_NAMES, _VALUES), max_size=4),
    known=st.booleans(),
)
def test_no_path_or_header_makes_the_server_fail(
    server: Server, method: bytes, path: bytes, headers: list[tuple[str, bytes]], known: bool
) -> None:
    clean = re.sub(rb"[\r\n ]", b"", path)
    lines = [method + b" /" + clean + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    if known:
        lines.append(b"Authorization: " + authorization("alice").encode())
    lines += [name.encode() + b": " + re.sub(rb"[\r\n]", b"", value) for name, value in headers]
    if not any(name == "Content-Length" for name, _ in headers):
        lines.append(b"Content-Length: 0")
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        response = b""
        while piece := connection.recv(65536):
            response += piece
    assert not re.search(rb"^HTTP/1\.1 5", response), response[:300]
    assert response == b"" or re.match(rb"HTTP/1\.1 [1234]\d\d ", response)


_TEXT = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["file_upload", "remove_pkg", "doc_upload", "submit", "spam", "1.0", "", "../x", "\0", "a" * 5000]),
)
_FILENAMES = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["x-1.0.tar.gz", "../x-1.0.tar.gz", ".x-1.0.zip", "x-1.0-py3-none-any.whl", "x-1.0.tar.gz.asc", "x\0-1.zip"]
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    action=_TEXT,
    name=_TEXT,
    version=_TEXT,
    digest=_TEXT,
    filename=_FILENAMES,
    content=st.binary(max_size=100),
    boundary=st.sampled_from(["b", "bb", "", "b" * 300, '"', "b;x=y"]),
    cut=st.integers(0, 40),
)
def test_no_form_makes_the_server_fail_or_leaves_a_file(
    server: Server,
    action: str,
    name: str,
    version: str,
    digest: str,
    filename: str,
    content: bytes,
    boundary: str,
    cut: int,
) -> None:
    before = set(server.packages.iterdir())
    outside = {path for path in server.packages.parent.iterdir() if path.name != "server.log"}
    body = form(action=action, name=name, version=version, sha256_digest=digest, content=(filename, content))
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = server.request("POST", "/", headers=headers, body=body[: len(body) - cut])
    assert response.status < 500, response.text
    assert set(server.packages.iterdir()) - before <= {server.packages / ".index"}
    assert {path for path in server.packages.parent.iterdir() if path.name != "server.log"} == outside
