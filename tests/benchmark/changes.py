"""Measurements of what a change costs: pages and lists after an upload, and during concurrent uploads."""

from __future__ import annotations

import http.client
import itertools
import multiprocessing
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from ops.errors import IndexRequestError
from tests.benchmark.corpus import build_wheel
from tests.benchmark.field import Field
from tests.benchmark.load import send, supply
from tests.benchmark.measurement import Entry, Row, Verdict, interleaved, median_within
from tests.benchmark.peers import OURS, PERYX, Peer
from tests.benchmark.servers import ANY_PAGE, HOST, Server
from tests.benchmark.uploads import upload_request
from tests.benchmark.watch import await_rest

UPLOADERS = (1, 4, 8)
"""Clients that upload to a project while its page is requested."""

FIRST_GOALS = {10_000: 500.0}
"""Milliseconds for the first page of a project, by the number of its files."""

AFTER_GOALS = {1_500: 3.0, 10_000: 12.0}
"""Milliseconds for the page of a project after an upload, by the number of its files."""

MEANWHILE_GOAL = 100.0
OTHERS_GOAL = 7.0

LIST_GOALS = {
    "the list for people, first": 25.0,
    "the list for people, again": 4.0,
    "the list for people, after an upload": 10.0,
    "the list as JSON, after a new project": 30.0,
    "the list as HTML, again": 5.0,
}
"""Milliseconds for lists of 100,000 projects."""

_PEOPLE = "/"
_PEOPLE_BYTES = 100_000
_HTML = "text/html"
_UPLOADS = 12


class Client:
    """A persistent connection, like an installer's; reopened if the server closed it while idle.

    Parameters:
        server: to connect to.

    Attributes:
        tag: the entity tag of the last page.
    """

    def __init__(self, server: Server) -> None:
        self.tag = ""
        self._server = server
        self._connection = http.client.HTTPConnection(HOST, server.port, timeout=120)
        weakref.finalize(self, self._connection.close)

    def page(self, path: str, accept: str = ANY_PAGE) -> tuple[float, int]:
        """Milliseconds until the last byte of a page arrives, and its size on the wire in bytes.

        Raises:
            IndexRequestError: the status was not 200.
        """
        headers = {"Accept": accept, "Accept-Encoding": "gzip"}
        if self._server.authorization:
            headers["Authorization"] = self._server.authorization
        try:
            begin, response, body = self._ask(path, headers)
        except ConnectionError:  # the server closed it while others were measured
            self._connection.close()
            begin, response, body = self._ask(path, headers)
        if response.status != 200:
            raise IndexRequestError(f"{self._server.name} did not serve {path}", status=response.status)
        self.tag = response.headers["ETag"] or ""
        return (time.perf_counter() - begin) * 1e3, len(body)

    def _ask(self, path: str, headers: Mapping[str, str]) -> tuple[float, http.client.HTTPResponse, bytes]:
        begin = time.perf_counter()
        self._connection.request("GET", path, headers=dict(headers))
        response = self._connection.getresponse()
        return begin, response, response.read()


class _Uploads:
    """Uploads of new wheels, each a new version of a project.

    Parameters:
        server: receives them.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._numbers = itertools.count(int(time.time()))

    def message(self, project: str) -> bytes:
        """The next upload."""
        wheel, content = build_wheel(project, f"9.{next(self._numbers)}", size=0)
        return upload_request(self.server, wheel, content)

    def one(self, project: str) -> None:
        """Upload one file and wait for the response."""
        send(self.server.url, supply(iter([self.message(project)])), connections=1, seconds=60).rate("an upload")


def pages_by_size(field: Field) -> tuple[Row, Row]:
    """The page of projects of increasing size: first request after a start, and after each upload."""
    sizes = field.scale.project_files
    contenders: dict[str, Callable[[], float]] = {}
    entries: list[Entry] = []
    with ExitStack() as stack:
        for files in sizes:
            corpus = field.shaped(1, files)
            for peer in _takers(field):
                name, server = _sized(peer.name, files), stack.enter_context(field.serving(peer, corpus, warm=False))
                client, project = Client(server), next(iter(corpus.projects))
                client.page(server.index_path)  # logs in
                await_rest([server])
                entries.append(Entry(name=name, values=(client.page(f"{server.index_path}{project}/")[0],)))
                contenders[name] = _after_upload(server, project)
        row = _row(
            field,
            contenders,
            title="Page of a project after an upload to it",
            method=f"The median of {_UPLOADS} pages, gzipped, each asked for when an upload was acknowledged.",
        )
    first = Row(
        title="First page of a project since the start",
        unit="ms",
        better="lower",
        entries=tuple(entries),
        method="Measured once, gzipped, when the server is at rest and the client has logged in.",
    )
    judged = []
    for measured, goals in ((first, FIRST_GOALS), (row, AFTER_GOALS)):
        limits = {_sized(OURS, files): limit for files, limit in goals.items() if files in sizes}
        judged.append(measured.judged(*(median_within(measured, name, limit) for name, limit in limits.items())))
    return judged[0], judged[1]


def page_under_uploads(field: Field) -> Row:
    """The largest project's page while clients upload to it."""
    files = field.scale.project_files[-1]
    corpus = field.shaped(1, files)
    contenders: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        for peer in _takers(field):
            server = stack.enter_context(field.serving(peer, corpus))
            for clients in UPLOADERS:
                name = f"{peer.name}, {clients} uploading"
                contenders[name] = partial(_worst_meanwhile, field, server, next(iter(corpus.projects)), clients, pool)
        row = _row(
            field,
            contenders,
            title=f"Worst page of a project of {files:,} files while clients upload to it",
            method=f"One client asks for the page for {field.scale.seconds:g} s; another process uploads.",
        )
    return row.judged(*(median_within(row, f"{OURS}, {clients} uploading", MEANWHILE_GOAL) for clients in UPLOADERS))


