"""The notebook 09_audit: an index that matches its log has no findings, and each of 20 hand-made faults is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import nbformat
import pytest

from ops import audit, back_up
from ops.errors import NotDeployedError, ParameterError, VerificationError
from ops.index.auth import credential_files
from ops.settings import CREDENTIALS_VOLUME, PACKAGES_VOLUME
from ops.workspace import HOME_VARIABLE, PROJECT_ROOT
from tests.snapshots.conftest import Index, make_index, sha256

BCRYPT = "$2y$12$abcdefghijklmnopqrstuuJTD3vZl2nTj8ZBmFnEKzQk4s1nXvG6."
OTHER = "$2y$12$zbcdefghijklmnopqrstuuJTD3vZl2nTj8ZBmFnEKzQk4s1nXvG6."
GRAVE = f"{sha256(b'gone')} gone-1.tar.gz\n"
STATUS = json.dumps({"status": "archived", "reason": None})
EVENTS: tuple[dict[str, object], ...] = (
    {"event": "user.created", "user": "alice", "role": "publisher", "projects": None, "actor": "admin token"},
    {"event": "user.created", "user": "bob", "role": "reader", "projects": None, "actor": "admin token"},
    {"event": "prefix.reserved", "user": "", "actor": "admin token", "prefix": "acme", "owners": ["alice"]},
    {"event": "upload", "user": "alice", "filename": "spam-1.0.tar.gz", "sha256": sha256(b"spam 1.0")},
    {"event": "upload", "user": "alice", "filename": "eggs-1.0.tar.gz", "sha256": sha256(b"eggs 1.0")},
    {"event": "upload", "user": "alice", "filename": "ham-1.0.tar.gz", "sha256": sha256(b"ham 1.0")},
    {"event": "upload", "user": "alice", "filename": "gone-1.0.tar.gz", "sha256": sha256(b"gone")},
    {"event": "remove", "user": "alice", "filename": "gone-1.0.tar.gz", "sha256": sha256(b"gone")},
    {"event": "yank", "user": "alice", "project": "spam", "files": ["spam-1.0.tar.gz"], "reason": "bad"},
    {"event": "status", "user": "alice", "project": "ham", "status": "archived"},
    {"event": "token.created", "user": "alice", "id": "0a52b3d48c1f"},
    {"event": "token.revoked", "user": "alice", "id": "0a52b3d48c1f"},
    {
        "event": "revoke",
        "user": "alice",
        "project": "spam",
        "files": ["spam-1.0.tar.gz"],
        "sha256": [sha256(b"spam 1.0")],
    },
    {"event": "login.refused", "user": "eve", "address": "192.0.2.1", "more": 4},
)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index that matches its audit log, with a snapshot of today."""
    index = make_index(tmp_path / "home", filled=False)
    index.create_volume(PACKAGES_VOLUME)
    index.create_volume(CREDENTIALS_VOLUME)
    log = [
        json.dumps({"time": f"2026-01-{day:02}T12:00:00.000Z", "address": "", **event})
        for day, event in enumerate(EVENTS, 1)
    ]
    index.write(".index/audit/2026-01-01.1-abc.jsonl", "\n".join(log[2:]).encode() + b"\n")
    write(index, ".audit/2026-01-01.1-def.jsonl", "\n".join(log[:2]) + "\n")
    for name in ("spam", "eggs", "ham"):
        index.write(f"{name}-1.0.tar.gz", f"{name} 1.0".encode())
    index.write(".index/yanked/spam-1.0.tar.gz", b"bad")
    index.write(f".index/revoked/{sha256(b'spam 1.0')}", b'{"reason": "bad", "files": ["spam-1.0.tar.gz"]}')
    index.write(".index/status/ham", STATUS.encode())
    index.write(".index/removed/3f", GRAVE.encode())
    write(index, ".htpasswd", f"alice:{BCRYPT}\nbob:{OTHER}\n")
    write(index, ".htgroup", "publisher: alice\nreader: bob\nreserved/acme: alice\n")
    for path in index.private_paths():
        path.chmod(0o700)
    back_up.apply(back_up.describe(index, destination=str(tmp_path / "snapshots")))
    return index


def write(index: Index, path: str, content: str) -> None:
    index.write(path, content.encode(), CREDENTIALS_VOLUME).chmod(0o600)


