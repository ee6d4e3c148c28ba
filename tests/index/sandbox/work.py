"""Work for the sandboxes of tests: some of it ill-behaved."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

_prepared: list[int] = []
_seen: list[bytes] = []


def preload() -> None:
    _prepared.append(os.getpid())


def do(payload: bytes, *files: int) -> bytes:
    what, _, rest = payload.partition(b" ")
    match what:
        case b"reverse":
            return rest[::-1]
        case b"describe":
            return json.dumps(_description()).encode()
        case b"remember":
            _seen.append(rest)
            return b",".join(_seen)
        case b"spin":
            while True:
                pass
        case b"sleep":
            time.sleep(1000)
        case b"eat":
            held = []
            while True:
                held.append(bytearray(16 * 1024**2))
        case b"abort":
            os.abort()
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"raise":
            raise LookupError("a secret of the content")
        case b"recurse":
            return _recurse(rest)
        case b"long":
            return b"x" * int(rest)
        case b"write":
            Path(os.fsdecode(rest)).write_bytes(b"x")
        case b"read":
            return os.pread(files[0], 100, 0)
        case b"tell":  # report the start by writing to a pipe, and never end
            os.write(files[0], b"begun")
            time.sleep(1000)
        case _:
            raise AssertionError(what)
    return b""


def _recurse(payload: bytes) -> bytes:
    return _recurse(payload) + payload


def _description() -> dict[str, object]:
    descriptors = []
    for number in range(64):
        try:
            os.fstat(number)
        except OSError:
            continue
        descriptors.append(number)
    return {
        "prepared": _prepared == [os.getppid()],
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "descriptors": descriptors,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "path": sys.path,
        "process": os.getpid(),
        "server": os.getppid(),
    }
