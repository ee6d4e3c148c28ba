"""A reviewed file of CI jobs is applied as a whole, and verified like a CI job."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from ops import trusted_publishing
from ops.errors import ParameterError, RunbookError, VerificationError
from ops.index.auth.trust import Trust
from ops.secret import Secret
from ops.workspace import PROJECT_ROOT, Workspace
from tests.fakes import FakeIndex, FakeTarget
from tests.index.issuer import FakeIssuer
from tests.index.serving import TOKEN, Server
from tests.test_user_tokens import RealIndex


@pytest.fixture
def target(tmp_path: Path, workspace: Workspace) -> Iterator[FakeTarget]:
    """A fake target with a real index."""
    del workspace
    with Server(tmp_path / "index") as server:
        made = FakeTarget(cast("FakeIndex", RealIndex(server.url)))
        made.put_secret("pypi-auth-token", {"AUTH_TOKEN": Secret(TOKEN)})
        made.running = True
        yield made


@pytest.fixture(params=["github", "gitlab"])
def issuer(request: pytest.FixtureRequest) -> Iterator[FakeIssuer]:
    with FakeIssuer(request.param) as fake:
        yield fake


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def written(folder: Path, document: dict[str, Any]) -> str:
    path = folder / "trusted.toml"
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in document.items()))
    return str(path)


def without_numbers(document: dict[str, Any]) -> dict[str, Any]:
    (job,) = document["jobs"]
    job = {name: value for name, value in job.items() if name not in {"repository_id", "owner_id"}}
    return {**document, "jobs": [job]}


def test_a_file_is_planned_applied_and_verified_and_a_second_time_nothing_changes(
    target: FakeTarget, issuer: FakeIssuer, tmp_path: Path
) -> None:
    change = trusted_publishing.describe(target, file=written(tmp_path, without_numbers(issuer.trust())))
    plan = trusted_publishing.plan(change)
    assert "1001 of owner 77" in str(plan), "the ids were looked up by name"
    assert len(plan.pending) == 3
    assert not trusted_publishing.apply(change, dry_run=True).changed
    assert trusted_publishing.apply(change).changed
    assert "pypi-test" in str(trusted_publishing.verify(change))
    issuer.outage = True  # the ids are known by now
    assert trusted_publishing.plan(change).pending == ()
    assert not trusted_publishing.apply(change).changed
    with pytest.raises(VerificationError, match="keys of"):
        trusted_publishing.verify(change)


def test_projects_in_any_spelling_change_nothing_the_second_time(
    target: FakeTarget, issuer: FakeIssuer, tmp_path: Path
) -> None:
    change = trusted_publishing.describe(target, file=written(tmp_path, issuer.trust(projects=["Spam_1", "spam.1"])))
    assert "publisher of spam-1;" in str(trusted_publishing.plan(change))
    trusted_publishing.apply(change)
    assert trusted_publishing.plan(change).pending == ()


def test_a_job_that_is_no_longer_in_the_file_is_no_longer_trusted(
    target: FakeTarget, issuer: FakeIssuer, tmp_path: Path
) -> None:
    document = issuer.trust()
    trusted_publishing.apply(trusted_publishing.describe(target, file=written(tmp_path, document)))
    nothing = trusted_publishing.describe(target, file=written(tmp_path, {**document, "jobs": []}))
    assert [(change.thing, change.sign) for change in trusted_publishing.plan(nothing).pending] == [
        ("job spam-release", "-")
    ]
    trusted_publishing.apply(nothing)
    assert "404" in str(trusted_publishing.verify(nothing))


def test_without_a_file_it_only_shows_what_is_trusted(target: FakeTarget) -> None:
    change = trusted_publishing.describe(target)
    assert trusted_publishing.plan(change).pending == ()
    assert not trusted_publishing.apply(change).changed
    assert "no job is trusted" in str(trusted_publishing.verify(change))


def test_an_unusable_file_changes_nothing(target: FakeTarget, issuer: FakeIssuer, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"trusted\.example\.toml"):
        trusted_publishing.describe(target, file=str(tmp_path / "missing.toml"))
    admin = trusted_publishing.describe(target, file=written(tmp_path, issuer.trust(role="admin")))
    with pytest.raises(ParameterError, match="role"):
        trusted_publishing.plan(admin)
    entries: list[dict[str, Any]] = [{"job": []}, {"jobs": "spam"}, {"issuers": ["spam"]}]
    for misspelt in entries:
        with pytest.raises(ParameterError, match=r"trusted\.toml"):
            trusted_publishing.describe(target, file=written(tmp_path, {**issuer.trust(), **misspelt}))
    unknown = without_numbers(issuer.trust(repository="acme/unknown"))
    with pytest.raises(RunbookError, match="looked up"):
        trusted_publishing.plan(trusted_publishing.describe(target, file=written(tmp_path, unknown)))
    assert trusted_publishing.plan(trusted_publishing.describe(target)).changes[0].now == "none"


def test_the_index_accepts_the_example_file() -> None:
    document = tomllib.loads((PROJECT_ROOT / "deployments" / "trusted.example.toml").read_text())
    nothing = {"version": 0, "audience": "", "issuers": [], "jobs": []}
    trust = Trust.of(trusted_publishing._completed(document, nothing), version=1)
    assert [job.name for job in trust.jobs] == ["spam-release", "eggs-read"]
