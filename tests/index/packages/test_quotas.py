"""One server never exceeds a quota; refusals give the numbers; identical bytes are never refused."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ops.index.config import Options
from ops.index.errors import Forbidden, PackageIndexError, QuotaExceeded
from ops.index.packages.quotas import Usage
from ops.index.packages.uploads import UploadResult
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.name_locks import FileNameLocks
from tests.index.archives import wheel, wheel_name
from tests.index.conftest import Cluster, Node, Person, volume_of
from tests.index.serving import eventually

SIGNATURE = b"-----BEGIN PGP SIGNATURE-----\n\n=abcd\n-----END PGP SIGNATURE-----\n"


def content(project: str, version: str, size: int) -> bytes:
    return wheel(project, version, payload=b"x" * size)


SIZE = len(content("spam", "1.0", 10))


def publish(node: Node, project: str, version: str, size: int = 10, **more: Any) -> UploadResult:
    source = io.BytesIO(content(project, version, size))
    return node.publish(wheel_name(project, version), source, identity=Person(), **more)


def fits(node: Node, project: str, version: str) -> bool:
    try:
        return publish(node, project, version) is UploadResult.CREATED
    except QuotaExceeded:
        return False


def opened(directory: Path, options: Options) -> Node:
    return Node(DirectoryStorage(directory), FileNameLocks(directory / ".index" / "claims"), options)


@pytest.fixture
def small(tmp_path: Path, options: Options) -> Iterator[Node]:
    """A server with space for two small files per project, and three in total."""
    node = opened(
        tmp_path / "packages",
        replace(options, project_quota_bytes=2 * SIZE + 100, total_quota_bytes=3 * SIZE + 100),
    )
    yield node
    node.close()


def test_a_file_beyond_the_quota_of_a_project_is_refused_with_the_numbers(small: Node) -> None:
    publish(small, "spam", "1.0")
    publish(small, "spam", "1.1")
    with pytest.raises(QuotaExceeded) as refused:
        publish(small, "spam", "1.2")
    assert refused.value.status == 507
    used = sum(path.stat().st_size for path in small.directory.glob("*.whl"))
    size = len(content("spam", "1.2", 10))
    assert (refused.value.limit, refused.value.used, refused.value.size) == (2 * SIZE + 100, used, size)
    for number in (refused.value.limit, refused.value.used, refused.value.size):
        assert str(number) in refused.value.message
    assert "project 'spam'" in refused.value.message
    assert "remove files" in refused.value.message
    assert small.listed() == {wheel_name("spam", "1.0"), wheel_name("spam", "1.1")}
    assert not [path for path in (small.directory / ".index/staging").iterdir() if not path.name.endswith("-lock")]


def test_a_file_beyond_the_quota_of_the_index_is_refused(small: Node) -> None:
    for project, version in (("spam", "1.0"), ("spam", "1.1"), ("eggs", "1.0")):
        publish(small, project, version)
    with pytest.raises(QuotaExceeded, match="this index"):
        publish(small, "eggs", "1.1")


def test_the_same_bytes_succeed_when_the_quota_is_full(small: Node) -> None:
    for version in ("1.0", "1.1"):
        assert publish(small, "spam", version) is UploadResult.CREATED
    assert publish(small, "spam", "1.0") is UploadResult.SAME
    lowered = opened(small.directory, replace(small.options, project_quota_bytes=10, total_quota_bytes=10))
    assert publish(lowered, "spam", "1.0") is UploadResult.SAME
    with pytest.raises(QuotaExceeded):
        publish(lowered, "spam", "1.2")
    lowered.close()


def test_a_removal_frees_space_at_once_and_its_tombstone_does_not_count(small: Node, adam: Person) -> None:
    for version in ("1.0", "1.1"):
        publish(small, "spam", version)
    small.releases.remove("spam", version="1.0", identity=adam)
    assert publish(small, "spam", "1.2") is UploadResult.CREATED
    with pytest.raises(QuotaExceeded):
        publish(small, "spam", "1.0")  # the name is known, but the bytes are gone


def test_existing_files_and_files_added_outside_the_index_count(small: Node) -> None:
    (small.directory / wheel_name("spam", "1.0")).write_bytes(content("spam", "1.0", 10))
    (small.directory / "folder").mkdir()
    (small.directory / "folder" / wheel_name("spam", "1.1")).write_bytes(content("spam", "1.1", 10))
    with pytest.raises(QuotaExceeded):
        publish(small, "spam", "1.2")
    (small.directory / "folder" / wheel_name("spam", "1.1")).unlink()
    eventually(lambda: fits(small, "spam", "1.2"))  # after a slow scan, the next one is delayed by some milliseconds


def test_a_file_written_in_place_counts_with_its_new_size(small: Node) -> None:
    path = small.directory / wheel_name("spam", "1.0")
    path.write_bytes(content("spam", "1.0", 10))
    publish(small, "spam", "1.1")
    assert small.repository.project("spam") is not None
    path.write_bytes(b"")
    eventually(lambda: small.repository.project("spam") is not None and fits(small, "spam", "1.2"))


def test_signatures_count(small: Node) -> None:
    publish(small, "spam", "1.0")
    publish(small, "spam", "1.1")
    name = wheel_name("spam", "1.1")
    signature = SIGNATURE + b"x" * 200
    with pytest.raises(QuotaExceeded):
        small.publish_signature(f"{name}.asc", io.BytesIO(signature), identity=Person())
    assert small.publish_signature(f"{name}.asc", io.BytesIO(SIGNATURE), identity=Person())
    with pytest.raises(QuotaExceeded) as refused:
        publish(small, "spam", "1.2")
    assert refused.value.used == sum(path.stat().st_size for path in small.directory.glob("*.whl*"))


def test_concurrent_uploads_do_not_exceed_the_quota_together(tmp_path: Path, options: Options) -> None:
    node = opened(tmp_path / "packages", replace(options, project_quota_bytes=5 * SIZE + 100))
    barrier = threading.Barrier(20)

    def upload(number: int) -> bool:
        barrier.wait(30)
        try:
            publish(node, "spam", f"1.{number}")
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(20) as threads:
        came = sum(threads.map(upload, range(10, 30)))
    files = list(node.directory.glob("*.whl"))
    assert 1 <= came == len(files) <= 5
    for number in range(30, 30 + 5 - came):  # nothing stays reserved for refused ones
        publish(node, "spam", f"1.{number}")
    with pytest.raises(QuotaExceeded):
        publish(node, "spam", "1.40")
    node.close()


def test_an_upload_refused_for_another_reason_releases_its_space(small: Node) -> None:
    with pytest.raises(PackageIndexError):
        publish(small, "spam", "1.0", form={"sha256_digest": "0" * 64})
    for version in ("1.0", "1.1"):
        publish(small, "spam", version)


def test_an_arriving_upload_is_refused_as_soon_as_there_is_no_space(small: Node) -> None:
    staged = small.publisher.stage(wheel_name("spam", "1.0"), identity=Person())
    staged.write(b"x" * 2 * SIZE)
    with pytest.raises(QuotaExceeded, match="at least"):
        staged.write(b"x" * 200)
    staged.discard()
    with pytest.raises(QuotaExceeded):
        small.publisher.stage(wheel_name("spam", "1.0"), announced=3 * SIZE, identity=Person())
    publish(small, "spam", "1.0")


def test_an_upload_without_rights_reserves_no_space(small: Node) -> None:
    with pytest.raises(Forbidden):
        small.publisher.stage(wheel_name("spam", "1.0"), identity=Person(projects=frozenset({"eggs"})))


def test_a_size_that_fits_no_project_is_refused_before_anything_arrives(small: Node) -> None:
    quotas = small.publisher.quotas
    quotas.expect(2 * SIZE)
    with pytest.raises(QuotaExceeded, match="a project"):
        quotas.expect(2 * SIZE + 101)
    # Unless it may be an existing file.
    (small.directory / wheel_name("spam", "1.0")).write_bytes(content("spam", "1.0", 10 * SIZE) + b"x" * 10 * SIZE)
    quotas.expect(2 * SIZE + 101)


def test_each_file_is_measured_once(tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = Usage._size

    def size(self: Usage, path: str) -> int:
        looked.append(path)
        return real(self, path)

    monkeypatch.setattr(Usage, "_size", size)
    node = opened(tmp_path / "packages", replace(options, total_quota_bytes=10**6))
    for number in range(5):
        (node.directory / wheel_name("spam", f"1.{number}")).write_bytes(content("spam", f"1.{number}", 10))
    for number in range(5):
        publish(node, "eggs", f"1.{number}")
    assert sorted(looked) == [wheel_name("spam", f"1.{number}") for number in range(5)]
    node.close()


def test_without_a_quota_nothing_is_counted(node: Node) -> None:
    assert node.repository.usage is None
    assert publish(node, "spam", "1.0") is UploadResult.CREATED


def test_files_of_other_servers_of_a_volume_count_once_they_are_committed(cluster: Cluster) -> None:
    cluster.options = replace(cluster.options, project_quota_bytes=2 * SIZE + 100)
    one, two = cluster.open(), cluster.open()
    publish(one, "spam", "1.0")
    publish(two, "spam", "1.1")
    with pytest.raises(QuotaExceeded):
        publish(one, "spam", "1.2")
    assert cluster.remote.names() == {wheel_name("spam", "1.0"), wheel_name("spam", "1.1")}
    assert publish(one, "spam", "1.1") is UploadResult.SAME, "another server has the same bytes"
    two.releases.remove("spam", version="1.0", identity=Person("adam", may_administer=True))
    assert publish(one, "spam", "1.3") is UploadResult.CREATED


def test_the_free_space_that_a_volume_reports_is_ignored(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.options = replace(cluster.options, least_free_bytes=2**60)
    server = cluster.open()
    assert publish(server, "spam", "1.0") is UploadResult.CREATED
    assert volume_of(server).shared
