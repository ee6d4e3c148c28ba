"""The fake control plane follows Modal's rules; otherwise tests on it would prove little."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import modal
import psutil
import pytest
import requests
from grpclib import Status

from tests.modal.conftest import deploy, run_modal
from tests.modal.traffic import eventually
from tests.standin.control_plane import ControlPlane

PROBE = Path(__file__).parent / "probe" / "probe_deploy.py"


@pytest.fixture(scope="module")
def probe(plane: ControlPlane) -> ControlPlane:
    source = plane.directory / "probe.json"
    source.write_text('{"PROBE_SECRET": "the-probes-secret"}')
    assert run_modal(plane, "secret", "create", "probe-secret", "--from-json", str(source)).returncode == 0
    deploy(plane, PROBE)
    return plane


@pytest.fixture(autouse=True)
def one_container(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "probe" in request.fixturenames:
        plane: ControlPlane = request.getfixturevalue("probe")
        plane.pool(plane.function("server", app="probe").function_id).scaled_to = 0
        for container in plane.live()[1:]:
            plane.run(container.drain())
        plane.volumes.failing.clear()
        plane.volumes.window_seconds, plane.background_commit_seconds = 0.02, 2
        plane.redirect_seconds, plane.overlap_seconds = 150, 0


def get(plane: ControlPlane, path: str, function: str = "server", **options: Any) -> requests.Response:
    return requests.post(f"{plane.function(function, app='probe').web_url}/{path}", timeout=120, **options)


def from_each(plane: ControlPlane, path: str, count: int) -> dict[str, Any]:
    responses: dict[str, Any] = {}

    def all_have_responded() -> bool:
        response = get(plane, path).json()
        responses.setdefault(response["task"], response)
        return len(responses) == count

    eventually(all_have_responded)
    return responses


def committed(plane: ControlPlane) -> set[str]:
    volume = plane.volumes.named("probe-data", "main")
    assert volume is not None
    return set(volume.revisions)


def test_a_container_has_the_deployed_code_and_none_of_our_variables(probe: ControlPlane) -> None:
    response = get(probe, "where").json()
    assert response["file"] == "/root/probe_deploy.py"
    assert response["cwd"] == "/root"
    assert response["variables"]["PROBE"] == "set by the image"
    assert "PROBE_SECRET" not in response["variables"], "only the function that asked for the secret has it"
    assert "PYTEST_CURRENT_TEST" not in response["variables"]


def test_a_requests_scope_has_the_fields_of_modals_protocol(probe: ControlPlane) -> None:
    assert get(probe, "x").json()["scope"] == [
        "client",
        "extensions",
        "headers",
        "http_version",
        "method",
        "path",
        "query_string",
        "scheme",
        "state",
        "type",
    ]


def test_a_commit_is_seen_by_other_containers_only_after_they_reload(probe: ControlPlane) -> None:
    probe.background_commit_seconds = 600  # the other's commit would also load committed files
    probe.scale("server", 2)
    writer = get(probe, "write/shared", data=b"x").json()["task"]
    while get(probe, "commit").json()["task"] != writer:
        pass
    assert "shared" in committed(probe)

    def seen() -> dict[str, bool]:
        return {task: "shared" in response["files"] for task, response in from_each(probe, "list", 2).items()}

    assert sorted(seen().values()) == [False, True]
    from_each(probe, "reload", 2)
    assert list(seen().values()) == [True, True]


def test_a_volume_looks_empty_while_it_reloads(probe: ControlPlane) -> None:
    get(probe, "write/present", data=b"x")
    probe.volumes.window_seconds = 2
    response = get(probe, "look/while/reloading/present").json()
    assert (response["before"], response["always"], response["after"]) == (True, False, True)


@pytest.mark.parametrize("path", ["reload/with/open/file", "reload/inside"])
def test_a_reload_is_refused_while_a_file_is_open_or_the_working_directory_is_on_the_volume(
    probe: ControlPlane, path: str
) -> None:
    response = get(probe, path)
    assert response.status_code == 500
    assert "there are open files preventing the operation" in response.text
    assert get(probe, "reload").status_code == 200


def test_a_volume_mounted_read_only_cannot_be_written(probe: ControlPlane) -> None:
    response = get(probe, "write/settings/x", data=b"x")
    assert "Read-only file system" in response.json()["error"]


def test_written_files_are_committed_in_the_background(probe: ControlPlane) -> None:
    get(probe, "write/later", data=b"x")
    eventually(lambda: "later" in committed(probe))


def test_a_commit_can_fail_with_and_without_having_committed(probe: ControlPlane) -> None:
    probe.background_commit_seconds = 60
    try:
        for happened in (False, True):
            get(probe, f"write/failing-{happened}", data=b"x")
            probe.fail_commits("probe-data", committed=happened)
            assert "RuntimeError" in get(probe, "commit").json()["error"]
            assert (f"failing-{happened}" in committed(probe)) is happened
        assert get(probe, "commit").status_code == 200
    finally:
        probe.background_commit_seconds = 2


def test_preemption_runs_the_exit_hook_and_a_last_commit_and_a_kill_runs_neither(probe: ControlPlane) -> None:
    probe.background_commit_seconds = 60
    try:
        get(probe, "write/kept", data=b"x")
        probe.preempt(probe.live()[0])
        assert {"kept", "goodbye"} <= committed(probe)
        get(probe, "write/lost", data=b"x")
        probe.kill(probe.live()[0])
        assert "lost" not in committed(probe)
        assert "lost" not in get(probe, "list").json()["files"]
    finally:
        probe.background_commit_seconds = 2


def test_a_container_takes_as_many_concurrent_requests_as_allowed(probe: ControlPlane) -> None:
    get(probe, "x")
    with ThreadPoolExecutor(10) as pool:
        held = [pool.submit(get, probe, "hold") for _ in range(10)]
        eventually(lambda: len(probe.live()[0].calls) == 10)
        tasks = {get(probe, "let/go").json()["task"]} | {response.result().json()["task"] for response in held}
    assert len(tasks) == 1


def test_a_client_that_waits_too_long_is_redirected_to_the_response_by_get_only(
    probe: ControlPlane,
) -> None:
    get(probe, "x")
    probe.redirect_seconds = 0.3
    response = get(probe, "sleep/0.8", allow_redirects=False)
    assert response.status_code == 303
    url = probe.function("server", app="probe").web_url + response.headers["Location"]
    refused = requests.post(url, timeout=60)
    assert (refused.status_code, refused.text) == (400, "modal-http: bad redirect method\n")
    probe.redirect_seconds = 150
    assert requests.get(url, timeout=60).headers["x-probe"] == "yes"


def test_large_bodies_pass_in_both_directions(probe: ControlPlane) -> None:
    assert get(probe, "length", data=b"x" * 20_000_000).json()["length"] == 20_000_000


def test_a_rolling_deployment_keeps_the_old_containers_until_the_new_are_warm(probe: ControlPlane) -> None:
    old = get(probe, "x").json()["task"]
    probe.overlap_seconds = 3
    assert run_modal(probe, "app", "rollover", "probe").returncode == 0
    seen = set()
    deadline = time.monotonic() + 120
    while old in [container.task_id for container in probe.live()]:
        response = get(probe, "x")
        assert response.status_code == 200
        seen.add(response.json()["task"])
        assert time.monotonic() < deadline
    assert old in seen
    assert len(seen) == 2, "both generations served"
    assert get(probe, "x").json()["task"] != old


def test_a_deployment_without_changes_is_skipped(probe: ControlPlane) -> None:
    before = len(probe.apps.by_id[probe.function("server", app="probe").app_id].versions)
    done = run_modal(probe, "deploy", str(PROBE))
    assert "no changes detected" in done.stdout
    assert len(probe.apps.by_id[probe.function("server", app="probe").app_id].versions) == before


def test_a_function_behind_proxy_auth_requires_a_proxy_token(probe: ControlPlane) -> None:
    probe.proxy_tokens.add(("wk-id", "ws-secret"))
    assert get(probe, "x", "guarded").status_code == 401
    headers = {"Modal-Key": "wk-id", "Modal-Secret": "ws-secret"}
    response = get(probe, "where", "guarded", headers=headers)
    assert response.json()["variables"]["PROBE_SECRET"] == "the-probes-secret"


def test_a_running_container_keeps_a_secrets_old_value_until_it_is_replaced(probe: ControlPlane) -> None:
    probe.proxy_tokens.add(("wk-id", "ws-secret"))
    headers = {"Modal-Key": "wk-id", "Modal-Secret": "ws-secret"}

    def value() -> str:
        return str(get(probe, "where", "guarded", headers=headers).json()["variables"]["PROBE_SECRET"])

    before = value()
    source = probe.directory / "probe.json"
    source.write_text('{"PROBE_SECRET": "another"}')
    assert run_modal(probe, "secret", "create", "probe-secret", "--from-json", str(source), "--force").returncode == 0
    assert value() == before
    assert run_modal(probe, "app", "rollover", "probe").returncode == 0
    eventually(lambda: value() == "another")


def test_values_of_secrets_are_shown_to_no_client(probe: ControlPlane) -> None:
    done = run_modal(probe, "secret", "list", "--json")
    assert "probe-secret" in done.stdout
    assert "the-probes-secret" not in done.stdout
    assert "the-probes-secret" not in repr(probe.secrets.by_id)


def test_only_one_of_many_puts_creates_a_key(client: dict[str, str]) -> None:
    del client
    entries = modal.Dict.from_name("race", create_if_missing=True)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda n: entries.put("key", n, skip_if_exists=True), range(16))) == 1
    assert entries.pop("key") is not None
    assert entries.put("key", 1, skip_if_exists=True)


def test_a_client_without_a_token_or_with_a_wrong_one_is_refused() -> None:
    with ControlPlane(tokens=[("ak-right", "as-right")]) as plane:
        assert run_modal(plane, "app", "list").returncode == 0
        wrong = run_modal(plane, "app", "list", MODAL_TOKEN_SECRET="as-wrong")
        assert wrong.returncode != 0
        assert "Token validation failed" in wrong.stderr
        assert run_modal(plane, "app", "list", MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="").returncode != 0


def test_calls_can_be_made_to_fail(plane: ControlPlane) -> None:
    plane.fail("AppList", Status.RESOURCE_EXHAUSTED, "Rate limit exceeded")
    assert "Rate limit exceeded" in run_modal(plane, "app", "list").stderr
    assert json.loads(run_modal(plane, "app", "list", "--json").stdout) is not None


def test_closing_it_leaves_nothing_behind() -> None:
    threads = threading.active_count()
    with ControlPlane() as plane:
        source = plane.directory / "probe.json"
        source.write_text('{"PROBE_SECRET": "x"}')
        run_modal(plane, "secret", "create", "probe-secret", "--from-json", str(source))
        deploy(plane, PROBE)
        assert get(plane, "x").status_code == 200
        process = psutil.Process(plane.live()[0].pid)
        folder = plane.directory
        assert process.is_running()
    assert not process.is_running()
    assert not folder.exists()
    assert str(folder) not in Path("/proc/mounts").read_text()
    eventually(lambda: threading.active_count() <= threads)
