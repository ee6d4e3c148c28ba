"""The workflows of the page on CI are short, valid, pinned, and do what they claim."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.workspace import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "deployments" / "ci.md").read_text()
ACTION = PROJECT_ROOT / ".github" / "actions" / "index-login"
BLOCKS: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
GITHUB = [block for block in BLOCKS if "runs-on" in block]
GITLAB = [block for block in BLOCKS if "runs-on" not in block]


def steps(block: str) -> list[dict[str, Any]]:
    (job,) = yaml.safe_load(block)["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_there_is_one_workflow_each_for_uv_twine_and_installing() -> None:
    assert [len(re.findall("uv publish|twine upload|pip install spam", block)) for block in GITHUB] == [1, 1, 1]
    assert len(GITLAB) == 2


@pytest.mark.parametrize("block", GITHUB)
def test_a_github_workflow_is_short_without_secrets_and_may_request_an_id_token(block: str) -> None:
    assert len(block.splitlines()) <= 13
    assert "secrets." not in block
    assert yaml.safe_load(block)["permissions"] == {"contents": "read", "id-token": "write"}
    pinned = {use for path in (PROJECT_ROOT / ".github/workflows").glob("*") for use in _uses(path.read_text())}
    for step in steps(block):
        use = step.get("uses", "")
        assert not use or use in pinned or use.endswith("index-login@COMMIT")
        if "index-login" in use:
            assert set(step["with"]) <= set(yaml.safe_load((ACTION / "action.yaml").read_text())["inputs"])


@pytest.mark.parametrize("block", GITLAB)
def test_a_gitlab_job_names_its_id_token_after_the_audience(block: str) -> None:
    (job,) = yaml.safe_load(block).values()
    ((variable, token),) = job["id_tokens"].items()
    assert variable == re.sub("[^A-Z0-9]", "_", token["aud"].upper()) + "_ID_TOKEN"
    assert "$CI_JOB_TOKEN" not in block


def test_the_login_program_lists_its_options_and_runs_on_an_old_python(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ACTION / "login.py", "--help"], capture_output=True, text=True, check=True)
    for option in re.findall(r"login\.py (--.*)", PAGE)[0].split():
        if option.startswith("--"):
            assert option in done.stdout
    del tmp_path
    compile((ACTION / "login.py").read_text(), "login.py", "exec", flags=0)
    assert "import ops" not in (ACTION / "login.py").read_text()


@pytest.mark.parametrize(
    ("audience", "token"),
    [
        ("sts.amazonaws.com", "pyidx_x"),
        ("https://vault.example", "pyidx_x"),
        ("pypi", "pyidx_x"),
        ("", "pyidx_x"),
        (None, "pyidx_x"),
        ("pypi-acme", "pyidx_x\nBASH_ENV=/tmp/evil"),
        ("pypi-acme", "x%0A::stop-commands::y z"),
        ("pypi-acme", None),
    ],
)
def test_an_index_gets_no_id_token_for_others_and_sets_no_other_variable(
    audience: str | None, token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = runpy.run_path(str(ACTION / "login.py"))
    asked: list[str] = []

    def ask(url: str, **rest: object) -> dict[str, object]:
        asked.append(str(rest.get("body", "")))
        return {"value": "id-token", "audience": audience, "token": token}

    login["main"].__globals__["ask"] = ask
    monkeypatch.setenv("GITHUB_ENV", str(tmp_path / "variables"))
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "https://issuer.example/?x")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner")
    monkeypatch.setattr(sys, "argv", ["login.py", "--url", "https://index.example/"])
    with pytest.raises(SystemExit, match=r"index\.example"):
        login["main"]()
    assert list(tmp_path.iterdir()) == []
    assert any("id-token" in body for body in asked) == (audience == "pypi-acme")


def _uses(text: str) -> list[str]:
    return re.findall(r"uses: (\S+)", text)
