"""Measurements by size of index or file: pages, large files, starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmark.corpus import Corpus, Wheel, write_large_wheel
from tests.benchmark.field import NGINX, Field, flush
from tests.benchmark.load import request, send, supply
from tests.benchmark.measurement import (
    Entry,
    Row,
    Verdict,
    at_least,
    at_most,
    below,
    entries_of,
    figure,
    interleaved,
    median_within,
)
from tests.benchmark.peers import BY_TOKEN, OURS, PERYX, Peer, Stock, token_logins
from tests.benchmark.processor import ProcessorTime
from tests.benchmark.rows import complete
from tests.benchmark.scale import MIB
from tests.benchmark.servers import ANY_PAGE, Login, Server, free_port, running
from tests.benchmark.transfers import download, file_path, upload
from tests.benchmark.watch import MemoryWatch, await_rest

VERSIONS = 10
"""Versions per project in an index of many files, so that a page's size does not depend on the number of projects."""

STOCK_FILES = 10_000
"""Largest index in which stock pypiserver serves pages; each takes it half a second at this size."""

START_GOALS = {1_000_000: 2.0}
KNOWN_GOALS = {100_000: 25.0}
"""Seconds, by number of files in the index."""

MEMORY_GOALS = {1_000_000: 300.0}
"""MiB, by number of files in the index."""

PRESENT = f"{OURS}, catalogue present"
LOST = f"{OURS}, catalogue lost"

_LARGE_ROUNDS = 5
_ONCE_BYTES = 1_000_000_000


def indexes_by_size(field: Field) -> tuple[Row, ...]:
    """A project page of fixed size, and the cost of a start, in indexes of increasing size."""
    sizes = field.scale.index_files
    stock = _cheap_stock(field)
    contenders: dict[str, Callable[[], float]] = {}
    left_out: dict[str, str] = {}
    servers: dict[str, Server] = {}
    first: dict[str, float] = {}
    cost = ProcessorTime()
    with ExitStack() as stack:
        for files in sizes:
            corpus = _many(field, files)
            for peer in [field.ours, *stock]:
                name = _sized(peer, files)
                if isinstance(peer, Stock) and files > STOCK_FILES:
                    left_out[name] = "left out: a page takes it seconds"
                    continue
                place = field.scratch / f"many-{files}-{field.place(peer).name}"
                peer.prepare(place, corpus)
                server = peer.server(place, free_port())
                servers[name] = server = server.seen_by(name, server.login)
                stack.callback(server.stop)
                project = next(iter(corpus.projects))
                first[name] = server.start(until=f"{server.index_path}{project}/")
                contenders[name] = _page(field, server, project, cost)
        await_rest(servers.values())
        memory = {name: server.memory() / MIB for name, server in servers.items()}
        processor = {name: server.cpu_seconds() for name, server in servers.items()}
        entries = interleaved(contenders, rounds=field.scale.rounds, budget_seconds=field.scale.budget_seconds)
    row = Row(
        title="Project page by the number of files in the index",
        unit="requests/s",
        better="higher",
        entries=complete(field, entries, left_out) if stock else (*entries,),
        method=f"{field.scale.connections} clients, a page of {VERSIONS} files; one server is asked at a time.",
    )
    once = "Measured once, on files of which the index knows nothing yet."
    started = _once("Start to the first page, by the number of files in the index", "s", first, once)
    known = _once("Processor time until all files are known, by their number", "s", processor, once)
    taken = _once("Server memory by the number of files in the index", "MiB", memory, f"When all are known. {once}")
    used = cost.row(row.title)
    return (
        row,
        used.judged(_flat(used, [_sized(field.ours, files) for files in sizes])),
        started.judged(*_limits(field, started, START_GOALS)),
        known.judged(*_limits(field, known, KNOWN_GOALS)),
        taken.judged(*_limits(field, taken, MEMORY_GOALS)),
    )


def large_files(field: Field) -> tuple[Row, ...]:
    """Upload, download and server memory, for each size of large file."""
    return tuple(row for size in field.scale.large_bytes for row in _large_file(field, size))


