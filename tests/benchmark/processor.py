"""Processor time of requests beside their rate: other programs on the machine slow down the rate, and not this."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmark.measurement import Entry, Row
from tests.benchmark.responses import Tally
from tests.benchmark.servers import Server


class ProcessorTime:
    """Gathers the processor time that servers use while they are measured."""

    def __init__(self) -> None:
        self._used: dict[str, list[float]] = {}

    def rate(self, server: Server, ask: Callable[[], Tally], what: str, *, status: int | None = None) -> float:
        """Measure a rate, and the processor time of each request meanwhile.

        Parameters:
            server: that is asked.
            ask: sends the requests.
            what: is asked for.
            status: of all responses; None for 200 to 299.

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
        """What was used, as a row beside the one of *title*."""
        return Row(
            title=f"{title}: processor time",
            unit="ms",
            better="lower",
            entries=tuple(Entry(name=name, values=tuple(values)) for name, values in self._used.items()),
            method="Of all of the server's processes, divided by the number of requests.",
        )
