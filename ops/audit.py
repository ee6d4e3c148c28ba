"""Audit of an index: its contents, users, costs and deviations. Reads only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ops.audit_findings import UNUSED_DAYS, AuditFinding, Severity, findings
from ops.audit_log import Event, event_time, is_refusal, times
from ops.back_up import default_destination, place_shown
from ops.clients import check_public_index
from ops.errors import IndexRequestError, ParameterError, RunbookError, VerificationError
from ops.http_client import JSON, HttpClient
from ops.inventory import Inventory
from ops.preflight import preflight
from ops.snapshots import Bucket
from ops.snapshots.snapshot import moment
from ops.table import Table, counted
from ops.targets import Target

BAR_CELLS = 30
"""Characters of the longest bar. Bars are text, so they show wherever a notebook is displayed."""

PUBLIC_NAMES = 200
"""Maximum number of names looked up on the public index."""

SNAPSHOT_HOURS = 36
"""Age from which the newest snapshot is too old."""

LISTED = 25
"""Maximum number of rows in long tables."""

NOT_COUNTED = "not counted"


@dataclass(frozen=True)
class AuditReport:
    """One reading of an index.

    Parameters:
        target: that was read.
        inventory: as it was.
        findings: deviations, the most severe first.
        fail_at: severity from which a finding fails the audit; None for never.
    """

    target: Target
    inventory: Inventory
    findings: tuple[AuditFinding, ...]
    fail_at: Severity | None


def read(
    target: Target,
    *,
    integrity: bool = True,
    snapshots: str = "",
    public_index: str = "",
    fail_at: str = "error",
) -> AuditReport:
    """Read an index and check it.

    Parameters:
        target: with the index.
        integrity: True to read and hash every package.
        snapshots: folder or bucket of its snapshots; empty for the workspace's folder.
        public_index: URL of a simple API (PEP 503) on which to look up the names of all projects, at most
            :data:`PUBLIC_NAMES`; empty to skip this.
        fail_at: ``notice``, ``warning``, ``error`` or ``never``.

    Raises:
        ParameterError: a parameter makes no sense.
        NotDeployedError: there is no index.
        TargetError: the target cannot be read.
    """
    severities = {str(severity): severity for severity in Severity}
    if fail_at not in (*severities, "never"):
        why = f"it must be one of {', '.join(severities)} and never"
        raise ParameterError(f"fail_at cannot be {fail_at!r}", why=why, todo="use one of them")
    if public_index:
        check_public_index(public_index)
    inventory = Inventory.of(target, integrity=integrity)
    found = [*findings(target, inventory), *_snapshots(target, snapshots)]
    if public_index:
        found += _public_names(inventory, public_index)
    ordered = sorted(found, key=lambda finding: (-finding.severity, finding))
    return AuditReport(target, inventory, tuple(ordered), severities.get(fail_at))


def contents(report: AuditReport) -> Table:
    """Summary of the contents in numbers."""
    inventory = report.inventory
    listed, users = inventory.distributions, inventory.accounts
    roles = Counter(account.role for account in users.values())
    signatures = sum(path.endswith(".asc") and not path.startswith(".") for path in inventory.files)
    size = sum(inventory.files[path].size for path in listed)
    own = sum(file.size for path, file in inventory.files.items() if path.startswith("."))
    rows = [
        ("projects", f"{len({found.project for found in listed.values()}):,}"),
        ("releases", f"{len({(found.project, found.version) for found in listed.values()}):,}"),
        ("packages", f"{counted(len(listed), 'file')}, {counted(size, 'byte')}"),
        ("signatures", f"{signatures:,}"),
        (
            "kept by the index itself",
            f"{counted(len(inventory.files) - len(listed) - signatures, 'file')}, {counted(own, 'byte')}",
        ),
        ("users", ", ".join(f"{count} {role}{'s' * (count > 1)}" for role, count in sorted(roles.items())) or "none"),
        ("tokens", f"{len(inventory.tokens):,}"),
        ("read and hashed", f"{len(inventory.hashes):,} of {len(listed):,} packages"),
    ]
    return Table.of(f"The index on the target {report.target.place}", ("what", "how much"), rows)


def growth(report: AuditReport) -> Table:
    """Bytes added in each month, from the log of uploads and the times of other files."""
    months: dict[str, int] = defaultdict(int)
    logged = {
        str(event.get("filename")): str(event["time"])
        for event in report.inventory.events
        if event["event"] == "upload"
    }
    for path in report.inventory.distributions:
        file = report.inventory.files[path]
        when = logged.get(path.rpartition("/")[2]) or datetime.fromtimestamp(file.modified, UTC).isoformat()
        months[when[:7]] += file.size
    rows = zip(
        sorted(months), (f"{months[month]:,}" for month in sorted(months)), _bars([months[m] for m in sorted(months)])
    )
    return _table("Growth by month", ("month", "bytes added", "share of the largest"), list(rows))


def largest(report: AuditReport) -> Table:
    """The largest packages."""
    sizes = {path: report.inventory.files[path].size for path in report.inventory.distributions}
    chosen = sorted(sizes, key=lambda path: (-sizes[path], path))[:LISTED]
    rows = zip(chosen, (f"{sizes[path]:,}" for path in chosen), _bars([sizes[path] for path in chosen]))
    return _table("Largest packages", ("file", "bytes", "share of the largest"), list(rows))


def unused(report: AuditReport) -> Table:
    """Packages without downloads for :data:`UNUSED_DAYS` days that are older than that."""
    caption, header = f"Not downloaded in {UNUSED_DAYS} days", ("file", "bytes", "last download")
    if report.inventory.uses is None:
        return Table.of(caption, header, [("all", "", NOT_COUNTED)])
    since = datetime.now(UTC) - timedelta(days=UNUSED_DAYS)
    last: dict[str, datetime] = {}
    for use in report.inventory.uses:
        if use.file and use.downloads:
            last[use.file] = max(use.hour, last.get(use.file, use.hour))
    rows = []
    for path in report.inventory.distributions:
        file = report.inventory.files[path]
        if datetime.fromtimestamp(file.modified, UTC) < since and (path not in last or last[path] < since):
            rows.append((path, f"{file.size:,}", f"{last[path]:%Y-%m-%d}" if path in last else "none that was counted"))
    return _table(caption, header, rows)


def users(report: AuditReport) -> Table:
    """The users with their rights, last use and tokens."""
    inventory = report.inventory
    last: dict[str, datetime] = {}
    for use in inventory.uses or ():
        if use.user:
            last[use.user] = max(use.hour, last.get(use.user, use.hour))
    none = NOT_COUNTED if inventory.uses is None else "none that was counted"
    rows = []
    for name, account in sorted(inventory.accounts.items()):
        tokens = [
            f"{token.label or token.id} until {token.expires:%Y-%m-%d}"
            for token in inventory.tokens
            if token.owner == name
        ]
        used = f"{last[name]:%Y-%m-%d %H:%M} UTC" if name in last else none
        rows.append((name, account.rights, used, ", ".join(tokens) or "none"))
    return _table("Users", ("user", "role", "last use", "tokens"), rows)


def timeline(report: AuditReport) -> Table:
    """Changes and refusals per day in the audit log, for the last days."""
    days: dict[str, Counter[str]] = defaultdict(Counter)
    for event in report.inventory.events:
        days[str(event["time"])[:10]]["refused" if is_refusal(event) else "changed"] += times(event)
    chosen = sorted(days)[-LISTED:]
    bars = _bars([days[day].total() for day in chosen])
    rows = [(day, f"{days[day]['changed']:,}", f"{days[day]['refused']:,}", bar) for day, bar in zip(chosen, bars)]
    return _table("Audit log by day", ("day", "changes", "refusals", "together"), rows)


def recent_changes(report: AuditReport) -> Table:
    """The last changes in the audit log."""
    changes = [event for event in report.inventory.events if not is_refusal(event)]
    rows = []
    for event in reversed(changes[-LISTED:]):
        by = f"{event.get('actor') or event['user']} {event.get('address') or ''}".strip()
        rows.append((event_time(event), str(event["event"]), _about(event), by))
    return _table("Last changes", ("when", "what", "about", "by"), rows)


def _about(event: Event) -> str:
    """The thing that changed, with a user's role, a project's status or the owners of names as they are since then."""
    files = event.get("files")
    if isinstance(files, list) and files:
        return f"{files[0]}{f' and {len(files) - 1:,} more' if files[1:] else ''}"
    keys = ("filename", "project", "snapshot", "prefix", "id")
    about = next((str(event[key]) for key in keys if event.get(key)), str(event["user"]) if event.get("actor") else "")
    now, owners = event.get("role") or event.get("status"), event.get("owners")
    if isinstance(owners, list):
        now = ", ".join(map(str, owners)) or "free"
    return f"{about}: {now}" if now else about


def recent_refusals(report: AuditReport) -> Table:
    """Refused logins by user, address and reason, the last ones first."""
    counts: Counter[tuple[str, ...]] = Counter()
    last: dict[tuple[str, ...], str] = {}
    for event in filter(is_refusal, report.inventory.events):
        kind, user = str(event["event"]), str(event["user"])
        plain = ("no such user" if "(unknown" in user else "wrong password") if kind == "login.refused" and user else ""
        key = (kind, user, str(event.get("address") or ""), str(event.get("why") or plain))
        counts[key] += times(event)
        last[key] = event_time(event)
    chosen = sorted(counts, key=lambda key: last[key], reverse=True)[:LISTED]
    rows = [(last[key], *key[:3], f"{counts[key]:,}", key[3]) for key in chosen]
    return _table("Last refused logins", ("last time", "what", "user", "address", "times", "why"), rows)


def costs(report: AuditReport) -> Table:
    """Costs of this month, the highest first, if the platform reports them."""
    place = report.target.place
    header, caption = ("for", "dollars", "share of the largest"), f"Costs of {place} since the first of this month"
    try:
        billed = report.target.costs()
    except RunbookError as error:
        return Table.of(caption, header, [("all", f"not known: {error.why or error.what}", "")])
    if billed is None:
        return Table.of(caption, header, [("all", "none: nothing is metered here", "")])
    sums = sorted(((what, cost) for what, cost in billed if cost), key=lambda item: -item[1])
    bars = _bars([cost for _, cost in sums])
    rows = [(what, _dollars(cost), bar) for (what, cost), bar in zip(sums, bars)]
    rows.append(("together", _dollars(sum(cost for _, cost in sums)), ""))
    return Table.of(caption, header, rows, note=f"As metered for everything in {place}, before credits and discounts.")


def deviations(report: AuditReport) -> Table:
    """All findings, most severe first."""
    rows = [(str(found.severity), found.thing, found.why, found.todo) for found in report.findings]
    counts = Counter(str(found.severity) for found in report.findings)
    note = ", ".join(counted(counts[str(severity)], str(severity)) for severity in reversed(Severity))
    return Table.of(
        "Findings", ("severity", "what", "finding", "what to do"), rows or [("none", "", "", "")], note=f"{note}."
    )


def verify(report: AuditReport) -> Table:
    """Fail if there is a finding of at least the report's severity limit.

    Raises:
        VerificationError: there is one; the first ten are named.
    """
    limit = report.fail_at
    failing = [found for found in report.findings if limit is not None and found.severity >= limit]
    if failing:
        more = f"; and {len(failing) - 10} more" if len(failing) > 10 else ""
        raise VerificationError(
            f"the audit has {counted(len(failing), 'finding')} of severity {limit} or above",
            why="; ".join(f"{found.thing} {found.why}" for found in failing[:10]) + more,
            todo=failing[0].todo if len(failing) == 1 else "the table of findings says what to do about each",
        )
    kept = "never fails" if limit is None else f"fails from {limit} on"
    return Table.of("Result", ("looked at", "seen"), [("findings that fail the audit", f"none; it {kept}")])


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table.of(caption, header, rows or [("none", *[""] * (len(header) - 1))])


def _dollars(cost: float) -> str:
    return "under 0.01" if 0 < cost < 0.005 else f"{cost:,.2f}"


def _bars(values: Iterable[float]) -> list[str]:
    """A text bar for each value, proportional to the largest."""
    values = list(values)
    most = max(values, default=0) or 1
    return ["█" * max(round(value / most * BAR_CELLS), 1 if value else 0) for value in values]


def _snapshots(target: Target, place: str) -> list[AuditFinding]:
    """A finding if the newest snapshot is old or missing."""
    shown = place_shown(place or str(default_destination(target)))
    todo = "run 06_back_up, or name the place of the snapshots in the parameter snapshots"
    try:
        names = Bucket.open(place or str(default_destination(target))).snapshots()
        newest = moment(names[-1]) if names else None
    except ParameterError:
        raise
    except RunbookError as error:
        return [AuditFinding(Severity.WARNING, f"snapshots in {shown}", error.why or error.what, todo)]
    if newest is None or datetime.now(UTC) - newest > timedelta(hours=SNAPSHOT_HOURS):
        why = f"the newest is of {newest:%Y-%m-%d %H:%M} UTC" if newest else "there are none"
        return [AuditFinding(Severity.WARNING, f"snapshots in {shown}", why, todo)]
    return []


def _public_names(inventory: Inventory, url: str) -> list[AuditFinding]:
    """Projects that the public index has too: an installer that asks both may take a stranger's."""
    projects = sorted({found.project for found in inventory.distributions.values()})
    found: list[AuditFinding] = []
    with HttpClient(url if url.endswith("/") else f"{url}/") as client:
        for project in projects[:PUBLIC_NAMES]:
            try:
                status = client.request("GET", f"{project}/", headers={"Accept": JSON}).status_code
            except IndexRequestError as error:
                why, todo = f"could not be queried: {error.why or error.what}", "run this again where it can be reached"
                return [*found, AuditFinding(Severity.NOTICE, "public index", why, todo)]
            if status == 200:
                why = "has a namesake on the public index: an installer that asks both may take that one"
                todo = "let uv know this index as explicit and pip as its only index, or take the name there"
                found.append(AuditFinding(Severity.WARNING, f"project {project}", why, todo))
            elif status != 404:
                why = f"was not looked up: the public index responded with {status}"
                found.append(AuditFinding(Severity.NOTICE, f"project {project}", why, "run this again later"))
    if len(projects) > PUBLIC_NAMES:
        why = f"was asked for the first {PUBLIC_NAMES} of {len(projects)} names"
        found.append(AuditFinding(Severity.NOTICE, "public index", why, "look up the others yourself"))
    return found


__all__ = [
    "contents",
    "costs",
    "deviations",
    "growth",
    "largest",
    "preflight",
    "read",
    "recent_changes",
    "recent_refusals",
    "timeline",
    "unused",
    "users",
    "verify",
]
