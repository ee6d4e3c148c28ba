"""Taking uploads in: checked first, then durable, then visible, and never changed again."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import IO, Any, Protocol

from ops.index.catalogue import STATUSES, Catalogue, File
from ops.index.claims import Claims
from ops.index.distribution import Contents, check_agreement, inspect
from ops.index.errors import (
    BadRequest,
    Busy,
    FileTaken,
    Forbidden,
    InvalidArchive,
    InvalidFilename,
    NotFound,
    PackageIndexError,
    ProjectClosed,
    StorageError,
)
from ops.index.facts import Facts
from ops.index.names import Name, is_safe, normalize, parse, same_version
from ops.index.options import Options
from ops.index.staging import Stage, Staged
from ops.index.storage import SLICE_BYTES, SharedRun, Storage
from ops.index.writing import place, remove, storage_error, sync_folder, write_all

MAX_SIGNATURE_BYTES = 1024**2
_ARMOUR = b"-----BEGIN PGP "
_SHORTEST_WAIT = 0.002
_LONGEST_WAIT = 0.25
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

_log = logging.getLogger(__name__)


class Uploader(Protocol):
    """Who sends something, as :class:`ops.index.roles.Identity` says it."""

    @property
    def username(self) -> str:
        """The name."""

    @property
    def may_administer(self) -> bool:
        """Whether deleting, and setting and lifting a quarantine, is allowed."""

    def may_upload(self, project: str) -> bool:
        """Whether uploads to the project are allowed."""


class AuditLog(Protocol):
    """Where changes are noted, as :class:`ops.index.audit.Audit` does it."""

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Note one event. Never raises."""


class Outcome(StrEnum):
    """What became of an upload."""

    CREATED = "created"
    SAME = "same"
    """The same bytes were there already."""


