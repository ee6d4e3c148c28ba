"""Annotations set by people: yanks and revocations of files, statuses and attestation policies of projects,
tombstones of removed files.

Each except tombstones is a separate file in ``.index``, so that servers setting different ones do not overwrite each
other's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import quote, unquote

from ops.index.errors import StorageBusy
from ops.index.packages.attestations import POLICIES
from ops.index.packages.directory import tick_ns
from ops.index.packages.models import STATUSES
from ops.index.storage.directory import INDEX_FOLDER, StagingFolder, remove, sync_folder, write_all

_LONGEST = 64 * 1024
_UNREAD = -2
"""The modification time of a folder that could not be read."""

_log = logging.getLogger(__name__)


class Annotations:
    """All annotations of one directory: yanks (PEP 592), statuses (PEP 792) and revocations.

    A revocation applies to bytes, by their SHA-256, in any file. It also lists the files that had them when it was
    made, so that those can be refused without computing their digests.

    Methods that write are called inside ``Storage.reading``.

    Parameters:
        directory: of packages.
        staging: on the same file system.
    """

    def __init__(self, directory: Path, staging: StagingFolder) -> None:
        self._yanked = AnnotationFolder(directory, "yanked", staging)
        self._status = AnnotationFolder(directory, "status", staging)
        self._revoked = AnnotationFolder(directory, "revoked", staging)
        self._attestations = AnnotationFolder(directory, "attestations", staging)
        self._revoked_paths: dict[str, str] = {}  # and their digests
        self._lock = threading.Lock()

    def look(self, *, thoroughly: bool = False) -> tuple[set[str], set[str]]:
        """Read others' changes: paths with changed yanks or revocations, and projects with changed statuses.

        Nothing is read while an annotation is being set, unless *thoroughly*: an event loop does not wait for a disk.

        Raises:
            StorageBusy: a folder was never listed and cannot be: nobody knows which files must not be offered.
        """
        if not self._lock.acquire(blocking=thoroughly):
            return set(), set()
        try:
            paths = self._yanked.look(thoroughly=thoroughly)
            if self._revoked.look(thoroughly=thoroughly):
                paths |= self._index_revocations()
            self._attestations.look(thoroughly=thoroughly)
            return paths, self._status.look(thoroughly=thoroughly)
        finally:
            self._lock.release()

    def yanked(self, path: str) -> str | None:
        """The reason for a file's yank, which may be empty; None if it is not yanked."""
        return self._yanked.get(path)

    def yanks(self, paths: Iterable[str]) -> Iterable[str | None]:
        """The same for each of many files."""
        return self._yanked.of(paths)

    def status(self, project: str) -> tuple[str, str | None]:
        """The status of a project and the reason for it."""
        text = self._status.get(project)
        if text is None:
            return "active", None
        try:
            content = json.loads(text)
            status, reason = content["status"], content.get("reason")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            status, reason = "", None
        if status not in STATUSES:
            # The project was meant to be closed: better closed than open until its status is set again.
            return "archived", "its status cannot be read"
        return status, reason if isinstance(reason, str) else None

    @property
    def revoked_digests(self) -> Collection[str]:
        """The SHA-256 of all revoked files, in hexadecimal."""
        return self._revoked.names()

    def revoked_bytes(self, sha256: str) -> str | None:
        """The reason for the revocation of bytes, which may be empty; None if they are not revoked.

        Parameters:
            sha256: their digest, in hexadecimal.
        """
        text = self._revoked.get(sha256)
        return None if text is None else _revocation(text)[0]

    def revocation(self, path: str, sha256: str | None = None) -> str | None:
        """The same for a file.

        Parameters:
            path: of the file.
            sha256: the digest of the published file, in hexadecimal, if known. It is remembered as that of the path.
        """
        digest = self._revoked_paths.get(path) or sha256
        reason = None if digest is None else self.revoked_bytes(digest)
        if reason is not None and digest is not None:
            self._revoked_paths[path] = digest  # a copy of the bytes that was added later
        return reason

    def revoke(self, sha256: str, paths: Iterable[str], reason: str | None) -> None:
        """Revoke the bytes with a digest, or undo that if *reason* is None.

        Parameters:
            sha256: in hexadecimal.
            paths: of the files that have it.
            reason: shown to those who are refused the file.

        Raises:
            OSError: nothing has changed.
        """
        with self._lock:
            if reason is None:
                self._revoked.lift(sha256)
            else:
                self._revoked.put(sha256, json.dumps({"reason": reason, "files": sorted(paths)}))
            self._index_revocations()

    def revoked_files(self) -> dict[str, str]:
        """The paths of all revoked files, and their digests."""
        return dict(self._revoked_paths)

    def _index_revocations(self) -> set[str]:
        """Find the paths again, and return those that were or are revoked."""
        before = self._revoked_paths
        self._revoked_paths = {
            path: digest for digest in self._revoked.names() for path in _revocation(self._revoked.get(digest) or "")[1]
        }
        return before.keys() | self._revoked_paths.keys()

    def attestation_policy(self, project: str) -> str:
        """Policy for attestations of a project's uploads: one of POLICIES."""
        policy = self._attestations.get(project)
        # An unreadable policy was meant to be strict.
        return "off" if policy is None else policy if policy in POLICIES else "enforce"

    def set_attestation_policy(self, project: str, policy: str) -> None:
        """Set the policy of a project.

        Raises:
            OSError: nothing has changed.
        """
        with self._lock:
            if policy == "off":
                self._attestations.lift(project)
            else:
                self._attestations.put(project, policy)

    def yank(self, paths: Iterable[str], reason: str | None) -> None:
        """Yank files, or unyank them if *reason* is None.

        Raises:
            OSError: some files may be unchanged.
        """
        with self._lock:
            for path in paths:
                if reason is None:
                    self._yanked.lift(path)
                else:
                    self._yanked.put(path, reason)

    def set_status(self, project: str, status: str, reason: str | None) -> None:
        """Set the status of a project.

        Raises:
            OSError: nothing has changed.
        """
        with self._lock:
            if status == "active" and reason is None:
                self._status.lift(project)
            else:
                self._status.put(project, json.dumps({"status": status, "reason": reason}))


