"""Changes of released files: removal, yanking (PEP 592), revocation, and the status of projects (PEP 792)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Protocol

from ops.index.errors import BadRequest, Forbidden, NotFound
from ops.index.packages.attestations import POLICIES
from ops.index.packages.filenames import normalize, parse, same_version
from ops.index.packages.models import STATUSES, File
from ops.index.packages.repository import Repository
from ops.index.storage.directory import FULL, remove, sync_folder
from ops.index.storage.storage import Storage
from ops.index.storage.transaction import Entry, Policy, Transaction, Transactions


class Uploader(Protocol):
    """The user of a request, such as :class:`ops.index.auth.roles.Identity`."""

    @property
    def username(self) -> str:
        """The user's name."""

    @property
    def origin(self) -> Mapping[str, str]:
        """Token and CI run of the request, for the audit log; empty for a password."""

    @property
    def may_administer(self) -> bool:
        """True if the user may remove files, and set and lift quarantines."""

    def confirm(self) -> None:
        """Raise an error if the user has lost a right since the request was authenticated. Blocks."""

    def owner_of(self, project: str) -> str:
        """The owners of the reserved prefix that a project's name falls under; empty if the user may use the name."""

    def may_upload(self, project: str) -> bool:
        """True if the user may upload to the project, yank its files, and set any status but a quarantine."""


