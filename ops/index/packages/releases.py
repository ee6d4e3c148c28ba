"""Changes of released files: removal, yanking (PEP 592), and the status of projects (PEP 792)."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import Protocol

from ops.index.errors import BadRequest, Forbidden, NotFound, PackageIndexError
from ops.index.packages.filenames import normalize, parse, same_version
from ops.index.packages.models import STATUSES, File
from ops.index.packages.placement import Placement
from ops.index.packages.repository import Repository
from ops.index.packages.rollback import Rollback, claim_on
from ops.index.storage.files import FULL, INDEX_FOLDER, remove, sync_folder
from ops.index.storage.reserve import Reserve
from ops.index.storage.storage import Storage


class Uploader(Protocol):
    """Who sends something, as :class:`ops.index.auth.roles.Identity` says it."""

    @property
    def username(self) -> str:
        """The name."""

    @property
    def may_administer(self) -> bool:
        """Whether deleting, and setting and lifting a quarantine, is allowed."""

    def may_upload(self, project: str) -> bool:
        """Whether uploads to the project are allowed, and yanks, and every status but a quarantine."""


class AuditLog(Protocol):
    """Where changes are noted, as :class:`ops.index.auth.audit.Audit` does it."""

    def record(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Note one event, durably. Never raises."""

    def note(self, event: str, *, user: str, address: str, **details: object) -> None:
        """Note one event; the next :meth:`sync` makes it durable. Never raises."""

    def sync(self) -> None:
        """Make what was noted durable. Never raises."""

    def hold_back(self) -> None:
        """Hold room back on the disk for lines to come. Never raises."""


class Curator:
    """Changes what is there already.

    Each change has its line in the audit log before it is made. When it cannot be kept, a yank and a status are as they
    were before, and a further line says so. A removal is not taken back: the bytes that were to go would have to be
    kept somewhere. What is gone stays gone here and goes out with this server's next commit; a further line says that
    it is not confirmed.

    On a full disk all of this still works: room is held back for the few bytes that each change writes.

    Parameters:
        storage: the volume of packages.
        catalogue: of the same storage.
        placing: holds claims.
        audit: where each change is noted, before it is made.
    """

    def __init__(self, storage: Storage, repository: Repository, placement: Placement, audit: AuditLog | None) -> None:
        self._storage = storage
        self._repository = repository
        self._placement = placement
        self._audit = audit
        self._settling = Rollback(storage, repository, placement)
        self._directory = str(storage.directory)
        self._reserve = Reserve(storage, f"{INDEX_FOLDER}/reserve")

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
        keys = {file.filename: name.key for file in files if (name := parse(file.filename)) is not None}
        name_locks = {self._repository.tombstones.claim(key): filename for filename, key in keys.items()}
        name_locks |= {key: filename for filename, key in keys.items()}
        name_locks[claim_on(normalize(project))] = normalize(project)
        with self._reserve.lent(), contextlib.ExitStack() as stack:
            for key in sorted(name_locks):  # in one order, lest two wait for each other
                claim = stack.enter_context(self._placement.claimed(key, name_locks[key]))
                stack.enter_context(self._placement.outlasting(claim))
            self._see_others()  # what they have removed until now
            files = [file for file in self._files(project, version=version, filename=filename) if file.filename in keys]
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
            done: list[File] = []
            try:
                for file in files:
                    self._remove_file(keys[file.filename], file)
                    done.append(file)
                if self._audit is not None:
                    self._audit.sync()  # where the disk was full before, the lines have room now
                self._storage.commit()
            except PackageIndexError as error:
                for file in files if self._storage.shared else files[len(done) :]:
                    what = "undone" if self._is_there(file.path) else "unconfirmed"
                    self._note(f"remove.{what}", identity, address, filename=file.filename, why=error.message)
                self._settling.commit_later(stack)
                raise
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
        if not self._repository.has(name):
            raise NotFound(f"there is no project {name[:200]!r}; those that there are stand at simple/")
        if not identity.may_upload(name):
            raise Forbidden(identity.username, f"change the project {name!r}")
        annotations = self._repository.annotations
        with self._reserve.lent(), contextlib.ExitStack() as held:
            held.enter_context(self._placement.claimed(claim_on(name), name))
            self._see_others()
            before, former = self._repository.status(name)
            if "quarantined" in (status, before) and status != before and not identity.may_administer:
                raise Forbidden(identity.username, f"set or lift the quarantine of {name!r}")
            self._note("status", identity, address, project=name, status=status, before=before, reason=reason)
            try:
                with self._placement.writing("the status could not be kept"):
                    annotations.set_status(name, status, reason)
                self._repository.touch(name)
                self._storage.commit()
            except PackageIndexError as error:
                take_back = partial(
                    self._settling.take_back, name, partial(annotations.set_status, name, before, former)
                )
                what = take_back()
                self._note(f"status.{what}", identity, address, project=name, status=status, why=error.message)
                self._settling.commit_later(held, first=lambda: what == "undone" or take_back() == "undone")
                raise

    def _see_others(self) -> None:
        """See the names that others have added until now."""
        if self._storage.shared:
            self._repository.reload()

    def _files(self, project: str, *, version: str | None, filename: str | None) -> list[File]:
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
        self._see_others()
        files = self._files(project, version=version, filename=filename)
        if not identity.may_upload(name):
            raise Forbidden(identity.username, f"yank files of the project {name!r}")
        event = "unyank" if reason is None else "yank"
        annotations = self._repository.annotations
        with self._reserve.lent(), contextlib.ExitStack() as held:
            held.enter_context(self._placement.claimed(claim_on(name), name))
            self._see_others()
            files = self._files(project, version=version, filename=filename)
            names = [file.filename for file in files]
            before = {file.path: annotations.yanked(file.path) for file in files}

            def take_back() -> None:
                for path, former in before.items():
                    annotations.yank([path], former)

            self._note(event, identity, address, project=name, files=names, reason=reason)
            try:
                with self._placement.writing("the yank could not be kept"):
                    annotations.yank(before, reason)
                self._repository.touch(name)
                self._storage.commit()
            except PackageIndexError as error:
                what = self._settling.take_back(name, take_back)
                self._note(f"{event}.{what}", identity, address, project=name, files=names, why=error.message)
                again = partial(self._settling.take_back, name, take_back)
                self._settling.commit_later(held, first=lambda: what == "undone" or again() == "undone")
                raise
        return names

    def _is_there(self, path: str) -> bool:
        with self._storage.reading():
            return os.path.lexists(f"{self._directory}/{path}")

    def _remove_file(self, key: str, file: File) -> None:
        with self._placement.writing("the file could not be removed"):
            folder = os.path.dirname(f"{self._directory}/{file.path}")  # noqa: PTH120
            with self._repository.changing() if "/" not in file.path else contextlib.nullcontext():
                try:
                    self._repository.tombstones.put(key, file.sha256)
                except OSError as error:
                    if error.errno not in FULL or self._storage.shared:
                        raise
                    self._repository.tombstones.put_in_place_of(f"{self._directory}/{file.path}", key, file.sha256)
                remove(f"{self._directory}/{file.path}")
                remove(f"{self._directory}/{file.path}.asc")
            sync_folder(folder)
            self._repository.forget(file.path)
            if file.yanked is not None:
                self._repository.annotations.yank([file.path], None)

    def _note(self, event: str, identity: Uploader, address: str, **details: object) -> None:
        if self._audit is not None:
            self._audit.record(event, user=identity.username, address=address, **details)