def read(index: Index, tmp_path: Path, **parameters: str | bool) -> audit.AuditReport:
    return audit.read(index, **{"snapshots": str(tmp_path / "snapshots"), **parameters})  # type: ignore[arg-type]


def named(report: audit.AuditReport) -> list[tuple[str, str]]:
    """Severity and thing of each finding, except that no server runs, as in all these tests."""
    things = ((str(found.severity), found.thing.rpartition("/volumes/")[2]) for found in report.findings)
    return [(severity, thing) for severity, thing in things if thing != "server"]


def test_an_index_that_matches_its_log_has_no_findings(index: Index, tmp_path: Path) -> None:
    report = read(index, tmp_path, fail_at="warning")
    assert named(report) == []
    assert "none; it fails from warning on" in repr(audit.verify(report))


def test_every_credential_file_written_by_the_index_is_recognized(index: Index, tmp_path: Path) -> None:
    names = {value for value in vars(credential_files).values() if isinstance(value, str) and value.startswith(".")}
    assert len(names) >= 5
    for name in names - {".htpasswd", ".htgroup"}:
        write(index, name, "")
    assert named(read(index, tmp_path)) == []


def altered(index: Index) -> None:
    index.write("eggs-1.0.tar.gz", b"EGGS 1.0")


def removed_by_hand(index: Index) -> None:
    index.delete_file(PACKAGES_VOLUME, "eggs-1.0.tar.gz")


