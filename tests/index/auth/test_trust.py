"""Documents of trusted CI jobs: what cannot be meant is refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from ops.index.auth.passwords import InvalidCredentials
from ops.index.auth.trust import MOST, Trust

ISSUER = {"url": "https://ci.example", "kind": "gitlab"}
JOB = {
    "name": "release",
    "issuer": "https://ci.example",
    "repository_id": "1",
    "owner_id": "2",
    "role": "publisher",
    "projects": ["Spam_Eggs"],
}


def trust(*, audience: str = "pypi-a", issuers: Any = (ISSUER,), jobs: Any = (JOB,)) -> Trust:
    return Trust.of({"audience": audience, "issuers": issuers, "jobs": jobs}, version=1)


def test_a_valid_document_is_read_with_normalized_projects() -> None:
    (job,) = trust().jobs
    assert job.projects == frozenset({"spam-eggs"})
    assert trust(jobs=[{**JOB, "role": "reader", "projects": []}]).jobs[0].projects is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "Re lease"}, "a job's name is invalid"),
        ({"issuer": "https://other.example"}, "its issuer is not among the issuers"),
        ({"repository_id": "spam"}, "its repository_id is not a number"),
        ({"owner_id": ""}, "its owner_id is not a number"),
        ({"repository": "a\nb"}, "its repository is not a text"),
        ({"workflow": "x" * 256}, "its workflow is not a text"),
        ({"protected_ref": "yes"}, "protected_ref is neither true nor false"),
        ({"role": "admin"}, "its role is neither reader nor publisher"),
        ({"role": "reader"}, "it has projects, but a reader uploads to none"),
        ({"projects": []}, "it has no projects"),
        ({"projects": "spam"}, "it has no projects"),
        ({"projects": ["../x"]}, "is not a project name"),
        ({"branch": "main"}, "a job has the unknown field 'branch': its fields are"),
    ],
)
def test_a_job_that_cannot_be_meant_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidCredentials, match=why):
        trust(jobs=[{**JOB, **changes}])


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"audience": "Everyone!"}, "the audience is invalid"),
        ({"issuers": [ISSUER, ISSUER]}, "an issuer is listed twice"),
        ({"issuers": [{**ISSUER, "url": "http://ci.example"}]}, "does not use https"),
        ({"issuers": [{**ISSUER, "url": "https://user@ci.example"}]}, "does not use https"),
        ({"issuers": [{**ISSUER, "url": "https://ci.example/?a=b"}]}, "does not use https"),
        ({"issuers": [{**ISSUER, "kind": "jenkins"}]}, "is none of github, gitlab"),
        ({"issuers": ["https://ci.example"]}, "an issuer is not an object"),
        ({"jobs": [JOB, JOB]}, "two jobs have the same name"),
        ({"jobs": [{**JOB, "name": f"job-{number}"} for number in range(MOST + 1)]}, "more than 200 jobs"),
    ],
)
def test_a_document_that_cannot_be_meant_is_refused(document: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidCredentials, match=why):
        trust(**document)
