"""Admins read metrics of the server; downloads of every kind are counted in them and in the files."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ops.index.activity import FOLDER
from ops.targets.index_files import download_counts
from tests.index.archives import wheel, wheel_name
from tests.index.serving import Server
from tests.index.test_app import upload

NAME, OTHER = wheel_name("spam", "1.0"), wheel_name("eggs", "1.0")


def metrics(server: Server) -> dict[tuple[str, str], float]:
    """The values of the index's own metrics, by name and label."""
    response = server.request("GET", "/metrics", user="adam")
    assert response.status == 200
    samples = [sample for family in text_string_to_metric_families(response.body.decode()) for sample in family.samples]
    assert any(sample.name == "process_resident_memory_bytes" for sample in samples)
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for sample in samples
        if sample.name.startswith("pypi_index_")
    }


def test_every_download_is_counted_once_with_its_user_address_and_client(tmp_path: Path) -> None:
    with Server(tmp_path, "--trusted-proxy", "127.0.0.1") as server:
        assert upload(server, NAME, wheel("spam", "1.0")).status == 200
        assert upload(server, OTHER, wheel("eggs", "1.0", payload=os.urandom(200_000))).status == 200
        pip = {"User-Agent": "pip/26.3", "X-Forwarded-For": "192.0.2.1"}
        for name in (NAME, OTHER):  # a small file takes the fast path, a large one does not
            for _ in range(3):
                assert server.request("GET", f"/packages/{name}", headers=pip).status == 200
        uv = {"User-Agent": "uv/0.13.9", "X-Forwarded-For": "192.0.2.2"}
        etag = server.request("GET", f"/packages/{NAME}", user="adam", headers=uv).headers["etag"]
        for unlike in ({"If-None-Match": etag}, {"Range": "bytes=5-"}):
            assert server.request("GET", f"/packages/{NAME}", headers=uv | unlike).status in {206, 304}
        assert server.request("HEAD", f"/packages/{NAME}", headers=uv).status == 200
        assert server.request("GET", f"/packages/{NAME}.metadata", headers=uv).status == 200

        found = metrics(server)
        assert found["pypi_index_downloads_total", "pip"] == 6
        assert found["pypi_index_downloads_total", "uv"] == 1
        assert found["pypi_index_events_total", "upload"] == 2
        assert (found["pypi_index_files", ""], found["pypi_index_projects", ""]) == (2, 2)

    (file,) = (server.packages / FOLDER).iterdir()
    rows = list(download_counts(file.read_bytes()))
    counted = sorted((row.file, row.user, row.address, row.client, row.downloads) for row in rows if row.file)
    assert counted == [
        (OTHER, "alice", "192.0.2.1", "pip", 3),
        (NAME, "adam", "192.0.2.2", "uv", 1),
        (NAME, "alice", "192.0.2.1", "pip", 3),
    ]
    assert {row.user for row in rows if not row.file} == {"adam", "alice"}


def test_only_admins_read_the_metrics(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.request("GET", "/metrics", user=None).status == 401
        assert server.request("GET", "/metrics").status == 403
        assert server.request("HEAD", "/metrics", user="adam").status == 200
        assert server.request("POST", "/metrics", user="adam", body=b"").status == 405
