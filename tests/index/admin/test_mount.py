"""The admin application below the index: who tries its token there leaves a line too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.index.serving import TOKEN, Server


@pytest.mark.parametrize("path", ["/admin/docs", "/admin/openapi.json"])
def test_a_wrong_token_for_the_documentation_is_noted_once_and_never_shown(tmp_path: Path, path: str) -> None:
    server = Server(tmp_path)
    server.start()
    assert server.get(path, user=None).status == 401
    assert server.get(path, user=None, Authorization=f"Bearer {TOKEN}").status == 200
    answers = [server.get(path, user=None, Authorization=f"Bearer wrong-{n}") for n in range(12)]
    assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
    assert answers[0]["www-authenticate"].startswith("Basic realm=")
    assert server.get(path).status == 200
    server.stop()
    text = "".join(file.read_text() for file in (server.packages / ".index" / "audit").iterdir())
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["event"], line["address"], line.get("more")) for line in lines] == [
        ("admin.refused", "127.0.0.1", None),
        ("admin.throttled", "127.0.0.1", None),
        ("admin.refused", "127.0.0.1", 9),
        ("admin.throttled", "127.0.0.1", 1),
    ]
    assert "wrong-" not in text
    assert TOKEN not in text
