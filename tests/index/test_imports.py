"""Imports of a server: neither what few requests need nor searches for garbage."""

from __future__ import annotations

import subprocess
import sys

from tests.index.serving import ROOT


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_server_imports_nothing_that_few_requests_need() -> None:
    unneeded = {"uvicorn.main", "click", "watchfiles", "uvicorn.supervisors", "xmlrpc.client", "urllib.request"}
    unneeded |= {"configparser", "logging.handlers", "tarfile", "zipfile", "tomllib", "ops.index.packages.inspection"}
    code = "import sys, ops.index.assembly, ops.index.server; print(*sys.modules)"
    assert unneeded & set(run(code).split()) == set()


def test_whoever_imports_all_of_uvicorn_later_gets_it() -> None:
    code = "import ops.index.server, uvicorn, uvicorn.main as m; print(m.run.__name__, uvicorn.Server is m.Server)"
    assert run(code) == "run True\n"


def test_logs_can_be_configured_by_uvicorn_all_the_same() -> None:
    code = "import ops.index.server, uvicorn, logging; uvicorn.Config('a:b'); print(logging.getLogger('uvicorn').level)"
    assert run(code) == "20\n"


def test_all_of_uvicorn_stays_for_those_who_imported_it_before() -> None:
    assert run("import uvicorn, ops.index.server; print(uvicorn.run.__name__, uvicorn.main.name)") == "run main\n"


def test_the_collector_rests_while_the_index_is_imported_and_no_longer() -> None:
    code = (
        "import gc, ops.index; runs = []; gc.callbacks.append(lambda _, about: runs.append(about['generation']));"
        "ops.index.create_index; print(sum(runs), gc.isenabled())"
    )
    assert run(code) == "0 True\n", "nothing but the youngest, once it may again"
