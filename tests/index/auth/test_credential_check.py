"""Lines of the credential files without effect are logged for the operator."""

from __future__ import annotations

import logging
import os
from codecs import BOM_UTF8
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.index.auth.credential_check import CredentialCheck, group_problems, password_problems
from ops.index.auth.credential_files import GROUPS, PASSWORDS
from ops.index.auth.tokens import Tokens
from ops.index.auth.users import Users
from ops.index.config import Options
from ops.index.storage.directory import DirectoryStorage
from tests.index.serving import Server, eventually

HASH = "$2y$05$0Bhn5U2dYmKFYNwWPVkBmeXr6vtcbhdUQOuGPAS0cjRdrSR1sy2Le"


@pytest.mark.parametrize(
    "line",
    [
        f"alice:{HASH}",
        f"alice:{HASH}:with a comment",
        f"alice:{HASH}\r",
        f"  alice:{HASH}  ",
        "alice:$apr1$abcdefgh$0123456789012345678901",
        "alice:{SHA}012345678901234567890123456=",
        "# a comment",
        "",
        "  ",
    ],
)
def test_valid_entries_and_comments_are_not_reported(line: str) -> None:
    assert list(password_problems(line.encode())) == []
    assert list(password_problems(BOM_UTF8 + line.encode())) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("alice", "no colon"),
        (f"alice:{HASH}\rcarol:{HASH}", "carriage return"),
        (f":{HASH}", "no user name"),
        ("alice:", "no password hash"),
        ("alice::comment", "no password hash"),
        ("alice:correct horse battery", "in plain text"),
        ("alice:{SSHA}c2VjcmV0", "unknown format"),
        ("alice:$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$aGFzaA", "unknown format"),
        (f"alice:!{HASH}", "locked"),
        (f"alice: {HASH}", "unknown format"),
        (f"alice:{HASH[:-1]}", "damaged"),
        (f"alice:{HASH[:28]}b{HASH[29:]}", "damaged"),
        (f"alice:{HASH.replace('$05$', '$19$')}", "cost"),
        (f"al\0ice:{HASH}", "invisible character"),
        (f"al\u200bice:{HASH}", "invisible character"),
        (f"alice :{HASH}", "ends in a space"),
        (f"{'x' * 256}:{HASH}", "longer than 255 bytes"),
    ],
)
def test_an_ineffective_entry_is_reported_only_by_its_number(line: str, reason: str) -> None:
    (problem,) = password_problems(f"# first\n{line}\nbob:{HASH}\n".encode())
    assert problem.line == 2
    assert reason in problem.reason
    for secret in (HASH, "correct horse", "c2VjcmV0", "aGFzaA", "alice"):
        assert secret not in problem.reason


def test_a_second_entry_of_a_user_is_reported() -> None:
    (problem,) = password_problems(f"alice:{HASH}\nbob:{HASH}\nalice:{HASH}\n".encode())
    assert (problem.line, "line 1" in problem.reason) == (3, True)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_reported_as_a_whole(encoding: str) -> None:
    (problem,) = password_problems(f"alice:{HASH}\nbob:{HASH}\n".encode(encoding))
    assert "UTF-8" in problem.reason
    (problem,) = group_problems("admin: alice\n".encode(encoding), {"alice"})
    assert "UTF-8" in problem.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("admin: alice", None),
        ('project/Spam.Eggs: alice "bob the builder"', None),
        ("reserved/acme: alice", None),
        ("reserved/acme:", None),
        ("reserved/: alice", "is unknown here"),
        ("reserved/acme: carol", "1 of 1"),
        ("# admin", None),
        ("admin alice", "no colon"),
        ("admin:", "no members"),
        ("Admin: alice", "reader, publisher, admin"),
        ("admins: alice", "is unknown here"),
        ("project/: alice", "is unknown here"),
        ("project/sp am: alice", "is unknown here"),
        ("project: alice", "is unknown here"),
        ("admin: alice carol", "1 of 2"),
        (f"admin: alice:{HASH}", "1 of 1"),
    ],
)
def test_an_ineffective_group_is_reported(line: str, reason: str | None) -> None:
    problems = list(group_problems(f"\n{line}\r\n".encode(), {"alice", "bob the builder"}))
    assert [problem.line for problem in problems] == ([] if reason is None else [2])
    for problem in problems:
        assert reason is not None
        assert reason in problem.reason
        assert HASH not in problem.reason


@given(st.binary(max_size=300))
def test_no_content_raises_an_error(content: bytes) -> None:
    list(password_problems(content))
    list(group_problems(content, set()))


def test_each_content_is_reported_once_and_a_change_only_when_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    passwords = tmp_path / PASSWORDS
    passwords.write_text("alice:secret\n")
    check = CredentialCheck(DirectoryStorage(tmp_path), Options())
    with caplog.at_level(logging.WARNING):
        check.look()
        (message,) = told()
        assert message.startswith(f"{passwords}, line 1: ")
        os.utime(passwords, (1, 1))
        for _ in range(3):
            check.look()
        assert told() == []
        (tmp_path / GROUPS).write_text("admin: alice bob\n")
        check.look()
        assert told() == [], "the user's line may be about to be written"
        passwords.write_text(f"alice:{HASH}\nbob:{HASH}\n")
        for _ in range(3):
            check.look()
        assert told() == []
        passwords.write_text("".join(f"user{number}:secret\n" for number in range(100)))
        for _ in range(3):
            check.look()
        messages = told()
        assert len(messages) == 22
        assert "80 further lines" in messages[20]


def test_an_unreadable_file_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, consequence in ((GROUPS, "only read"), (PASSWORDS, "no one can log in")):
        (tmp_path / name).mkdir()
        with caplog.at_level(logging.WARNING):
            CredentialCheck(DirectoryStorage(tmp_path), Options()).look()
        assert f"{tmp_path / name} cannot be read, and" in caplog.text
        assert consequence in caplog.text


def test_the_server_reports_at_start_and_after_a_change_but_never_the_secret(tmp_path: Path) -> None:
    server = Server(tmp_path, "--refresh-seconds", "0.1")
    path = server.credentials / PASSWORDS
    path.write_text(path.read_text() + "bob:in the clear\n")
    with server:
        eventually(lambda: f"{PASSWORDS}, line 4: " in server.log.read_text())
        path.write_bytes(path.read_text().encode("utf-16"))
        eventually(lambda: "UTF-16" in server.log.read_text())
        assert "in the clear\n" not in server.log.read_text()
        assert server.get("/health", user=None).status == 200


def test_an_ineffective_line_of_the_token_file_is_reported_by_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = DirectoryStorage(tmp_path)
    users = Users(storage, Options(bcrypt_rounds=4))
    users.register("alice", password="correct horse battery")
    plain, _ = Tokens(storage).create("alice")
    with (tmp_path / ".tokens").open("a") as file:
        file.write(f"{plain}\n")
    CredentialCheck(storage, Options()).look()
    (message,) = [record.getMessage() for record in caplog.records]
    assert ".tokens, line 2: it is not a token" in message
    assert plain[:20] not in message


def test_an_unreadable_file_of_trusted_jobs_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".trust").write_text('{"version": 3, "audience": "Not A Name"}')
    CredentialCheck(DirectoryStorage(tmp_path), Options()).look()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "no CI job is trusted: run 13_trusted_publishing" in message
