"""A small corpus, and contenders that serve it with programs already installed: no test installs a peer."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.benchmark.corpus import Corpus
from tests.benchmark.nginx import Nginx
from tests.benchmark.peers import Ours, Peer, Stock
from tests.benchmark.servers import Login, Server, free_port
from tests.benchmark.toolbox import Set, Toolbox


class OwnPrograms(Toolbox):
    """The programs in the project's environment, which includes stock pypiserver."""

    def missing(self, name: Set) -> str:
        return "" if name == "stock" else "not installed in tests"

    def program(self, name: Set, program: str) -> str:
        return str(Path(sysconfig.get_path("scripts")) / program)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus.write(tmp_path / "corpus", projects=4, versions=2, installed=3)


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login.kept(tmp_path)


@pytest.fixture
def toolbox(tmp_path: Path) -> Toolbox:
    return OwnPrograms(tmp_path / "peers")


@pytest.fixture
def peers(login: Login, toolbox: Toolbox) -> list[Peer]:
    """Contenders that need no installation."""
    every: list[Peer] = [Nginx(), Ours(login), Stock(login, toolbox, "wsgiref", 5)]
    return [peer for peer in every if not peer.missing()]


@pytest.fixture
def serve(tmp_path: Path, corpus: Corpus) -> Iterator[Callable[[Peer], Server]]:
    """Starts contenders on the corpus, and stops them after the test."""
    with ExitStack() as stack:

        def start(peer: Peer) -> Server:
            place = tmp_path / f"server-{free_port()}"
            peer.prepare(place, corpus)
            return stack.enter_context(peer.server(place, free_port()))

        yield start
