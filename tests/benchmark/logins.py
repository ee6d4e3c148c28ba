"""Measurements of first logins: many users at once, and a known user's pages meanwhile."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import bcrypt

from tests.benchmark.changes import Client
from tests.benchmark.corpus import ROOT_PROJECT
from tests.benchmark.field import NGINX, Field
from tests.benchmark.load import request, send, supply
from tests.benchmark.measurement import Row, at_most, entries_of, interleaved, median_within
from tests.benchmark.nginx import Nginx
from tests.benchmark.peers import BY_TOKEN, OURS, Ours, token_logins, write_htpasswd, write_tokens
from tests.benchmark.servers import ANY_PAGE, Login, Server, free_port
from tests.benchmark.watch import await_rest

BCRYPT = "bcrypt alone"
KNOWN = f"{OURS}, known users"

KNOWN_GOAL = 20.0
"""Milliseconds for the slowest page of a known user while others log in."""

_EVERY_SECONDS = 0.01
_BCRYPT_TIMES = 1.05
_TOKEN_TIMES = 1.25
"""Factor to the time of the same pages for known users. Both take milliseconds, so the machine's load matters."""


def first_logins(field: Field) -> tuple[Row, ...]:
    """Many users request a page at once, their first since the start, with passwords and with tokens."""
    scale = field.scale
    rounds = min(scale.rounds, scale.login_rounds)
    slowest: dict[str, list[float]] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        place = field.scratch / "logins"
        ours = Ours(field.login, rounds=scale.login_cost)
        ours.prepare(place, field.corpus)
        names = [f"user-{number}" for number in range(scale.logins * rounds)]
        write_users(place / "credentials/.htpasswd", field.login, names, scale.login_cost)
        write_tokens(place / "credentials", names, kept=place)
        server = stack.enter_context(ours.server(place, free_port()))
        passwords = [Login(name, field.login.password) for name in names]
        contenders = {
            OURS: _by(server, passwords, scale.logins, pool, slowest.setdefault(OURS, [])),
            BY_TOKEN: _by(server, token_logins(place), scale.logins, pool, slowest.setdefault(BY_TOKEN, [])),
            KNOWN: _by(server, [field.login] * len(names), scale.logins, pool, slowest.setdefault(KNOWN, [])),
            BCRYPT: _bcrypt_alone(server, scale.logins, scale.login_cost, pool),
        }
        server.get(f"{server.index_path}{ROOT_PROJECT}/")
        if NGINX in field.named and NGINX not in field.absent:
            site = field.scratch / "logins-nginx"
            nginx = Nginx(login=field.login, users=place / "credentials/.htpasswd")
            nginx.prepare(site, field.corpus)
            limit = stack.enter_context(nginx.server(site, free_port()))
            contenders[NGINX] = _by(limit, passwords, scale.logins, pool, None)
        await_rest([server])
        entries = interleaved(contenders, rounds=rounds, budget_seconds=rounds * scale.budget_seconds)
    row = Row(
        title=f"First logins of {scale.logins} users at once, bcrypt cost {scale.login_cost}",
        unit="s",
        better="lower",
        entries=tuple(entries),
        method="A connection for each user, until the last one has its page; none may be refused. nginx verifies by "
        f"its own basic auth. {BCRYPT!r} verifies as many passwords on all processors, also while one client asks for "
        "pages.",
    )
    known = Row(
        title=f"Slowest page of a known user while {scale.logins} users log in",
        unit="ms",
        better="lower",
        entries=entries_of(slowest),
        method=f"One client asks for a page every {_EVERY_SECONDS * 1e3:g} ms; another process logs in.",
    )
    goals = at_most(row, OURS, BCRYPT, _BCRYPT_TIMES), at_most(row, BY_TOKEN, KNOWN, _TOKEN_TIMES)
    return row.judged(*goals), known.judged(median_within(known, OURS, KNOWN_GOAL))


def write_users(path: Path, login: Login, names: Sequence[str], rounds: int) -> None:
    """Add users with the password hash of *login*: hashing each would take minutes, and each is verified anyway."""
    write_htpasswd(path, login, rounds)
    digest = path.read_text().partition(":")[2]
    with path.open("a") as file:
        file.writelines(f"{name}:{digest}" for name in names)


def log_in(url: str, messages: Sequence[bytes]) -> float:
    """Send each request on its own connection, all at once; returns seconds until the last response.

    Raises:
        IndexRequestError: one was refused.
    """
    tally = send(url, supply(iter(messages)), connections=len(messages), seconds=600)
    tally.rate("first logins")
    return tally.seconds


def _by(
    server: Server, logins: Sequence[Login], many: int, pool: Executor, slowest: list[float] | None
) -> Callable[[], float]:
    """Each call logs in the next users, in another process, and records the slowest page of a known user."""
    path, begins = f"{server.index_path}{ROOT_PROJECT}/", itertools.count(step=many)

    def measure() -> float:
        begin = next(begins)
        messages = [  # all different, even for one user: no server has seen their bytes
            request(server.url + path, authorization=login.header(), accept=ANY_PAGE, headers={"X-Number": f"{number}"})
            for number, login in enumerate(logins[begin : begin + many], begin)
        ]
        done = pool.submit(log_in, server.url, messages)
        if slowest is not None:
            slowest.append(_slowest(Client(server), path, done))
        return done.result()

    return measure


def _slowest(client: Client, path: str, done: Future[float]) -> float:
    """Milliseconds of the slowest page until *done* is done."""
    worst, _ = client.page(path)
    while not done.done():
        worst = max(worst, client.page(path)[0])
        time.sleep(_EVERY_SECONDS)
    return worst


def _bcrypt_alone(server: Server, many: int, cost: int, pool: Executor) -> Callable[[], float]:
    """Each call verifies passwords in another process, while the client of :func:`_by` uses as much of the machine."""

    def measure() -> float:
        done = pool.submit(verify_passwords, many, cost)
        _slowest(Client(server), f"{server.index_path}{ROOT_PROJECT}/", done)
        return done.result()

    return measure


def verify_passwords(many: int, cost: int) -> float:
    """Verify a password many times, on all processors; returns seconds."""
    digest = bcrypt.hashpw(b"password", bcrypt.gensalt(cost))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        begin = time.perf_counter()
        for _ in threads.map(lambda _: bcrypt.checkpw(b"password", digest), range(many)):
            pass
        return time.perf_counter() - begin
