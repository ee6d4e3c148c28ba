"""Users are stored in an ``.htpasswd`` shared with stock tools, and no crash, full disk or second writer loses one."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from passlib.apache import HtpasswdFile

from ops.index.auth.credential_files import GROUPS, PASSWORDS, CredentialFiles
from ops.index.auth.password_file import PasswordFile
from ops.index.auth.passwords import (
    InvalidCredentials,
    defect,
    hashed,
    validated_hash,
    validated_name,
    validated_password,
    verify_password,
)
from ops.index.auth.roles import Identity, Role
from ops.index.auth.users import Account, Users
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.directory import DirectoryStorage
from tests.index.credentials_volume import Volume, volumes
from tests.index.volume import MemoryNameLocks

CHEAP = Options(bcrypt_rounds=4)
PASSWORD = "correct horse battery"
DIGEST = "$2y$04$MnkmMBqiQnh63/4Ss.b5Nu02dR.UGJyHg6/i.A3bbw9vRBsMoG256"
"""Of that password, at cost 4; fixed, so that test names are the same in every process."""

htpasswd = shutil.which("htpasswd")
needs_htpasswd = pytest.mark.skipif(htpasswd is None, reason="apache2-utils is not installed")


@pytest.fixture
def volume_pair(tmp_path: Path) -> tuple[Volume, Volume]:
    one, two = volumes(tmp_path, 2)
    return one, two


def users_in(directory: Path, options: Options = CHEAP) -> Users:
    return Users(DirectoryStorage(directory), options)


# --- the file and stock tools -----------------------------------------------------------------------------------


def test_an_empty_volume_has_no_users_and_accepts_the_first_one(tmp_path: Path) -> None:
    users = users_in(tmp_path / "empty")
    assert users.identities() == []
    assert users.register("alice", password=PASSWORD).created
    assert [identity.username for identity in users.identities()] == ["alice"]
    assert stat.S_IMODE((tmp_path / "empty" / PASSWORDS).stat().st_mode) == 0o600


def test_a_new_password_is_stored_as_bcrypt_of_cost_12(tmp_path: Path) -> None:
    users_in(tmp_path, Options()).register("alice", password=PASSWORD)
    entry = (tmp_path / PASSWORDS).read_text().strip()
    assert entry.startswith("alice:$2y$12$")
    assert bcrypt.checkpw(PASSWORD.encode(), entry.partition(":")[2].encode())


def test_pypiserver_accepts_the_file(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    for name in ("alice", "bob", "Zoë", "a b"):
        users.register(name, password=PASSWORD)
    theirs = HtpasswdFile(tmp_path / PASSWORDS)
    for name in ("alice", "bob", "Zoë", "a b"):
        assert theirs.check_password(name, PASSWORD)
        assert not theirs.check_password(name, "another password")


@needs_htpasswd
def test_stock_htpasswd_verifies_changes_and_removes_entries(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    users.register("alice", password=PASSWORD)
    users.register("bob", password=PASSWORD)
    file = str(tmp_path / PASSWORDS)

    def run(*arguments: str) -> int:
        return subprocess.run([htpasswd or "", *arguments], capture_output=True, check=False).returncode

    assert run("-vb", file, "alice", PASSWORD) == 0
    assert run("-vb", file, "alice", "wrong") != 0
    assert run("-bB", "-C", "5", file, "alice", "another password") == 0
    assert run("-D", file, "bob") == 0
    accounts = users.accounts()
    assert list(accounts) == ["alice"]
    assert verify_password("another password", accounts["alice"].digest, 4)
    users.register("carol", password=PASSWORD)
    assert run("-vb", file, "alice", "another password") == 0
    assert run("-vb", file, "carol", PASSWORD) == 0


@needs_htpasswd
@pytest.mark.parametrize("flag", ["-B", "-m", "-s", "-2", "-5", "-d"])
def test_every_hash_that_stock_htpasswd_makes_is_verified(tmp_path: Path, flag: str) -> None:
    file = tmp_path / PASSWORDS
    subprocess.run([htpasswd or "", "-cb", flag, str(file), "alice", "eightcha"], check=True, capture_output=True)
    digest = users_in(tmp_path).accounts()["alice"].digest
    assert verify_password("eightcha", digest, 4)
    assert not verify_password("eightchb", digest, 4)


@pytest.mark.parametrize(
    "entry", ["secret", "!", "*", "", "!" + DIGEST, DIGEST + "!", "$2b$31$" + "a" * 53, "$2y$04$" + "a" * 53]
)
def test_an_entry_without_a_valid_hash_lets_no_one_in(entry: str) -> None:
    for password in (entry, PASSWORD, "", "secret"):
        assert not verify_password(password, entry, 4)


def test_comments_and_unknown_or_malformed_lines_are_preserved_in_place(tmp_path: Path) -> None:
    before = (
        b"# team\n\nnonsense\n:no name\nalice:" + DIGEST.encode() + b"\nrealm:user:hash\n\xff\xfe\nbob:x\r\n  # end"
    )
    (tmp_path / PASSWORDS).write_bytes(before)
    users = users_in(tmp_path)
    assert sorted(users.accounts()) == ["alice", "bob", "realm"]
    users.register("carol", password_hash=DIGEST)
    after = (tmp_path / PASSWORDS).read_bytes()
    assert after == before + b"\ncarol:" + DIGEST.encode() + b"\n"
    users.register("alice", password=PASSWORD + "2")
    lines = (tmp_path / PASSWORDS).read_bytes().split(b"\n")
    assert lines[4].startswith(b"alice:")
    assert lines[4] != b"alice:" + DIGEST.encode()
    assert [line for place, line in enumerate(lines) if place != 4] == [
        line for place, line in enumerate(after.split(b"\n")) if place != 4
    ]


def test_the_first_of_two_entries_counts_a_change_leaves_one_and_a_removal_none(tmp_path: Path) -> None:
    (tmp_path / PASSWORDS).write_text(f"alice:{DIGEST}\nbob:x\nalice:{hashed('an older password', 4)}\n")
    users = users_in(tmp_path)
    assert users.accounts()["alice"].digest == DIGEST
    users.register("alice", password="another password")
    assert (tmp_path / PASSWORDS).read_text().count("alice:") == 1
    (tmp_path / PASSWORDS).write_text(f"alice:{DIGEST}\nbob:x\nalice:{DIGEST}\n")
    assert users.remove("alice")
    assert sorted(users.accounts()) == ["bob"]
    assert not users.remove("alice")


def test_the_mode_of_the_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / PASSWORDS).write_text("")
    (tmp_path / PASSWORDS).chmod(0o640)
    users_in(tmp_path).register("alice", password=PASSWORD)
    assert stat.S_IMODE((tmp_path / PASSWORDS).stat().st_mode) == 0o640


@settings(deadline=None)
@given(st.binary(max_size=400))
@example(b"a:b\r\n#\n::\n")
@example(BOM_UTF8 + b"a:b")
def test_no_file_content_raises_an_error_or_is_lost(content: bytes) -> None:
    file = PasswordFile(content)
    entries = file.entries()
    assert bytes(file).rstrip(b"\n") == content.removeprefix(BOM_UTF8).rstrip(b"\n")
    file.set("the new one", DIGEST)
    again = PasswordFile(bytes(file)).entries()
    assert again == {**entries, "the new one": DIGEST}


@pytest.mark.parametrize(
    "content",
    [
        f"alice:{DIGEST}:her comment: with colons\n",
        f"alice:{DIGEST}:\n",
        f"alice:{DIGEST}\r\n",
        f"\ufeffalice:{DIGEST}\r\nbob:x\r\n",
        f"alice:{DIGEST}",
    ],
)
def test_text_added_to_an_entry_by_other_tools_is_ignored(content: str) -> None:
    file = PasswordFile(content.encode())
    assert file.entries()["alice"] == DIGEST
    assert not file.set("alice", "new")
    assert file.entries()["alice"] == "new"
    assert ("comment" in content) == (b"her comment: with colons" in bytes(file))
    assert file.remove("alice")


# --- what may be stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a:b", "a\nb", "a\rb", "a\tb", "a\0b", "\x7f", "#a", "a#",
     "a/b", "..", ".", "a\\b", "\ud800", "\u202e", "a\u00a0b", "a\u200bb", "x" * 256, "é" * 128],
)  # fmt: skip
def test_a_name_that_would_break_a_file_a_header_or_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidCredentials):
        validated_name(name)


@settings(deadline=None)
@given(st.text(max_size=300))
def test_a_name_is_refused_with_a_sentence_or_survives_the_file_unchanged(name: str) -> None:
    try:
        valid = validated_name(name)
    except InvalidCredentials:
        return
    assert validated_name(valid) == valid
    file = PasswordFile(b"")
    file.set(valid, DIGEST)
    assert PasswordFile(bytes(file)).entries() == {valid: DIGEST}


def test_two_spellings_of_one_name_are_one_user(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    assert users.register("Zoe\u0308", password=PASSWORD).created
    assert not users.register("Zo\u00eb", password=PASSWORD).created
    assert users.remove("Zoe\u0308")


@pytest.mark.parametrize(
    "password", ["x" * 11, "x" * 73, "é" * 37, "x" * 12 + "\0", "x" * 12 + "\n", "x" * 12 + "\ud800", ""]
)
def test_a_password_that_bcrypt_or_a_header_would_truncate_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        validated_password(password)
    assert password == "" or password not in str(caught.value)


@pytest.mark.parametrize("password", ["x" * 12, "x" * 72, "é" * 36, 'it\'s: a # "password" \u2603'])
def test_a_password_of_12_to_72_bytes_is_used_in_full(tmp_path: Path, password: str) -> None:
    users = users_in(tmp_path)
    users.register("alice", password=password)
    digest = users.accounts()["alice"].digest
    assert verify_password(password, digest, 4)
    assert not verify_password(password[:-1] + "?", digest, 4)


@settings(deadline=None)
@given(st.text(max_size=100), st.one_of(st.none(), st.text(max_size=80), st.just(DIGEST)))
@example("x" * 10_000, DIGEST)
@example("a\0b", DIGEST)
@example("\ud800", DIGEST)
@example("x", "$2b$04$" + "~" * 53)
@example("\ud800", "$apr1$abcdefgh$" + "." * 22)
@example("x" * 10_000, "{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g=")
def test_verification_never_raises(password: str, digest: str | None) -> None:
    assert verify_password(password, digest, 4) in {True, False}


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_a_bcrypt_hash_is_accepted_instead_of_a_password(tmp_path: Path, prefix: str) -> None:
    users = users_in(tmp_path)
    users.register("alice", password_hash=prefix + DIGEST[4:])
    assert verify_password(PASSWORD, users.accounts()["alice"].digest, 4)


@pytest.mark.parametrize(
    "digest",
    ["", "x", PASSWORD, "$2x$12$" + "a" * 53, "$2y$12$" + "." * 52, "$2y$12$" + "a" * 53,
     pytest.param(DIGEST + "\nroot:x", id="a hash and another line"), "$2y$09$" + "." * 53,
     "$2y$15$" + "." * 53, "{SHA}6dcfXufJLW3J6S/9rRe4vUlBj5g="],
)  # fmt: skip
def test_a_hash_that_is_not_bcrypt_or_of_a_bad_cost_is_refused_and_not_repeated(digest: str) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        validated_hash(digest)
    assert digest in {"", "x"} or digest not in str(caught.value)


def test_a_new_user_needs_a_password_and_an_existing_one_keeps_it(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    with pytest.raises(InvalidCredentials, match="no user 'alice' yet"):
        users.register("alice", role=Role.READER)
    assert not (tmp_path / PASSWORDS).exists()
    users.register("alice", password=PASSWORD)
    before = users.accounts()["alice"].digest
    assert users.register("alice", role=Role.READER).identity.role is Role.READER
    assert users.accounts()["alice"].digest == before


def test_a_returning_user_does_not_get_the_old_role(tmp_path: Path) -> None:
    """Stock htpasswd removes the entry but does not know about the group file."""
    users = users_in(tmp_path)
    users.register("alice", password=PASSWORD, role=Role.ADMIN)
    (tmp_path / PASSWORDS).write_text("")
    assert users.register("alice", password=PASSWORD).identity.role is Role.PUBLISHER


def test_only_publishers_can_be_limited_to_projects_and_an_empty_list_is_refused(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    made = users.register("alice", password=PASSWORD, projects=["Spam_Eggs", "spam.eggs", "ham"])
    assert made.identity.projects == frozenset({"spam-eggs", "ham"})
    assert users.register("alice", password=PASSWORD).identity.projects == frozenset({"spam-eggs", "ham"})
    for role, projects in ((Role.READER, ["spam"]), (Role.ADMIN, ["spam"]), (None, []), (None, ["../x"])):
        with pytest.raises(InvalidCredentials):
            users.register("alice", role=role, projects=projects)
    assert users.register("alice", projects=None).identity.projects is None


# --- cost -------------------------------------------------------------------------------------------------------


def test_every_refusal_costs_the_same_whatever_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known or unknown, of cost 4 or 8, or in an unreadable format: the work adds up to 2^8."""
    work: list[int] = []
    real = bcrypt.checkpw

    def counting(password: bytes, digest: bytes) -> bool:
        right = real(password, digest)
        work.append(2 ** int(digest[4:6]))
        return right

    monkeypatch.setattr(bcrypt, "checkpw", counting)
    entries = [None, "nonsense", hashed(PASSWORD, 4), hashed(PASSWORD, 6), hashed(PASSWORD, 8)]
    for entry in entries:
        for wrong in ("wrong", "x" * 100, "a\0b"):
            work.clear()
            assert not verify_password(wrong, entry, 8)
            assert sum(work) == 2**8


