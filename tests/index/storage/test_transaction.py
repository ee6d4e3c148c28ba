"""A change takes its steps in order, and a failed one is undone by its policy before another may follow."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.index.errors import Busy, NotFound, StorageBusy, StorageError, StorageFull
from ops.index.storage import transaction as module
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.transaction import Entry, Policy, Transaction, Transactions
from tests.index.serving import eventually
from tests.index.volume import MemoryNameLocks

ENTRY = Entry("change", {"filename": "foo"})
ADDITION, RESTORATION, REMOVAL = Policy.TAKEN_BACK, Policy.RESTORED, Policy.IRREVOCABLE


class FakeVolume(DirectoryStorage):
    """A fake Volume whose commits fail as often as the test says. Records all steps."""

    def __init__(self, directory: Path, steps: list[str]) -> None:
        super().__init__(directory)
        self.shared = True
        self.steps = steps
        self.failures = 0
        self.hanging = False

    def check(self) -> None:
        if self.hanging:
            raise StorageBusy("a commit hangs")

    def commit(self) -> None:
        self.steps.append("commit")
        if self.failures:
            self.failures -= 1
            raise StorageError("the commit was lost")


class FakeNameLocks(MemoryNameLocks):
    """Records its steps."""

    def __init__(self, steps: list[str]) -> None:
        super().__init__()
        self.steps = steps

    def acquire(self, filename: str) -> bool:
        taken = super().acquire(filename)
        self.steps.append(f"lock {filename}" if taken else f"{filename} is locked")
        return taken

    def release(self, filename: str) -> None:
        self.steps.append(f"unlock {filename}")
        super().release(filename)


class FakeAudit:
    """Records events as steps."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        self.steps.append(f"record {event} {user} {address} {details}")

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        self.steps.append(f"note {event} {user} {address} {details}")

    def hold_back(self) -> None:
        self.steps.append("hold back")


class Bench:
    """Transactions on a fake Volume, and the steps that they take."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.steps: list[str] = []
        self.storage = FakeVolume(directory, self.steps)
        self.name_locks = FakeNameLocks(self.steps)
        self.transactions = Transactions(
            self.storage,
            self.name_locks,
            see_others=lambda: self.steps.append("see"),
            audit=FakeAudit(self.steps),
            reserve="reserve",
            **{"lock_seconds": 0.01, "rest_seconds": 60.0} | settings,
        )

    def change(self, policy: Policy, write: Callable[[Transaction], object] | None = None, *names: str) -> None:
        """One change of a policy, which can be undone as soon as it is written."""
        keys = {name: name.upper() for name in names or ("foo",)}
        with self.transactions.begin(keys, policy, user="alice", address="::1") as transaction:
            if policy is RESTORATION:
                transaction.undo = self.undo
            with transaction.change("it could not be stored", [ENTRY], failed=failed):
                self.steps.append("write")
                if write is not None:
                    write(transaction)
                if policy is ADDITION:
                    transaction.undo = self.undo

    def undo(self) -> None:
        self.steps.append("undo")

    def take(self) -> list[str]:
        """The steps so far, without those about audit lines' details."""
        steps, self.steps[:] = [step.split(" alice")[0] for step in self.steps], []
        return steps


def failed(outcome: str, why: str) -> list[Entry]:
    return [Entry(f"change.{outcome}", {"why": why})]


def fail(error: BaseException) -> Callable[[Transaction], None]:
    def act(_: Transaction) -> None:
        raise error

    return act


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.transactions.close()


@pytest.mark.parametrize("policy", [RESTORATION, REMOVAL])
def test_a_change_locks_reads_others_logs_writes_and_commits_in_this_order(bench: Bench, policy: Policy) -> None:
    bench.change(policy)
    assert bench.take() == ["lock foo", "see", "record change", "write", "commit", "unlock foo"]


def test_a_change_is_confirmed_after_the_wait_for_others_and_before_anything_is_logged(bench: Bench) -> None:
    def refuse() -> None:
        bench.steps.append("confirm")
        raise NotFound("the user is gone")

    with pytest.raises(NotFound), bench.transactions.begin({"foo": "FOO"}, ADDITION, confirm=refuse):
        pytest.fail("the change was made")
    assert bench.take() == ["lock foo", "see", "confirm", "unlock foo"]