def linked(index: Index) -> None:
    path = index.volume_folder(PACKAGES_VOLUME) / "eggs-1.0.tar.gz"
    path.replace(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def edit(index: Index, path: str, old: str, new: str) -> None:
    text = (index.volume_folder(CREDENTIALS_VOLUME) / path).read_text()
    assert old in text
    write(index, path, text.replace(old, new))


def free_names(index: Index) -> None:
    text = (index.volume_folder(CREDENTIALS_VOLUME) / ".htgroup").read_text()
    write(index, ".htgroup", text.replace("reserved/acme: alice\n", ""))


def reserve_names(index: Index) -> None:
    text = (index.volume_folder(CREDENTIALS_VOLUME) / ".htgroup").read_text()
    write(index, ".htgroup", f"{text}reserved/spam: bob\n")


def add_token(index: Index, token_id: str) -> None:
    path = index.volume_folder(CREDENTIALS_VOLUME) / ".tokens"
    dates = {"created": "2026-01-01T00:00:00Z", "expires": "2999-01-01T00:00:00Z"}
    token = {"id": token_id, "sha256": "0" * 64, "owner": "alice", "role": "publisher", "projects": None, **dates}
    write(index, ".tokens", (path.read_text() if path.exists() else "") + json.dumps(token) + "\n")


def wrong_mode(index: Index) -> None:
    (index.volume_folder(CREDENTIALS_VOLUME) / ".htpasswd").chmod(0o644)


def open_folder(index: Index) -> None:
    index.volume_folder(CREDENTIALS_VOLUME).chmod(0o755)


FAULTS: dict[str, tuple[Callable[[Index], object], tuple[str, str]]] = {
    "a file altered": (altered, ("error", "eggs-1.0.tar.gz")),
    "a file lost": (removed_by_hand, ("error", "eggs-1.0.tar.gz")),
    "a file copied there": (lambda i: i.write("new-1.0.tar.gz", b"new"), ("warning", "new-1.0.tar.gz")),
    "a removed file back": (lambda i: i.write("gone-1.0.tar.gz", b"gone"), ("warning", "gone-1.0.tar.gz")),
    "a file replaced by a link": (linked, ("warning", "eggs-1.0.tar.gz")),
    "no distribution": (lambda i: i.write("notes.txt", b""), ("notice", "notes.txt")),
    "a signature alone": (lambda i: i.write("x-1.tar.gz.asc", b""), ("notice", "x-1.tar.gz.asc")),
    "a second spelling": (lambda i: i.write("Eggs-1.0.0.tar.gz", b"eggs 1.0"), ("error", "Eggs-1.0.0.tar.gz")),
    "a yank lost": (
        lambda i: i.delete_file(PACKAGES_VOLUME, ".index/yanked/spam-1.0.tar.gz"),
        ("error", "yank of spam-1.0.tar.gz"),
    ),
    "a yank by hand": (lambda i: i.write(".index/yanked/ham-1.0.tar.gz", b""), ("warning", "yank of ham-1.0.tar.gz")),
    "a yank of nothing": (lambda i: i.write(".index/yanked/x-1.tar.gz", b""), ("notice", "yank of x-1.tar.gz")),
    "a revocation lost": (
        lambda i: i.delete_file(PACKAGES_VOLUME, f".index/revoked/{sha256(b'spam 1.0')}"),
        ("error", f"revocation of {sha256(b'spam 1.0')}"),
    ),
    "a status lost": (lambda i: i.delete_file(PACKAGES_VOLUME, ".index/status/ham"), ("error", "status of ham")),
    "a status damaged": (lambda i: i.write(".index/status/ham", b"{"), ("error", "status of ham")),
    "a tombstone lost": (lambda i: i.delete_file(PACKAGES_VOLUME, ".index/removed/3f"), ("error", "gone-1.0.tar.gz")),
    "a tombstone damaged": (
        lambda i: i.write(".index/removed/3f", GRAVE.encode() + b"half a li"),
        ("warning", ".index/removed/3f"),
    ),
    "a user added by hand": (
        lambda i: write(i, ".htpasswd", f"alice:{BCRYPT}\nbob:{OTHER}\nmallory:{BCRYPT}\n"),
        ("error", "user mallory"),
    ),
    "a user removed by hand": (lambda i: write(i, ".htpasswd", f"alice:{BCRYPT}\n"), ("warning", "user bob")),
    "a role by hand": (
        lambda i: write(i, ".htgroup", "publisher: alice\nadmin: bob\n"),
        ("error", "user bob"),
    ),
    "the roles lost": (lambda i: i.delete_file(CREDENTIALS_VOLUME, ".htgroup"), ("error", "user bob")),
    "a weak hash": (
        lambda i: edit(i, ".htpasswd", f"alice:{BCRYPT}", f"alice:{BCRYPT.replace('$12$', '$05$')}"),
        ("warning", "user alice"),
    ),
    "a user twice": (
        lambda i: write(i, ".htpasswd", f"alice:{BCRYPT}\nbob:{OTHER}\nalice:{OTHER}\n"),
        ("warning", ".htpasswd, line 3"),
    ),
    "a line that is none": (
        lambda i: write(i, ".htpasswd", f"alice:{BCRYPT}\nbob:{OTHER}\nnonsense\n"),
        ("warning", ".htpasswd, line 3"),
    ),
    "a role of nobody": (
        lambda i: edit(i, ".htgroup", "publisher: alice", "publisher: alice\nadmin: ghost"),
        ("warning", ".htgroup, line 2"),
    ),
    "reserved names freed by hand": (
        free_names,
        ("error", "names acme and acme-…"),
    ),
    "names reserved by hand": (
        reserve_names,
        ("error", "names spam and spam-…"),
    ),
    "a token that is none": (lambda i: write(i, ".tokens", "nonsense\n"), ("warning", ".tokens, line 1")),
    "a token by hand": (lambda i: add_token(i, "8c1f0a52b3d4"), ("error", "token 8c1f0a52b3d4 of alice")),
    "a revoked token back": (lambda i: add_token(i, "0a52b3d48c1f"), ("error", "token 0a52b3d48c1f of alice")),
    "a CI job trusted by hand": (lambda i: write(i, ".trust", '{"jobs": []}'), ("error", ".trust")),
    "a wrong mode": (wrong_mode, ("error", ".htpasswd")),
    "an open folder": (open_folder, ("error", "pypiserver-credentials")),
    "a copy of the passwords": (lambda i: write(i, "htpasswd.bak", "x"), ("warning", "htpasswd.bak")),
    "a log damaged": (
        lambda i: write(i, ".audit/2026-01-02.1-def.jsonl", '{"time": "2026'),
        ("warning", ".audit/2026-01-02.1-def.jsonl"),
    ),
}


def test_there_are_at_least_twenty_faults() -> None:
    assert len(FAULTS) >= 20


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_reported(fault: str, index: Index, tmp_path: Path) -> None:
    make, (severity, thing) = FAULTS[fault]
    make(index)
    assert (severity, thing) in named(read(index, tmp_path))


@pytest.mark.slow
def test_the_notebook_fails_and_names_more_than_twenty_faults_at_once(index: Index, tmp_path: Path) -> None:
    apart = {
        *("a file lost", "a file replaced by a link", "a status damaged", "a tombstone lost"),
        *("the roles lost", "a user removed by hand", "a user twice", "a line that is none"),
    }
    together = [name for name in FAULTS if name not in apart]
    assert len(together) > 20
    for name in together:
        FAULTS[name][0](index)
    assert {FAULTS[name][1] for name in together} <= set(named(read(index, tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "run", "09_audit", "-p", f"snapshots={tmp_path / 'snapshots'}"],
        env={**os.environ, HOME_VARIABLE: str(tmp_path / "home")},
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (executed,) = (tmp_path / "home" / "records").glob("*/09_audit.ipynb")
    cells = nbformat.read(executed, as_version=4).cells
    (shown,) = (cell.outputs[0].data["text/plain"] for cell in cells if cell.source == "audit.deviations(report)")
    missing = [name for name in together if FAULTS[name][1][1] not in shown]
    assert not missing, shown


def test_the_severity_from_which_it_fails_is_a_parameter(index: Index, tmp_path: Path) -> None:
    index.write("new-1.0.tar.gz", b"new")
    assert audit.verify(read(index, tmp_path, fail_at="error"))
    assert audit.verify(read(index, tmp_path, fail_at="never"))
    with pytest.raises(VerificationError, match="1 finding of severity warning or above") as raised:
        audit.verify(read(index, tmp_path, fail_at="warning"))
    assert "new-1.0.tar.gz" in raised.value.why


def test_without_integrity_no_package_is_read(index: Index, tmp_path: Path) -> None:
    altered(index)
    assert named(read(index, tmp_path, integrity=False)) == []


def test_beyond_the_reach_of_the_log_unknown_things_are_only_notices(index: Index, tmp_path: Path) -> None:
    for volume, folder in ((PACKAGES_VOLUME, ".index/audit"), (CREDENTIALS_VOLUME, ".audit")):
        for path in (index.volume_folder(volume) / folder).iterdir():
            path.unlink()
    severities = {severity for severity, _ in named(read(index, tmp_path))}
    assert severities == {"notice"}


def test_a_restoration_is_part_of_the_history(index: Index, tmp_path: Path) -> None:
    from ops import restore

    altered(index)
    removed_by_hand(index)
    write(index, ".htpasswd", f"alice:{BCRYPT}\nmallory:{BCRYPT}\n")
    restore.apply(restore.describe(index, source=str(tmp_path / "snapshots"), confirm="local"))
    assert named(read(index, tmp_path)) == []
    reserve_names(index)
    assert named(read(index, tmp_path)) == [("error", "names spam and spam-…")]


def refusal(minute: int, user: str, **details: object) -> bytes:
    about = {"event": "login.refused", "user": user, "address": "192.0.2.1", **details}
    return json.dumps({"time": f"2026-01-31T10:{minute:02}:00Z", **about}).encode() + b"\n"


def test_refused_logins_are_counted_by_user_address_and_reason(index: Index, tmp_path: Path) -> None:
    lines = [
        refusal(1, "alice"),
        refusal(4, "alice", more=4),
        refusal(2, "alice", address="192.0.2.2"),
        refusal(3, "No… (unknown, 5 characters)"),
        refusal(0, "bob", why="locked"),
        refusal(5, "", event="login.throttled", others=7),
        refusal(6, "alice", event="user.changed"),
    ]
    index.write(".index/audit/2026-01-31.1-abc.jsonl", b"".join(lines))
    rows = [row for row in audit.recent_refusals(read(index, tmp_path)).rows if row[2] != "eve"]
    assert [(last[11:16], *rest) for last, *rest in rows] == [
        ("10:05", "login.throttled", "", "192.0.2.1", "7", ""),
        ("10:04", "login.refused", "alice", "192.0.2.1", "5", "wrong password"),
        ("10:03", "login.refused", "No… (unknown, 5 characters)", "192.0.2.1", "1", "no such user"),
        ("10:02", "login.refused", "alice", "192.0.2.2", "1", "wrong password"),
        ("10:00", "login.refused", "bob", "192.0.2.1", "1", "locked"),
    ]


def test_only_the_last_refused_logins_are_listed(index: Index, tmp_path: Path) -> None:
    lines = [refusal(minute, f"user{minute}") for minute in range(audit.LISTED + 1)]
    index.write(".index/audit/2026-01-31.1-abc.jsonl", b"".join(lines))
    users = [row[2] for row in audit.recent_refusals(read(index, tmp_path)).rows]
    assert len(users) == audit.LISTED
    assert "user0" not in users


def test_the_tables_show_sizes_uses_and_events(index: Index, tmp_path: Path) -> None:
    line = {"hour": "2026-01-31T14", "file": "spam-1.0.tar.gz", "user": "alice", "client": "pip", "count": 3}
    for path in ("spam-1.0.tar.gz", "eggs-1.0.tar.gz"):
        os.utime(index.volume_folder(PACKAGES_VOLUME) / path, (0, 0))
    report = read(index, tmp_path)
    assert audit.unused(report).rows == (("all", "", "not counted"),)
    assert audit.users(report).rows[0] == ("alice", "publisher", "not counted", "none")
    index.write(".index/activity/2026-01-31.1-abc.jsonl", json.dumps(line).encode() + b"\n")
    report = read(index, tmp_path)
    assert [row[0] for row in audit.unused(report).rows] == ["eggs-1.0.tar.gz", "spam-1.0.tar.gz"]
    assert audit.unused(report).rows[0][2] == "none that was counted"
    assert audit.users(report).rows[0][2] == "2026-01-31 14:00 UTC"
    assert audit.users(report).rows[1][2] == "none that was counted"
    assert ("packages", "3 files, 23 bytes") in audit.contents(report).rows
    assert audit.largest(report).rows[0][:2] == ("eggs-1.0.tar.gz", "8")
    assert audit.growth(report).rows == (("2026-01", "23", "█" * audit.BAR_CELLS),)
    assert audit.timeline(report).rows[-1][1:3] == ("0", "4")
    changes = audit.recent_changes(report).rows
    assert changes[0][:3] == ("2026-01-13 12:00:00 UTC", "revoke", "spam-1.0.tar.gz")
    assert ("user.created", "bob: reader") in {row[1:3] for row in changes}
    assert audit.costs(report).rows == (("all", "none: nothing is metered here", ""),)
    assert "█" in audit.largest(report)._repr_html_(), "a bar is text, which no page strips"


def test_an_old_or_missing_snapshot_is_a_warning(index: Index, tmp_path: Path) -> None:
    found = named(read(index, tmp_path, snapshots=str(tmp_path / "absent")))
    assert [severity for severity, _ in found] == ["warning"]
    (old,) = (tmp_path / "snapshots" / "snapshots").iterdir()
    old.rename(old.with_name("2026-01-01T00-00-00Z.json"))
    assert [severity for severity, _ in named(read(index, tmp_path))] == ["warning"]


@pytest.fixture
def public() -> Iterator[tuple[str, list[str]]]:
    """A public index on loopback that has ham, fails for eggs, and records requests and credentials."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response({"/simple/ham/": 200, "/simple/eggs/": 503}.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple/", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_names_on_the_public_index_are_warnings(
    index: Index, tmp_path: Path, public: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = public
    assert named(read(index, tmp_path)) == []
    assert asked == [], "no request is sent by default"
    found = named(read(index, tmp_path, public_index=url))
    assert found == [("warning", "project ham"), ("notice", "project eggs")]
    assert asked == [f"/simple/{name}/ None" for name in ("eggs", "ham", "spam")]
    monkeypatch.setattr(audit, "PUBLIC_NAMES", 1)
    assert ("notice", "public index") in named(read(index, tmp_path, public_index=url))
    assert len(asked) == 4


def test_an_unreachable_public_index_is_a_notice(index: Index, tmp_path: Path) -> None:
    found = named(read(index, tmp_path, public_index="http://127.0.0.1:9/simple/"))
    assert found == [("notice", "public index")]


@pytest.mark.parametrize(
    "parameters",
    [
        {"fail_at": "panic"},
        {"fail_at": ""},
        {"public_index": "host/simple"},
        {"public_index": "https://a:secret@host/"},
    ],
)
def test_bad_parameters_are_refused(index: Index, tmp_path: Path, parameters: dict[str, str]) -> None:
    with pytest.raises(ParameterError) as raised:
        read(index, tmp_path, **parameters)
    assert "secret" not in str(raised.value)


def test_without_an_index_there_is_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(NotDeployedError):
        audit.read(make_index(tmp_path / "none", filled=False))
