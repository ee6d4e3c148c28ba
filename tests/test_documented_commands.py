"""Every documented command is run here or by the test named next to it, or is listed with the reason why not."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ops.cli import runs
from ops.cli.parser import make_parser
from ops.parameters import distribute
from ops.runbook import Notebook
from ops.runbook.notebook import list_notebooks, select_notebooks
from ops.workspace import PROJECT_ROOT
from tests.test_documentation import FENCED, PAGES

SESSION = """
.venv/bin/runbook up
. .venv/bin/activate
. .runbook/users/local/alice/env.sh
python -m build --no-isolation
twine upload dist/*
pip download --no-deps pypi-runbook
.venv/bin/runbook list
.venv/bin/runbook plan 01_provision --out plan.json
.venv/bin/runbook run --plan plan.json
.venv/bin/runbook run 02_onboard_user -p username=bob --ask
.venv/bin/runbook records
.venv/bin/runbook status
.venv/bin/runbook token create alice --days 30
grep -h '"login\\.' .runbook/local/volumes/pypiserver-data/.index/audit/*.jsonl | tail
json="Content-Type: application/json"
change() { curl --netrc-file "$NETRC" -H "$json" -d "$2" "${TWINE_REPOSITORY_URL%/}/projects/$1"; }
change pypi-runbook/yank   '{"version": "0.1.0", "reason": "loses data"}'
change pypi-runbook/unyank '{"version": "0.1.0"}'
change pypi-runbook/revoke   '{"version": "0.1.0", "reason": "stolen"}'
change pypi-runbook/status '{"status": "archived", "reason": "see its successor"}'
.venv/bin/runbook run 02_onboard_user -p username=ci
.venv/bin/runbook token create ci --project spam --days 90 --label "release of spam" --out token
(umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > auth-token)
.venv/bin/runbook stop
""".strip().splitlines()
"""Commands of README and of the pages in deployments, as typed one after the other in a clone."""

ELSEWHERE = {
    "make run": "../.ci/run",
    "make test": "../.ci/run",
    "make lint": "../.ci/run",
    "make notebooks": "runbook/test_store.py",
    "make modal": "modal/test_workflows.py",
    ".venv/bin/runbook run 01_provision 02_onboard_user 03_smoke_test -p target=modal": "modal/test_notebooks.py",
    ".venv/bin/runbook run 01_provision -p target=modal": "modal/test_notebooks.py",
    ".venv/bin/runbook plan 13_trusted_publishing -p file=trusted.toml": "test_trusted_publishing.py",
    ".venv/bin/runbook run 13_trusted_publishing -p file=trusted.toml": "test_trusted_publishing.py",
    "uvx 'modal==1.6.4' deploy deployments/pypi_deploy.py": "modal/test_deployment.py",
    "runbook history --target modal": "modal/test_rollback.py",
    "runbook rollback --target modal": "modal/test_rollback.py",
    "mkdir -p packages credentials": "index/test_main.py",
    ".venv/bin/python -m ops.index --packages ./packages --credentials ./credentials --port 8080": "index/test_main.py",
    ".venv/bin/python -m ops.index … --trusted-root trusted_root.json": "index/test_attestations.py",
    ".venv/bin/python -m ops.runbook.store 20_greet": "test_contributing.py",
    "make test ARGS=\"-m 'not slow' tests/notebooks/test_structure.py tests/notebooks/test_values.py "
    "tests/notebooks/test_repeated.py tests/test_start_here.py tests/test_borders.py "
    'tests/test_documentation.py"': "test_contributing.py",
}
"""The test that runs a command, possibly on another port, or on the stand-in for Modal."""

_DOWNLOADS = "downloads from the public index; the Makefile, which .ci/run runs, does the same"
_GITHUB = "needs a repository on GitHub"
NOT_RUN = {
    'docker build --secret id=netrc,src="$NETRC" .': "needs Docker",
    "make lock": "asks the public index for new versions",
    "python3 -m venv .venv": _DOWNLOADS,
    ".venv/bin/python -m pip install --require-hashes -r requirements.txt": _DOWNLOADS,
    ".venv/bin/python -m pip install --no-deps --no-build-isolation -e .": _DOWNLOADS,
    '.venv/bin/python -m pip install -e ".[attestations]"': _DOWNLOADS,
    ".venv/bin/modal token new": "opens a browser to log in to a real account of Modal",
    ".venv/bin/modal secret create pypi-backup --from-json backup.json": "a command of Modal's own client",
    "gh secret set MODAL_TOKEN_ID --env modal": _GITHUB,
    "gh secret set MODAL_TOKEN_SECRET --env modal": _GITHUB,
    "sed -n 's/^AUTH_TOKEN=//p' .runbook/modal.main/secrets/pypi-auth-token.env"
    " | gh secret set AUTH_TOKEN --env modal": _GITHUB,
    "gh secret set AUTH_TOKEN --env modal < auth-token": _GITHUB,
    "gh workflow run deploy-modal.yaml": _GITHUB,
    "gh variable set DEPLOY_MODAL --body on": _GITHUB,
}

NO_SHELL = re.compile(r"location /|proxy_|client_max|\}|\{?\"[A-Z_]+\": ")
"""Matches the start of a line of a configuration file."""

_BLOCK = re.compile(r"^ {4,}(?P<line>\S.*)$", re.MULTILINE)
_INLINE = re.compile(r"`(runbook [a-z][^`]*)`")
_COMMENT = re.compile(r"\s+# .*$")


def commands(page: str) -> Iterator[str]:
    """The commands in the indented blocks of a page, without trailing comments."""
    for match in _BLOCK.finditer(FENCED.sub("", page)):
        line = _COMMENT.sub("", match["line"]).rstrip()
        if not NO_SHELL.match(line):
            yield line


DOCUMENTED = {command for page in PAGES for command in commands(page.read_text())}


def test_every_documented_command_is_run_or_has_a_reason_not_to_be() -> None:
    known = {*SESSION, *ELSEWHERE, *NOT_RUN}
    assert sorted(DOCUMENTED - known) == [], "run it in SESSION, name its test in ELSEWHERE, or say why not in NOT_RUN"
    assert sorted(known - DOCUMENTED) == [], "no page shows this any more: remove it"


def test_the_tests_that_run_other_commands_exist() -> None:
    assert [path for path in ELSEWHERE.values() if not (PROJECT_ROOT / "tests" / path).is_file()] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_commands_work_one_after_the_other(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(PROJECT_ROOT, clone, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist"))
    (clone / ".venv").symlink_to(sys.prefix)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYPI_")}
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(f"echo '$' {shlex.quote(line)}\n{line}" for line in SESSION)],
        cwd=clone,
        env={**inherited, "PYTHONPATH": str(clone), "HOME": str(tmp_path)},
        input="yes\n",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    shown = {part.partition("\n")[0]: part for part in f"\n{done.stdout}".split("\n$ ")}
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (clone / "pypi_runbook-0.1.0-py3-none-any.whl").is_file(), "downloaded from the index"
    assert "Done: " in shown[".venv/bin/runbook run 02_onboard_user -p username=bob --ask"]
    for change in ("yank", "unyank", "status"):
        (text,) = [part for line, part in shown.items() if line.startswith(f"change pypi-runbook/{change} ")]
        assert "pypi-runbook" in text.partition("\n")[2], text
        assert "error" not in text.partition("\n")[2].lower(), text


def inline_commands() -> Iterator[str]:
    """Every call of `runbook` in a page or in the text of a notebook."""
    notebooks = list_notebooks(PROJECT_ROOT / "notebooks")
    texts = [page.read_text() for page in PAGES]
    texts += [cell.source for notebook in notebooks for cell in notebook.cells if cell.kind == "markdown"]
    for text in texts:
        yield from (" ".join(call.split()) for call in _INLINE.findall(text))
    yield from (line.removeprefix(".venv/bin/") for line in DOCUMENTED if re.match(r"(\.venv/bin/)?runbook ", line))


PLACEHOLDERS: Mapping[str, str] = {"NOTEBOOK": "01_provision", "NUMBER": "8000", "N": "1"}


@pytest.mark.parametrize("call", sorted(set(inline_commands())))
def test_documented_calls_of_runbook_use_existing_options_and_parameters(call: str) -> None:
    words = shlex.split(re.sub(r"\b[A-Z]+\b", lambda match: PLACEHOLDERS.get(match[0], match[0]), call))[1:]
    parser = make_parser()
    if len(words) == 1 or set(words) & {"…", "..."}:
        words = [word for word in words if word not in {"…", "..."}]
        (commands_,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        assert words[0] in commands_.choices
        return
    try:
        options = parser.parse_args(words)
    except SystemExit:  # a mention of an option without its value
        options = parser.parse_args([*words, "1"])
    if getattr(options, "parameter", None):
        names = getattr(options, "notebooks", None) or runs.FIRST_RUN
        read = [Notebook.read(path) for path in select_notebooks(names, runs.NOTEBOOKS)]
        distribute(runs.read_parameters(options.parameter), {each.name: each.parameters for each in read})