def test_the_line_of_an_addition_becomes_durable_with_it(bench: Bench) -> None:
    bench.change(ADDITION)
    assert bench.take() == ["lock foo", "see", "note change", "write", "commit", "unlock foo"]


def test_the_audit_log_says_who_did_what_from_where(bench: Bench) -> None:
    bench.change(ADDITION)
    assert "note change alice ::1 {'filename': 'foo'}" in bench.steps


def test_names_are_locked_in_a_fixed_order_and_released_if_one_is_busy(bench: Bench) -> None:
    bench.name_locks.acquire("b")
    bench.take()
    with pytest.raises(Busy, match="'B'"):
        bench.change(RESTORATION, None, "c", "b", "a")
    steps = bench.take()
    assert (steps[0], steps[-1], set(steps[1:-1])) == ("lock a", "unlock a", {"b is locked"})
    assert bench.name_locks.held() == {"b"}


def test_a_change_waits_for_a_lock_that_is_released_in_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lock_seconds=60.0)
    bench.name_locks.acquire("foo")
    acquire, tries = bench.name_locks.acquire, []

    def third(filename: str) -> bool:
        tries.append(filename)
        if len(tries) == 3:
            bench.name_locks.release("foo")
        return acquire(filename)

    bench.name_locks.acquire = third  # type: ignore[method-assign] # a fake
    bench.change(RESTORATION)
    assert len(tries) == 3


def test_nothing_is_locked_while_an_earlier_commit_hangs(bench: Bench) -> None:
    bench.storage.hanging = True
    with pytest.raises(StorageBusy):
        bench.change(ADDITION)
    assert not bench.take()


def test_a_refusal_under_the_lock_changes_nothing(bench: Bench) -> None:
    def refuse() -> None:
        with bench.transactions.begin({"foo": "foo"}, REMOVAL):
            raise NotFound("it is not there")

    with pytest.raises(NotFound):
        refuse()
    assert bench.take() == ["lock foo", "see", "unlock foo"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_unwritten_addition_needs_no_undo(bench: Bench, error: BaseException) -> None:
    with pytest.raises(StorageFull if isinstance(error, OSError) else KeyboardInterrupt):
        bench.change(ADDITION, fail(error))
    assert bench.take() == ["lock foo", "see", "note change", "write", "record change.undone", "unlock foo"]


def test_an_uncommitted_addition_is_removed_and_locked_until_all_servers_see_that(bench: Bench) -> None:
    bench.storage.failures = 1
    with pytest.raises(StorageError, match="lost"):
        bench.change(ADDITION)
    after = bench.take()
    assert after[after.index("commit") :] == ["commit", "undo", "record change.undone", "commit"]
    assert bench.name_locks.held() == {"foo"}
    bench.transactions.close()
    eventually(lambda: not bench.name_locks.held())


def test_a_restored_change_is_unlocked_once_the_undo_is_committed(bench: Bench) -> None:
    bench.storage.failures = 1
    with pytest.raises(StorageError):
        bench.change(RESTORATION)
    after = bench.take()
    assert after[after.index("commit") :] == ["commit", "undo", "record change.undone", "commit", "unlock foo"]


def test_a_partly_written_change_is_restored(bench: Bench) -> None:
    with pytest.raises(StorageError, match="it could not be stored"):
        bench.change(RESTORATION, fail(OSError(errno.EIO, "Input/output error")))
    assert bench.take()[3:] == ["write", "undo", "record change.undone", "commit", "unlock foo"]


def test_a_change_with_an_unexpected_error_is_undone_and_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        bench.change(RESTORATION, lambda _: 1 / 0)
    assert "record change.undone alice ::1 {'why': 'ZeroDivisionError'}" in bench.steps
    assert "ZeroDivisionError" in caplog.text


def test_a_removal_is_committed_again_and_locked_until_all_servers_see_it(bench: Bench) -> None:
    bench.storage.failures = 1
    with pytest.raises(StorageError):
        bench.change(REMOVAL)
    after = bench.take()
    assert after[after.index("commit") :] == ["commit", "record change.undone", "commit"]
    assert bench.name_locks.held() == {"foo"}


@pytest.mark.parametrize("policy", list(Policy))
def test_on_a_local_directory_an_undo_is_effective_at_once(bench: Bench, policy: Policy, tmp_path: Path) -> None:
    class Local(FakeVolume):
        def __init__(self, directory: Path, steps: list[str]) -> None:
            super().__init__(directory, steps)
            self.shared = False

    storage = Local(tmp_path, bench.steps)
    storage.failures = 2
    bench.transactions = Transactions(
        storage,
        bench.name_locks,
        see_others=storage.reload,
        audit=None,
        reserve="reserve",
        lock_seconds=0.01,
        rest_seconds=60.0,
    )
    with pytest.raises(StorageError):
        bench.change(policy)
    assert not bench.name_locks.held()


@pytest.mark.parametrize("policy", [RESTORATION, REMOVAL])
def test_an_undo_that_cannot_be_committed_is_abandoned_and_unlocked(
    bench: Bench, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001,) * 3)
    bench.storage.failures = 1000
    with pytest.raises(StorageError):
        bench.change(policy)
    eventually(lambda: not bench.name_locks.held())
    assert 1 + 1 + 3 <= bench.take().count("commit") <= 1 + 1 + 3 + 1