class AnnotationFolder:
    """The annotations in one folder of ``.index``, one file per name.

    Parameters:
        directory: of packages.
        kind: the folder's name, such as ``yanked``.
        staging: on the same file system.
    """

    def __init__(self, directory: Path, kind: str, staging: StagingFolder) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/{kind}"
        self._staging = staging
        self._annotations: dict[str, str] = {}
        self._times: dict[str, tuple[int, int]] = {}
        self._mtime_ns = -1
        self._settled = True
        self._listed = False

    def get(self, name: str) -> str | None:
        """The annotation of a name; None if it has none."""
        return self._annotations.get(name)

    def of(self, names: Iterable[str]) -> Iterable[str | None]:
        """The same for each of many names."""
        return map(self._annotations.get, names)

    def names(self) -> Collection[str]:
        """All names with an annotation."""
        return self._annotations.keys()

    def look(self, *, thoroughly: bool = False) -> set[str]:
        """Read the folder if it has changed, and return the names with changed annotations.

        Raises:
            StorageBusy: it was never listed and cannot be.
        """
        try:
            mtime_ns = os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - on the way of many requests
        except OSError:
            mtime_ns = -1
        if mtime_ns == self._mtime_ns and not thoroughly and (self._settled or _may_still_change(mtime_ns)):
            return set()
        settled = mtime_ns == -1 or not _may_still_change(mtime_ns)
        changed: set[str] = set()
        try:
            changed, unreadable = self._read()
        except OSError as error:  # the known annotations stay
            if not self._listed and not isinstance(error, NotADirectoryError):
                why = f"the annotations in {self._folder} cannot be read: {error.strerror or error}"
                raise StorageBusy(f"{why}; the server offers no file until they are readable") from None
            unreadable = error
        self._listed = True
        if unreadable is None:
            self._settled, self._mtime_ns = settled, mtime_ns
        else:  # the next call tries again
            if self._mtime_ns != _UNREAD:
                _log.warning("the annotations in %s cannot be read: %s", self._folder, unreadable)
            self._mtime_ns = _UNREAD
        return changed

    def put(self, name: str, text: str) -> None:
        """Annotate a name, durably.

        Raises:
            OSError: nothing has changed.
        """
        self._staging.replace(self._path(name), text.encode("utf-8", "replace"), durable=True)
        self._annotations[name] = text

    def lift(self, name: str) -> None:
        """Remove an annotation, durably.

        Raises:
            OSError: it may still be there.
        """
        if remove(self._path(name)):
            sync_folder(self._folder)
        self._annotations.pop(name, None)

    def _read(self) -> tuple[set[str], OSError | None]:
        """Read changed files, and return the names with changed annotations, and the error of an unreadable file.

        An unreadable annotation keeps its text; an unknown one counts as empty, which closes what it was to close.
        """
        unreadable = None
        annotations: dict[str, str] = {}
        times: dict[str, tuple[int, int]] = {}
        for entry in _files(self._folder):
            name = unquote(entry.name, errors="surrogateescape")
            try:
                status = entry.stat()
                time_and_size = (status.st_mtime_ns, status.st_size)
                if name in self._annotations and self._times.get(name) == time_and_size:
                    annotations[name] = self._annotations[name]
                else:
                    with open(entry.path, "rb") as file:
                        annotations[name] = file.read(_LONGEST).decode("utf-8", "replace")
                times[name] = time_and_size
            except FileNotFoundError:  # removed just now
                continue
            except OSError as error:
                annotations[name] = self._annotations.get(name, "")
                unreadable = error
        changed = {
            name
            for name in annotations.keys() | self._annotations.keys()
            if annotations.get(name) != self._annotations.get(name)
        }
        self._annotations, self._times = annotations, times
        return changed, unreadable

    def _path(self, name: str) -> str:
        return f"{self._folder}/{quote(os.fsencode(name), safe='+!')}"


