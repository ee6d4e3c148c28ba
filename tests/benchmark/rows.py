"""Measurements of a field's contenders, with one function for each goal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from tests.benchmark.field import NGINX, Field
from tests.benchmark.installs import Installer
from tests.benchmark.measurement import (
    Better,
    Entry,
    Row,
    at_least,
    at_most,
    interleaved,
    median_within,
    times_faster,
)
from tests.benchmark.peers import BY_TOKEN, OURS, PERYX, Ours, token_logins
from tests.benchmark.processor import ProcessorTime
from tests.benchmark.relay import Relay
from tests.benchmark.servers import Server, free_port
from tests.benchmark.uploads import Uploader, durable_writes

JUST_STARTED = f"{OURS}, just started"
CACHING = f"{OURS}, --page-max-age 600"

_START_AND_INSTALL = 0.36
"""Goal, in seconds."""

_TOKEN_SHARE = 0.95
"""Minimum share of the rate by password. Both are the same, but measurements vary by this much."""

DISK = "this disk alone"

UPLOAD_GOALS = {1: 800.0, 8: 1_450.0}
"""Durable uploads a second, by number of connections."""

UPLOAD_PROCESSOR_GOAL = 0.7
"""Milliseconds per upload."""


def cold_install(field: Field) -> Row:
    """Cold installs, one at a time."""
    installer = Installer(field.toolbox.uv, field.scratch, field.scale.packages)
    fresh = field.fresh()

    def just_started() -> float:
        fresh.start(until="/health")
        try:
            return installer.install(fresh)
        finally:
            fresh.stop()

    with field.servers() as servers:
        row = _row(
            field,
            _each(servers, installer.install) | {JUST_STARTED: just_started},
            rounds=field.scale.installs,
            title=f"Cold uv pip install of {field.scale.packages} packages",
            unit="s",
            better="lower",
            method="The real uv, empty cache, fresh environment; each server was asked before, except a second one of "
            "ours, just started, whose first login costs a whole bcrypt verification.",
        )
    cheap, dear = field.names(rounds=5), field.names(rounds=12)
    return row.judged(
        at_most(row, OURS, NGINX, 1.05),
        times_faster(row, OURS, cheap, 10, called="stock at cost 5"),
        times_faster(row, OURS, dear, 50, called="stock at cost 12"),
    )


def start_and_install(field: Field) -> Row:
    """Starts of a server, each with a cold install from it."""
    installer = Installer(field.toolbox.uv, field.scratch, field.scale.packages)
    takers = [peer for peer in field.present if peer.name in {NGINX, OURS, PERYX}]
    servers = {peer.name: peer.server(field.place(peer), free_port()) for peer in takers}
    (login,) = token_logins(field.place(field.ours))
    servers[BY_TOKEN] = servers[OURS].seen_by(BY_TOKEN, login)

    def measure(server: Server) -> float:
        try:
            return installer.install(server, start=True)
        finally:
            server.stop()

    row = _row(
        field,
        _each(servers, measure),
        title=f"Start and cold uv pip install of {field.scale.packages} packages",
        unit="s",
        better="lower",
        rounds=min(field.scale.installs, 10),
        method="uv starts when the port accepts connections. A password costs a bcrypt verification at "
        f"cost {field.ours.rounds}, which is most of the time.",
    )
    return row.judged(*(median_within(row, name, _START_AND_INSTALL) for name in (OURS, BY_TOKEN)))


def warm_install(field: Field) -> Row:
    """Requests of an install by a client with a warm cache."""
    installer = Installer(field.toolbox.uv, field.scratch, field.scale.packages)
    caching = Ours(field.login, name=CACHING, options=("--page-max-age", "600"))
    contenders: dict[str, Callable[[], float]] = {}

    def measure(server: Server) -> float:
        with Relay(server.port) as relay:
            home, url = installer.home(), server.index_url.replace(str(server.port), str(relay.port))
            installer.into(home, server, url=url)
            installer.renew(home)
            before = relay.requests
            installer.into(home, server, url=url)
            return float(relay.requests - before)

    with ExitStack() as stack:
        for peer in (*field.present, caching):
            if peer.name in {NGINX, OURS, PERYX, CACHING}:
                place = field.place(peer)
                if peer is caching:
                    peer.prepare(place, field.corpus)
                contenders[peer.name] = partial(measure, stack.enter_context(peer.server(place, free_port())))
        row = _row(
            field,
            contenders,
            title=f"Warm uv pip install of {field.scale.packages} packages",
            unit="requests",
            better="lower",
            rounds=1,
            method="The same cache, a fresh environment. A page that may be used again unasked shows uploads and yanks "
            "that much later.",
        )
    return row.judged(median_within(row, OURS, field.scale.packages + 1), median_within(row, CACHING, 0))


def installs_at_once(field: Field) -> Row:
    """Concurrent cold installs."""
    installer = Installer(field.toolbox.uv, field.scratch, field.scale.packages)
    dear = field.names(rounds=12)
    wanted = [peer.name for peer in field.present if peer.name not in dear]
    with field.servers(wanted) as servers:
        row = _row(
            field,
            _each(servers, lambda server: installer.install(server, at_once=field.scale.at_once)),
            title=f"{field.scale.at_once} cold uv pip installs of {field.scale.packages} packages at once",
            unit="s",
            better="lower",
            left_out=dict.fromkeys(dear, "left out: it verifies by bcrypt at every request, which takes minutes"),
            method="Until the last one has ended, each with a cache and an environment of its own.",
        )
    return row.judged(at_most(row, OURS, NGINX, 1.2))


def page_rate(field: Field) -> tuple[Row, Row]:
    """One project's page, requested by several clients."""
    project, cost = next(iter(field.corpus.projects)), ProcessorTime()
    with field.servers() as servers:
        (login,) = token_logins(field.place(field.ours))
        # The two of ours are neighbours: a slow peer may still be busy with what it was asked before.
        views = {OURS: servers[OURS], BY_TOKEN: servers[OURS].seen_by(BY_TOKEN, login), **servers}
        row = _row(
            field,
            _each(views, lambda server: cost.rate(server, lambda: field.ask(server, project), "project pages")),
            title=f"Project page, {field.scale.connections} clients",
            unit="requests/s",
            better="higher",
            method=f"Persistent connections, {field.scale.versions} files on the page, {len(field.corpus.wheels)} in "
            f"the index, uncompressed. Page client: {field.versions()['page client']}.",
        )
    goals = [at_least(row, OURS, [NGINX], 0.5, called=NGINX)]
    goals.append(at_least(row, BY_TOKEN, [OURS], _TOKEN_SHARE, called="that by password"))
    return row.judged(*goals), cost.row(row.title)