def test_an_addition_stays_locked_until_its_removal_is_committed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001,) * 3)
    bench.storage.failures = 1000
    with pytest.raises(StorageError):
        bench.change(ADDITION)
    eventually(lambda: bench.steps.count("commit") > 10)
    assert bench.name_locks.held() == {"foo"}
    bench.transactions.close()
    assert bench.name_locks.held() == {"foo"}, "a later reader must not see the file"


@pytest.mark.parametrize("policy", list(Policy))
def test_a_stopping_server_retries_its_undos(bench: Bench, policy: Policy) -> None:
    bench.storage.failures = 2
    with pytest.raises(StorageError):
        bench.change(policy)
    assert bench.name_locks.held() == {"foo"}
    bench.transactions.close()
    assert bench.take()[-2:] == ["commit", "unlock foo"]


def test_a_hanging_commit_uses_up_no_attempts_to_undo(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001,))
    waits: list[float | None] = []
    wait = bench.transactions._closing.wait

    def noted(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait(timeout)

    monkeypatch.setattr(bench.transactions._closing, "wait", noted)
    bench.storage.failures = 2

    def hang(_: Transaction) -> None:
        bench.storage.hanging = True

    with pytest.raises(StorageError):
        bench.change(RESTORATION, hang)
    eventually(lambda: len(waits) > 5)
    assert bench.name_locks.held() == {"foo"}
    bench.storage.hanging = False
    eventually(lambda: not bench.name_locks.held())


def test_a_failed_restore_is_not_reported_as_done_and_is_retried(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.001,))
    failures = [OSError(errno.EIO, "Input/output error")]

    def undo() -> None:
        bench.steps.append("undo")
        if failures:
            raise failures.pop()

    monkeypatch.setattr(bench, "undo", undo)
    bench.storage.failures = 1
    with pytest.raises(StorageError):
        bench.change(RESTORATION)
    eventually(lambda: not bench.name_locks.held())
    after = bench.take()
    assert after[after.index("commit") :] == [
        "commit",
        "undo",
        "record change.unconfirmed",
        "undo",
        "commit",
        "unlock foo",
    ]


@pytest.mark.parametrize(("policy", "expected"), [(ADDITION, True), (RESTORATION, False), (REMOVAL, False)])
def test_disk_space_is_reserved_for_all_changes_but_additions(bench: Bench, policy: Policy, expected: bool) -> None:
    bench.transactions.hold_back()
    assert bench.take() == ["hold back"]
    reserve = bench.storage.directory / "reserve"
    assert list(reserve.iterdir())
    there: list[bool] = []
    bench.change(policy, lambda _: there.append(any(reserve.iterdir())))
    assert there == [expected]
    assert list(reserve.iterdir())


def test_a_failure_to_release_a_lock_does_not_fail_the_change(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise ConnectionError("the network is down")

    monkeypatch.setattr(bench.name_locks, "release", refuse)
    bench.change(ADDITION)
    assert "commit" in bench.take()


@pytest.mark.parametrize("error", [RuntimeError("whatever a client library raises"), OSError(errno.EROFS, "Read-only")])
def test_a_failure_to_lock_is_a_storage_error(bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(_: str) -> bool:
        raise error

    monkeypatch.setattr(bench.name_locks, "acquire", refuse)
    with pytest.raises(StorageError, match="could not be locked"):
        bench.change(ADDITION)
    assert not bench.take()
