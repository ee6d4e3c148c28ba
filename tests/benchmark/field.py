"""The contenders of one run, their data, and the clients used for all of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ops.errors import ParameterError
from tests.benchmark import devpi, load, wrk
from tests.benchmark.corpus import Corpus
from tests.benchmark.nginx import NGINX, Nginx
from tests.benchmark.peers import Devpi, Ours, Peer, Peryx, Stock
from tests.benchmark.responses import Tally
from tests.benchmark.scale import Scale
from tests.benchmark.servers import ANY_PAGE, Login, Server, end_abandoned, free_port, running
from tests.benchmark.toolbox import Set, Toolbox
from tests.benchmark.watch import await_rest

PEERS = ("nginx", "peryx", "pypiserver", "devpi")
"""Values of the parameter ``peers``; ours always takes part."""

_WARM_SECONDS = 2.0


def find_peers(named: str) -> tuple[str, ...]:
    """Parse a comma-separated list of peers.

    Raises:
        ParameterError: unknown peer.
    """
    names = tuple(name.strip() for name in named.split(",") if name.strip())
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ParameterError(
            f"there is no peer {unknown[0]!r}",
            why=f"the peers are {', '.join(PEERS)}",
            todo="name some of these with commas between, or none for ours alone",
        )
    return names


@dataclass
class Field:
    """All contenders, each with its own copy of one corpus.

    Parameters:
        scale: sizes.
        named: the requested peers.
        folder: kept between runs: the peers' environments, devpi's prepared data, results.
        login: the only user.
    """

    scale: Scale
    named: tuple[str, ...]
    folder: Path
    login: Login
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scratch = self.folder / "scratch"
        self.toolbox = Toolbox(self.folder / "peers")
        self.peers = self._peers()
        self._shaped: dict[tuple[int, int], Corpus] = {}
        self._slow: set[str] = set()
        self._numbers = itertools.count()

    def install(self) -> list[str]:
        """Install the requested peers; returns the names of newly installed sets."""
        sets: list[Set] = []
        if "pypiserver" in self.named:
            sets.append("stock")
        if "devpi" in self.named:
            sets.append("devpi")
        if "peryx" in self.named:
            sets.append("peryx")
        return [name for name in sets if self.toolbox.install(name)]

    def prepare(self) -> Corpus:
        """Write the corpus and give each contender a copy; record those that cannot take part as absent."""
        end_abandoned(self.folder.resolve())
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        self._shaped.clear()
        scale = self.scale
        self.corpus = Corpus.write(
            self.scratch / "corpus", projects=scale.projects, versions=scale.versions, installed=scale.packages
        )
        for peer in self.peers:
            missing = peer.missing()
            if missing:
                self.absent[peer.name] = missing
            elif isinstance(peer, Devpi):
                kept = self.folder / f"devpi-{scale.name}-{len(self.corpus.wheels)}"
                if not (kept / "complete").exists():
                    shutil.rmtree(kept, ignore_errors=True)
                    peer.prepare(kept, self.corpus)
                    (kept / "complete").touch()
                devpi.copy(kept, self.place(peer))
            else:
                peer.prepare(self.place(peer), self.corpus)
        return self.corpus

    def shaped(self, projects: int, versions: int) -> Corpus:
        """A corpus of minimal wheels, written on first use."""
        shape = (projects, versions)
        if shape not in self._shaped:
            folder = self.scratch / f"corpus-{projects}-{versions}"
            self._shaped[shape] = Corpus.write(folder, projects=projects, versions=versions, size=0)
        return self._shaped[shape]

    @contextlib.contextmanager
    def serving(self, peer: Peer, corpus: Corpus, *, warm: bool = True) -> Iterator[Server]:
        """Run an idle server of a contender on another corpus.

        Parameters:
            peer: the contender.
            corpus: to serve.
            warm: complete its catalogue and request one page first.
        """
        place = self.scratch / f"{corpus.folder.name}-{self.place(peer).name}-{next(self._numbers)}"
        peer.prepare(place, corpus)
        try:
            with peer.server(place, free_port()) as server:
                if warm:
                    server.get(f"{server.index_path}{next(iter(corpus.projects))}/")
                    await_rest([server])
                yield server
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def remove(self) -> None:
        """Remove this run's data; environments, devpi's prepared data and results stay."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def present(self) -> list[Peer]:
        """The contenders that can take part."""
        return [peer for peer in self.peers if peer.name not in self.absent]

    @property
    def ours(self) -> Ours:
        """Our index."""
        return next(peer for peer in self.peers if isinstance(peer, Ours))

    def names(self, *, server_kinds: Sequence[str] = ("wsgiref", "gunicorn"), rounds: int | None = None) -> list[str]:
        """The names of stock pypiserver's variants, filtered by server and bcrypt cost."""
        return [
            peer.name
            for peer in self.peers
            if isinstance(peer, Stock) and peer.server_kind in server_kinds and rounds in {None, peer.rounds}
        ]

    def place(self, peer: Peer) -> Path:
        """Folder of a contender's data."""
        return self.scratch / "".join(letter if letter.isalnum() else "-" for letter in peer.name)

    @contextlib.contextmanager
    def servers(self, names: Sequence[str] | None = None) -> Iterator[Mapping[str, Server]]:
        """Run the contenders' servers, warm and idle, by name.

        Parameters:
            names: of the contenders; None for all.
        """
        found = {
            peer.name: peer.server(self.place(peer), free_port())
            for peer in self.present
            if names is None or peer.name in names
        }
        with running(list(found.values())):
            for server in found.values():
                self.warm(server, list(self.corpus.projects))
            await_rest(found.values())
            yield found

    def fresh(self) -> Server:
        """Another server of ours, not started, with a complete catalogue from an earlier run."""
        place = self.scratch / "fresh"
        self.ours.prepare(place, self.corpus)
        server = self.ours.server(place, free_port())
        with server:
            self.warm(server, list(self.corpus.projects))
            await_rest([server])
        return server

    def warm(self, server: Server, projects: Sequence[str]) -> None:
        """Request every project's page once, for a few seconds at most, so that no first request is measured."""
        deadline = time.monotonic() + _WARM_SECONDS
        for project in projects:
            server.get(f"{server.index_path}{project}/")
            if time.monotonic() > deadline:
                return

    def ask(self, server: Server, project: str) -> Tally:
        """Request one project's page repeatedly: with wrk if available, otherwise with the built-in loader.

        Slow servers also get the built-in loader, because wrk discards requests in flight at its end.
        """
        url, scale = server.page_url(project), self.scale
        if wrk.available() and server.name not in self._slow:
            tally = wrk.fetch(
                url,
                authorization=server.authorization,
                accept=ANY_PAGE,
                connections=scale.connections,
                seconds=scale.seconds,
                folder=self.scratch,
            )
            if tally.good >= wrk.FEW_RESPONSES or tally.broken or tally.good < sum(tally.responses.values()):
                return tally
            self._slow.add(server.name)
        return load.fetch(
            url,
            authorization=server.authorization,
            accept=ANY_PAGE,
            connections=scale.connections,
            seconds=scale.seconds,
        )

    def repeat(
        self, server: Server, path: str, *, login: bool = True, status: int = 200, headers: Mapping[str, str]
    ) -> Tally:
        """Send one request repeatedly, with wrk if available.

        Parameters:
            server: receives the requests.
            path: of the request.
            login: whether to send the server's credentials.
            status: expected; wrk only distinguishes 400 and above.
            headers: additional headers.
        """
        url, scale = server.url + path, self.scale
        authorization = server.authorization if login else ""
        if wrk.available():
            tally = wrk.fetch(
                url,
                authorization=authorization,
                accept=ANY_PAGE,
                connections=scale.connections,
                seconds=scale.seconds,
                folder=self.scratch,
                headers=headers,
            )
            tally.responses[status] += tally.responses.pop(400 if status >= 400 else 200, 0)
            return tally
        return load.fetch(
            url,
            authorization=authorization,
            accept=ANY_PAGE,
            connections=scale.connections,
            seconds=scale.seconds,
            headers=headers,
        )

    def versions(self) -> Mapping[str, str]:
        """The versions of the peers that take part, and of the client that requests pages."""
        found = {peer.name: peer.version() for peer in self.present}
        if wrk.available():
            found["page client"] = f"wrk; for fewer than {wrk.FEW_RESPONSES} responses the built-in loader"
        else:
            found["page client"] = "built-in loader, as wrk is not on PATH"
        return found

    def _peers(self) -> list[Peer]:
        peers: list[Peer] = []
        if "nginx" in self.named:
            peers.append(Nginx())
        peers.append(Ours(self.login))
        if "peryx" in self.named:
            peers.append(Peryx(self.login, self.toolbox))
        if "devpi" in self.named:
            peers.append(Devpi(self.login, self.toolbox))
        if "pypiserver" in self.named:
            peers += [Stock(self.login, self.toolbox, kind, cost) for kind, cost in self.scale.stock]
        return peers


def flush() -> None:
    """Flush all writes to disk, so that no contender pays for the previous one's."""
    os.sync()


__all__ = ["NGINX", "PEERS", "Field", "find_peers", "flush"]