def starts(field: Field) -> tuple[Row, ...]:
    """Time from a server's start to its first authenticated page, and until it has served every page."""
    files = field.scale.start_files
    corpus = _many(field, files)
    others = [*_cheap_stock(field), *(peer for peer in field.present if peer.name == PERYX)]
    peers: list[Peer] = [field.ours, *others]
    places = {peer.name: field.scratch / f"start-{field.place(peer).name}" for peer in peers}
    for peer in peers:
        peer.prepare(places[peer.name], corpus)
    (token,) = token_logins(places[OURS])
    everything: dict[str, list[float]] = {PRESENT: [], LOST: []}
    processor: dict[str, list[float]] = {}
    project = next(iter(corpus.projects))

    def first_page(server: Server) -> float:
        seconds = server.start(until=f"{server.index_path}{project}/")
        processor.setdefault(server.name, []).append(server.cpu_seconds())
        return seconds

    def start(peer: Peer, login: Login | None = None) -> float:
        server = peer.server(places[peer.name], free_port())
        if login is not None:
            server = server.seen_by(BY_TOKEN, login)
        try:
            return first_page(server)
        finally:
            server.stop()

    def start_ours(name: str) -> float:
        index = places[OURS] / "packages/.index"
        if name == LOST and index.exists():
            index.rename(field.scratch / f"lost-{len(everything[LOST])}")  # deleting it would slow down what follows
        server = field.ours.server(places[OURS], free_port()).seen_by(name, field.login)
        try:
            first = first_page(server)
            everything[name].append(first + _ask_all(field, server, corpus))
        finally:
            server.stop()
        return first

    # The lost catalogue comes first: each run leaves a complete one for the next.
    contenders: dict[str, Callable[[], float]] = {
        LOST: lambda: start_ours(LOST),
        PRESENT: lambda: start_ours(PRESENT),
    }
    contenders[BY_TOKEN] = partial(start, field.ours, token)
    contenders.update({peer.name: partial(start, peer) for peer in others})
    entries = interleaved(contenders, rounds=field.scale.rounds, budget_seconds=field.scale.budget_seconds)
    first = Row(
        title=f"Start to the first authenticated page, {files:,} files",
        unit="s",
        better="lower",
        entries=tuple(entries),
        method="A new process each time, asked every few milliseconds; a password costs one bcrypt verification, "
        f"which {PERYX} does without: it asks nobody for a login. The files are in the system's cache.",
    )
    used = Row(
        title=f"{first.title}: processor time",
        unit="s",
        better="lower",
        entries=entries_of(processor),
        method="Of all of the server's processes, until the page has arrived.",
    )
    whole = Row(
        title=f"Start until every project page was served once, {files:,} files",
        unit="s",
        better="lower",
        entries=entries_of(everything),
        method=f"{len(corpus.projects):,} pages over {field.scale.connections} connections, after the first page.",
    )
    goals = median_within(first, PRESENT, 0.3), median_within(first, BY_TOKEN, 0.15)
    return first.judged(*goals), used, whole.judged(below(whole, LOST, 15))


def _large_file(field: Field, size: int) -> Iterator[Row]:
    """Rows for a file of *size* bytes."""
    rounds = 1 if size >= _ONCE_BYTES else min(field.scale.rounds, _LARGE_ROUNDS)
    label = f"{size / 1e9:g} GB" if size >= _ONCE_BYTES else f"{size / 1e6:g} MB"
    folder = field.scratch / "large"
    folder.mkdir(exist_ok=True)
    project = f"bench-large-{size // 1_000_000}"
    wheels = [write_large_wheel(folder, project, f"1.{number}", size=size) for number in range(rounds)]
    left_out = dict.fromkeys(field.names(rounds=12), "left out: as with cost 5")
    peers = [peer for peer in field.present if peer.name not in left_out]
    for peer in peers:
        if peer.name == NGINX:
            peer.add(field.place(peer), wheels[0], folder / wheels[0].filename)
    servers = {peer.name: peer.server(field.place(peer), free_port()) for peer in peers}
    memory = dict.fromkeys(servers, 0)
    budget = field.scale.budget_seconds

    processor: dict[str, list[float]] = {}

    def watched(name: str, measure: Callable[[], float]) -> Callable[[], float]:
        def run() -> float:
            flush()
            before = servers[name].cpu_seconds()
            with MemoryWatch(servers[name]) as watch:
                seconds = measure()
            processor.setdefault(name, []).append((servers[name].cpu_seconds() - before) / size * 1e9)
            memory[name] = max(memory[name], watch.peak)
            return size / seconds / 1e6

        return run

    with running(list(servers.values())):
        await_rest(servers.values())
        takers = [name for name in servers if name != NGINX]
        sent = {name: watched(name, _next_upload(servers[name], folder, iter(wheels))) for name in takers}
        uploads = interleaved(sent, rounds=rounds, budget_seconds=budget)
        holders = [name for name in servers if name == NGINX] + [entry.name for entry in uploads if entry.values]
        processor.clear()
        # The first download is verified byte by byte, and not counted.
        fetched = {name: watched(name, _checked_download(servers[name], wheels[0])) for name in holders}
        downloads = interleaved(fetched, rounds=max(rounds, _LARGE_ROUNDS), budget_seconds=budget)
    shutil.rmtree(folder)
    yield Row(
        title=f"Upload of {label}",
        unit="MB/s",
        better="higher",
        entries=complete(field, uploads, {NGINX: "takes no uploads", **left_out}),
        method="One connection, until acknowledged, the disk flushed before. "
        f"{OURS} responds when the file is durable.",
    )
    row = Row(
        title=f"Download of {label}",
        unit="MB/s",
        better="higher",
        entries=complete(field, downloads, left_out),
        method="One connection over loopback, the file in the system's cache, every byte read; checked once before.",
    )
    yield row.judged(at_least(row, OURS, [NGINX], 0.5, called=NGINX))
    row = Row(
        title=f"Download of {label}: processor time",
        unit="s/GB",
        better="lower",
        entries=entries_of(processor),
        method="Of all of the server's processes.",
    )
    yield row.judged(at_most(row, OURS, NGINX, 1.3))
    row = Row(
        title=f"Server memory during upload and download of {label}",
        unit="MiB",
        better="lower",
        entries=tuple(Entry(name=name, values=(peak / 2**20,)) for name, peak in memory.items() if peak),
        method="The most resident memory of all of the server's processes together, sampled every 20 ms.",
    )
    yield row.judged(below(row, OURS, 120))


