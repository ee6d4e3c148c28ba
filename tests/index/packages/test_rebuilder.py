"""The background thread that computes missing file info."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ops.index.packages.rebuilder import Rebuilder


def test_the_files_are_listed_at_once_and_checked_after_the_first_requests() -> None:
    listed, checked, computed = threading.Event(), threading.Event(), threading.Event()

    def missing() -> Iterator[str]:
        listed.set()

        def paths() -> Iterator[str]:
            checked.set()
            yield "a-1.0.tar.gz"

        return paths()

    rebuilder = Rebuilder(missing, lambda path: computed.set())
    rebuilder.start(after=3600.0)
    assert listed.wait(60)
    rebuilder.close()
    assert not checked.is_set(), "a server that is stopped meanwhile checks nothing"

    rebuilder.start(after=0.001)
    assert computed.wait(60)
    rebuilder.close()