class Releases:
    """Changes of existing files and projects.

    A yank or status whose commit fails is rolled back. A removal is not: its bytes would have to be kept. Removed
    files stay removed on this server and in its next commit; the audit log says that the removal is unconfirmed.
    All of this works on a full disk, using space reserved by transactions.

    Parameters:
        storage: the volume of packages.
        transactions: of the same storage.
        repository: likewise.
    """

    def __init__(self, storage: Storage, transactions: Transactions, repository: Repository) -> None:
        self._storage = storage
        self._transactions = transactions
        self._repository = repository
        self._directory = str(storage.directory)

    def remove(
        self,
        project: str,
        *,
        version: str | None = None,
        filename: str | None = None,
        identity: Uploader,
        address: str = "",
    ) -> list[str]:
        """Remove a release, or one file of it. Its names can never be reused for other bytes.

        Parameters:
            project: in any spelling.
            version: of the release, in any spelling.
            filename: of the one file.
            identity: the user, who must be an admin.
            address: of the client, for the audit log.

        Returns:
            The names of the files that were removed.

        Raises:
            Forbidden: the user is not an admin.
            NotFound: there is no such file.
            StorageError: the removal may not last.
        """
        self._check_admin(identity, f"remove files of {normalize(project)!r}, only yank them")
        self._repository.reload()
        keys = {
            file.filename: name.key
            for file in self._files(project, version, filename)
            if (name := parse(file.filename)) is not None
        }
        names = {self._repository.tombstones.lock_name(key): filename for filename, key in keys.items()}
        names |= {key: filename for filename, key in keys.items()}
        names[annotations_lock(normalize(project))] = normalize(project)
        with self._transactions.begin(
            names,
            Policy.IRREVOCABLE,
            user=identity.username,
            address=address,
            origin=identity.origin,
            confirm=identity.confirm,
        ) as transaction:
            files = [file for file in self._files(project, version, filename) if file.filename in keys]
            done: list[File] = []

            def failed(_: str, why: str) -> Iterator[Entry]:
                for file in files[len(done) :] if self._transactions.at_once else files:
                    outcome = "undone" if self._exists(file.path) else "unconfirmed"
                    yield Entry(f"remove.{outcome}", {"filename": file.filename, "why": why})

            entries = [
                Entry(
                    "remove",
                    {
                        "filename": file.filename,
                        "project": file.project,
                        "version": file.version,
                        "sha256": file.sha256,
                    },
                )
                for file in files
            ]
            with transaction.change("the file could not be removed", entries, failed=failed):
                for file in files:
                    self._remove_file(keys[file.filename], file)
                    done.append(file)
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
        """Yank a release, or one file of it: installers pick it only if it is pinned exactly (PEP 592).

        Parameters:
            project: in any spelling.
            version: of the release, in any spelling.
            filename: of the one file.
            reason: shown to those who install it anyway.
            identity: the user.
            address: of the client, for the audit log.

        Returns:
            The names of the yanked files.

        Raises:
            Forbidden: the user may not upload to the project.
            NotFound: there is no such file.
            StorageError: the change may be lost.
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
        """Undo a yank. Parameters, result and errors are those of :meth:`yank`."""
        return self._mark(project, version=version, filename=filename, reason=None, identity=identity, address=address)

    def revoke(
        self,
        project: str,
        *,
        version: str | None = None,
        filename: str | None = None,
        reason: str = "",
        identity: Uploader,
        address: str = "",
    ) -> list[str]:
        """Revoke the files of a release, or one of them: their bytes can no longer be downloaded, under any name.

        They stay on the volume as evidence, and their names stay taken.

        Parameters:
            project: in any spelling.
            version: of the release, in any spelling.
            filename: of the one file.
            reason: shown to those who request a file anyway.
            identity: the user, who must be an admin.
            address: of the client, for the audit log.

        Returns:
            The names of all files with these bytes.

        Raises:
            Forbidden: the user is not an admin.
            NotFound: there is no such file.
            StorageError: the change may be lost.
        """
        name = normalize(project)
        self._check_admin(identity, f"revoke files of {name!r}, only yank them")
        self._repository.reload()
        paths: dict[str, list[str]] = {file.sha256: [] for file in self._files(project, version, filename)}
        for path in self._repository.paths():
            file = self._repository.file(path)
            if file is not None and file.sha256 in paths:
                paths[file.sha256].append(path)
        return self._set_revocations(name, paths, " ".join(reason.split()), identity, address)

    def unrevoke(self, project: str, *, filename: str, identity: Uploader, address: str = "") -> list[str]:
        """Undo a revocation. Parameters, result and errors are those of :meth:`revoke`."""
        name = normalize(project)
        self._check_admin(identity, f"restore revoked files of {name!r}")
        self._repository.reload()
        revoked = self._repository.annotations.revoked_files()
        paths: dict[str, list[str]] = {
            digest: []
            for path, digest in revoked.items()
            if path.rpartition("/")[2] == filename and self._repository.listing.project_of(path) == name
        }
        if not paths:
            raise NotFound(f"{filename[:200]!r} is not a revoked file of {name!r}; the audit log lists revocations")
        for path, digest in revoked.items():
            if digest in paths:
                paths[digest].append(path)
        return self._set_revocations(name, paths, None, identity, address)

    def set_status(
        self, project: str, status: str, *, reason: str | None = None, identity: Uploader, address: str = ""
    ) -> None:
        """Set the status of a project (PEP 792).

        Parameters:
            project: in any spelling.
            status: ``active``, ``archived``, ``quarantined`` or ``deprecated``.
            reason: free text, or None.
            identity: the user; only an admin sets or lifts a quarantine.
            address: of the client, for the audit log.

        Raises:
            BadRequest: there is no such status.
            Forbidden: the user lacks the right.
            NotFound: there is no such project.
            StorageError: the change may be lost.
        """
        name = normalize(project)
        if status not in STATUSES:
            raise BadRequest(f"{status[:50]!r} is not a project status; use one of {', '.join(STATUSES)} (PEP 792)")
        self._repository.reload()
        if not self._repository.has(name):
            raise NotFound(f"there is no project {name[:200]!r} in this index; see simple/ for its projects")
        if not identity.may_upload(name):
            raise Forbidden(identity.username, f"change the project {name!r}")
        annotations = self._repository.annotations
        with self._begin(name, identity, address) as transaction:
            before, former = self._repository.status(name)
            if "quarantined" in (status, before) and status != before and not identity.may_administer:
                raise Forbidden(identity.username, f"set or lift the quarantine of {name!r}")
            with self._annotating(
                transaction,
                [name],
                Entry("status", {"project": name, "status": status, "before": before, "reason": reason}),
                restore=partial(annotations.set_status, name, before, former),
            ):
                annotations.set_status(name, status, reason)

    def set_attestation_policy(self, project: str, policy: str, *, identity: Uploader, address: str = "") -> None:
        """Set whether uploads to a project need attestations (PEP 740). The project need not exist.

        Parameters:
            project: in any spelling.
            policy: ``off``, ``audit`` or ``enforce``.
            identity: the user, who must be an admin.
            address: of the client, for the audit log.

        Raises:
            BadRequest: there is no such policy.
            Forbidden: the user is not an admin.
            StorageError: the change may be lost.
        """
        name = normalize(project)
        if policy not in POLICIES:
            raise BadRequest(f"{policy[:50]!r} is not a policy for attestations; use one of {', '.join(POLICIES)}")
        self._check_admin(identity, f"set the attestation policy of {name!r}")
        self._repository.reload()
        annotations = self._repository.annotations
        with self._begin(name, identity, address) as transaction:
            before = annotations.attestation_policy(name)
            entry = Entry("attestations", {"project": name, "policy": policy, "before": before})
            restore = partial(annotations.set_attestation_policy, name, before)
            with self._annotating(transaction, [name], entry, restore=restore):
                annotations.set_attestation_policy(name, policy)

    def _files(self, project: str, version: str | None, filename: str | None) -> list[File]:
        found = self._repository.project(normalize(project))
        files = [
            file
            for file in (found.files if found else ())
            if (filename is None or file.filename == filename)
            and (version is None or same_version(file.version, version))
            and (filename is not None or version is not None)
        ]
        if not files:
            wanted = filename or f"{normalize(project)} {version or ''}".strip()
            raise NotFound(f"there is no {wanted[:200]!r} here; the project's page below simple/ lists its files")
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
        self._repository.reload()
        self._files(project, version, filename)
        if not identity.may_upload(name):
            raise Forbidden(identity.username, f"yank files of the project {name!r}")
        annotations = self._repository.annotations
        with self._begin(name, identity, address) as transaction:
            files = self._files(project, version, filename)
            names = [file.filename for file in files]
            before = {file.path: annotations.yanked(file.path) for file in files}

            def restore() -> None:
                for path, former in before.items():
                    annotations.yank([path], former)

            event = "unyank" if reason is None else "yank"
            entry = Entry(event, {"project": name, "files": names, "reason": reason})
            with self._annotating(transaction, [name], entry, restore=restore):
                annotations.yank(before, reason)
        return names

    @staticmethod
    def _check_admin(identity: Uploader, action: str) -> None:
        if not identity.may_administer:
            raise Forbidden(identity.username, action)

    def _set_revocations(
        self, project: str, paths: dict[str, list[str]], reason: str | None, identity: Uploader, address: str
    ) -> list[str]:
        """Revoke digests, or undo that.

        Parameters:
            project: whose files the request names.
            paths: of the files with each digest.
            reason: None to undo it.
        """
        annotations = self._repository.annotations
        names = sorted(path.rpartition("/")[2] for found in paths.values() for path in found)
        projects = {self._repository.listing.project_of(path) or project for found in paths.values() for path in found}
        with self._begin(project, identity, address) as transaction:
            before = {digest: annotations.revoked_bytes(digest) for digest in paths}

            def restore() -> None:
                for digest, former in before.items():
                    annotations.revoke(digest, paths[digest], former)

            event = "unrevoke" if reason is None else "revoke"
            details = {"project": project, "files": names, "sha256": sorted(paths), "reason": reason}
            with self._annotating(transaction, projects, Entry(event, details), restore=restore):
                for digest, found in paths.items():
                    annotations.revoke(digest, found, reason)
        return names

    def _begin(self, project: str, identity: Uploader, address: str) -> AbstractContextManager[Transaction]:
        return self._transactions.begin(
            {annotations_lock(project): project},
            Policy.RESTORED,
            user=identity.username,
            address=address,
            origin=identity.origin,
            confirm=identity.confirm,
        )

    @contextmanager
    def _annotating(
        self, transaction: Transaction, projects: Collection[str], entry: Entry, *, restore: Callable[[], None]
    ) -> Iterator[None]:
        """Hold while annotations of projects are written. Their pages are rendered again, even after an undo."""

        def failed(outcome: str, why: str) -> list[Entry]:
            subject = {key: value for key, value in entry.details.items() if key not in ("before", "reason")}
            return [Entry(f"{entry.event}.{outcome}", {**subject, "why": why})]

        def undo() -> None:
            try:
                restore()
            finally:
                self._repository.listing.touch(projects)

        transaction.undo = undo
        with transaction.change(f"the {entry.event} could not be stored", [entry], failed=failed):
            yield
            self._repository.listing.touch(projects)

    def _exists(self, path: str) -> bool:
        with self._storage.reading():
            return os.path.lexists(f"{self._directory}/{path}")

    def _remove_file(self, key: str, file: File) -> None:
        folder = os.path.dirname(f"{self._directory}/{file.path}")  # noqa: PTH120
        with self._repository.package_directory.changing() if "/" not in file.path else contextlib.nullcontext():
            self._bury(key, file)
            remove(f"{self._directory}/{file.path}")
            remove(f"{self._directory}/{file.path}.asc")
        sync_folder(folder)
        self._repository.forget(file.path)
        self._repository.file_info.provenances.remove(file.path)
        if file.yanked is not None:
            self._repository.annotations.yank([file.path], None)

    def _bury(self, key: str, file: File) -> None:
        tombstones = self._repository.tombstones
        try:
            tombstones.put(key, file.sha256)
        except OSError as error:
            if error.errno not in FULL or self._storage.disk() is None:
                raise
            tombstones.put_in_place_of(f"{self._directory}/{file.path}", key, file.sha256)


def annotations_lock(project: str) -> str:
    """The lock on the annotations of a project and its files. No file can have this name.

    Parameters:
        project: normalized (PEP 503).
    """
    return f"marks/{project}"