def lists_of_projects(field: Field) -> tuple[Row, Row]:
    """The lists of all projects, and one project's page while another client uploads once a second."""
    corpus = field.shaped(field.scale.projects_listed, 1)
    with field.serving(field.ours, corpus) as server:
        client, uploads, numbers = Client(server), _Uploads(server), itertools.count()
        known = next(iter(corpus.projects))
        await_rest([server])
        first, size = client.page(_PEOPLE, _HTML)

        def after(path: str, accept: str, project: Callable[[], str]) -> float:
            uploads.one(project())
            return client.page(path, accept)[0]

        simple = server.index_path
        contenders: dict[str, Callable[[], float]] = {
            "the list for people, again": lambda: client.page(_PEOPLE, _HTML)[0],
            "the list for people, after an upload": lambda: after(_PEOPLE, _HTML, lambda: known),
            "the list as JSON, after a new project": lambda: after(simple, ANY_PAGE, lambda: f"fresh-{next(numbers)}"),
            "the list as HTML, again": lambda: client.page(simple, _HTML)[0],
        }
        for measure in contenders.values():  # first requests are not measured, except in the first entry
            measure()
        lists = _row(
            field,
            contenders,
            title=f"Lists of {field.scale.projects_listed:,} projects",
            method="Gzipped. The list for people has pages, of which the first is asked for.",
        )
        entry = Entry(name="the list for people, first", values=(first,))
        lists = replace(lists, entries=(entry, *lists.entries))
        others = _row(
            field,
            {OURS: lambda: _worst_of_others(client, uploads, list(corpus.projects), field.scale.seconds)},
            title="Worst page of other projects during one upload a second",
            method=f"One client asks for another project's page for {field.scale.seconds:g} s, in an index of "
            f"{field.scale.projects_listed:,} projects.",
        )
    small = Verdict(
        goal=f"the list for people: at most {_PEOPLE_BYTES / 1e3:g} kB",
        found=f"{size / 1e3:.1f} kB",
        met=size <= _PEOPLE_BYTES,
    )
    judged = [median_within(lists, name, limit) for name, limit in LIST_GOALS.items()]
    return lists.judged(*judged, small), others.judged(median_within(others, OURS, OTHERS_GOAL))


def _after_upload(server: Server, project: str) -> Callable[[], float]:
    client, uploads, path = Client(server), _Uploads(server), f"{server.index_path}{project}/"
    client.page(path)

    def measure() -> float:
        figures = []
        for _ in range(_UPLOADS):
            uploads.one(project)
            figures.append(client.page(path)[0])
        return statistics.median(figures)

    return measure


def _worst_meanwhile(field: Field, server: Server, project: str, clients: int, pool: ProcessPoolExecutor) -> float:
    client, uploads, path = Client(server), _Uploads(server), f"{server.index_path}{project}/"
    client.page(path)
    messages = [uploads.message(project) for _ in range(field.scale.most_uploads)]
    seconds = field.scale.seconds
    sent = pool.submit(send_all, server.url, messages, clients, seconds)
    figures = []
    while not sent.done():
        figures.append(client.page(path)[0])
    sent.result()
    return max(figures)


def send_all(url: str, messages: Sequence[bytes], connections: int, seconds: float) -> float:
    """Send requests from a separate process, so as not to slow down the measurement; returns the rate per second."""
    return send(url, supply(iter(messages)), connections=connections, seconds=seconds).rate("uploads")


def _worst_of_others(client: Client, uploads: _Uploads, projects: Sequence[str], seconds: float) -> float:
    path = f"{uploads.server.index_path}{projects[-1]}/"
    client.page(path)
    worst, begin, due = 0.0, time.monotonic(), 0.0
    while (passed := time.monotonic() - begin) < seconds:
        if passed >= due:
            uploads.one(projects[0])
            due += 1.0
        worst = max(worst, client.page(path)[0])
    return worst


def _takers(field: Field) -> list[Peer]:
    """The contenders fast enough for these rows."""
    return [peer for peer in field.present if peer.name in {OURS, PERYX}]


def _sized(name: str, files: int) -> str:
    return f"{name}, {files:,} files"


def _row(field: Field, contenders: dict[str, Callable[[], float]], *, title: str, method: str) -> Row:
    entries = interleaved(contenders, rounds=field.scale.rounds, budget_seconds=field.scale.budget_seconds)
    return Row(title=title, unit="ms", better="lower", entries=tuple(entries), method=method)
