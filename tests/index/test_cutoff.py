"""pip excludes later uploads by the upload times on a page (PEP 700)."""

from __future__ import annotations

import importlib.metadata
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from packaging.version import Version

from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, Server
from tests.index.test_app import upload
from tests.index.test_clients import Client

OPTION = "--uploaded-prior-to"


@pytest.mark.skipif(
    Version(importlib.metadata.version("pip")) < Version("26.0"),
    reason=f"pip has {OPTION} from 26.0 on; uv's --exclude-newer is tested with the other clients",
)
def test_pip_only_considers_files_uploaded_before_a_given_time(tmp_path: Path) -> None:
    with Server(tmp_path / "server") as server, Client(server, tmp_path / "machine") as client:
        began = datetime.now(UTC)
        for version in ("1.0", "2.0"):
            assert upload(server, wheel_name("dated", version), wheel("dated", version)).status == 200
        ended = datetime.now(UTC)
        files = json.loads(server.get("/simple/dated/", Accept=JSON).body)["files"]
        first, second = (file["upload-time"] for file in files)
        assert began < datetime.fromisoformat(first) < datetime.fromisoformat(second) < ended

        def download(moment: str, *, fails: bool = False) -> str:
            options = ["--no-deps", "--dest", f"before-{moment}", OPTION, moment]
            return client.pip("download", *options, "dated", fails=fails)

        later = (ended + timedelta(seconds=1)).isoformat()
        for moment, version in ((second, "1.0"), (later, "2.0")):
            download(moment)
            (got,) = (client.home / f"before-{moment}").iterdir()
            assert got.name == f"dated-{version}-py3-none-any.whl"
        assert "No matching distribution" in download(first, fails=True)
