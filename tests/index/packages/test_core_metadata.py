"""Core metadata is read as installers read it, in linear time; a refusal names the faulty line."""

from __future__ import annotations

import email.parser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.index.packages import core_metadata
from ops.index.packages.core_metadata import (
    Header,
    InvalidMetadataError,
    quoted,
    read_header,
    requires_python,
    validate,
)

HEAD = "Metadata-Version: {}\nName: foo\nVersion: 1.0\n"


def refusal(lines: str | bytes, version: str = "2.1", *, built: bool = True) -> str | None:
    content = HEAD.format(version).encode() + (lines.encode() if isinstance(lines, str) else lines)
    return refusal_of(content, built=built)


def refusal_of(content: bytes, *, built: bool = True) -> str | None:
    sentence = None
    try:
        validate(content, read_header(content), member="METADATA", built=built)
    except InvalidMetadataError as error:
        sentence = str(error)
    assert sentence is None or (sentence.isascii() and sentence.isprintable() and len(sentence) < 700)
    return sentence


@pytest.mark.parametrize(
    "line",
    [
        "Requires-Dist: demo >= > 3",
        "Requires-Dist: demo 1.0",
        "Requires-Dist: demo (<=0.29.*)",
        "Requires-Dist: demo ; platform == 'linux'",
        "Requires-Dist:",
        "Requires-Dist: demo; " + "(" * 5000,
        "Requires-Dist: demo>=" + "9" * 5000,
        "Requires-Dist: demo>=18446744073709551615",
        "Requires-Dist: demo; python_version ~= '3'",
        "Requires-Dist: demo; os_name == 'nt' and sys_platform === 'win32'",
        "Requires-Dist: demo; '3' == '3'",
        "Requires-Dist: demo; extras == 'x'",
        "Requires-Python: <1.99999999999999999999",
        "Requires-Python: three",
        "Requires-Python: >=3.6.*",
        "Requires-Python: >=" + "9" * 300,
        "Requires-Python: >=3" + ",!=3.1" * 500,
        "Provides-Extra: a b",
        "Dynamic: Name",
        "Dynamic: Unknown",
    ],
)
def test_a_line_that_installers_cannot_read_is_refused_and_quoted(line: str) -> None:
    found = refusal(f"{line}\n")
    assert found is not None
    assert line[:40] in found


@pytest.mark.parametrize(
    "lines",
    [
        "Requires-Dist: demo (>=1.0)\n",
        "Requires-Dist: demo[a,b]==1.*; python_version < '3.9' and extra == 'Foo_Bar'\n",
        "Requires-Dist: demo @ https://example.invalid/demo.whl\n",
        "Requires-Python: >=3.8,\n        <4\n",
        "Requires-Python:\n",
        "Requires-Python: <18446744073709551614\n",
        "Requires-Dist: demo==1.0+99999999999999999999; platform_release >= '4-x' and extra == 'a'\n",
        "Requires-Dist: demo @ https://example.invalid/99999999999999999999/demo.whl\n",
        "License-Expression: MIT\n",
        "License-File: LICENSE\nDynamic: License-File\n",
        "Summary: one\n  two\n",
        "Description-Content-Type: UNKNOWN\n",
        "Summary: h\u00e9\n",
        "Future-Field: anything\nFuture-Field: more\n",
        "Project-URL: no comma\n",
        "Classifier: Private :: Do Not Upload\n",
        "Content-Type: multipart/mixed; boundary=x\n\n--x\n\n--x--\n",
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.2", "2.0", "2.1", "2.3"])
def test_metadata_that_installers_accept_is_accepted(lines: str, version: str) -> None:
    assert refusal(lines, version) is None


@pytest.mark.parametrize("version", ["2.4", "2.5", "2.6", "2.99"])
def test_new_and_unknown_metadata_versions_are_accepted(version: str) -> None:
    lines = "License-Expression: MIT OR Apache-2.0\nLicense-File: LICENSE\nImport-Name: foo\nDynamic: Platform\n"
    assert refusal(lines, version) is None


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: Foo Bar",
        "License-File: ../LICENSE",
        "Summary: one\n  two",
        "Description-Content-Type: text/html",
        "Description-Content-Type: text/plain" + "(" * 900,
    ],
)
def test_fields_that_no_installer_reads_are_checked_only_where_the_public_index_does(line: str) -> None:
    assert refusal(f"{line}\n", "2.4") is not None
    assert refusal(f"{line}\n", "2.3") is None


