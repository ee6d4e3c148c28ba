"""``python -m ops.index`` as seen by its operator."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ops.index.__main__ import _parser, main
from ops.index.startup import admin_token, check_apart, served_directory
from tests.index.archives import wheel, wheel_name
from tests.index.serving import ROOT, TOKEN, Server, authorization


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.index", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Start in this process, which must fail at once; returns the message."""
    assert main(["--port", "0", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    return err


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return ["--packages", str(tmp_path / "packages"), "--credentials", str(tmp_path / "credentials")]


def test_it_starts_with_nothing_at_all(tmp_path: Path) -> None:
    """No folder, no users, no .htpasswd: it creates the folders and refuses everyone until there is a user."""
    folder = tmp_path / "not" / "there"
    server = Server(tmp_path / "unused")
    server.packages, server.credentials = folder / "packages", folder / "credentials"
    with server:
        assert server.get("/health", user=None).status == 200
        assert server.get("/simple/").status == 401
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        body = json.dumps({"username": "alice", "password": "correct horse battery"}).encode()
        assert server.request("POST", "/admin/register_user", user=None, headers=headers, body=body).status == 201
        assert server.get("/simple/").status == 200


def test_it_prints_its_address_and_nothing_else(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*/", server.url)
        assert server.get("/simple/").status == 200
        server.get("/projects/nothing/")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=60)[0] == ""
        assert server.process.returncode == 0
        assert server.log.read_text() == ""
        server.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_exits_cleanly_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    server = Server(tmp_path)
    server.start()
    assert server.get("/simple/").status == 200
    idle = socket.create_connection((server.host, server.port))
    assert server.stop(number) == 0
    idle.close()
    assert server.log.read_text() == "", "no request outlasted the grace period"


def test_a_download_in_progress_finishes_before_the_server_exits(tmp_path: Path) -> None:
    server = Server(tmp_path)
    size = 30 * 1024 * 1024
    (server.packages / "big-1.0.tar.gz").write_bytes(bytes(size))
    server.start()
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        head = f"GET /packages/big-1.0.tar.gz HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization('alice')}\r\n\r\n"
        connection.sendall(head.encode())
        received = len(connection.recv(1000))
        ending = threading.Thread(target=server.stop)
        ending.start()
        time.sleep(0.3)
        while piece := connection.recv(1024 * 1024):
            received += len(piece)
        ending.join()
    assert received > size


def test_without_a_token_there_is_no_admin_application(tmp_path: Path) -> None:
    server = Server(tmp_path)
    command = [sys.executable, "-m", "ops.index", "--packages", str(server.packages), "--port", "0"]
    with subprocess.Popen(
        [*command, "--credentials", str(server.credentials)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    ) as server.process:
        assert server.process.stdout is not None
        server.host, server.port = "127.0.0.1", int(server.process.stdout.readline().strip("/\n").rpartition(":")[2])
        assert server.get("/admin/docs").status == 404
        assert server.get("/admin/docs", user=None).status == 401
        server.process.terminate()


def test_the_token_comes_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "token.env"
    path.touch(mode=0o600)
    path.write_text(f"# kept here\nOTHER=x\nexport AUTH_TOKEN='{TOKEN}-of-the-file'\n")
    with Server(tmp_path, "--admin-token-file", str(path)) as server:
        headers = {"Authorization": f"Bearer {TOKEN}-of-the-file"}
        assert server.request("GET", "/admin/users", user=None, headers=headers).status == 200
        environment = Path(f"/proc/{server.process.pid}/environ")
        assert f"{TOKEN}-of-the-file" not in environment.read_text()
    path.chmod(0o644)
    with Server(tmp_path, "--admin-token-file", str(path)) as server:
        assert "chmod 600" in server.log.read_text()


def test_a_token_file_without_a_token_is_an_error(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "token.env"
    assert "cannot be read" in refused(capsys, *folders, "--admin-token-file", str(path))
    for content in (b"", b"AUTH_TOKEN=\n", b"TOKEN=x\n", b"\xff\xfe"):
        path.write_bytes(content)
        assert str(path) in refused(capsys, *folders, "--admin-token-file", str(path))
    assert "directory" in refused(capsys, *folders, "--admin-token-file", str(tmp_path))


@pytest.mark.parametrize(
    "token", ["too-short", "x" * 15, "with a space in it somewhere", "ümlauts-cannot-be-sent-at-all"]
)
def test_a_guessable_or_unsendable_token_is_an_error(
    tmp_path: Path,
    folders: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str,
) -> None:
    path = tmp_path / "token.env"
    path.touch(mode=0o600)
    path.write_text(f"AUTH_TOKEN={token}\n")
    said = refused(capsys, *folders, "--admin-token-file", str(path))
    monkeypatch.setenv("AUTH_TOKEN", token)
    assert token not in said + refused(capsys, *folders)
    assert "AUTH_TOKEN" not in os.environ


def test_a_line_break_after_the_token_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTH_TOKEN", f"{TOKEN}\n")
    assert admin_token(None) == TOKEN


def test_a_taken_port_is_reported_in_one_sentence(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(capsys, *folders, "--port", port)
    assert port in said
    assert "in use" in said


def test_a_new_folder_of_credentials_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        credentials = served_directory(tmp_path / "credentials", "credentials")
    finally:
        os.umask(before)
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o700


def test_an_unusable_directory_is_reported_in_one_sentence(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for unusable in (file, file / "below"):
        said = refused(capsys, "--packages", str(unusable), "--credentials", str(tmp_path))
        assert str(unusable) in said


@pytest.mark.parametrize("link", [".index", ".index/pages", ".index/status"])
def test_an_index_that_would_write_elsewhere_through_a_link_is_not_served(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str], link: str
) -> None:
    linked = Path(folders[folders.index("--packages") + 1]) / link
    linked.parent.mkdir(parents=True, exist_ok=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    linked.symlink_to(elsewhere)
    assert f"{linked} is a symbolic link" in refused(capsys, *folders)
    assert not list(elsewhere.iterdir())


def test_packages_and_credentials_cannot_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for packages, credentials in [(".", "."), (".", "link"), ("a", "."), (".", "a"), ("a/b", "a")]:
        folders = ("--packages", str(tmp_path / packages), "--credentials", str(tmp_path / credentials))
        assert "overlap" in refused(capsys, *folders)
    check_apart(tmp_path, tmp_path / ".credentials")


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user to run as")
def test_another_user_s_directory_is_reported_in_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "mine").mkdir(mode=0o700)
    for folder in (tmp_path / "mine", tmp_path / "mine" / "new"):
        code = (
            "import os, sys; from ops.index.__main__ import main\n"
            # Imported first: the other user may not be able to read them.
            "import encodings.idna, resource, ops.index.early_login, ops.index.storage.directory\n"
            "try: main(['--help'])\n"
            "except SystemExit: os.setgid(65534); os.setuid(65534)\n"
            f"sys.exit(main(['--port', '0', '--packages', {str(folder)!r}, '--credentials', {str(folder)!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert str(folder) in done.stderr


def test_an_invalid_address_is_reported_in_one_sentence(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "192.0.2.1" in refused(capsys, *folders, "--host", "192.0.2.1", "--port", "0")
    assert "a b" in refused(capsys, *folders, "--host", "a b", "--port", "0")
    assert "empty" in refused(capsys, *folders, "--host", "", "--port", "0")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "x"],
        ["--port", "70000"],
        ["--max-upload-size", "much"],
        ["--max-upload-size", "0"],
        ["--refresh-seconds", "-1"],
        ["--bcrypt-rounds", "4"],
        ["--realm", 'a"b'],
        ["--trusted-proxy", "proxy.internal"],
        ["--trusted-proxy", "127.0.0.1:443"],
        ["--trusted-proxy", "10.0.0.1/8"],
        ["--trusted-proxy", "127.0.0.1,10.0.0.1"],
        ["--trusted-proxy", ""],
        ["--max-connections", "15"],
        ["--max-connections", "many"],
        ["--max-connections-per-address", "0"],
        ["--packages", ""],
        ["--credentials", ""],
        ["--admin-token-file", ""],
        ["--nonsense"],
    ],
)
def test_a_wrong_option_is_explained(
    folders: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*folders, *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
from ops.index.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("content", "why"), [(None, "an existing file"), ("{}", "trusted_root.json")])
def test_an_invalid_trusted_root_is_refused(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str], content: str | None, why: str
) -> None:
    root = tmp_path / "root.json"
    if content is not None:
        root.write_text(content)
    assert why in refused(capsys, *folders, "--trusted-root", str(root))


@pytest.mark.parametrize(
    ("limit", "arguments", "sentence"),
    [
        (128, [], "this process may open 128 files, too few for 16 connections: raise its hard limit to 8320"),
        (1024, ["--max-connections", "1000"], "or use --max-connections 448 or less"),
        (1024, ["--max-connections", "100", "--max-connections-per-address", "101"], "more than the 100 connections"),
        (1024, ["--max-connections-per-address", "449"], "more than the 448 connections in total"),
    ],
)
def test_more_connections_than_file_descriptors_allow_are_refused(
    folders: list[str], limit: int, arguments: list[str], sentence: str
) -> None:
    code = LIMITED.format(limit=limit)
    command = [sys.executable, "-c", code, *folders, "--port", "0", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert sentence in done.stderr


@pytest.mark.parametrize(("seconds", "taken"), [("0.09", False), ("0.1", True), ("60", True), ("60.1", False)])
def test_the_interval_of_file_checks_is_bounded(
    folders: list[str], capsys: pytest.CaptureFixture[str], seconds: str, taken: bool
) -> None:
    arguments = [*folders, "--refresh-seconds", seconds]
    if taken:
        assert _parser().parse_args(arguments).refresh_seconds == float(seconds)
        return
    with pytest.raises(SystemExit) as ended:
        _parser().parse_args(arguments)
    assert ended.value.code == 2
    assert "0.1 to 60 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "taken"), [("0", True), ("3600", True), ("3601", False), ("1.5", False)])
def test_the_maximum_age_of_pages_is_an_hour(
    folders: list[str], capsys: pytest.CaptureFixture[str], seconds: str, taken: bool
) -> None:
    arguments = [*folders, "--page-max-age", seconds]
    if taken:
        assert _parser().parse_args(arguments).page_max_age == int(seconds)
        return
    with pytest.raises(SystemExit):
        _parser().parse_args(arguments)
    assert "seconds from 0 to 3600" in capsys.readouterr().err


def test_the_help_lists_every_option_without_importing_a_server() -> None:
    done = run("--help")
    assert done.returncode == 0
    for option in ("--packages", "--directory", "--credentials", "--host", "--port", "--admin-token-file"):
        assert option in done.stdout
    code = "import sys; from ops.index.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('uvicorn' in sys.modules or 'bcrypt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_first_page_needs_no_heavy_imports(tmp_path: Path) -> None:
    """FastAPI, pypiserver, Jinja2 and docutils are imported after the first requests, or when needed."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / wheel_name("spam", "1.0")).write_bytes(wheel("spam", "1.0"))
    code = f"""
import sys, threading
from ops.index import DirectoryStorage, create_index
import ops.index.server
create_index(packages=DirectoryStorage({str(tmp_path / "packages")!r}),
             credentials=DirectoryStorage({str(tmp_path / "credentials")!r}), admin_token="x")
print(sorted({{"fastapi", "pypiserver", "jinja2", "docutils", "pydantic", "requests"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("host", "told"), [("::1", "[::1]"), ("0.0.0.0", "127.0.0.1")])
def test_it_can_listen_on_another_address(tmp_path: Path, host: str, told: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        pytest.skip(f"{host} cannot be had here: {error}")
    with Server(tmp_path, "--host", host) as server:
        assert server.url.startswith(f"http://{told}:")
        server.host = told.strip("[]")
        assert server.get("/simple/").status == 200


def test_a_forwarded_address_is_only_believed_from_a_trusted_proxy(tmp_path: Path) -> None:
    def logged(server: Server) -> str:
        server.request("GET", "/simple/", password="wrong", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"})
        server.stop()
        return "".join(path.read_text() for path in (server.packages / ".index" / "audit").iterdir())

    plain = Server(tmp_path / "plain")
    plain.start()
    assert '"address": "127.0.0.1"' in logged(plain)
    proxied = Server(tmp_path / "proxied", "--trusted-proxy", "127.0.0.1")
    proxied.start()
    assert '"address": "198.51.100.7"' in logged(proxied)
    network = Server(tmp_path / "network", "--trusted-proxy", "127.0.0.0/8", "--trusted-proxy", "198.51.100.0/24")
    network.start()
    assert '"address": "203.0.113.9"' in logged(network)
    assert network.log.read_text() == ""


def test_an_untrusted_proxy_is_logged_once(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        for _ in range(3):
            server.get("/simple/nothing/", X_Forwarded_For="203.0.113.9")
        said = server.log.read_text()
    assert said.count("X-Forwarded-For") == 1
    assert "--trusted-proxy 127.0.0.1" in said


def test_permanent_objects_are_excluded_from_garbage_collection() -> None:
    """In a separate process, because it is irreversible."""
    code = (
        "import gc; from ops.index import __main__ as main; gc.disable(); main._spare_the_collector();"
        "print(gc.isenabled(), gc.get_freeze_count() > 1000, gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "10000"]
