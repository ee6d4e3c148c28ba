"""Measurements of repeated requests, and of first requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from tests.benchmark.changes import Client
from tests.benchmark.corpus import Corpus
from tests.benchmark.field import NGINX, Field
from tests.benchmark.load import request, send, supply
from tests.benchmark.measurement import Entry, Row, at_least, interleaved, median_within
from tests.benchmark.peers import OURS
from tests.benchmark.processor import ProcessorTime
from tests.benchmark.servers import ANY_PAGE, Server

LONG_304_GOAL = 20_000.0
UNSEEN_GOAL = 8_000.0
STRANGER_GOAL = 50_000.0

GZIP = {"Accept-Encoding": "gzip"}


def long_page(field: Field) -> tuple[Row, ...]:
    """The page of a large project: plain, gzipped, and revalidated (304)."""
    files = field.scale.project_files[-1]
    rows: list[Row] = []
    headers: Mapping[str, str]
    corpus = field.shaped(1, files)
    with ExitStack() as stack:
        servers = _pair(field, corpus, stack)
        for what, headers, status in (("plain", {}, 200), ("gzipped", GZIP, 200), ("304", {}, 304)):
            title = f"Page of a project of {files:,} files again, {what}"
            row, cost = _repeated(field, servers, corpus, title, headers, status)
            if status == 304:
                row = row.judged(median_within(row, OURS, LONG_304_GOAL))
            else:
                row = row.judged(at_least(row, OURS, [NGINX], 0.5, called=NGINX))
            rows += [row, cost]
    return tuple(rows)


def small_page(field: Field) -> tuple[Row, ...]:
    """The page of a small project: revalidated (304), and refused for lack of a login."""
    with ExitStack() as stack:
        servers = _pair(field, field.corpus, stack)
        row, cost = _repeated(field, servers, field.corpus, "Page of a small project again, 304", {}, 304)
        row = row.judged(at_least(row, OURS, [NGINX], 0.8, called=NGINX))
        refused, refused_cost = _refused(field, servers[OURS])
    return row, cost, refused.judged(median_within(refused, OURS, STRANGER_GOAL)), refused_cost


def unseen_pages(field: Field) -> Row:
    """Pages not requested since the server started."""
    corpus = field.shaped(max(field.scale.start_files // 10, 1), 10)
    values = []
    with field.serving(field.ours, corpus) as server:  # completes the catalogue
        for _ in range(field.scale.rounds):
            server.stop()
            server.start(until=f"{server.index_path}{next(iter(corpus.projects))}/")
            messages = [
                request(server.page_url(name), authorization=server.authorization, accept=ANY_PAGE)
                for name in corpus.projects
            ]
            tally = send(server.url, supply(iter(messages)), connections=field.scale.connections, seconds=120)
            values.append(tally.rate("pages"))
    row = Row(
        title="Pages never asked for since the start",
        unit="requests/s",
        better="higher",
        entries=(Entry(name=OURS, values=tuple(values)),),
        method=f"{len(corpus.projects):,} pages of 10 files, each once after every start, over "
        f"{field.scale.connections} connections. The first start renders them, later ones find them on the disk.",
    )
    return row.judged(median_within(row, OURS, UNSEEN_GOAL))


def _pair(field: Field, corpus: Corpus, stack: ExitStack) -> dict[str, Server]:
    peers = [peer for peer in field.present if peer.name in {OURS, NGINX}]
    return {peer.name: stack.enter_context(field.serving(peer, corpus)) for peer in peers}


def _repeated(
    field: Field, servers: Mapping[str, Server], corpus: Corpus, title: str, headers: Mapping[str, str], status: int
) -> tuple[Row, Row]:
    """Request the first project's page repeatedly; for a 304, with its entity tag."""
    cost = ProcessorTime()

    def measure(server: Server) -> Callable[[], float]:
        path = f"{server.index_path}{next(iter(corpus.projects))}/"
        client = Client(server)
        client.page(path)
        sent = {**headers, "If-None-Match": client.tag} if status == 304 else headers
        ask = partial(field.repeat, server, path, status=status, headers=sent)
        return lambda: cost.rate(server, ask, title, status=status)

    row = _row(field, {name: measure(server) for name, server in servers.items()}, title)
    return row, cost.row(title)


def _refused(field: Field, server: Server) -> tuple[Row, Row]:
    title, cost = "A stranger's request, 401", ProcessorTime()
    ask = partial(field.repeat, server, server.index_path, login=False, status=401, headers={})
    row = _row(field, {OURS: lambda: cost.rate(server, ask, title, status=401)}, title)
    return row, cost.row(title)


def _row(field: Field, contenders: Mapping[str, Callable[[], float]], title: str) -> Row:
    entries = interleaved(contenders, rounds=field.scale.rounds, budget_seconds=field.scale.budget_seconds)
    method = f"{field.scale.connections} clients over persistent connections."
    return Row(title=title, unit="requests/s", better="higher", entries=tuple(entries), method=method)
