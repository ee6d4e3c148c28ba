"""The admin application mounted below the index: guesses of its token there are logged and throttled too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.index.auth.audit import ADMIN_FOLDER
from tests.index.serving import TOKEN, Server


@pytest.mark.parametrize("path", ["/admin/docs", "/admin/openapi.json"])
def test_a_wrong_token_for_the_documentation_is_logged_once_and_never_shown(tmp_path: Path, path: str) -> None:
    server = Server(tmp_path)
    server.start()
    assert server.get(path, user=None).status == 401
    assert server.get(path, user=None, Authorization=f"Bearer {TOKEN}").status == 200
    answers = [server.get(path, user=None, Authorization=f"Bearer wrong-{n}") for n in range(10)]
    while answers[-1].status != 429:  # each guess doubles the wait, so eventually one is not over yet
        answers.append(server.get(path, user=None, Authorization=f"Bearer wrong-{len(answers)}"))
    assert {answer.status for answer in answers[:-1]} == {401}
    assert answers[0]["www-authenticate"].startswith("Basic realm=")
    assert server.get(path).status == 200
    server.stop()
    text = "".join(file.read_text() for file in (server.credentials / ADMIN_FOLDER).iterdir())
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["event"], line["address"], line.get("more")) for line in lines] == [
        ("admin.refused", "127.0.0.1", None),
        ("admin.throttled", "127.0.0.1", None),
        ("admin.refused", "127.0.0.1", len(answers) - 2),
    ]
    assert "wrong-" not in text
    assert TOKEN not in text


def test_a_guess_counts_wherever_it_is_made(tmp_path: Path) -> None:
    """The documentation and the users share one throttle: ten guesses are free in total, not ten each."""
    paths = ("/admin/docs", "/admin/users", "/admin/openapi.json", "/admin/health")
    statuses: list[int] = []
    with Server(tmp_path) as server:
        while set(statuses[-4:]) != {429}:  # each guess doubles the wait, so eventually one is as long as four requests
            path = paths[len(statuses) % 4]
            statuses.append(server.get(path, user=None, Authorization=f"Bearer wrong-{len(statuses)}").status)
        for path in paths:
            assert server.get(path, user=None, Authorization=f"Bearer {TOKEN}").status == 200
    assert statuses[:10] == [401] * 10
    assert statuses.count(401) < 20
    lines = [
        json.loads(line)
        for path in (server.packages / ".index" / "audit", server.credentials / ADMIN_FOLDER)
        for file in path.rglob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    counted = [(line["event"], line.get("more", 1)) for line in lines]
    assert sum(number for event, number in counted if event == "admin.refused") == statuses.count(401)
    assert sum(number for event, number in counted if event == "admin.throttled") == statuses.count(429)
