"""Uploads: checked first, then durable, then visible, and never changed again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ops.index.config import Options
from ops.index.errors import (
    FileTaken,
    Forbidden,
    InvalidArchive,
    InvalidFilename,
    NotFound,
    ProjectClosed,
)
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name, is_project, is_safe, parse
from ops.index.packages.inspection import DeferredError, Inspector, check_agreement
from ops.index.packages.quotas import Quotas
from ops.index.packages.releases import Uploader
from ops.index.packages.repository import Repository
from ops.index.packages.staging import Stage, Staged
from ops.index.storage.directory import place, remove, storage_error
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry, Policy, Transaction, Transactions, writing

if TYPE_CHECKING:
    from ops.index.sandbox.sandbox import Cancellation

MAX_SIGNATURE_BYTES = 1024**2
_NOT_KEPT = "the upload could not be kept"
_ARMOUR = b"-----BEGIN PGP "


class UploadResult(StrEnum):
    """The outcome of an upload."""

    CREATED = "created"
    SAME = "same"
    """The same bytes existed already."""


class Publisher:
    """Accepts uploads: each file is either there, whole, durable and for good, or was never seen.

    An upload is staged, checked and synced. A transaction then gives it its name unless that is taken; only after its
    commit is the file shown.

    Parameters:
        storage: the volume of packages.
        transactions: of the same storage.
        repository: likewise.
        options: limits.
    """

    def __init__(self, storage: Storage, transactions: Transactions, repository: Repository, options: Options) -> None:
        self._storage = storage
        self._transactions = transactions
        self._repository = repository
        self._options = options
        self._directory = str(storage.directory)
        self._stage = Stage(storage, options)
        self._inspector = Inspector()
        self.quotas = Quotas(storage, repository, options)

    def start(self) -> None:
        """Remove unfinished files of servers that were killed, and set disk space aside."""
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def stop(self) -> None:
        """End long inspections: the server stops. Does not block."""
        self._inspector.close()

    def close(self) -> None:
        """End what still runs, within a few seconds."""
        self.stop()
        self._transactions.close()

    def stage(self, filename: str, *, announced: int = 0, identity: Uploader | None = None) -> Staged:
        """A file for the bytes of an upload while they arrive. The caller discards it at the end.

        Parameters:
            filename: as the client names it; of a distribution or a signature.
            announced: its least bytes.
            identity: the user, if known already.

        Raises:
            Forbidden: the user may not upload to the project.
            ProjectClosed: nobody may.
            QuotaExceeded: there is no room for it.
            StorageError: the file cannot be created.
        """
        name = parse(filename.removesuffix(".asc")) if identity is not None and is_safe(filename) else None
        if identity is not None and name is not None:
            self._check_rights(name, identity)
        return self._stage.new(self.quotas.reservation(filename, announced))

    def publish(
        self,
        filename: str,
        source: Staged | IO[bytes],
        *,
        form: Mapping[str, str] | None = None,
        identity: Uploader,
        address: str = "",
        deferring: bool = False,
    ) -> UploadResult:
        """Publish a distribution.

        Parameters:
            filename: as the client names it; becomes the name of the file.
            source: the bytes: staged, or to be read to the end.
            form: the fields of the legacy upload API: ``name``, ``version``, ``sha256_digest``, ``md5_digest``,
                ``blake2_256_digest``; others are ignored.
            identity: the user.
            address: of the client, for the audit log.
            deferring: raise DeferredError instead of inspecting a large file in this thread, which other uploads wait
                for. The caller then calls :meth:`inspect`, and publishes the same file again.

        Raises:
            DeferredError: see *deferring*.
            InvalidUpload: the file contradicts its name, its form or its digest.
            Forbidden: the user may not upload to the project.
            ProjectClosed: nobody may.
            TooLarge: it is larger than the index accepts.
            QuotaExceeded: there is no room for it.
            FileTaken: the name belongs to another file.
            Busy: another upload of the same name does not end.
            StorageError: it could not be made durable; nobody has seen it.
        """
        form = form or {}
        name = self._name(filename)
        self._check_rights(name, identity)
        with self._staged(filename, source) as staged:
            staged.check(filename, form)
            if self._has(name, staged):
                return UploadResult.SAME
            contents = self._inspected(name, staged, form, deferring=deferring)
            staged.sync()
            details = {"project": name.project, "version": name.version, "sha256": staged.sha256, "size": staged.size}
            with self._begin(name.key, filename, identity, address) as transaction:
                self._check_status(name)
                existing = self._compare(name, staged)
                if existing is not None:
                    self._storage.commit()  # its publisher may have been killed before its own commit
                    self._repository.listing.admit(existing, name)
                    return UploadResult.SAME
                staged.room.confirm(name, staged.size)
                self._add(transaction, filename, staged, details=details, name=name, contents=contents)
                staged.room.settle(filename, staged.size)
                self._repository.listing.admit(filename, name)
                return UploadResult.CREATED

    def inspect(self, deferred: DeferredError, cancellation: Cancellation) -> None:
        """Inspect a large upload, and keep the result with it.

        Raises:
            InvalidArchive: nobody could install it.
            SandboxError: it could not be inspected.
            StorageError: it could not be read.
        """
        staged = deferred.staged
        staged.contents = self._inspector.at_length(deferred.name, staged, cancellation)

    def publish_signature(
        self, filename: str, source: Staged | IO[bytes], *, identity: Uploader, address: str = ""
    ) -> UploadResult:
        """Publish the signature of a distribution that exists already.

        Parameters:
            filename: the distribution's, followed by ``.asc``.
            source: an OpenPGP signature in ASCII armour.
            identity: the user.
            address: of the client, for the audit log.

        Raises:
            PackageIndexError: as from :meth:`publish`.
        """
        name = self._name(filename.removesuffix(".asc"))
        self._check_rights(name, identity)
        with self._staged(filename, source) as staged:
            self.check_signature(filename, staged)
            staged.sync()
            with self._begin(f"{name.key}.asc", filename, identity, address) as transaction:
                self._check_status(name)
                if self._repository.locate(name.filename) is None:
                    raise NotFound(f"there is no {name.filename!r} for {filename!r} to sign; upload the file first")
                if self._exists(filename):
                    if self._digest(filename) != staged.sha256:
                        raise FileTaken(filename)
                    return UploadResult.SAME
                staged.room.confirm(name, staged.size)
                details = {"sha256": staged.sha256, "size": staged.size}
                self._add(transaction, filename, staged, details=details)
                staged.room.settle(filename, staged.size)
                return UploadResult.CREATED

    def check_signature(self, filename: str, staged: Staged) -> None:
        """Refuse what is no signature, before the distribution that came with it is published.

        Raises:
            InvalidUpload: its name or its content is not that of a signature.
        """
        if not filename.endswith(".asc"):
            raise InvalidFilename(filename, "the name of a signature is that of its file with .asc behind it")
        self._name(filename.removesuffix(".asc"))
        with staged.open() as file:
            armoured = file.read(len(_ARMOUR)) == _ARMOUR
        if self._options.check_content and (not armoured or staged.size > MAX_SIGNATURE_BYTES):
            raise InvalidArchive(
                filename, "it is not an OpenPGP signature in ASCII armour; make one with gpg --armor --detach-sign"
            )

    def _name(self, filename: str) -> Name:
        name = parse(filename) if is_safe(filename) else None
        if name is None:
            raise InvalidFilename(filename, "this is not the file name of a wheel or an sdist; send it as it was built")
        if self._options.check_content:
            if name.form == "other":
                raise InvalidFilename(
                    filename,
                    "this is not the file name of a wheel (PEP 427) or an sdist (PEP 625); send it as it was built",
                )
            if not is_project(name.project):
                raise InvalidFilename(
                    filename,
                    "a project's name must begin and end with a letter or digit, with only letters, digits, '.', '-' "
                    "and '_' between (PEP 508); rename the project",
                )
        return name

    def _check_rights(self, name: Name, identity: Uploader) -> None:
        if not identity.may_upload(name.project):
            raise Forbidden(identity.username, f"upload to the project {name.project!r}")
        self._check_status(name)

    def _check_status(self, name: Name) -> None:
        status, _ = self._repository.status(name.project)
        if status in ("archived", "quarantined"):
            raise ProjectClosed(name.project, project_status=status)

    @contextmanager
    def _staged(self, filename: str, source: Staged | IO[bytes]) -> Iterator[Staged]:
        if isinstance(source, Staged):
            yield source
            return
        staged = self.stage(filename)
        try:
            self._stage.fill(staged, source)
            yield staged
        finally:
            staged.discard()

    def _inspected(self, name: Name, staged: Staged, form: Mapping[str, str], *, deferring: bool) -> Contents:
        if not self._options.check_content:
            return Contents()
        contents = staged.contents
        if contents is None:
            check_agreement(name, "the form", form.get("name"), form.get("version"))
            try:
                contents = self._inspector.at_once(name, staged)
            except DeferredError:
                if deferring:
                    raise
                contents = self._inspector.at_length(name, staged)
        check_agreement(name, "its core metadata", contents.name, contents.version)
        return contents

    def _has(self, name: Name, staged: Staged) -> bool:
        """True if these bytes are published under this name already."""
        known = self._repository.file(name.filename) if self._repository.find(name) == name.filename else None
        return known is not None and known.sha256 == staged.sha256

    def _compare(self, name: Name, staged: Staged) -> str | None:
        """The path of an existing file with this name and the same bytes; None if the name is free.

        Raises:
            FileTaken: other bytes have this name, or had it.
        """
        existing = self._repository.find(name)
        if existing is None and self._exists(name.filename):
            existing = name.filename
        if existing is None:
            with writing(self._storage, "it could not be told whether a removed file had the name"):
                buried = self._repository.tombstones.get(name.key)
            if buried is not None and buried != staged.sha256:
                raise FileTaken(name.filename, removed=True)
            return None
        spelling = existing.rpartition("/")[2]
        if spelling != name.filename or self._digest(existing) != staged.sha256:
            raise FileTaken(name.filename, existing=spelling)
        return existing

    def _begin(self, key: str, filename: str, identity: Uploader, address: str) -> AbstractContextManager[Transaction]:
        return self._transactions.begin({key: filename}, Policy.TAKEN_BACK, user=identity.username, address=address)

    def _add(
        self,
        transaction: Transaction,
        filename: str,
        staged: Staged,
        *,
        details: Mapping[str, object],
        name: Name | None = None,
        contents: Contents | None = None,
    ) -> None:
        """Give a staged file its name, hidden by its lock until that is committed."""
        path = f"{self._directory}/{filename}"
        entry = Entry("upload", {"filename": filename, **details})

        def failed(outcome: str, why: str) -> list[Entry]:
            return [Entry(f"upload.{outcome}", {"filename": filename, "why": why})]

        def take_back() -> None:
            with self._repository.listing.changing():
                remove(path)
            if name is not None:
                self._repository.forget(filename)

        with self._near(staged) as near, transaction.change(_NOT_KEPT, [entry], failed=failed):
            with self._repository.listing.changing():
                try:
                    place(near, path)
                except FileExistsError:
                    raise FileTaken(filename) from None
                transaction.undo = take_back
            self._storage.adopt(Path(path), staged.path)
            if name is not None and contents is not None:
                self._repository.file_info.keep(filename, name, contents, sha256=staged.sha256)

    @contextmanager
    def _near(self, staged: Staged) -> Iterator[str]:
        """The bytes on the storage's own file system."""
        try:
            with self._storage.near(staged.path) as path:
                yield path
        except OSError as error:
            raise storage_error(_NOT_KEPT, error) from error

    def _digest(self, path: str) -> str:
        try:
            if path.endswith(".asc"):
                with self._storage.reading(), open(f"{self._directory}/{path}", "rb") as file:
                    return hashlib.sha256(file.read(MAX_SIGNATURE_BYTES + 1)).hexdigest()
            return self._repository.file_info.of(path)[0].sha256
        except OSError as error:
            raise storage_error(f"the {path!r} that exists could not be read", error) from error

    def _exists(self, filename: str) -> bool:
        with self._storage.reading():
            return os.path.lexists(f"{self._directory}/{filename}")

    def _sweep(self) -> None:
        with self._storage.reading():
            self._storage.staging.sweep()
        self._transactions.hold_back()
        self.quotas.measure()
