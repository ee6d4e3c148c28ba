"""Load generation with wrk (https://github.com/wg/wrk), which is light enough to saturate a fast server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ops.errors import IndexRequestError
from tests.benchmark.responses import Tally

FEW_RESPONSES = 100
"""Below this number of responses wrk is too imprecise, because it discards requests in flight at its end."""


def available() -> bool:
    """True if wrk is on PATH."""
    return shutil.which("wrk") is not None


_SCRIPT = """\
wrk.method = "GET"
wrk.headers["Accept"] = "{accept}"
{login}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration, e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


def fetch(
    url: str,
    *,
    authorization: str,
    accept: str,
    connections: int,
    seconds: float,
    folder: Path,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Tally:
    """Request one page repeatedly.

    Parameters:
        connections: number of concurrent clients.
        seconds: duration, at least 1.
        headers: additional headers.
        folder: for a private script that holds the credentials.

    Raises:
        IndexRequestError: wrk failed.
    """
    script = folder / "wrk.lua"
    named = {**({"Authorization": authorization} if authorization else {}), **headers}
    login = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in named.items())
    script.touch(mode=0o600)
    script.write_text(_SCRIPT.format(accept=accept, login=login))
    whole = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "60s", "-s", str(script), url]
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=whole + 90
    )
    found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+)$", finished.stdout, re.MULTILINE)
    if finished.returncode or not found:
        raise IndexRequestError(
            f"wrk could not ask {url}",
            why=(finished.stderr or finished.stdout).strip().splitlines()[-1:][0] if finished.stderr else "no result",
            todo="run the benchmark again, or without wrk on PATH",
        )
    responses, microseconds, refused, broken = map(int, found.groups())
    counted = Counter({200: responses - refused})
    if refused:
        counted[400] = refused  # wrk only counts those of 400 and above, not by status
    return Tally(responses=counted, broken=broken, seconds=microseconds / 1e6, client="wrk")