def _revocation(text: str) -> tuple[str, list[str]]:
    """Reason and paths of a revocation. An unreadable one still applies to the digest in its name."""
    try:
        content = json.loads(text)
        reason, paths = content["reason"], content["files"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", []
    return str(reason), [str(path) for path in paths] if isinstance(paths, list) else []


def _files(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return []


def _may_still_change(mtime_ns: int) -> bool:
    """True if another change now could leave the same modification time."""
    return time.time_ns() - mtime_ns <= tick_ns(mtime_ns)


class Tombstones:
    """The digest of each removed file by its name's key: a line in one of 256 files.

    One file each would be too many for a Volume: an hourly smoke test removes 17,000 a year. Nothing is cached:
    callers hold a lock, so the disk is up to date. All methods are called inside ``Storage.reading``.

    Parameters:
        directory: of packages.
        staging: on the same file system.
    """

    def __init__(self, directory: Path, staging: StagingFolder) -> None:
        self._folder = f"{directory}/{INDEX_FOLDER}/removed"
        self._staging = staging

    def get(self, key: str) -> str | None:
        """The SHA-256, in hexadecimal, of the removed file with this name in any spelling; None if there is none.

        The caller holds the lock on the name.

        Raises:
            OSError: it cannot be read.
        """
        for line in self._read(_file_of(key)).splitlines():
            sha256, _, buried = line.partition(" ")
            if buried == key:
                return sha256
        # The first version wrote one file each, as a full disk still requires.
        return self._read(quote(key, safe="+!")).strip() or None

    @staticmethod
    def lock_name(key: str) -> str:
        """The lock that the caller of :meth:`put` holds until the commit, in addition to that on the name."""
        return f"removed/{_file_of(key)}"

    def put(self, key: str, sha256: str) -> None:
        """Add a tombstone, durably.

        Raises:
            OSError: it was not added.
        """
        before, line = self._read(_file_of(key)), f"{sha256} {key}\n"
        if line not in before.splitlines(keepends=True):
            content = (before + line).encode("utf-8", "surrogateescape")
            self._staging.replace(f"{self._folder}/{_file_of(key)}", content, durable=True)

    def put_in_place_of(self, path: str, key: str, sha256: str) -> None:
        """Turn a file into its own tombstone, on a full disk.

        It is renamed first and overwritten second, so that its name stays taken after a kill in between. A client
        downloading the file gets an error.

        Raises:
            OSError: nothing has changed, except that the file may be gone. Links are refused: other files may share
                their bytes.
        """
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.makedirs(self._folder, exist_ok=True)  # noqa: PTH103
        grave = f"{self._folder}/{quote(key, safe='+!')}"
        os.rename(path, grave)  # noqa: PTH104
        descriptor = os.open(grave, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, sha256.encode())
            os.ftruncate(descriptor, len(sha256))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self._folder)

    def _read(self, name: str) -> str:
        try:
            with open(f"{self._folder}/{name}", "rb") as file:
                return file.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""


def _file_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:2]