class Publisher:
    """Puts files into a storage so that each is either there, whole, durable and for good, or was never seen.

    An upload waits in a scratch file, is checked there, and synced. Then its name is claimed, among all servers; what
    others have added is looked at; the file gets its name at once, unless that is taken; the folder is synced and the
    storage committed; only then it is shown, and the claim released. When anything fails after the file got its name,
    it is removed again while the claim still hides it, and the claim is kept until that is durable too.

    Parameters:
        storage: the volume of packages.
        claims: shared by all its servers.
        catalogue: of the same storage.
        options: limits.
        audit: where each change is noted, before it is confirmed.
    """

    def __init__(
        self, storage: Storage, claims: Claims, catalogue: Catalogue, options: Options, *, audit: AuditLog | None = None
    ) -> None:
        self._storage = storage
        self._claims = claims
        self._catalogue = catalogue
        self._options = options
        self._audit = audit
        self._stage = Stage(storage, options)
        self._directory = str(storage.directory)
        self._sync = SharedRun(self._make_names_durable)
        self._undoing: set[threading.Thread] = set()
        self._closing = threading.Event()

    def start(self) -> None:
        """Remove what servers left in the folder of unfinished files that were killed."""
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def close(self) -> None:
        """Let failed uploads be undone that still wait for it, for a few seconds."""
        self._closing.set()
        for thread in list(self._undoing):
            thread.join(5)

    def stage(self) -> Staged:
        """A file for an upload's bytes to wait in while they arrive. The caller discards it at the end.

        Raises:
            StorageError: none can be made.
        """
        return self._stage.new()

    def publish(
        self,
        filename: str,
        source: Staged | IO[bytes],
        *,
        form: Mapping[str, str] | None = None,
        identity: Uploader,
        address: str = "",
    ) -> Outcome:
        """Take in a distribution.

        Parameters:
            filename: as the client names it; becomes the name of the file.
            source: the bytes, staged already or to be read to their end.
            form: the fields of the legacy upload API: ``name``, ``version``, ``sha256_digest``, ``md5_digest``,
                ``blake2_256_digest``; others are of no interest.
            identity: who sends it.
            address: from where, for the audit log.

        Raises:
            InvalidUpload: it is not what it says, or not what was sent.
            Forbidden: the user may not upload to the project.
            ProjectClosed: nobody may.
            TooLarge: it is more than the index takes.
            FileTaken: the name belongs to another file.
            Busy: another upload of the same name does not end.
            StorageError: it could not be made durable; nobody has seen it.
        """
        form = form or {}
        name = self._name(filename)
        self._check_rights(name, identity)
        with self._staged(source) as staged:
            staged.check(filename, form)
            if self._has(name, staged):
                return Outcome.SAME
            contents = self._inspected(name, staged, form)
            staged.sync()
            details = {"project": name.project, "version": name.version, "sha256": staged.sha256, "size": staged.size}
            with self._claimed(name.key, filename) as claim:
                self._see_others()
                self._check_status(name)
                outcome = self._compare(name, staged)
                if outcome is None:
                    facts = _facts(name, staged, contents)
                    self._commit_file(claim, filename, staged, facts, contents.metadata)
                    self._note("upload", identity, address, filename=filename, **details)
                    self._confirm(claim, filename, identity, address)
                    outcome = Outcome.CREATED
                self._catalogue.admit(filename)
            return outcome

    def publish_signature(
        self, filename: str, source: Staged | IO[bytes], *, identity: Uploader, address: str = ""
    ) -> Outcome:
        """Take in the signature of a distribution that is there already.

        Parameters:
            filename: the distribution's, with ``.asc`` after it.
            source: an OpenPGP signature in ASCII armour.
            identity: who sends it.
            address: from where, for the audit log.

        Raises:
            PackageIndexError: as of :meth:`publish`.
        """
        name = self._name(filename.removesuffix(".asc"))
        self._check_rights(name, identity)
        with self._staged(source) as staged:
            with staged.open() as file:
                armoured = file.read(len(_ARMOUR)) == _ARMOUR
            if self._options.check_content and (not armoured or staged.size > MAX_SIGNATURE_BYTES):
                raise InvalidArchive(filename, "it is no OpenPGP signature in ASCII armour")
            staged.sync()
            with self._claimed(f"{name.key}.asc", filename) as claim:
                self._see_others()
                self._check_status(name)
                if self._catalogue.locate(name.filename) is None:
                    raise NotFound(f"there is no {name.filename!r} that {filename!r} could be the signature of")
                if os.path.lexists(f"{self._directory}/{filename}"):
                    if self._digest(filename) != staged.sha256:
                        raise FileTaken(filename)
                    return Outcome.SAME
                self._commit_file(claim, filename, staged, None, None)
                self._note("upload", identity, address, filename=filename, sha256=staged.sha256, size=staged.size)
                self._confirm(claim, filename, identity, address)
                return Outcome.CREATED

    def remove(
        self,
        project: str,
        *,
        version: str | None = None,
        filename: str | None = None,
        identity: Uploader,
        address: str = "",
    ) -> list[str]:
        """Remove a release, or one file of it. Its names never get other bytes afterwards.

        Parameters:
            project: in any spelling.
            version: of the release, in any spelling.
            filename: of the one file.
            identity: who asks; must be an admin.
            address: from where, for the audit log.

        Returns:
            The names of the files that were removed.

        Raises:
            Forbidden: the user is no admin.
            NotFound: there is no such file.
            StorageError: it is not known to be gone for good.
        """
        if not identity.may_administer:
            raise Forbidden(identity.username, f"remove files of {normalize(project)!r}, only yank them")
        self._see_others()
        files = self._files(project, version=version, filename=filename)
        with contextlib.ExitStack() as stack:
            for file in files:
                name = self._name(file.filename)
                stack.enter_context(self._claimed(name.key, file.filename))
                self._remove_file(name, file)
            for file in files:
                self._note(
                    "remove",
                    identity,
                    address,
                    filename=file.filename,
                    project=file.project,
                    version=file.version,
                    sha256=file.sha256,
                )
            self._storage.commit()
        return [file.filename for file in files]

    def yank(
        self,
        project: str,
        *,
        version: str | None = None,
        filename: str | None = None,
        reason: str = "",
        identity: Uploader,
        address: str = "",
    ) -> list[str]:
        """Mark a release, or one file of it, as not to be picked unless it is asked for exactly (PEP 592).

        Parameters:
            project: in any spelling.
            version: of the release, in any spelling.
            filename: of the one file.
            reason: shown to who installs it all the same.
            identity: who asks.
            address: from where, for the audit log.

        Returns:
            The names of the files that are yanked now.

        Raises:
            Forbidden: the user may not upload to the project.
            NotFound: there is no such file.
            StorageError: it is not known to be kept.
        """
        reason = " ".join(reason.split())
        return self._mark(
            project, version=version, filename=filename, reason=reason, identity=identity, address=address
        )

    def unyank(
        self,
        project: str,
        *,
        version: str | None = None,
        filename: str | None = None,
        identity: Uploader,
        address: str = "",
    ) -> list[str]:
        """Take back a yank. Parameters, result and errors are those of :meth:`yank`."""
        return self._mark(project, version=version, filename=filename, reason=None, identity=identity, address=address)

    def set_status(
        self, project: str, status: str, *, reason: str | None = None, identity: Uploader, address: str = ""
    ) -> None:
        """Set the status of a project (PEP 792).

        Parameters:
            project: in any spelling.
            status: ``active``, ``archived``, ``quarantined`` or ``deprecated``.
            reason: free text, or None.
            identity: who asks; only an admin sets or lifts a quarantine.
            address: from where, for the audit log.

        Raises:
            BadRequest: there is no such status.
            Forbidden: the user may not.
            NotFound: there is no such project.
            StorageError: it is not known to be kept.
        """
        name = normalize(project)
        if status not in STATUSES:
            raise BadRequest(f"{status[:50]!r} is no status of a project; say one of {', '.join(STATUSES)} (PEP 792)")
        self._see_others()
        if not self._catalogue.has(name):
            raise NotFound(f"there is no project {name[:200]!r}")
        if not identity.may_upload(name):
            raise Forbidden(identity.username, f"change the project {name!r}")
        before, _ = self._catalogue.status(name)
        if "quarantined" in (status, before) and status != before and not identity.may_administer:
            raise Forbidden(identity.username, f"set or lift the quarantine of {name!r}")
        with self._writing("the status could not be kept"):
            self._catalogue.set_status(name, status, reason)
        self._note("status", identity, address, project=name, status=status, before=before, reason=reason)
        self._catalogue.touch(name)
        self._storage.commit()

    # The steps of an upload

    def _name(self, filename: str) -> Name:
        name = parse(filename) if is_safe(filename) else None
        if name is None:
            raise InvalidFilename(filename, "it is no file name of a wheel or sdist")
        if name.form == "other" and self._options.check_content:
            raise InvalidFilename(filename, "it is no file name of a wheel (PEP 427) or an sdist (PEP 625)")
        return name

    def _check_rights(self, name: Name, identity: Uploader) -> None:
        if not identity.may_upload(name.project):
            raise Forbidden(identity.username, f"upload to the project {name.project!r}")
        self._check_status(name)

    def _check_status(self, name: Name) -> None:
        status, _ = self._catalogue.status(name.project)
        if status in ("archived", "quarantined"):
            raise ProjectClosed(name.project, project_status=status)

    @contextmanager
    def _staged(self, source: Staged | IO[bytes]) -> Iterator[Staged]:
        if isinstance(source, Staged):
            yield source
            return
        staged = self.stage()
        try:
            self._stage.fill(staged, source)
            yield staged
        finally:
            staged.discard()

    def _inspected(self, name: Name, staged: Staged, form: Mapping[str, str]) -> Contents:
        if not self._options.check_content:
            return Contents()
        with staged.open() as file:
            contents = inspect(file, name)
        check_agreement(name, contents, form)
        return contents

    def _has(self, name: Name, staged: Staged) -> bool:
        """Whether everybody sees these bytes under this name already."""
        known = self._catalogue.file(name.filename) if self._catalogue.find(name) == name.filename else None
        return known is not None and known.sha256 == staged.sha256

    @contextmanager
    def _claimed(self, key: str, filename: str) -> Iterator[_Claim]:
        """Hold the claim on a name; wait for another that holds it, but not for ever."""
        deadline = time.monotonic() + self._options.claim_seconds
        wait = _SHORTEST_WAIT
        while not self._acquired(key):
            if time.monotonic() > deadline:
                raise Busy(filename)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        claim = _Claim(key)
        try:
            yield claim
        finally:
            if not claim.kept:
                self._claims.release(key)

    def _acquired(self, key: str) -> bool:
        try:
            return self._claims.acquire(key)
        except OSError as error:
            raise storage_error("the file's name could not be claimed", error) from error

    def _see_others(self) -> None:
        """See the names that others have added until now."""
        if self._storage.shared:
            self._catalogue.reload()

    def _compare(self, name: Name, staged: Staged) -> Outcome | None:
        """Whether the name is free: None, or whether the same bytes have it already.

        Raises:
            FileTaken: other bytes have it, or had it.
        """
        existing = self._catalogue.find(name)
        if existing is None and os.path.lexists(f"{self._directory}/{name.filename}"):
            existing = name.filename
        if existing is None:
            buried = self._catalogue.removed(name)
            if buried is not None and buried != staged.sha256:
                raise FileTaken(name.filename, removed=True)
            return None
        if existing != name.filename or self._digest(existing) != staged.sha256:
            raise FileTaken(name.filename, existing=existing.rpartition("/")[2])
        return Outcome.SAME

    def _digest(self, path: str) -> str:
        try:
            if path.endswith(".asc"):
                with self._storage.reading(), open(f"{self._directory}/{path}", "rb") as file:
                    return hashlib.sha256(file.read(MAX_SIGNATURE_BYTES + 1)).hexdigest()
            return self._catalogue.sha256_of(path)
        except OSError as error:
            raise storage_error(f"the {path!r} that exists could not be read", error) from error

    def _commit_file(
        self, claim: _Claim, filename: str, staged: Staged, facts: Facts | None, metadata: bytes | None
    ) -> None:
        """Give the file its name, on this machine durably."""
        target = f"{self._directory}/{filename}"
        scratch = self._brought_near(staged)
        try:
            with self._undone_when_it_fails(claim, filename), self._writing("the upload could not be kept"):
                with self._catalogue.changing():
                    try:
                        place(scratch, target)
                    except FileExistsError:
                        claim.placed = False
                        raise FileTaken(filename) from None
                    claim.placed = True
                if facts is not None:
                    status = os.stat(target)  # noqa: PTH116
                    self._catalogue.keep(filename, facts.at(status.st_mtime_ns), metadata)
        finally:
            with self._storage.reading(), contextlib.suppress(OSError):
                remove(scratch)

    def _confirm(self, claim: _Claim, filename: str, identity: Uploader, address: str) -> None:
        """Have it confirmed that the file stays."""
        try:
            with self._undone_when_it_fails(claim, filename):
                if self._storage.shared:
                    self._storage.commit()
                else:
                    with self._writing("the upload could not be kept"):
                        self._sync()
        except PackageIndexError as error:
            self._note("upload.undone", identity, address, filename=filename, why=error.message)
            raise

    def _brought_near(self, staged: Staged) -> str:
        """A path on the storage's own file system that has the bytes, synced."""
        if not self._storage.shared:
            return staged.path
        scratch = self._stage.workbench.new()
        try:
            with staged.open() as source:
                first = True
                while piece := source.read(SLICE_BYTES):
                    with self._writing("the upload could not be kept"):
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
            with self._storage.reading(), contextlib.suppress(OSError):
                remove(scratch)
            raise
        return scratch

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Hold while the storage is written; what the file system refuses becomes an answer."""
        try:
            with self._storage.reading():
                yield
        except OSError as error:
            raise storage_error(what, error) from error

    def _make_names_durable(self) -> None:
        sync_folder(self._directory)

    # Undoing

    @contextmanager
    def _undone_when_it_fails(self, claim: _Claim, filename: str) -> Iterator[None]:
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
                with self._catalogue.changing():
                    remove(f"{self._directory}/{filename}")
                if not filename.endswith(".asc"):
                    self._catalogue.forget(filename)
                if not self._storage.shared:
                    # A crash of the machine may bring it back, whole: no more than an answer that never arrived.
                    with contextlib.suppress(OSError):
                        sync_folder(self._directory)
            self._storage.commit()
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
                    self._claims.release(key)
                    return
            if self._undo(filename):
                self._claims.release(key)

        self._in_background(work)

    def _release_later(self, key: str) -> None:
        def work() -> None:
            self._rest()
            self._claims.release(key)

        self._in_background(work)

    def _rest(self) -> None:
        if self._storage.shared:
            self._closing.wait(2 * self._options.refresh_seconds)

    def _in_background(self, work: Any) -> None:
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

    # Marks and removals

    def _files(self, project: str, *, version: str | None, filename: str | None) -> list[File]:
        found = self._catalogue.project(normalize(project))
        files = [
            file
            for file in (found.files if found else ())
            if (filename is None or file.filename == filename)
            and (version is None or same_version(file.version, version))
            and (filename is not None or version is not None)
        ]
        if not files:
            wanted = filename or f"{normalize(project)} {version or ''}".strip()
            raise NotFound(f"there is no {wanted[:200]!r} here")
        return files

    def _mark(
        self,
        project: str,
        *,
        version: str | None,
        filename: str | None,
        reason: str | None,
        identity: Uploader,
        address: str,
    ) -> list[str]:
        name = normalize(project)
        self._see_others()
        files = self._files(project, version=version, filename=filename)
        if not identity.may_upload(name):
            raise Forbidden(identity.username, f"yank files of the project {name!r}")
        with self._writing("the yank could not be kept"):
            self._catalogue.yank([file.path for file in files], reason)
        names = [file.filename for file in files]
        event = "unyank" if reason is None else "yank"
        self._note(event, identity, address, project=name, files=names, reason=reason)
        self._catalogue.touch(name)
        self._storage.commit()
        return names

    def _remove_file(self, name: Name, file: File) -> None:
        with self._writing("the file could not be removed"):
            self._catalogue.bury(name, file.sha256)
            folder = os.path.dirname(f"{self._directory}/{file.path}")  # noqa: PTH120
            with self._catalogue.changing() if "/" not in file.path else contextlib.nullcontext():
                remove(f"{self._directory}/{file.path}")
                remove(f"{self._directory}/{file.path}.asc")
            sync_folder(folder)
            self._catalogue.forget(file.path)
            if file.yanked is not None:
                self._catalogue.yank([file.path], None)

    def _note(self, event: str, identity: Uploader, address: str, **details: object) -> None:
        if self._audit is not None:
            self._audit.record(event, user=identity.username, address=address, **details)

    def _sweep(self) -> None:
        with self._storage.reading():
            self._stage.workbench.sweep()


class _Claim:
    """A claim that is held, and how far its upload got."""

    __slots__ = ("kept", "key", "placed")

    def __init__(self, key: str) -> None:
        self.key = key
        self.placed = False
        self.kept = False


def _facts(name: Name, staged: Staged, contents: Contents) -> Facts:
    metadata = contents.metadata
    return Facts(
        size=staged.size,
        mtime_ns=staged.mtime_ns,
        sha256=staged.sha256,
        version=name.version,
        upload_time=time.time(),
        requires_python=contents.requires_python,
        metadata_sha256=None if metadata is None else hashlib.sha256(metadata).hexdigest(),
        metadata_size=0 if metadata is None else len(metadata),
    )
