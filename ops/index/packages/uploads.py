"""Uploads: staged while they arrive, checked, made durable, then visible, and never changed again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.index.config import Options
from ops.index.errors import (
    FileTaken,
    Forbidden,
    InvalidArchive,
    InvalidFilename,
    InvalidUpload,
    NameReserved,
    NotFound,
    ProjectClosed,
    Revoked,
)
from ops.index.packages.attestations import attestations_of, provenance_of
from ops.index.packages.core_metadata import Contents
from ops.index.packages.filenames import Name, is_project, is_safe, parse
from ops.index.packages.inspector import DeferredError, Inspector
from ops.index.packages.quotas import Quotas
from ops.index.packages.releases import Uploader
from ops.index.packages.repository import Repository
from ops.index.packages.signatures import SignatureVerifier, publisher_of
from ops.index.packages.staged import NOT_KEPT, SMALL, Staged
from ops.index.storage.directory import place, remove, storage_error
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry, Policy, Transaction, Transactions

if TYPE_CHECKING:
    from ops.index.sandbox.sandbox import Cancellation

MAX_SIGNATURE_BYTES = 1024**2
_ARMOUR = b"-----BEGIN PGP "

_PIECE = 1024**2


class UploadResult(StrEnum):
    """The outcome of an upload."""

    CREATED = "created"
    SAME = "same"
    """The same bytes existed already."""


class Publisher:
    """Accepts uploads: each file is either complete, durable and permanent, or was never visible.

    An upload is staged, checked and synced. A transaction then gives it its name unless that is taken; only after the
    commit is the file listed.

    Parameters:
        storage: the volume of packages.
        transactions: of the same storage.
        repository: likewise.
        options: limits, and the trusted root of signatures.
        check_signer: gets a project and the holder of a certificate, and returns the reason why the holder may not
            attest files of the project; empty if the holder may.
    """

    def __init__(
        self,
        storage: Storage,
        transactions: Transactions,
        repository: Repository,
        options: Options,
        *,
        check_signer: Callable[[str, Mapping[str, str]], str] = lambda _project, _signer: "",
    ) -> None:
        self._storage = storage
        self._transactions = transactions
        self._repository = repository
        self._options = options
        self._directory = str(storage.directory)
        self._inspector = Inspector()
        self._signatures = None if options.trusted_root is None else SignatureVerifier(options.trusted_root)
        self._check_signer = check_signer
        self.quotas = Quotas(storage, repository, options)

    def start(self) -> None:
        """Remove unfinished files of killed servers, and reserve disk space."""
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def stop(self) -> None:
        """End long inspections because the server is stopping. Does not block."""
        self._inspector.close()
        if self._signatures is not None:
            self._signatures.close()

    def close(self) -> None:
        """End what is still running, within a few seconds."""
        self.stop()
        self._transactions.close()

    def stage(self, filename: str, *, announced: int = 0, identity: Uploader) -> Staged:
        """A file for an upload's bytes while they arrive. The caller discards it at the end, even after publishing.

        Parameters:
            filename: as named by the client; of a distribution or a signature.
            announced: its minimum size in bytes.
            identity: the user.

        Raises:
            Forbidden: the user may not upload to the project.
            NameReserved: its name is reserved for others.
            ProjectClosed: the project accepts no uploads.
            QuotaExceeded: there is no space for it.
            StorageError: the file cannot be created.
        """
        distribution = filename.removesuffix(".asc")
        name = parse(distribution) if is_safe(distribution) else None
        if name is not None:
            self._check_rights(name, identity)
            self._check_status(name)
        return Staged(self._storage, filename, name, self.quotas.reservation(filename, name, announced), self._options)

    def turn(self) -> AbstractContextManager[None]:
        """Hold in a thread that processes a small upload; see :meth:`Storage.turn`."""
        return self._storage.turn()

    def publish(
        self, staged: Staged, *, form: Mapping[str, str], identity: Uploader, address: str = ""
    ) -> UploadResult:
        """Publish a distribution.

        A large file is not inspected in this thread, which other uploads wait for: the caller must call
        :meth:`inspect`, and publish it again.

        Parameters:
            staged: its complete bytes.
            form: the fields of the legacy upload API: ``name``, ``version``, ``sha256_digest``, ``md5_digest``,
                ``blake2_256_digest``; others are ignored.
            identity: the user, whose rights may have changed while the bytes arrived.
            address: of the client, for the audit log.

        Raises:
            DeferredError: it must be inspected at length first.
            InvalidUpload: the file contradicts its name, its form, its digest or its attestations.
            Forbidden: the user may not upload to the project.
            NameReserved: its name is reserved for others.
            ProjectClosed: the project accepts no uploads.
            QuotaExceeded: there is no space for it.
            FileTaken: the name belongs to another file.
            Revoked: an admin has revoked these bytes.
            Busy: another upload of the same name does not end.
            StorageError: it could not be made durable, and was never visible.
        """
        name = self._accepted(staged)
        self._check_rights(name, identity)
        staged.check_digests(form)
        sha256 = staged.sha256
        annotations = self._repository.annotations
        revoked = annotations.revoked_bytes(sha256)
        if revoked is None:  # other bytes under a revoked name
            revoked = annotations.revocation(staged.filename)
        if revoked is not None:
            raise Revoked(staged.filename, revoked)
        if self._has(name, staged):
            self._check_status(name)
            return UploadResult.SAME
        attested = form.get("attestations", "")
        policy = self._repository.attestation_policy(name.project)
        if policy == "enforce" and not attested:
            raise InvalidUpload(
                staged.filename,
                "its project requires attestations (PEP 740); publish it from CI with uv publish, or with "
                "twine upload --attestations",
            )
        attestations = attestations_of(attested, staged.filename, sha256) if attested else []
        contents = self._inspector.at_once(name, staged, form)
        details: dict[str, object] = {
            "project": name.project,
            "version": name.version,
            "sha256": sha256,
            "size": staged.size,
        }
        if policy == "audit":
            details["attested"] = bool(attested)
        provenance = self._provenance(name, attestations, identity, details) if attestations else b""
        with self._begin(name.key, staged, identity, address) as transaction:
            self._check_status(name)
            existing = self._compare(name, staged)
            if existing is not None:
                self._storage.commit()  # its publisher may have been killed before committing
                self._repository.package_directory.add(existing, name)
                return UploadResult.SAME
            self._add(transaction, staged, details=details, contents=contents, provenance=provenance)
            self._repository.package_directory.add(staged.filename, name)
            return UploadResult.CREATED

    def _provenance(
        self, name: Name, attestations: list[dict[str, Any]], identity: Uploader, details: dict[str, object]
    ) -> bytes:
        """Verify the signatures of attestations, if there is a trusted root, and return the provenance of the file.

        Raises:
            InvalidUpload: one is not valid, or is by someone who may not attest the project's files.
            StorageError: the trusted root cannot be used.
            SandboxError: they could not be verified.
        """
        if self._signatures is None:
            run = identity.origin.get("run", "")
            publisher = {
                "kind": "CI run" if run else "user",
                "name": identity.username,
                **({"run": run} if run else {}),
            }
            return provenance_of(attestations, [publisher] * len(attestations))
        signers = self._signatures.signers(name.filename, attestations)
        for signer in signers:
            reason = self._check_signer(name.project, signer)
            if reason:
                raise InvalidUpload(name.filename, reason)
        details["signers"] = sorted({signer.get("run") or signer["identity"] for signer in signers})
        return provenance_of(attestations, [publisher_of(signer) for signer in signers])

    def inspect(self, deferred: DeferredError, cancellation: Cancellation) -> None:
        """Inspect a large upload, and store the result with it.

        Raises:
            InvalidArchive: it could not be installed.
            SandboxError: it could not be inspected.
            StorageError: it could not be read.
        """
        staged = deferred.staged
        staged.contents = self._inspector.at_length(deferred.name, staged, cancellation)

    def publish_signature(self, staged: Staged, *, identity: Uploader, address: str = "") -> UploadResult:
        """Publish the signature of an existing distribution.

        Parameters:
            staged: an OpenPGP signature in ASCII armour, named after the distribution, with ``.asc`` appended.
            identity: the user.
            address: of the client, for the audit log.

        Raises:
            PackageIndexError: as from :meth:`publish`.
        """
        name = self._accepted(staged)
        self._check_rights(name, identity)
        self._check_status(name)
        self.check_signature(staged)
        filename = staged.filename
        with self._begin(f"{name.key}.asc", staged, identity, address) as transaction:
            self._check_status(name)
            if self._repository.locate(name.filename) is None:
                raise NotFound(f"there is no {name.filename!r} for {filename!r} to sign; upload the file first")
            if self._exists(filename):
                if self._digest(filename) != staged.sha256:
                    raise FileTaken(filename)
                return UploadResult.SAME
            self._add(transaction, staged, details={"sha256": staged.sha256, "size": staged.size})
            return UploadResult.CREATED

    def check_signature(self, staged: Staged) -> None:
        """Refuse an invalid signature before the distribution that came with it is published.

        Raises:
            InvalidUpload: its name or content is not that of a signature.
        """
        filename = staged.filename
        if not filename.endswith(".asc"):
            raise InvalidFilename(filename, "the name of a signature is that of its file with .asc appended")
        self._accepted(staged)
        with staged.open() as file:
            armoured = file.read(len(_ARMOUR)) == _ARMOUR
        if not armoured or staged.size > MAX_SIGNATURE_BYTES:
            raise InvalidArchive(
                filename, "it is not an OpenPGP signature in ASCII armour; create one with gpg --armor --detach-sign"
            )

    def _accepted(self, staged: Staged) -> Name:
        """The parsed name of the distribution that is published or signed.

        Raises:
            InvalidFilename: no installer could use it.
        """
        name = staged.name
        if name is None:
            raise InvalidFilename(
                staged.filename,
                "this is not the file name of a wheel or an sdist; upload it as it was built",
            )
        if name.form == "other":
            raise InvalidFilename(
                name.filename,
                "this is not the file name of a wheel (PEP 427) or an sdist (PEP 625); upload it as it was built",
            )
        if not is_project(name.project):
            raise InvalidFilename(
                name.filename,
                "a project's name must begin and end with a letter or digit, with only letters, digits, '.', '-' "
                "and '_' between (PEP 508); rename the project",
            )
        return name

    def _check_rights(self, name: Name, identity: Uploader) -> None:
        if not identity.may_upload(name.project):
            raise Forbidden(identity.username, f"upload to the project {name.project!r}")
        owners = identity.owner_of(name.project)
        if owners and not self._repository.has(name.project):  # the publishers of an existing project keep it
            raise NameReserved(name.project, owners)

    def _check_status(self, name: Name) -> None:
        status, _ = self._repository.status(name.project)
        if status in ("archived", "quarantined"):
            raise ProjectClosed(name.project, project_status=status)

    def _has(self, name: Name, staged: Staged) -> bool:
        """True if these bytes are already published under this name."""
        known = self._repository.file(name.filename) if self._repository.find(name) == name.filename else None
        return known is not None and known.sha256 == staged.sha256

    def _compare(self, name: Name, staged: Staged) -> str | None:
        """The path of an existing file with this name and the same bytes; None if the name is free.

        Raises:
            FileTaken: other bytes have, or had, this name.
        """
        try:
            existing, removed = self._repository.occupant(name)
        except OSError as error:
            raise storage_error("it could not be checked whether a removed file had the name", error) from error
        if existing is None:
            if removed is not None and removed != staged.sha256:
                raise FileTaken(name.filename, removed=True)
            return None
        spelling = existing.rpartition("/")[2]
        if spelling != name.filename or self._digest(existing) != staged.sha256:
            raise FileTaken(name.filename, existing=spelling)
        return existing

    def _begin(self, key: str, staged: Staged, identity: Uploader, address: str) -> AbstractContextManager[Transaction]:
        if staged.size > SMALL:
            staged.sync()  # most of it, before taking the lock
        return self._transactions.begin(
            {key: staged.filename},
            Policy.TAKEN_BACK,
            user=identity.username,
            address=address,
            origin=identity.origin,
            confirm=identity.confirm,
        )

    def _add(
        self,
        transaction: Transaction,
        staged: Staged,
        *,
        details: Mapping[str, object],
        contents: Contents | None = None,
        provenance: bytes = b"",
    ) -> None:
        """Give a staged file its name, hidden by its lock until the commit.

        Parameters:
            contents: of a distribution; None for a signature.
            provenance: of its attestations; empty for none.
        """
        filename, name = staged.filename, staged.name
        path = f"{self._directory}/{filename}"
        entry = Entry("upload", {"filename": filename, **details})
        provenances = self._repository.file_info.provenances

        def failed(outcome: str, why: str) -> list[Entry]:
            return [Entry(f"upload.{outcome}", {"filename": filename, "why": why})]

        def take_back() -> None:
            with self._repository.package_directory.changing():
                remove(path)
            if contents is not None:
                self._repository.forget(filename)
                provenances.remove(filename)

        staged.room.confirm(staged.size)
        with self._near(staged) as near, transaction.change(NOT_KEPT, [entry], failed=failed):
            if provenance:
                provenances.put(filename, provenance)
            elif contents is not None:
                provenances.remove(filename)  # of a killed upload of this name
            if near == staged.path:  # else the copy is already durable
                staged.sync()
            with self._repository.package_directory.changing():
                try:
                    place(near, path)
                except FileExistsError:
                    raise FileTaken(filename) from None
                transaction.undo = take_back
            self._storage.adopt(Path(path), staged.path)
            if contents is not None and name is not None:
                uploader, run = transaction.user, transaction.origin.get("run", "")
                self._repository.file_info.keep(
                    filename,
                    name,
                    contents,
                    sha256=staged.sha256,
                    uploader=uploader,
                    run=run,
                    provenance=hashlib.sha256(provenance).hexdigest() if provenance else "",
                )
        staged.room.settle(staged.size)

    @contextmanager
    def _near(self, staged: Staged) -> Iterator[str]:
        """The bytes on the storage's own file system."""
        try:
            with self._storage.near(staged.path) as path:
                yield path
        except OSError as error:
            raise storage_error(NOT_KEPT, error) from error

    def _digest(self, path: str) -> str:
        try:
            if path.endswith(".asc"):
                with self._storage.reading(), open(f"{self._directory}/{path}", "rb") as file:
                    return hashlib.sha256(file.read(MAX_SIGNATURE_BYTES + 1)).hexdigest()
            return self._repository.file_info.of(path)[0].sha256
        except OSError as error:
            raise storage_error(f"the existing {path!r} could not be read", error) from error

    def _exists(self, filename: str) -> bool:
        with self._storage.reading():
            return os.path.lexists(f"{self._directory}/{filename}")

    def _sweep(self) -> None:
        with self._storage.reading():
            self._storage.staging.sweep()
        self._transactions.hold_back()
        self.quotas.measure()
