"""Upper bound for a package server: pre-rendered static files served by nginx."""

from __future__ import annotations

import gzip
import json
import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmark.corpus import Corpus, Wheel
from tests.benchmark.machine import program_version
from tests.benchmark.servers import HOST, Login, Server

NGINX = "nginx"


@dataclass(frozen=True)
class Nginx:
    """The upper bound: static PEP 691, 503 and 658 files served by nginx, by default without authentication.

    Parameters:
        login: one of *users*, or None.
        users: an ``.htpasswd`` of users who may read; None for no authentication.
    """

    name: str = NGINX
    login: Login | None = None
    users: Path | None = None

    def missing(self) -> str:
        """Why it cannot take part; empty if nginx is on PATH."""
        return "" if shutil.which("nginx") else "nginx is not on PATH: install it, and run the benchmark again"

    def version(self) -> str:
        """Version of the nginx on PATH."""
        return program_version(["nginx", "-v"], r"nginx/([\d.]+)")

    def prepare(self, folder: Path, corpus: Corpus) -> None:
        """Write every page and metadata file."""
        packages = folder / "site/packages"
        corpus.link(packages)
        for wheel in corpus.wheels:
            (packages / f"{wheel.filename}.metadata").write_bytes(wheel.metadata)
        for name, wheels in corpus.projects.items():
            write_static_page(folder / "site/simple" / name, name, wheels)
        write_static_root(folder / "site/simple", list(corpus.projects))

    def add(self, folder: Path, wheel: Wheel, source: Path) -> None:
        """Add the file and rewrite its project's page."""
        os.link(source, folder / "site/packages" / wheel.filename)
        write_static_page(folder / "site/simple" / wheel.project, wheel.project, (wheel,))

    def server(self, folder: Path, port: int) -> Server:
        """nginx in the foreground, with all of its files below *folder*."""
        run = folder / "run"
        run.mkdir(parents=True, exist_ok=True)
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
        auth = "" if self.users is None else f"auth_basic bench; auth_basic_user_file {self.users};"
        configuration = _NGINX.format(user=user, host=HOST, port=port, site=folder / "site", run=run, auth=auth)
        (run / "nginx.conf").write_text(configuration)
        command = [shutil.which("nginx") or "nginx", "-e", "stderr", "-p", str(run), "-c", str(run / "nginx.conf")]
        return Server(self.name, command, folder=run, port=port, login=self.login)


def write_static_page(folder: Path, project: str, wheels: tuple[Wheel, ...]) -> None:
    """Write a project's page as JSON (PEP 691 and 700) and HTML (PEP 503)."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        {
            "filename": wheel.filename,
            "url": f"../../packages/{wheel.filename}",
            "hashes": {"sha256": wheel.sha256},
            "size": wheel.size,
            "upload-time": "2024-01-01T00:00:00.000000Z",
            "requires-python": ">=3.8",
            "core-metadata": {"sha256": wheel.metadata_sha256},
        }
        for wheel in wheels
    ]
    page: Mapping[str, object] = {
        "meta": {"api-version": "1.1"},
        "name": project,
        "versions": sorted({wheel.version for wheel in wheels}),
        "files": files,
    }
    content = json.dumps(page, separators=(",", ":")).encode()
    (folder / "index.json").write_bytes(content)
    (folder / "index.json.gz").write_bytes(gzip.compress(content, 6))
    anchors = "".join(
        f'<a href="../../packages/{wheel.filename}#sha256={wheel.sha256}" data-requires-python="&gt;=3.8" '
        f'data-core-metadata="sha256={wheel.metadata_sha256}">{wheel.filename}</a><br>\n'
        for wheel in wheels
    )
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{anchors}</body></html>\n")


def write_static_root(folder: Path, projects: list[str]) -> None:
    """Write the list of projects in both formats."""
    page = {"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in projects]}
    (folder / "index.json").write_text(json.dumps(page, separators=(",", ":")))
    anchors = "".join(f'<a href="{name}/">{name}</a><br>\n' for name in projects)
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{anchors}</body></html>\n")


_NGINX = """\
daemon off;
{user}
worker_processes auto;
pid {run}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  open_file_cache max=10000 inactive=600s;
  open_file_cache_valid 600s;
  client_body_temp_path {run}/body;
  proxy_temp_path {run}/proxy;
  fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi;
  scgi_temp_path {run}/scgi;
  map $http_accept $form {{
    default html;
    "~application/vnd\\.pypi\\.simple\\.v1\\+json" json;
  }}
  server {{
    listen {host}:{port} backlog=1024;
    root {site};
    {auth}
    location /simple/ {{
      types {{ text/html html; application/vnd.pypi.simple.v1+json json; }}
      add_header Vary Accept;
      gzip_static on;
      try_files ${{uri}}index.$form =404;
    }}
    location /packages/ {{ types {{}} default_type application/octet-stream; }}
  }}
}}
"""