def _next_upload(server: Server, folder: Path, wheels: Iterator[Wheel]) -> Callable[[], float]:
    """Each call uploads the next wheel."""

    def measure() -> float:
        wheel = next(wheels)
        return upload(server, wheel, folder / wheel.filename)

    return measure


def _checked_download(server: Server, wheel: Wheel) -> Callable[[], float]:
    path = ""

    def measure() -> float:
        nonlocal path
        if not path:
            path = file_path(server, wheel)
            download(server, path, wheel, check=True)
        return download(server, path, wheel)

    return measure


def _ask_all(field: Field, server: Server, corpus: Corpus) -> float:
    """Seconds until every project's page has been served once."""
    messages = (
        request(server.page_url(name), authorization=server.authorization, accept=ANY_PAGE) for name in corpus.projects
    )
    tally = send(server.url, supply(messages), connections=field.scale.connections, seconds=600)
    tally.rate("every project's page")
    return tally.seconds


def _many(field: Field, files: int) -> Corpus:
    """An index of *files* minimal wheels, written on first use."""
    return field.shaped(max(files // VERSIONS, 1), VERSIONS)


def _page(field: Field, server: Server, project: str, cost: ProcessorTime) -> Callable[[], float]:
    return lambda: cost.rate(server, lambda: field.ask(server, project), "project pages")


def _cheap_stock(field: Field) -> list[Peer]:
    """Stock pypiserver in its fastest variant."""
    names = field.names(server_kinds=["gunicorn"], rounds=5)
    return [peer for peer in field.present if peer.name in names]


def _sized(peer: Peer, files: int) -> str:
    return f"{peer.name}, {files:,} files"


def _once(title: str, unit: str, values: Mapping[str, float], method: str) -> Row:
    """A row of figures measured once."""
    entries = tuple(Entry(name=name, values=(value,)) for name, value in values.items())
    return Row(title=title, unit=unit, better="lower", entries=entries, method=method)


def _limits(field: Field, row: Row, goals: Mapping[int, float]) -> list[Verdict]:
    """Verdicts on the goals for the measured sizes."""
    return [
        below(row, _sized(field.ours, files), limit)
        for files, limit in goals.items()
        if files in field.scale.index_files
    ]


def _flat(row: Row, names: list[str]) -> Verdict:
    """The goal that the dearest of *names* is within 1.2 times of the cheapest."""
    figures = [row.median(name) for name in names]
    failed = any(entry.failed for entry in row.entries if entry.name in names)
    found = [each for each in figures if each]
    if failed or len(found) < len(names):
        return Verdict(goal="flat: within 1.2 times", found="", met=False if failed else None)
    ratio = max(found) / min(found)
    return Verdict(goal="flat: within 1.2 times", found=f"{figure(ratio)} times between extremes", met=ratio <= 1.2)
