"""Signatures of attestations are verified in a child process, against a Sigstore trusted root, without the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ops.index.auth.trust import Trust
from ops.index.errors import InvalidUpload, StorageError
from ops.index.packages.signatures import SignatureVerifier, publisher_of
from tests.index.sigstore_instance import JOB, FakeSigstore

NAME = "spam-1.0-py3-none-any.whl"
SHA256 = "5" * 64
OURS = FakeSigstore()


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignatureVerifier]:
    made = SignatureVerifier(OURS.write(tmp_path_factory.mktemp("root") / "trusted_root.json"))
    yield made
    made.close()


def test_a_signature_names_the_job_that_made_it(verifier: SignatureVerifier) -> None:
    job, person = verifier.signers(
        NAME, [OURS.attest(NAME, SHA256), OURS.attest(NAME, SHA256, {}, identity="a@b.example")]
    )
    assert (job["issuer"], job["repository_id"], job["owner_id"], job["run"]) == (JOB[8], "1001", "77", JOB[21])
    assert publisher_of(job) == {"kind": "GitHub", "repository": "acme/spam", "workflow": "release.yaml"}
    assert person["identity"] == "a@b.example"
    assert publisher_of(person) == {"kind": "Sigstore", "identity": "a@b.example"}


def test_a_gitlab_job_is_named_as_pypi_attestations_does() -> None:
    signer = {
        "identity": "x",
        "repository": "https://gitlab.example/acme/tools/spam",
        "workflow": "https://gitlab.example/acme/tools/spam//ci/release.yml@refs/tags/v1",
    }
    publisher = {"kind": "GitLab", "repository": "acme/tools/spam", "workflow_filepath": "ci/release.yml"}
    assert publisher_of(signer) == publisher


def forger(part: str) -> FakeSigstore:
    """Our instance, with one key of another one."""
    forged = FakeSigstore()
    own = getattr(forged, part)
    vars(forged).update(vars(OURS))
    setattr(forged, part, own)
    return forged


def altered(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    attestation = OURS.attest(NAME, SHA256)
    change(attestation)
    return attestation


def _set(*path: str, to: object) -> dict[str, Any]:
    def change(attestation: dict[str, Any]) -> None:
        *folders, last = path
        place: Any = attestation
        for folder in folders:
            place = place[0][folder] if isinstance(place, list) else place[folder]
        target = place[0] if isinstance(place, list) else place
        target[last] = to

    return altered(change)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def another_statement() -> dict[str, Any]:
    """A statement about the same file, under the signature of ours."""

    def change(attestation: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(attestation["envelope"]["statement"]))
        attestation["envelope"]["statement"] = b64(json.dumps({**statement, "predicate": {"more": 1}}).encode())

    return altered(change)


def another(part: str) -> dict[str, Any]:
    """One part of another valid attestation of the same file."""
    return altered(
        lambda attestation: attestation["verification_material"].update(
            {part: OURS.attest(NAME, SHA256)["verification_material"][part]}
        )
    )


MATERIAL = ("verification_material", "transparency_entries")


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda: FakeSigstore().attest(NAME, SHA256), id="another instance"),
        pytest.param(lambda: forger("_authority").attest(NAME, SHA256), id="another authority of the same name"),
        pytest.param(lambda: forger("_certificates").attest(NAME, SHA256), id="another log of certificates"),
        pytest.param(lambda: forger("_log").attest(NAME, SHA256), id="another transparency log"),
        pytest.param(lambda: OURS.attest(NAME, SHA256, after=timedelta(minutes=11)), id="after its certificate's end"),
        pytest.param(lambda: OURS.attest(NAME, SHA256, after=timedelta(minutes=-1)), id="before its beginning"),
        pytest.param(another_statement, id="another statement"),
        pytest.param(lambda: another("certificate"), id="another certificate"),
        pytest.param(lambda: another("transparency_entries"), id="another entry of the log"),
        pytest.param(lambda: _set("envelope", "signature", to=b64(b"signature")), id="no signature"),
        pytest.param(lambda: _set("verification_material", "certificate", to=b64(b"x")), id="no certificate"),
        pytest.param(lambda: _set(*MATERIAL, to=[{"logIndex": "1"}]), id="no entry"),
        pytest.param(lambda: _set(*MATERIAL, "integratedTime", to="1"), id="another time"),
        pytest.param(lambda: _set(*MATERIAL, "integratedTime", to="9" * 5000), id="a huge number"),
        pytest.param(lambda: _set(*MATERIAL, "inclusionPromise", to=None), id="no promise"),
        pytest.param(lambda: _set(*MATERIAL, "inclusionProof", "treeSize", to="2"), id="another tree"),
        pytest.param(lambda: _set(*MATERIAL, "inclusionProof", "checkpoint", to=None), id="no checkpoint"),
        pytest.param(lambda: _set(*MATERIAL, "canonicalizedBody", to=b64(b"[" * 20_000)), id="a deep body"),
        pytest.param(dict, id="nothing"),
    ],
)  # fmt: skip
def test_a_forged_attestation_is_refused_with_the_reason(
    verifier: SignatureVerifier, forge: Callable[[], dict[str, Any]]
) -> None:
    with pytest.raises(
        InvalidUpload, match=r"its attestation 2 is not validly signed: .|cannot be verified: ."
    ) as refused:
        verifier.signers(NAME, [OURS.attest(NAME, SHA256), forge()])
    assert len(str(refused.value)) < 600
    assert verifier.signers(NAME, [OURS.attest(NAME, SHA256)])


def test_a_root_that_trusts_nothing_is_refused_and_a_new_one_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "trusted_root.json"
    checked = SignatureVerifier(path)
    try:
        for content in ("", "{}", "[]", '{"mediaType": "x"}'):
            path.write_text(content)
            with pytest.raises(StorageError, match="trusted_root"):
                checked.signers(NAME, [OURS.attest(NAME, SHA256)])
        OURS.write(path)
        checked.check()
    finally:
        checked.close()


def trust(*jobs: dict[str, Any]) -> Trust:
    issuers = [{"url": JOB[8], "kind": "github"}]
    job = {
        "name": "spam-release",
        "issuer": JOB[8],
        "repository_id": "1001",
        "owner_id": "77",
        "workflow": "release.yaml",
        "role": "publisher",
        "projects": ["spam"],
    }
    return Trust.of(
        {"audience": "pypi-test", "issuers": issuers, "jobs": [{**job, **each} for each in jobs]}, version=1
    )


@pytest.mark.parametrize(
    ("job", "objects"),
    [
        ({}, False),
        ({"workflow": ""}, False),
        ({"projects": ["ham"]}, False),
        ({"role": "reader", "projects": None}, False),
        ({"repository_id": "1002"}, True),
        ({"owner_id": "78"}, True),
        ({"workflow": "other.yaml"}, True),
        ({"workflow": "release.yam"}, True),
    ],
)
def test_only_jobs_that_are_trusted_to_publish_a_project_attest_its_files(job: dict[str, Any], objects: bool) -> None:
    signer = {
        "identity": JOB[9],
        "issuer": JOB[8],
        "repository": JOB[12],
        "repository_id": "1001",
        "owner_id": "77",
        "workflow": JOB[9],
    }
    reason = trust(job).objection("spam", signer)
    assert bool(reason) is objects
    assert not objects or ("release.yaml@refs/heads/main" in reason and "spam-release" in reason)
    assert trust({**job, "projects": ["spam"], "role": "publisher"}).objection("spam", {"identity": "a@b.example"})
    assert not trust(job, {"name": "also", "workflow": ""}).objection("spam", signer)
