"""Files of credentials that cannot be read are reported, never taken for empty ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ops.index.auth.credential_files import GROUPS, INVITATIONS, PASSWORDS, TOKENS, TRUST
from ops.index.auth.tokens import Tokens
from ops.index.auth.trust import TrustStore
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.errors import StorageError
from ops.index.storage.directory import DirectoryStorage
from ops.index.storage.storage import Storage

READERS: dict[str, tuple[Callable[[Storage], object], str]] = {
    PASSWORDS: (lambda storage: Users(storage, Options()).identities(), "the users"),
    GROUPS: (lambda storage: Users(storage, Options()).reservations(), "the groups"),
    TOKENS: (lambda storage: Tokens(storage).all(), "the tokens"),
    TRUST: (lambda storage: TrustStore(storage).current(), "the trusted jobs"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_list_from_an_unreadable_file_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    read, what = READERS[name]
    with pytest.raises(StorageError, match=rf"^{what} cannot be read: Is a directory"):
        read(DirectoryStorage(tmp_path))


@pytest.mark.parametrize("name", [*READERS, INVITATIONS])
def test_no_user_is_changed_while_a_file_is_unreadable(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(StorageError, match=r"^the credentials could not be read: Is a directory"):
        Users(DirectoryStorage(tmp_path), Options(bcrypt_rounds=4)).register("alice", password="correct horse battery")
    written = {path.name for path in tmp_path.iterdir()} - before
    assert not written & {PASSWORDS, GROUPS, TOKENS, TRUST, INVITATIONS}
