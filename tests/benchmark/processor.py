"""Processor time per request: unlike the rate, it does not depend on the load of the machine."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmark.measurement import Row, entries_of
from tests.benchmark.responses import Tally
from tests.benchmark.servers import Server


class ProcessorTime:
    """Collects the processor time that servers use while their rates are measured."""

    def __init__(self) -> None:
        self._used: dict[str, list[float]] = {}

    def rate(self, server: Server, ask: Callable[[], Tally], what: str, *, status: int | None = None) -> float:
        """Measure a rate, and the processor time per request.

        Parameters:
            server: receives the requests.
            ask: sends the requests.
            what: is requested.
            status: expected of all responses; None for 200 to 299.

        Raises:
            IndexRequestError: as from :meth:`Tally.rate`.
        """
        before = server.cpu_seconds()
        tally = ask()
        rate = tally.rate(what, status=status)
        used = server.cpu_seconds() - before
        self._used.setdefault(server.name, []).append(1e3 * used / (rate * tally.seconds))
        return rate

    def row(self, title: str) -> Row:
        """The processor times, as a companion to the row *title*."""
        return Row(
            title=f"{title}: processor time",
            unit="ms",
            better="lower",
            entries=entries_of(self._used),
            method="Of all of the server's processes, divided by the number of requests.",
        )
