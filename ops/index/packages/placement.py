"""Placement of a staged file under its final name, durably and exactly once."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.index.config import Options
from ops.index.errors import Busy, FileTaken, PackageIndexError, StorageBusy, StorageError
from ops.index.packages.file_info import FileInfo
from ops.index.packages.repository import Repository
from ops.index.packages.staging import Staged
from ops.index.storage.directory import SharedRun
from ops.index.storage.files import Workbench, place, remove, storage_error, sync_folder, write_all
from ops.index.storage.name_locks import NameLocks
from ops.index.storage.storage import Storage
from ops.index.storage.volume import SLICE_BYTES

_SHORTEST_WAIT = 0.002
_LONGEST_WAIT = 0.25
_LAST_SECONDS = 5.0
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

_log = logging.getLogger(__name__)


class Claim:
    """A claim that is held, and how far its upload got.

    Parameters:
        key: what is claimed.
    """

    __slots__ = ("kept", "key", "placed")

    def __init__(self, key: str) -> None:
        self.key = key
        self.placed = False
        self.kept = False


class Placement:
    """Puts finished files into a storage, and takes them away again when that fails.

    Parameters:
        storage: the volume of packages.
        claims: shared by all its servers.
        catalogue: of the same storage.
        workbench: where files are finished that come from another disk.
        options: ``claim_seconds`` and ``refresh_seconds``.
        with_names: makes durable what has to be when names are; not needed on a shared storage, where a commit does.
    """

    def __init__(
        self,
        storage: Storage,
        name_locks: NameLocks,
        repository: Repository,
        workbench: Workbench,
        options: Options,
        *,
        with_names: Callable[[], None] | None = None,
    ) -> None:
        self._storage = storage
        self._name_locks = name_locks
        self._repository = repository
        self._workbench = workbench
        self._options = options
        self._directory = str(storage.directory)
        self._with_names = with_names
        self._sync = SharedRun(self._sync_names)
        self._undoing: set[threading.Thread] = set()
        self._closing = threading.Event()

    def sync_names(self) -> None:
        """Make the names at the top of the directory durable.

        Raises:
            StorageError: they are not known to be.
        """
        if not self._storage.shared:
            with self.writing("the files' names could not be made durable"):
                self._sync()

    def _sync_names(self) -> None:
        if self._with_names is not None:
            self._with_names()
        sync_folder(self._directory)

    def close(self) -> None:
        """Let failed uploads be undone that still wait for it, for a few seconds."""
        self._closing.set()
        end = time.monotonic() + _LAST_SECONDS
        for thread in list(self._undoing):
            thread.join(max(0.0, end - time.monotonic()))

    @contextmanager
    def claimed(self, key: str, filename: str) -> Iterator[Claim]:
        """Hold the claim on a name; wait for another that holds it, but not for ever.

        Raises:
            Busy: the other does not end.
            StorageError: nothing can be claimed.
            StorageBusy: an earlier commit does not end, and no change could be kept.
        """
        self._storage.check()
        deadline = time.monotonic() + self._options.claim_seconds
        wait = _SHORTEST_WAIT
        while not self._acquired(key):
            if time.monotonic() > deadline:
                raise Busy(filename)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        claim = Claim(key)
        try:
            yield claim
        finally:
            if not claim.kept:
                self._release(key)

    @contextmanager
    def outlasting(self, claim: Claim) -> Iterator[None]:
        """Hold on to a claim for some seconds after a failure on a shared storage.

        What was written may still be committed with the next change of this server: others see it before they write
        the same file.
        """
        try:
            yield
        except BaseException:
            if self._storage.shared:
                claim.kept = True
                self._release_later(claim.key)
            raise

    def _acquired(self, key: str) -> bool:
        try:
            return self._name_locks.acquire(key)
        except OSError as error:
            raise storage_error("the file's name could not be claimed", error) from error
        except Exception as error:  # claims across servers raise what their client library raises
            _log.exception("the claim on %s could not be taken", key)
            raise StorageError("the file's name could not be claimed; try again") from error

    def _release(self, key: str) -> None:
        try:
            self._name_locks.release(key)
        except Exception:  # noqa: BLE001 - the upload has succeeded or failed already; the claim runs out
            _log.exception("the claim on %s could not be given back", key)

    def put(
        self, claim: Claim, filename: str, staged: Staged, file_info: FileInfo | None, metadata: bytes | None
    ) -> None:
        """Give the file its name, while its claim hides it.

        Parameters:
            claim: on its name.
            filename: its name.
            staged: its bytes, synced.
            facts: to be kept beside it, if there are any.
            metadata: likewise.

        Raises:
            FileTaken: the name is taken.
            StorageError: the file could not be put there.
        """
        target = f"{self._directory}/{filename}"
        scratch = self._brought_near(staged)
        try:
            with self._undone_when_it_fails(claim, filename), self.writing("the upload could not be kept"):
                with self._repository.changing():
                    try:
                        place(scratch, target)
                    except FileExistsError:
                        claim.placed = False
                        raise FileTaken(filename) from None
                    claim.placed = True
                self._storage.adopt(Path(target), staged.path)
                if file_info is not None:
                    status = os.stat(target)  # noqa: PTH116
                    self._repository.keep(filename, file_info.at(status.st_mtime_ns), metadata)
        finally:
            if scratch != staged.path:  # else its owner removes it
                self._discard(scratch)

    def confirm(self, claim: Claim, filename: str) -> None:
        """Have it confirmed that the file stays.

        Raises:
            StorageError: it does not, and was taken away.
        """
        with self._undone_when_it_fails(claim, filename):
            if self._storage.shared:
                self._storage.commit()
            else:
                with self.writing("the upload could not be kept"):
                    self._sync()

    def _brought_near(self, staged: Staged) -> str:
        """A path on the storage's own file system that has the bytes, synced."""
        if not self._storage.shared:
            return staged.path
        scratch = self._workbench.new()
        try:
            with staged.open() as source:
                first = True
                while piece := source.read(SLICE_BYTES):
                    with self.writing("the upload could not be kept"):
                        os.makedirs(os.path.dirname(scratch), exist_ok=True)  # noqa: PTH103, PTH120
                        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_EXCL if first else 0)
                        descriptor = os.open(scratch, flags, 0o644)
                        try:
                            write_all(descriptor, piece)
                            os.fsync(descriptor)
                        finally:
                            os.close(descriptor)
                        first = False
        except BaseException:
            self._discard(scratch)
            raise
        return scratch

    def _discard(self, scratch: str) -> None:
        """Remove an unfinished file. One that stays, as the storage is busy, is swept away by a later server."""
        with contextlib.suppress(OSError, StorageBusy), self._storage.reading():
            remove(scratch)

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Hold while the storage is written; what the file system refuses becomes an answer."""
        try:
            with self._storage.reading():
                yield
        except OSError as error:
            raise storage_error(what, error) from error

    @contextmanager
    def _undone_when_it_fails(self, claim: Claim, filename: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if claim.placed:
                claim.kept = True  # it hides the file until it is gone for good
                if not self._undo(filename):
                    self._undo_later(claim.key, filename, 0)
                elif self._storage.shared:
                    # Others may have seen the file before its removal: they must find the claim held when they ask.
                    self._release_later(claim.key)
                else:
                    claim.kept = False
                if not isinstance(error, PackageIndexError):
                    _log.exception("the upload of %s failed and was undone", filename)
            raise

    def _undo(self, filename: str) -> bool:
        """Take the file away again; whether that is known to be durable."""
        try:
            with self._storage.reading():
                with self._repository.changing():
                    remove(f"{self._directory}/{filename}")
                if not filename.endswith(".asc"):
                    self._repository.forget(filename)
                if not self._storage.shared:
                    # A crash of the machine may bring it back, whole: no more than an answer that never arrived.
                    with contextlib.suppress(OSError):
                        sync_folder(self._directory)
            self._storage.commit()
        except StorageBusy:  # by the same commit that did not end, as a rule
            return False
        except (OSError, StorageError) as error:
            _log.warning("%s could not be taken away yet after its upload failed: %s", filename, error)
            return False
        return True

    def _undo_later(self, key: str, filename: str, attempt: int) -> None:
        def work() -> None:
            number = attempt
            while not self._closing.wait(_RETRY_SECONDS[min(number, len(_RETRY_SECONDS) - 1)]):
                number += 1
                if self._undo(filename):
                    self._rest()
                    self._release(key)
                    return
            if self._undo(filename):
                self._release(key)

        self._in_background(work)

    def _release_later(self, key: str) -> None:
        def work() -> None:
            self._rest()
            self._release(key)

        self._in_background(work)

    def _rest(self) -> None:
        if self._storage.shared:
            self._closing.wait(2 * self._options.refresh_seconds)

    def _in_background(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception:  # noqa: BLE001 - nobody else hears of it
                _log.exception("a failed upload could not be undone")
            finally:
                self._undoing.discard(thread)

        thread = threading.Thread(target=run, name="undo", daemon=True)
        self._undoing.add(thread)
        thread.start()
