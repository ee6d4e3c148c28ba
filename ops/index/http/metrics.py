"""Metrics for monitoring systems, in the text format of Prometheus or as OpenMetrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ops.index.activity import Activity
from ops.index.auth.audit import Audit
from ops.index.auth.roles import Identity
from ops.index.errors import Forbidden
from ops.index.http.request import Request
from ops.index.packages.repository import Repository
from ops.index.storage.waiting import in_thread

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


class Metrics:
    """Handler of GET for ``metrics``, for admins.

    Covers this one process since its start: with several servers, scrape each, or read the files of
    :mod:`ops.index.activity`.

    Parameters:
        repository: has the projects and files.
        activity: counts downloads.
        audit: counts changes and refused logins.
    """

    def __init__(self, repository: Repository, activity: Activity, audit: Audit) -> None:
        self._repository = repository
        self._activity = activity
        self._audit = audit
        self._registry: CollectorRegistry | None = None

    async def handle(self, request: Request, identity: Identity) -> None:
        """Respond with all metrics.

        Raises:
            Forbidden: the user is not an admin.
        """
        if not identity.may_administer:
            raise Forbidden(identity.username, "read the metrics of the server")
        content_type, body = await in_thread(lambda: self._exposition(request.header(b"accept") or ""))
        await request.content(200, content_type.encode(), body)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the index, as a collector of prometheus_client does."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield GaugeMetricFamily("pypi_index_files", "Files in the index.", value=len(self._repository))
        yield GaugeMetricFamily("pypi_index_projects", "Projects in the index.", value=len(self._repository.projects()))
        downloads = CounterMetricFamily("pypi_index_downloads", "Downloads of files.", labels=["client"])
        for client, count in self._activity.downloads.copy().items():
            downloads.add_metric([client], count)
        yield downloads
        events = CounterMetricFamily("pypi_index_events", "Events in the audit log of packages.", labels=["event"])
        for event, count in self._audit.counts.copy().items():
            events.add_metric([event], count)
        yield events

    def _exposition(self, accept: str) -> tuple[str, bytes]:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            self._registry = CollectorRegistry()
            ProcessCollector(registry=self._registry)
            collector: Any = self  # the library's type requires a base class, but it only calls the method
            self._registry.register(collector)
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)
