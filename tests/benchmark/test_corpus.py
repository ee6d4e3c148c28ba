"""The benchmark's wheels are valid, and always the same."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.benchmark.corpus import WHEEL_BYTES, Corpus, build_wheel, write_large_wheel
from tests.benchmark.toolbox import Toolbox


def assert_record_is_right(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert {row[0] for row in rows} == set(archive.namelist())
        for name, digest, size in rows:
            if name != record:
                content = archive.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={expected}", len(content))


@pytest.mark.parametrize("version", ["1.0", "1.123"])
def test_a_small_wheel_has_exactly_the_requested_size(version: str) -> None:
    wheel, content = build_wheel("bench-project-1", version)
    assert wheel.size == len(content) == WHEEL_BYTES
    assert wheel.sha256 == hashlib.sha256(content).hexdigest()


def test_equal_arguments_give_equal_bytes_and_different_ones_different_bytes() -> None:
    assert build_wheel("a-b", "1.0") == build_wheel("a-b", "1.0")
    assert build_wheel("a-b", "1.0")[1] != build_wheel("a-b", "1.1")[1]


def test_every_record_lists_every_file_with_its_digest(corpus: Corpus) -> None:
    for wheel in corpus.wheels:
        assert_record_is_right(corpus.folder / wheel.filename)


def test_a_large_wheel_is_valid_too(tmp_path: Path) -> None:
    wheel = write_large_wheel(tmp_path, "bench-large", "1.0", size=3_000_000)
    path = tmp_path / wheel.filename
    assert_record_is_right(path)
    assert path.stat().st_size == wheel.size
    assert 3_000_000 < wheel.size < 3_002_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256


def test_uv_installs_the_root_with_its_dependencies_from_the_folder(corpus: Corpus, tmp_path: Path) -> None:
    target = tmp_path / "target"
    subprocess.run(
        [Toolbox(tmp_path).uv, "pip", "install", "--no-index", "--find-links", corpus.folder, "--target", target,
         "--no-cache", "bench-root"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert sorted(path.name for path in target.glob("*.dist-info")) == [
        "bench_project_0-1.1.dist-info", "bench_project_1-1.1.dist-info", "bench_project_2-1.1.dist-info",
        "bench_root-1.0.dist-info",
    ]  # fmt: skip


def test_a_linked_folder_has_every_file(corpus: Corpus, tmp_path: Path) -> None:
    corpus.link(tmp_path / "linked")
    assert {path.name for path in (tmp_path / "linked").iterdir()} == {wheel.filename for wheel in corpus.wheels}
    assert len(corpus.wheels) == 4 * 2 + 1
