"""Attestations of an upload (PEP 740) are checked against the file, stored, and served as its provenance."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pypi_simple import ProjectPage

from ops.index.auth.audit import SERVER_FOLDER
from ops.index.auth.trust import TrustStore
from ops.index.errors import InvalidUpload
from ops.index.packages.attestations import attestations_of
from ops.index.storage.directory import DirectoryStorage
from tests.index.archives import wheel, wheel_name
from tests.index.serving import JSON, Response, Server, eventually
from tests.index.sigstore_instance import JOB, FakeSigstore
from tests.index.test_app import change, form
from tests.index.test_assembly import logged

NAME = wheel_name("spam", "1.0")
CONTENT = wheel("spam", "1.0")
ROOT = "https://index.example/team/"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def statement(**changes: Any) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": NAME, "digest": {"sha256": SHA256}}],
        "predicateType": "https://example.com/publish/v1",
        "predicate": None,
    } | changes


def about(name: object, sha256: str = SHA256) -> str:
    """Attestations of another file."""
    return json.dumps([attestation(statement(subject=[{"name": name, "digest": {"sha256": sha256}}]))])


def attestation(stated: object = None, **changes: Any) -> dict[str, Any]:
    content = json.dumps(statement() if stated is None else stated).encode()
    return {
        "version": 1,
        "verification_material": {"certificate": b64(b"certificate"), "transparency_entries": [{"logIndex": "1"}]},
        "envelope": {"statement": b64(content), "signature": b64(b"signature")},
    } | changes


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("attested"), "--public-url", ROOT) as server:
        yield server


def publish(server: Server, attestations: str, name: str = NAME, content: bytes = CONTENT) -> Response:
    project, version = name.split("-")[:2]
    fields = {"attestations": attestations} if attestations else {}
    body = form(action="file_upload", name=project, version=version, content=(name, content), **fields)
    return server.request("POST", "/", headers={"Content-Type": "multipart/form-data; boundary=b"}, body=body)


def test_attestations_are_served_as_the_provenance_of_the_file(server: Server) -> None:
    assert publish(server, json.dumps([attestation()])).status == 200
    other = wheel_name("spam", "2.0")
    assert publish(server, "", other, wheel("spam", "2.0")).status == 200
    page = server.get("/simple/spam/", Accept=JSON)
    first, second = json.loads(page.body)["files"]
    assert first["provenance"] == f"{ROOT}packages/{NAME}.provenance"
    assert "provenance" not in second
    assert f'data-provenance="{ROOT}packages/{NAME}.provenance"' in server.get("/simple/spam/").text
    served = server.get(f"/packages/{NAME}.provenance")
    provenance = json.loads(served.body)
    assert (provenance["version"], len(provenance["attestation_bundles"])) == (1, 1)
    (bundle,) = provenance["attestation_bundles"]
    assert bundle == {"publisher": {"kind": "user", "name": "alice"}, "attestations": [attestation()]}
    assert server.get(f"/packages/{other}.provenance").status == 404
    assert server.get(f"/packages/{NAME}.provenance", user=None).status == 401


def test_an_independent_client_finds_it_even_after_the_sidecars_are_lost(server: Server) -> None:
    publish(server, json.dumps([attestation()]))
    server.stop()
    for sidecar in (server.packages / ".index" / "facts").rglob("*.whl"):
        sidecar.unlink()
    server.start()
    page = ProjectPage.from_json_data(
        json.loads(server.get("/simple/spam/", Accept=JSON).body), f"{server.url}simple/spam/"
    )
    assert page.packages[0].provenance_url == f"{ROOT}packages/{NAME}.provenance"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda: "{", "not JSON"),
        (lambda: "[" * 50_000, "not JSON"),
        (lambda: "[]", "not a list of 1"),
        (lambda: json.dumps([attestation()] * 11), "not a list of 1"),
        (lambda: json.dumps([attestation(), 7]), "attestation 2"),
        (lambda: json.dumps([attestation(version=2)]), "version 1"),
        (lambda: json.dumps([attestation(envelope={})]), "lacks a statement"),
        (lambda: json.dumps([attestation(envelope=None)]), "lacks its"),
        (lambda: json.dumps([attestation(verification_material={"certificate": "x"})]), "lacks a certificate"),
        (lambda: json.dumps([attestation(statement(subject=[]))]), "exactly one subject"),
        (lambda: json.dumps([attestation(statement(_type="x"))]), "not in-toto"),
        (lambda: json.dumps([attestation([1])]), "exactly one subject"),
        (lambda: about(NAME, "0" * 64), "other bytes"),
        (lambda: about("eggs-1.0-py3-none-any.whl"), "another file"),
        (lambda: about(None), "another file"),
        (lambda: "x" * 300_000, "bytes"),
    ],
)  # fmt: skip
def test_invalid_attestations_are_refused_with_the_reason(change: Callable[[], str], why: str) -> None:
    with pytest.raises(InvalidUpload, match=why):
        attestations_of(change(), NAME, SHA256)


def test_without_a_public_url_pages_omit_the_provenance_but_it_is_served(tmp_path: Path) -> None:
    """PEP 740 does not allow relative URLs, and clients fail on them."""
    with Server(tmp_path) as server:
        assert publish(server, json.dumps([attestation()])).status == 200
        assert "provenance" not in json.loads(server.get("/simple/spam/", Accept=JSON).body)["files"][0]
        assert f'<a href="../../packages/{NAME}.provenance">' in server.get("/projects/spam/").text
        assert server.get(f"/packages/{NAME}.provenance").status == 200


def test_a_project_may_require_attestations_or_only_log_missing_ones(server: Server) -> None:
    policy = "/projects/Spam/attestations"
    assert change(server, policy, {"policy": "enforce"}).status == 403
    assert change(server, policy, {"policy": "perhaps"}, user="adam").status == 400
    assert change(server, policy, {}, user="adam").status == 400
    assert change(server, policy, {"policy": "enforce"}, user="adam").status == 200
    refused = publish(server, "")
    assert (refused.status, "requires attestations" in refused.text) == (400, True)
    assert publish(server, json.dumps([attestation()])).status == 200
    assert change(server, policy, {"policy": "audit"}, user="adam").status == 200
    assert publish(server, "", wheel_name("spam", "2.0"), wheel("spam", "2.0")).status == 200
    assert change(server, policy, {"policy": "off"}, user="adam").status == 200
    assert publish(server, "", wheel_name("spam", "3.0"), wheel("spam", "3.0")).status == 200
    lines = [line for line in logged(server.packages / SERVER_FOLDER) if line["event"] == "upload"]
    assert [line.get("attested") for line in lines] == [None, False, None]
    (server.packages / ".index" / "attestations").mkdir(exist_ok=True)
    (server.packages / ".index" / "attestations" / "spam").write_text("enf")
    versions = (f"4.{number}" for number in count())

    def refused_now() -> bool:
        version = next(versions)
        return publish(server, "", wheel_name("spam", version), wheel("spam", version)).status == 400

    eventually(refused_now)  # an unreadable policy is treated as strict


def test_with_a_trusted_root_signatures_are_verified_and_name_the_publisher(tmp_path: Path) -> None:
    ours, strangers = FakeSigstore(), FakeSigstore()
    root = ours.write(tmp_path / "trusted_root.json")
    with Server(tmp_path, "--trusted-root", str(root)) as server:
        unsigned = publish(server, json.dumps([attestation()]))
        assert (unsigned.status, "attestation 1 is not validly signed: invalid X.509" in unsigned.text) == (400, True)
        forged = publish(server, json.dumps([strangers.attest(NAME, SHA256)]))
        assert (forged.status, "signature does not match" in forged.text) == (400, True)
        assert server.get("/simple/spam/").status == 404

        trusted = [{"repository_id": "1002", "name": "other"}, {"repository_id": "1001", "name": "spam-release"}]
        fields = {"issuer": JOB[8], "owner_id": "77", "role": "publisher", "projects": ["spam"]}
        document = {"audience": "pypi-test", "issuers": [{"url": JOB[8], "kind": "github"}]}
        store = TrustStore(DirectoryStorage(server.credentials))
        store.replace(document | {"jobs": [fields | trusted[0]]}, version=0)
        signed = json.dumps([ours.attest(NAME, SHA256)])
        another = publish(server, signed)
        assert (another.status, "and not by a job that is trusted to publish spam (other)" in another.text) == (
            400,
            True,
        )
        store.replace(document | {"jobs": [fields | job for job in trusted]}, version=1)
        assert publish(server, signed).status == 200
        (bundle,) = json.loads(server.get(f"/packages/{NAME}.provenance").body)["attestation_bundles"]
        assert bundle["publisher"] == {"kind": "GitHub", "repository": "acme/spam", "workflow": "release.yaml"}
        (line,) = [line for line in logged(server.packages / SERVER_FOLDER) if line["event"] == "upload"]
        assert line["signers"] == [JOB[21]]


def test_a_refused_attestation_leaves_neither_file_nor_provenance(server: Server) -> None:
    refused = publish(server, json.dumps([attestation(version=2)]))
    assert (refused.status, "version 1" in refused.text) == (400, True)
    assert server.get("/simple/spam/").status == 404
    assert not (server.packages / ".index" / "provenance").exists()


def test_another_spelling_of_the_name_is_the_same_file() -> None:
    subject = [{"name": NAME.replace("spam", "Spam"), "digest": {"sha256": SHA256}}]
    assert attestations_of(json.dumps([attestation(statement(subject=subject))]), NAME, SHA256)
