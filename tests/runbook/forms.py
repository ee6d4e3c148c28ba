"""Forms of a secret on its way into a record, masked or not: the table in SECURITY.

    python -m tests.runbook.forms      # writes it

A test tries each row and compares the table.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import reprlib
import shlex
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from ops.workspace import PROJECT_ROOT

SECURITY = PROJECT_ROOT / ".github" / "SECURITY.md"
BEGIN, END = (
    "<!-- forms of a secret: begin, made by python -m tests.runbook.forms -->",
    "<!-- forms of a secret: end -->",
)

GENERATED = "q7Zr-Xk2_vNd81bWcYh0TgLm5sPj4oQe"
"""As :meth:`ops.secret.Secret.generate` makes them."""

WORDS = "Köder&Haken 'an' der \"Angel\"/42"
"""As a person makes them: with spaces, quotes, letters of Latin-1, and signs that are escaped."""


@dataclass(frozen=True)
class Row:
    """One way to show a secret, as words and as a function, whether it is masked then, and the secrets to try."""

    form: str
    show: Callable[[str], str]
    masked: bool = True
    secrets: tuple[str, ...] = (GENERATED, WORDS)


def _boxed(text: str, sides: str = "││") -> str:
    width = 12
    rows = [text[start : start + width] for start in range(0, len(text), width)]
    return "\n".join(
        f"{sides[0]} {'name' if row == rows[0] else '':<4} {sides} {row:<{width}} {sides[1]}" for row in rows
    )


def _basic(encoding: str) -> Callable[[str], str]:
    return lambda secret: "Authorization: Basic " + base64.b64encode(f"ålice:{secret}".encode(encoding)).decode()


def _middle(between: str) -> Callable[[str], str]:
    return lambda secret: secret[:13] + between + secret[13:]


ROWS = (
    Row("as it is, in a URL's userinfo, in a form", lambda s: f"{s} https://u:{urllib.parse.quote(s, safe='')}@host/ {urllib.parse.quote_plus(s)}"),
    Row("quoted by Python, JSON, JSON in JSON, a shell", lambda s: " ".join((repr(s), repr(s.encode()), json.dumps(s), json.dumps(json.dumps(s)), shlex.quote(s)))),
    Row("every character as `\\uXXXX`", lambda s: "".join(f"\\u{ord(c):04x}" for c in s)),
    Row("every character as `\\u{…}`", lambda s: "".join(f"\\u{{{ord(c):x}}}" for c in s)),
    Row("every byte as `\\xXX`, UTF-8 or Latin-1", lambda s: " ".join("".join(f"\\x{b:02x}" for b in s.encode(e)) for e in ("utf-8", "latin-1"))),
    Row("every byte in octal, `\\101`", lambda s: "".join(f"\\{b:03o}" for b in s.encode())),
    Row("every byte percent-encoded, also twice", lambda s: " ".join("".join(f"{p}{b:02x}" for b in s.encode()) for p in ("%", "%25"))),
    Row("escaped for HTML", lambda s: html.escape(s) + html.escape(html.escape(s))),
    Row("HTML entities, decimal", lambda s: "".join(f"&#{ord(c)};" for c in s)),
    Row("HTML entities, hexadecimal, some characters plain", lambda s: "".join(c if c.isalpha() else f"&#x{ord(c):X};" for c in s)),
    Row("hexadecimal", lambda s: s.encode().hex() + " " + s.encode().hex(":")),
    Row("base64, also as a part of something longer", lambda s: base64.b64encode(f"a{s}bc".encode()).decode() + " " + base64.urlsafe_b64encode(s.encode()).decode()),
    Row("a Basic header, UTF-8", _basic("utf-8")),
    Row("a Basic header, Latin-1", _basic("latin-1")),
    Row("a line end and indentation in the middle", _middle("\n        ")),
    Row("a carriage return in the middle", _middle("\r")),
    Row("ANSI codes in the middle", lambda s: _middle("\x1b[1;31m")(s) + "\x1b[0m " + _middle("\x1b]8;;http://x\x1b\\")(s) + _middle("\x1b[K")(s)),
    Row("wrapped in a box or in the cell of a table", lambda s: _boxed(s) + "\n\n" + _boxed(s, "||"), secrets=(GENERATED,)),
    Row("flushed in pieces, or halves over stdout and stderr", lambda s: s),
    Row("a generated secret, cut after half of it or later", lambda s: f"{s[:16]} {s[:20]}… {s[:25]}", secrets=(GENERATED,)),
    Row("a generated secret, its start cut off", lambda s: f"…{s[-18:]}", secrets=(GENERATED,)),
    Row("a generated secret, its middle replaced by an ellipsis", reprlib.repr, secrets=(GENERATED,)),
    Row("a generated secret in a Basic header, cut after two thirds", lambda s: _basic("utf-8")(s)[:55], secrets=(GENERATED,)),
    Row("less than half of a generated secret", lambda s: s[:11], masked=False, secrets=(GENERATED,)),
    Row("a part of a password made of words", lambda s: s[:20], masked=False, secrets=(WORDS,)),
    Row("anything of fewer than 6 characters", lambda s: s[:5], masked=False),
    Row("other text between its characters", " ".join, masked=False),
    Row("reversed", lambda s: s[::-1], masked=False),
    Row("hashed", lambda s: hashlib.sha256(s.encode()).hexdigest(), masked=False),
    Row("compressed or encrypted", lambda s: base64.b64encode(gzip.compress(s.encode(), mtime=0)).decode(), masked=False),
    Row("in UTF-16 and base64", lambda s: base64.b64encode(s.encode("utf-16-le")).decode(), masked=False),
    Row("the pixels of a picture", lambda s: "", masked=False),
)  # fmt: skip


def table() -> str:
    """The table in Markdown."""
    rows = "".join(f"| {row.form} | {'yes' if row.masked else '**no**'} |\n" for row in ROWS)
    return f"{BEGIN}\n| form | masked |\n|---|---|\n{rows}{END}"


def main() -> None:
    """Write the table into SECURITY, which holds it between two marks."""
    text = SECURITY.read_text()
    before, _, rest = text.partition(BEGIN)
    SECURITY.write_text(before + table() + rest.partition(END)[2])
    sys.stdout.write(f"written: {SECURITY}\n")


if __name__ == "__main__":
    main()