def upload_rates(field: Field) -> tuple[Row, ...]:
    """Small uploads over one connection and over several."""
    return tuple(row for connections in UPLOAD_GOALS for row in _upload_rate(field, connections))


def _upload_rate(field: Field, connections: int) -> tuple[Row, Row]:
    scale, cost = field.scale, ProcessorTime()
    slow = [] if connections > 1 else [peer.name for peer in field.present if peer.name not in {NGINX, OURS, PERYX}]
    takers = [peer.name for peer in field.present if peer.name not in {NGINX, *slow}]
    with field.servers(takers) as servers:
        uploaders = {name: Uploader(server, most=_supply(field, name)) for name, server in servers.items()}

        def measure(name: str) -> Callable[[], float]:
            ask = partial(uploaders[name].measure, connections=connections, seconds=scale.seconds)
            return lambda: cost.rate(servers[name], ask, "uploads")

        contenders = {name: measure(name) for name in uploaders}
        disk = field.scratch / "disk"
        disk.mkdir(exist_ok=True)
        contenders[DISK] = lambda: durable_writes(disk, threads=connections, seconds=scale.seconds)
        row = _row(
            field,
            contenders,
            title=f"21 kB uploads, {connections} connection{'' if connections == 1 else 's'}",
            unit="uploads/s",
            better="higher",
            left_out={NGINX: "takes no uploads", **dict.fromkeys(slow, "left out: it takes some ten a second")},
            method=f"Multipart forms as twine sends them, persistent connections, each a new file. {OURS} responds "
            f"when the file is on the disk; stock pypiserver does not wait for that. {DISK!r} writes and fsyncs the "
            "same bytes without any server.",
        )
    goals = [median_within(row, OURS, UPLOAD_GOALS[connections])]
    if connections > 1:
        goals.append(at_least(row, OURS, field.names(), 10, called="the best of stock"))
    used = cost.row(row.title)
    return row.judged(*goals), used.judged(median_within(used, OURS, UPLOAD_PROCESSOR_GOAL))


def _supply(field: Field, name: str) -> int:
    """Number of prepared uploads: enough for a fast server for ours, far fewer for others to save memory."""
    return field.scale.most_uploads if name == OURS else field.scale.most_uploads // 4


def _each(servers: Mapping[str, Server], measure: Callable[[Server], float]) -> dict[str, Callable[[], float]]:
    def bound(server: Server) -> Callable[[], float]:
        return lambda: measure(server)

    return {name: bound(server) for name, server in servers.items()}


def _row(
    field: Field,
    contenders: Mapping[str, Callable[[], float]],
    *,
    title: str,
    unit: str,
    better: Better,
    method: str,
    rounds: int | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Row:
    """Measure, and add the absent contenders with the reason."""
    entries = interleaved(contenders, rounds=rounds or field.scale.rounds, budget_seconds=field.scale.budget_seconds)
    return Row(title=title, unit=unit, better=better, entries=complete(field, entries, left_out or {}), method=method)


def complete(field: Field, entries: Sequence[Entry], left_out: Mapping[str, str]) -> tuple[Entry, ...]:
    """The entries, plus one for each contender that was left out or is absent."""
    absent = [Entry(name=name, note=why) for name, why in {**field.absent, **left_out}.items()]
    there = {entry.name for entry in entries}
    return (*entries, *(entry for entry in absent if entry.name not in there))