@pytest.mark.parametrize("version", ["", "two", "3.0", "2", "2.1.0", "9" * 5000 + ".1"])
def test_a_metadata_version_that_installers_must_reject_is_refused(version: str) -> None:
    assert "Metadata-Version" in (refusal("", version) or "")


@pytest.mark.parametrize("field", ["Metadata-Version", "Name", "Version", "Requires-Python", "Summary", "License"])
def test_a_repeated_single_use_field_is_refused(field: str) -> None:
    lines = f"{field}: 1.0\n" if field in {"Metadata-Version", "Name", "Version"} else f"{field}: >=3\n{field}: >=4\n"
    assert f"METADATA has {field} 2 times: '{field}: " in (refusal(lines) or "")


def test_bytes_that_are_not_utf_8_are_refused_where_pip_reads_them() -> None:
    expected = r"line 4 of METADATA is not UTF-8, so pip cannot read it: 'Author: J\xf6rg'; save it as UTF-8"
    assert refusal(b"Author: J\xf6rg\n") == expected
    assert "line 5 of METADATA" in (refusal(b"\nJ\xf6rg\n") or "")
    assert refusal(b"Author: J\xf6rg\n", built=False) is None, "old sdists: pip rebuilds their metadata"
    assert refusal(b"Author: J\xf6rg\n", "2.2", built=False) is not None
    assert "byte order mark" in (refusal_of(b"\xef\xbb\xbf" + HEAD.format("2.1").encode()) or "")


def test_a_field_folded_over_many_lines_is_read_in_linear_time() -> None:
    content = HEAD.format("2.1").encode() + b"Keywords: x\n" + b" x\n" * 600_000 + b"\nbody\n"
    header = read_header(content)
    assert len(header.fields["keywords"][0]) == 3 * 600_000 + 1
    assert refusal_of(content) is None


@pytest.mark.parametrize(
    "content",
    [
        b"a:b\n" * 10_001,
        b"License: " + b"x" * 2**21 + b"\n",
        b"Requires-Dist: " + b"a" * 70_000 + b"\n",
        (b"Provides-Extra: " + b"a" * 60_000 + b"\n") * 9,
        b"".join(b"Requires-Dist: demo%d>=1\n" % number for number in range(9_900))
        + b"Requires-Dist: "
        + b"a" * 140_000,
    ],
    ids=["fields", "bytes", "value", "extras", "examined"],
)
def test_a_too_long_header_is_refused(content: bytes) -> None:
    assert "shorten" in (refusal(content) or "")


def test_a_too_long_header_is_tolerated_in_existing_files() -> None:
    header = read_header(b"Name: foo\nRequires-Python: >=3\n" + b"a:b\n" * 20_000)
    assert header.first("name") == "foo"
    assert requires_python(header) == ">=3"


def test_a_requires_python_that_breaks_pip_is_not_shown() -> None:
    assert requires_python(Header({"requires-python": [">=" + "9" * 5000]})) is None
    assert requires_python(Header({"requires-python": [">=3,\n <4"]})) == ">=3, <4"


def test_a_quotation_is_short_and_stays_on_its_line() -> None:
    assert quoted("a\r\n\x1b\u2028\u00e9") == r"'a\r\n\x1b\u2028\xe9'"
    assert len(quoted("x" * 10_000)) < 250


HEADER_PIECES = [
    "Name",
    "Summary",
    ":",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "x",
    "From ",
    "\x0b",
    "\u00e9",
    "\u2028",
    "\n\n",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(HEADER_PIECES), max_size=30).map("".join))
def test_a_header_is_read_as_by_the_standard_library(text: str) -> None:
    text = "Name: foo\n" + text
    parsed = email.parser.Parser().parsestr(text)
    if any(not name for name in parsed) or "\n:" in text.replace("\r", "\n"):
        return  # a field without a name ends our header, and is dropped there
    if any(line.startswith("From ") for line in text.replace("\r", "\n").split("\n")):
        return  # special in mailboxes only
    expected: dict[str, list[str]] = {}
    for name, value in parsed.raw_items():
        expected.setdefault(name.lower(), []).append(value)
    assert read_header(text.encode()).fields == expected


def test_the_bounds_leave_room_for_the_longest_real_headers() -> None:
    assert core_metadata.MAX_FIELDS >= 5_000
    assert core_metadata.MAX_EXAMINED_BYTES >= 128 * 1024
