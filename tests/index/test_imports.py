"""Imports of a server: nothing that is rarely needed, and no garbage collection meanwhile."""

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
    unneeded |= {"jwt", "cryptography", "fastapi", "pypi_attestations", "sigstore"}
    code = "import sys, ops.index.assembly, ops.index.server; print(*sys.modules)"
    assert unneeded & set(run(code).split()) == set()


def test_a_later_import_of_all_of_uvicorn_works() -> None:
    code = "import ops.index.server, uvicorn, uvicorn.main as m; print(m.run.__name__, uvicorn.Server is m.Server)"
    assert run(code) == "run True\n"


def test_logging_can_still_be_configured_by_uvicorn() -> None:
    code = "import ops.index.server, uvicorn, logging; uvicorn.Config('a:b'); print(logging.getLogger('uvicorn').level)"
    assert run(code) == "20\n"


def test_an_earlier_import_of_all_of_uvicorn_is_kept() -> None:
    assert run("import uvicorn, ops.index.server; print(uvicorn.run.__name__, uvicorn.main.name)") == "run main\n"


def test_garbage_collection_pauses_only_while_the_index_is_imported() -> None:
    code = (
        "import gc, ops.index; runs = []; gc.callbacks.append(lambda _, about: runs.append(about['generation']));"
        "ops.index.create_index; print(sum(runs), gc.isenabled())"
    )
    assert run(code) == "0 True\n", "only the youngest generation, once it is enabled again"
