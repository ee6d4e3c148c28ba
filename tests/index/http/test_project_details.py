"""Details of a release are read from its metadata in linear time, as untrusted input."""

from __future__ import annotations

import pytest

from ops.index.http.project_details import Details, Requirement

METADATA = """\
Metadata-Version: 2.4
Name: spam
Version: 1.0
Author: Ada Example
Author-email: "Ada Example" <ada@example.com>, bob@example.com
License-Expression: MIT
License: see LICENSE
Home-page: https://example.com/spam
Project-URL: Source, https://example.com/spam.git
Project-URL: Homepage, https://example.com/spam
Project-URL: Evil, javascript:alert(1)
Requires-Dist: Eggs_and.ham>=2
Requires-Dist: bacon; extra == "meat"
Keywords:
  Requires-Dist: folded

Requires-Dist: in-the-description
"""


def test_author_licence_links_and_dependencies_are_found() -> None:
    assert Details.of(METADATA.encode()) == Details(
        authors=("Ada Example", "bob@example.com"),
        licence="MIT",
        links=(("Homepage", "https://example.com/spam"), ("Source", "https://example.com/spam.git")),
        requirements=(
            Requirement("eggs-and-ham", "Eggs_and.ham>=2", ""),
            Requirement("bacon", 'bacon; extra == "meat"', "meat"),
        ),
    )


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\xff\xfe",
        b"Author: UNKNOWN\nLicense: UNKNOWN\n",
        b"Project-URL: x, http://[\nHome-page: //example.com\nHome-page: data:text/html,x\n",
        b"Author: " + b"<" * 1_000_000,
        b"Requires-Dist: " + b"\x00" * 10 + b"\n",
    ],
    ids=["empty", "no text", "unknown", "no addresses", "long", "controls"],
)
def test_invalid_fields_give_no_links(metadata: bytes) -> None:
    assert Details.of(metadata).links == ()


def test_excessive_values_are_truncated() -> None:
    lines = [f"Requires-Dist: p{n}\nProject-URL: l{n}, https://example.com/{n}" for n in range(5000)]
    details = Details.of("\n".join(lines).encode())
    assert (len(details.requirements), len(details.links)) == (200, 30)
