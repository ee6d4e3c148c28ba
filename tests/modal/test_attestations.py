"""Signatures of attestations on Modal: a setting puts what verifies them into the image."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from ops.settings import CREDENTIALS_VOLUME
from ops.workspace import PROJECT_ROOT
from tests.index.archives import wheel, wheel_name
from tests.index.sigstore_instance import JOB, FakeSigstore
from tests.modal.conftest import DEPLOYMENT, TOKEN, create_secret, deploy, run_modal
from tests.modal.test_deployment import shipped
from tests.modal.traffic import PASSWORD, register, reloaded, url
from tests.standin.control_plane import ControlPlane

ROOT = "/root/trusted_root.json"
PINNED = DEPLOYMENT.parent / "requirements-attestations.txt"
NAME, CONTENT = wheel_name("spam", "1.0"), wheel("spam", "1.0")
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def installed(plane: ControlPlane) -> list[bytes]:
    """The requirements files of the image."""
    layers = plane.images.lineage(plane.function("server").definition.image_id)
    return [data for layer in layers for data in layer.context_files.values()]


@pytest.fixture(scope="module")
def sigstore() -> FakeSigstore:
    return FakeSigstore()


@pytest.fixture(scope="module")
def verifying(sigstore: FakeSigstore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An index that verifies signatures, deployed from a copy of this clone with a trusted root."""
    clone = tmp_path_factory.mktemp("clone")
    for folder in ("deployments", "ops"):
        shutil.copytree(PROJECT_ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    sigstore.write(clone / "deployments" / "trusted_root.json")
    with ControlPlane() as plane:
        create_secret(plane)
        deploy(plane, clone / "deployments" / DEPLOYMENT.name, PYPI_VERIFY_ATTESTATIONS="1")
        yield plane
        assert not plane.problems, plane.problems


def publish(plane: ControlPlane, attestation: object) -> requests.Response:
    fields = {":action": "file_upload", "protocol_version": "1", "name": "spam", "version": "1.0"}
    return requests.post(
        f"{url(plane)}/",
        data=fields | {"attestations": json.dumps([attestation])},
        files={"content": (NAME, CONTENT)},
        auth=("alice", PASSWORD),
        timeout=120,
    )


def test_by_default_the_image_has_neither_the_packages_nor_a_root(index: ControlPlane) -> None:
    assert PINNED.read_bytes() not in installed(index)
    assert ROOT not in shipped(index)


def test_the_image_has_the_pinned_packages_and_the_root(verifying: ControlPlane) -> None:
    assert PINNED.read_bytes() in installed(verifying)
    assert (DEPLOYMENT.parent / "requirements.txt").read_bytes() in installed(verifying)
    assert ROOT in shipped(verifying)
    assert verifying.apps.named("pypiserver", "main").tags["PYPI_VERIFY_ATTESTATIONS"] == "1"  # type: ignore[union-attr]


def test_a_container_refuses_other_signatures_and_serves_who_signed(
    verifying: ControlPlane, sigstore: FakeSigstore
) -> None:
    assert register(verifying, "alice").status_code == 201
    job = {"name": "release", "issuer": JOB[8], "repository_id": JOB[15], "owner_id": JOB[17], "role": "publisher"}
    trust = {"audience": "pypi", "issuers": [{"url": JOB[8], "kind": "github"}], "jobs": [job | {"projects": ["spam"]}]}
    address = f"{url(verifying, 'register_user')}/replace_trust"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert requests.post(address, json={"version": 0, **trust}, headers=headers, timeout=60).status_code == 200
    forged = publish(verifying, FakeSigstore().attest(NAME, SHA256))
    assert (forged.status_code, "signature does not match" in forged.text) == (400, True)
    reloaded(verifying, CREDENTIALS_VOLUME)
    assert publish(verifying, sigstore.attest(NAME, SHA256)).status_code == 200
    provenance = f"{url(verifying)}/packages/{NAME}.provenance"
    (bundle,) = requests.get(provenance, auth=("alice", PASSWORD), timeout=60).json()["attestation_bundles"]
    assert bundle["publisher"] == {"kind": "GitHub", "repository": "acme/spam", "workflow": "release.yaml"}


def test_without_a_root_nothing_is_deployed(plane: ControlPlane, tmp_path: Path) -> None:
    create_secret(plane)
    for folder in ("deployments", "ops"):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    file, before = tmp_path / "deployments" / DEPLOYMENT.name, plane.called.count("AppCreate")
    for content, why in ((None, "there is no such file"), ("{}", "cannot be used"), ("[", "cannot be used")):
        if content is not None:
            file.with_name("trusted_root.json").write_text(content)
        done = run_modal(plane, "deploy", str(file), PYPI_VERIFY_ATTESTATIONS="1")
        assert done.returncode == 1
        said = " ".join(done.stderr.split())
        assert "Nothing was deployed: signatures of attestations cannot be verified" in said
        assert why in said
    assert plane.called.count("AppCreate") == before
