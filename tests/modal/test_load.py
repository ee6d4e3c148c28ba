"""Three containers, a rolling deployment and lost containers, under load from several clients."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import requests

from ops.settings import PACKAGES_VOLUME
from tests.index.archives import wheel, wheel_name
from tests.modal.conftest import create_secret, deploy, run_modal
from tests.modal.traffic import JSON, PASSWORD, digests, eventually, register, upload, url, versions
from tests.standin.control_plane import ControlPlane

SECONDS = 9
AUTH = ("alice", PASSWORD)

pytestmark = pytest.mark.slow


@pytest.fixture
def three() -> Iterator[ControlPlane]:
    """An index with three warm containers, each of which has loaded the user."""
    with ControlPlane() as plane:
        create_secret(plane)
        deploy(plane, PYPI_MAX_CONTAINERS="3", PYPI_MIN_CONTAINERS="3")
        assert register(plane, "alice").status_code == 201
        pool = plane.pool(plane.function("server").function_id)
        eventually(lambda: sum(c.ready.is_set() for c in pool.live()) >= 3, 200)
        eventually(lambda: all(can_log_in(plane) for _ in range(9)))
        yield plane
        assert not plane.problems, plane.problems


def can_log_in(plane: ControlPlane) -> bool:
    return requests.get(f"{url(plane)}/simple/", auth=AUTH, timeout=60).status_code == 200


@dataclass
class Ledger:
    """Responses received by clients."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    reads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Clients:
    """Threads that publish and read until stopped. Requests that failed because a container ended are
    counted separately: what Modal does with them is not known."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._stop = threading.Event()
        self.ledger = Ledger()
        self._threads = [
            *(threading.Thread(target=self._loop, args=(self._publish, n)) for n in range(2)),
            *(threading.Thread(target=self._loop, args=(self._read, n)) for n in range(3)),
        ]

    def __enter__(self) -> Ledger:
        for thread in self._threads:
            thread.start()
        return self.ledger

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def _loop(self, work: Callable[[int, int], None], client: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            try:
                work(client, turn)
            except requests.RequestException as error:
                with self.ledger.lock:
                    self.ledger.broken.append(repr(error))

    def _publish(self, client: int, turn: int) -> None:
        name, version = f"team-{client}", f"1.{turn}"
        response = upload(self._plane, name, version, payload=b"%d" % turn)
        with self.ledger.lock:
            if response.status_code == 200:
                digest = hashlib.sha256(wheel(name, version, payload=b"%d" % turn)).hexdigest()
                self.ledger.acknowledged[wheel_name(name, version)] = digest
            elif response.status_code >= 500:
                self.ledger.broken.append(response.text)
            else:
                self.ledger.refused.append(f"{response.status_code} {response.text}")

    def _read(self, client: int, turn: int) -> None:
        project = "known" if turn % 2 else ""
        path = f"/simple/{project}/" if project else "/simple/"
        if turn % 5 == 0:
            path = f"/packages/{wheel_name('known', '1.0')}"
        response = requests.get(f"{url(self._plane)}{path}", headers=JSON, auth=AUTH, timeout=60)
        with self.ledger.lock:
            self.ledger.reads += 1
            if response.status_code in {401, 403, 404}:
                self.ledger.wrong.append(f"{response.status_code} {path}")
            elif response.status_code != 200:
                self.ledger.broken.append(f"{response.status_code} {path} {response.text[:200]}")


def check_nothing_was_lost(plane: ControlPlane, ledger: Ledger) -> None:
    volume = plane.volumes.named(PACKAGES_VOLUME, "main")
    assert volume is not None
    for name, digest in ledger.acknowledged.items():
        assert name in volume.revisions, f"{name} was acknowledged but is not on the Volume"
        assert hashlib.sha256((volume.directory / name).read_bytes()).hexdigest() == digest
    for client in range(2):
        eventually(functools.partial(_listed_everywhere, plane, ledger, client))


def _listed_everywhere(plane: ControlPlane, ledger: Ledger, client: int) -> bool:
    mine = {name: digest for name, digest in ledger.acknowledged.items() if name.startswith(f"team_{client}-")}
    return all(mine.items() <= digests(plane, f"team-{client}").items() for _ in range(6))


def test_under_load_nothing_is_wrongly_refused_missing_or_lost(
    three: ControlPlane, record_property: Callable[[str, object], None]
) -> None:
    assert upload(three, "known", "1.0").status_code == 200
    eventually(lambda: all(versions(three, "known") for _ in range(9)))

    def served() -> set[str]:
        return {seen.task_id for seen in list(three.requests) if seen.function == "server" and seen.status == 200}

    with Clients(three) as ledger:
        time.sleep(SECONDS / 3)
        eventually(lambda: len(served()) >= 3, 200)
        three.overlap_seconds = 2
        assert run_modal(three, "app", "rollover", "pypiserver").returncode == 0
        time.sleep(SECONDS)
        eventually(lambda: len(served()) >= 6, 200)  # both generations of three containers
        eventually(lambda: len(ledger.acknowledged) >= 10 and ledger.reads >= 100, 200)
    assert ledger.wrong == []
    assert ledger.refused == []
    assert ledger.broken == []
    check_nothing_was_lost(three, ledger)
    record_property("load", f"{len(ledger.acknowledged)} uploads, {ledger.reads} reads, {len(served())} containers")


def test_killing_and_preempting_containers_under_load_loses_no_acknowledged_upload(
    three: ControlPlane, record_property: Callable[[str, object], None]
) -> None:
    assert upload(three, "known", "1.0").status_code == 200
    eventually(lambda: all(versions(three, "known") for _ in range(9)))
    with Clients(three) as ledger:
        for round_number in range(4):
            time.sleep(SECONDS / 6)
            container = three.live()[0]
            if round_number % 2:
                three.preempt(container)
            else:
                three.kill(container)
    assert ledger.wrong == []
    assert ledger.refused == []
    check_nothing_was_lost(three, ledger)
    record_property("load", f"{len(ledger.acknowledged)} uploads, {ledger.reads} reads, {len(ledger.broken)} cut off")
