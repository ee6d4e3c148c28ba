"""One run of the benchmark, in the notebook's steps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack

from ops.errors import ParameterError, PreflightError
from ops.table import Table
from ops.targets.lock import exclusive
from ops.workspace import Workspace
from tests.benchmark import changes, logins, repeats, rows, sizes, wrk
from tests.benchmark.field import Field, find_peers
from tests.benchmark.machine import Machine, own_versions
from tests.benchmark.measurement import Row
from tests.benchmark.results import Report, Results
from tests.benchmark.scale import MIB, find_scale
from tests.benchmark.servers import Login


class Benchmark:
    """Our index and its peers, on this machine, over loopback.

    Each step starts the servers that it needs and always stops them; :meth:`report` returns all results.

    Parameters:
        target: must be ``local``; the benchmark starts its own servers and never touches the deployed index.
        scale: ``quick`` or ``full``.
        peers: comma-separated names: ``nginx``, ``peryx``, ``pypiserver``, ``devpi``.
        workspace: the operator's folder; the default one if None.

    Raises:
        ParameterError: a parameter has an unsupported value.
    """

    def __init__(self, *, target: str, scale: str, peers: str, workspace: Workspace | None = None) -> None:
        if target != "local":
            raise ParameterError(
                f"the benchmark cannot run on the target {target!r}",
                why="it compares servers on one machine",
                todo="run it with target=local",
            )
        self._workspace = (workspace or Workspace.default()).create()
        self._folder = self._workspace.home / "benchmark"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._field = Field(find_scale(scale), find_peers(peers), self._folder, Login.kept(self._folder))
        self._machine = Machine.here(self._folder)
        self._rows: list[Row] = []
        # Concurrent runs would distort each other. The OS releases the lock when the process ends.
        self._held = ExitStack()

    def preflight(self) -> Table:
        """List what is installed and what is missing. Read-only.

        Raises:
            PreflightError: not enough free disk space.
        """
        scale = self._field.scale
        free = shutil.disk_usage(self._folder).free
        if free < scale.free_bytes:
            needed = f"{scale.free_bytes // MIB:,} MiB are needed"
            raise PreflightError([f"{free // MIB:,} MiB are free on the disk of {self._folder}, {needed}"])
        lines = [(peer.name, "missing" if peer.missing() else "there", peer.missing()) for peer in self._field.peers]
        lines.append(("wrk", *(("there", "") if wrk.available() else ("missing", "the built-in loader is used"))))
        lines.append(("disk", "enough", f"{free // MIB:,} MiB free, {scale.free_bytes // MIB:,} MiB needed at most"))
        return Table.of(
            "Preflight", ("What", "State", "Remark"), lines, note="Missing environments of peers are installed next."
        )

    def prepare(self) -> Table:
        """Install missing peers, write the corpus, and give each server a copy."""
        self._held.close()
        self._held.enter_context(exclusive(self._folder / "lock", what="the benchmark"))
        installed = self._field.install()
        corpus = self._field.prepare()
        lines = [
            ("corpus", f"{len(corpus.wheels):,} wheels of 21 kB in {len(corpus.projects)} projects"),
            ("environments installed now", ", ".join(installed) or "none, they were there"),
            *((peer.name, f"version {peer.version()}") for peer in self._field.present),
            *((name, f"absent: {why}") for name, why in self._field.absent.items()),
        ]
        return Table.of("Prepared", ("What", "State"), lines)

    def cold_install(self) -> Results:
        """Cold installs one at a time, cold installs including the server's start, and warm installs."""
        field = self._field
        return self._keep(rows.cold_install(field), rows.start_and_install(field), rows.warm_install(field))

    def installs_at_once(self) -> Results:
        """Concurrent cold installs."""
        return self._keep(rows.installs_at_once(self._field))

    def page_rate(self) -> Results:
        """Request rate of a project page."""
        return self._keep(*rows.page_rate(self._field))

    def page_by_size(self) -> Results:
        """Project pages and starts as the index grows."""
        return self._keep(*sizes.indexes_by_size(self._field))

    def upload_rate(self) -> Results:
        """Rate of small uploads."""
        return self._keep(*rows.upload_rates(self._field))

    def repeats(self) -> Results:
        """Repeated requests, and first requests."""
        field = self._field
        return self._keep(*repeats.long_page(field), *repeats.small_page(field), repeats.unseen_pages(field))

    def changes(self) -> Results:
        """Pages and lists after an upload, and during concurrent uploads."""
        field = self._field
        return self._keep(
            *changes.pages_by_size(field), changes.page_under_uploads(field), *changes.lists_of_projects(field)
        )

    def large_files(self) -> Results:
        """Transfers of large files, and the servers' memory during them."""
        return self._keep(*sizes.large_files(self._field))

    def starts(self) -> Results:
        """Time until the server responds."""
        return self._keep(*sizes.starts(self._field))

    def first_logins(self) -> Results:
        """Concurrent first logins of many users."""
        return self._keep(*logins.first_logins(self._field))

    def report(self) -> Report:
        """Everything measured so far."""
        versions: Mapping[str, str] = {**self._field.versions(), **own_versions()}
        return Report(scale=self._field.scale.name, machine=self._machine, versions=versions, rows=tuple(self._rows))

    def goals(self) -> Table:
        """Every goal and its result. A missed goal is reported, but raises nothing."""
        return self.report().goals()

    def finish(self) -> Table:
        """Save the results as JSON, remove the servers' data, and describe the machine."""
        report = self.report()
        path = report.save(self._folder / "results")
        self._field.remove()
        self._held.close()
        setting = report.setting()
        return Table.of(
            setting.caption,
            setting.header,
            [*setting.rows, ("figures as JSON", path.relative_to(self._workspace.home.parent))],
        )

    def _keep(self, *measured: Row) -> Results:
        titles = {row.title for row in measured}
        self._rows = [row for row in self._rows if row.title not in titles] + list(measured)
        return Results(measured)
