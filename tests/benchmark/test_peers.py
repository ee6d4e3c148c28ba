"""All contenders serve the same files; uploads, downloads and installs work on each."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

import pytest

from ops.errors import ClientError, IndexRequestError
from tests.benchmark.corpus import Corpus, write_large_wheel
from tests.benchmark.installs import Installer
from tests.benchmark.nginx import NGINX
from tests.benchmark.peers import Peer
from tests.benchmark.servers import HOST, Server
from tests.benchmark.toolbox import Toolbox
from tests.benchmark.transfers import download, file_path, upload
from tests.benchmark.uploads import Uploader, durable_writes

Serve = Callable[[Peer], Server]


def test_every_contender_serves_every_file_of_the_corpus(peers: list[Peer], serve: Serve, corpus: Corpus) -> None:
    for peer in peers:
        server = serve(peer)
        for project, wheels in corpus.projects.items():
            page = server.get(f"{server.index_path}{project}/").decode()
            assert set(re.findall(r"bench_\w+-[\d.]+-py3-none-any\.whl", page)) == {wheel.filename for wheel in wheels}
            for wheel in wheels:
                download(server, file_path(server, wheel), wheel, check=True)


def test_core_metadata_is_served_where_announced_on_the_page(peers: list[Peer], serve: Serve, corpus: Corpus) -> None:
    wheel = corpus.wheels[0]
    for peer in peers:
        server = serve(peer)
        if b"core-metadata" in server.get(f"{server.index_path}{wheel.project}/"):
            path = file_path(server, wheel)
            assert server.get(urljoin(path, f"{path}.metadata"), accept="*/*") == wheel.metadata


def test_contenders_with_a_login_refuse_anonymous_requests(peers: list[Peer], serve: Serve) -> None:
    for peer in peers:
        server = serve(peer)
        connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
        connection.request("GET", server.index_path)
        assert connection.getresponse().status == (200 if peer.login is None else 401)
        connection.close()


def test_uv_installs_from_every_contender_and_a_missing_package_is_an_error(
    peers: list[Peer], serve: Serve, toolbox: Toolbox, tmp_path: Path
) -> None:
    for peer in peers:
        server = serve(peer)
        assert Installer(toolbox.uv, tmp_path, 3).install(server, at_once=2) > 0
    with pytest.raises(ClientError, match="4 of 6 distributions"):
        Installer(toolbox.uv, tmp_path, 5).install(server)


def test_small_uploads_are_counted_and_listed_afterwards(peers: list[Peer], serve: Serve) -> None:
    for peer in peers:
        if peer.name == NGINX:
            continue
        server = serve(peer)
        uploader = Uploader(server, most=6)
        assert uploader.measure(connections=2, seconds=30).good == 6
        assert uploader.measure(connections=2, seconds=30).good == 6
        assert b"bench_upload_11-1.0" in server.get(f"{server.index_path}bench-upload-11/")


def test_a_large_file_is_uploaded_and_downloaded(peers: list[Peer], serve: Serve, tmp_path: Path) -> None:
    wheel = write_large_wheel(tmp_path, "bench-large", "1.0", size=5_000_000)
    for peer in peers:
        if peer.name == NGINX:
            continue
        server = serve(peer)
        assert upload(server, wheel, tmp_path / wheel.filename) > 0
        assert download(server, file_path(server, wheel), wheel, check=True) > 0
        with pytest.raises(IndexRequestError):
            download(server, "/packages/nothing.whl", wheel)


def test_the_disk_measurement_writes_complete_files(tmp_path: Path) -> None:
    assert durable_writes(tmp_path, threads=2, seconds=0.05) > 0
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {21_000}


def test_the_peers_programs_are_pinned_with_hashes(tmp_path: Path) -> None:
    toolbox = Toolbox(tmp_path)
    assert toolbox.missing("devpi")
    assert toolbox.version("stock", "pypiserver")
    assert toolbox.version("stock", "gunicorn")
    assert toolbox.version("devpi", "devpi-server")
    assert toolbox.version("peryx", "peryx")