# --- crashes, full disks, other writers -------------------------------------------------------------------------


def test_eight_threads_registering_at_once_lose_no_user(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    threads = [
        threading.Thread(
            target=lambda number=number: [users.register(f"u{number}-{i}", password_hash=DIGEST) for i in range(12)]
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(users.accounts()) == 96


WRITER = """
import sys
from ops.index.config import Options
from ops.index.storage.directory import DirectoryStorage
from ops.index.auth.users import Users
users = Users(DirectoryStorage(sys.argv[1]), Options(bcrypt_rounds=4))
for number in range(int(sys.argv[3])):
    users.register(f"{sys.argv[2]}-{number}", password_hash=sys.argv[4])
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def writer(directory: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory), name, str(count), DIGEST],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_four_processes_registering_at_once_lose_no_user(tmp_path: Path) -> None:
    writers = [writer(tmp_path, f"p{number}", 15) for number in range(4)]
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(users_in(tmp_path).accounts()) == 60


def test_a_killed_writer_loses_no_acknowledged_user(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for number in range(4):
        process = writer(tmp_path, f"k{number}", 10_000)
        assert process.stdout is not None
        acknowledged.add(process.stdout.readline().strip())
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        acknowledged.update(line.strip() for line in process.stdout if line.endswith("\n"))
        process.wait()
        process.stdout.close()
        found = users_in(tmp_path).accounts()
        assert acknowledged <= set(found)
        assert all(account.digest == DIGEST for account in found.values())
    users_in(tmp_path).register("after", password_hash=DIGEST)
    assert sorted(path.name for path in tmp_path.iterdir()) == [GROUPS, PASSWORDS, PASSWORDS + ".lock"]


def test_a_reader_never_finds_half_a_file(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    users.register("first", password_hash=DIGEST)
    done = threading.Event()
    missing = []

    def read() -> None:
        while not done.is_set():
            accounts = users.accounts()
            if "first" not in accounts or any(account.digest != DIGEST for account in accounts.values()):
                missing.append(accounts)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(100):
            users.register(f"u{number}", password_hash=DIGEST)
    finally:
        done.set()
        reader.join()
    assert not missing


def test_a_reader_never_sees_a_user_without_the_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader removed between the reads of the two files is a reader or unknown, never a publisher."""
    users = users_in(tmp_path)
    users.register("alice", password_hash=DIGEST, role=Role.READER)
    real = CredentialFiles.read
    reads: list[str] = []

    def read(credential_files: CredentialFiles, name: str) -> bytes | None:
        content = real(credential_files, name)
        reads.append(name)
        if len(reads) == 1:
            users_in(tmp_path).remove("alice")
        return content

    monkeypatch.setattr(CredentialFiles, "read", read)
    assert "alice" not in users.accounts()


SPAM = frozenset({"spam"})
EGGS = frozenset({"eggs"})
OLD, NEW = DIGEST, DIGEST.replace("$2y$", "$2b$")
ANOTHER = "# another tool's comment\n"


def rights(identity: Identity) -> set[str]:
    """Rights of a user, comparable with another's."""
    projects = {name for name in ("spam", "eggs", "anything-else") if identity.may_upload(name)}
    return projects | ({"administer"} if identity.may_administer else set())


def watch(monkeypatch: pytest.MonkeyPatch, users: Users) -> list[Account | None]:
    """A reader's views of dora after each single change of a file."""
    seen: list[Account | None] = []

    def watched(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = real(*arguments, **named)
            seen.append(users.accounts().get("dora"))
            return result

        monkeypatch.setattr(owner, name, call)

    watched(Path, "replace")
    watched(Path, "unlink")
    return seen


@pytest.mark.parametrize("commits", [True, False], ids=["stored", "undone"])
@pytest.mark.parametrize("password", [NEW, None], ids=["with a password", "without"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, (Role.READER, None)),
        (None, (Role.PUBLISHER, SPAM)),
        (None, (Role.PUBLISHER, None)),
        (None, (Role.ADMIN, None)),
        ((Role.READER, None), (Role.PUBLISHER, None)),
        ((Role.READER, None), (Role.PUBLISHER, SPAM)),
        ((Role.READER, None), (Role.ADMIN, None)),
        ((Role.PUBLISHER, SPAM), (Role.PUBLISHER, None)),
        ((Role.PUBLISHER, None), (Role.ADMIN, None)),
        ((Role.ADMIN, None), (Role.READER, None)),
        ((Role.ADMIN, None), (Role.PUBLISHER, SPAM)),
        ((Role.PUBLISHER, None), (Role.PUBLISHER, SPAM)),
        ((Role.PUBLISHER, None), (Role.READER, None)),
        ((Role.PUBLISHER, SPAM), (Role.PUBLISHER, EGGS)),
        ((Role.PUBLISHER, SPAM | EGGS), (Role.PUBLISHER, EGGS | {"ham"})),
        ((Role.READER, None), None),
        ((Role.PUBLISHER, SPAM), None),
        ((Role.ADMIN, None), None),
    ],
)
def test_during_a_change_no_password_grants_more_than_before_or_afterwards(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: tuple[Role, frozenset[str] | None] | None,
    after: tuple[Role, frozenset[str] | None] | None,
    password: str | None,
    commits: bool,
) -> None:
    """The password and the role are in two files: a reader in between must not see a wrong pair."""

    class Unsure(DirectoryStorage):
        def commit(self) -> None:
            if not commits:
                raise StorageError("the volume is unavailable")

    (tmp_path / PASSWORDS).write_text(ANOTHER)
    (tmp_path / GROUPS).write_text(ANOTHER)
    users = users_in(tmp_path)
    allowed: dict[str, list[set[str]]] = {}
    if before is not None:
        first = users.register("dora", password_hash=OLD, role=before[0], projects=before[1])
        allowed.setdefault(OLD, []).append(rights(first.identity))
    digest = password or (OLD if before else NEW)
    if after is not None:
        wanted = Identity("dora", after[0], after[1])
        allowed.setdefault(digest, []).append(rights(wanted))
    changing = Users(Unsure(tmp_path), CHEAP)
    seen = watch(monkeypatch, users)
    with contextlib.nullcontext() if commits else pytest.raises(StorageError, match="unavailable"):
        if after is None:
            changing.remove("dora")
        else:
            changed = digest if digest != OLD else None
            changing.register("dora", password_hash=changed, role=after[0], projects=after[1])
    assert seen
    for account in seen:
        if account is not None:
            assert any(rights(account.identity) <= most for most in allowed[account.digest]), account
    last = seen[-1] and (seen[-1].digest, rights(seen[-1].identity))
    expected = (after and (digest, rights(wanted))) if commits else (before and (OLD, allowed[OLD][0]))
    assert last == expected


@pytest.mark.parametrize("role", list(Role))
def test_a_returning_user_never_has_the_role_left_by_a_stock_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    """Stock ``htpasswd -D`` leaves the group: a new user of that name must not have its rights even for a moment."""
    (tmp_path / GROUPS).write_text("admin: dora\nproject/spam: dora\n")
    users = users_in(tmp_path)
    seen = watch(monkeypatch, users)
    wanted = users.register("dora", password_hash=NEW, role=role).identity
    found = [account for account in seen if account is not None]
    assert found
    assert all(account.identity == wanted for account in found)


@pytest.mark.parametrize(("call", "at"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1), ("replace", 2)])
def test_a_failing_disk_leaves_users_and_roles_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int
) -> None:
    users = users_in(tmp_path)
    users.register("alice", password=PASSWORD)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = 0
    place: object = os if call == "fsync" else Path
    real = getattr(place, call)

    def failing(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(place, call, failing)
    with pytest.raises(StorageError, match=r"No space left|no space left"):
        users.register("bob", password=PASSWORD)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_first_user_who_could_not_be_stored_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsure(DirectoryStorage):
        def commit(self) -> None:
            raise StorageError("the volume is unavailable")

    with pytest.raises(StorageError, match="unavailable"):
        Users(Unsure(tmp_path), CHEAP).register("alice", password=PASSWORD)
    assert [path.name for path in tmp_path.iterdir()] == [PASSWORDS + ".lock"]


def test_an_unwritable_directory_is_reported_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    class Nowhere(DirectoryStorage):
        @property
        def directory(self) -> Path:
            return tmp_path / "file" / "below"

    with pytest.raises(StorageError, match="cannot be changed"):
        Users(Nowhere(tmp_path), CHEAP).register("alice", password=PASSWORD)


def test_two_writers_of_a_volume_take_turns_and_lose_no_user(volume_pair: tuple[Volume, Volume]) -> None:
    name_locks = MemoryNameLocks()
    writers = [Users(volume, CHEAP, name_locks=name_locks) for volume in volume_pair]
    threads = [
        threading.Thread(
            target=lambda users=users, n=n: [users.register(f"u{n}-{i}", password_hash=DIGEST) for i in range(8)]
        )
        for n, users in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for users in writers:
        assert len(users.identities()) == 16
    assert not name_locks.held()
    assert not list(volume_pair[0].directory.glob("*.lock"))


def test_a_failed_commit_is_undone_and_the_user_is_never_visible_elsewhere(volume_pair: tuple[Volume, Volume]) -> None:
    one, two = volume_pair
    users = Users(one, CHEAP)
    users.register("alice", password_hash=DIGEST)
    before = (one.directory / PASSWORDS).read_bytes()
    one.failures.append(RuntimeError("the volume is unavailable"))
    with pytest.raises(StorageError):
        users.register("bob", password_hash=DIGEST)
    assert (one.directory / PASSWORDS).read_bytes() == before
    assert [identity.username for identity in Users(two, CHEAP).identities()] == ["alice"]


def test_a_writer_waits_for_another_and_reports_when_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.index.auth.credential_files.LOCK_SECONDS", 0.05)
    storage = DirectoryStorage(tmp_path)
    with CredentialFiles(storage).change("bob"), pytest.raises(StorageError, match="another change of the users"):
        Users(storage, CHEAP).register("alice", password=PASSWORD)


def test_no_repr_shows_a_hash(tmp_path: Path) -> None:
    users = users_in(tmp_path)
    made = users.register("alice", password=PASSWORD)
    shown = repr(made) + repr(users.accounts()) + repr(users)
    assert "$2y$" not in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize("mark", ["!", "*"])
def test_a_locked_entry_is_reported_as_locked(mark: str) -> None:
    reason = defect(mark + hashed("correct horse battery", 4))
    assert reason is not None
    assert "locked" in reason
