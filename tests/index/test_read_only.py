"""A server with read-only directories, over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from urllib3.filepost import encode_multipart_formdata

from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, TOKEN, Server, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Mounted read-only if allowed, because root ignores modes; otherwise by mode."""
    server = Server(tmp_path_factory.mktemp("read-only"))
    name = wheel_name("spam", "1.0")
    (server.packages / name).write_bytes(wheel("spam", "1.0"))
    name_locks = server.packages / ".index" / "claims"
    name_locks.mkdir(parents=True)
    (name_locks / name).touch()  # of a killed server
    folders = [str(server.packages), str(server.credentials)]
    wrapper: list[str] = []
    if os.getuid() == 0:
        mounts = "".join(
            f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}' && " for folder in folders
        )
        wrapper = ["unshare", "--mount", "sh", "-c", f'{mounts} exec "$@"', "sh"]
        if subprocess.run([*wrapper[:4], mounts + " true"], capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
    else:
        for folder in folders:
            Path(folder).chmod(0o555)
    server.start(*wrapper)
    yield server
    server.stop()
    for folder in folders:
        Path(folder).chmod(0o755)


def test_its_log_says_at_start_what_is_disabled(server: Server) -> None:
    lines = server.log.read_text().splitlines()
    assert any(f"{server.packages} cannot be written" in line and "uploads" in line for line in lines)
    assert any(f"{server.credentials} cannot be written" in line and "users" in line for line in lines)


def test_everything_can_be_read(server: Server) -> None:
    (file,) = json.loads(server.get("/simple/spam/", Accept=JSON).body)["files"]
    assert server.get("/simple/").status == 200
    assert server.get(f"/packages/{file['filename']}").body == wheel("spam", "1.0")
    metadata = server.get(f"/packages/{file['filename']}.metadata")
    assert (metadata.status, b"Name: spam" in metadata.body) == (200, True)
    for path in ("/", "/projects/spam/", "/spam/json", "/packages/"):
        assert server.get(path).status == 200


def test_an_upload_is_refused_with_a_sentence_and_the_index_keeps_working(server: Server) -> None:
    file = (wheel_name("eggs", "1.0"), wheel("eggs", "1.0"))
    body, content_type = encode_multipart_formdata(
        [(":action", "file_upload"), ("name", "eggs"), ("version", "1.0"), ("content", file)]
    )
    response = server.request("POST", "/", headers={"Content-Type": content_type}, body=body)
    assert response.status == 403
    assert "cannot write its directory" in response.text
    assert server.get("/simple/eggs/").status == 404
    assert server.get("/simple/spam/").status == 200


def test_a_yank_and_a_new_user_are_refused_with_a_sentence(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    response = server.request("POST", "/projects/spam/yank", headers=headers, body=b'{"version": "1.0"}')
    assert (response.status, "cannot write its directory" in response.text) == (403, True)
    body = json.dumps({"username": "bob", "password": "correct horse battery"}).encode()
    headers["Authorization"] = f"Bearer {TOKEN}"
    response = server.request("POST", "/admin/register_user", user=None, headers=headers, body=body)
    assert (response.status, "cannot write its directory" in response.text) == (403, True)


def test_a_wrong_login_is_refused_and_the_failure_to_record_it_is_logged_once(server: Server) -> None:
    for password in ("one", "two"):
        assert server.request("GET", "/simple/", password=password).status == 401
    eventually(lambda: "ops.index.auth.audit" in server.log.read_text())
    assert server.request("GET", "/simple/", password="three").status == 401
    assert server.log.read_text().count("ops.index.auth.audit") == 1
    assert server.log.read_text().count("Traceback") == 0
