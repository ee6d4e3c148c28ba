"""Signatures of attestations (PEP 740), verified by pypi-attestations against a Sigstore trusted root.

Nothing is fetched: the root is a file, and an attestation includes its certificate and its transparency log entry. Both
are strangers' content, so a child process reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ops.index.errors import InvalidUpload, StorageError, WorkFailed
from ops.index.sandbox.sandbox import Limits, Sandbox

_EXTENSIONS: Final = {
    "issuer": 8,
    "workflow": 9,
    "repository": 12,
    "repository_id": 15,
    "owner_id": 17,
    "run": 21,
}
"""Claims of a certificate about its holder, each with the last number of its extension's OID (Fulcio)."""

_LIMITS = Limits(cpu_seconds=5, wall_seconds=15.0)


class SignatureVerifier:
    """Verifies the signatures of attestations.

    Parameters:
        trusted_root: a file in the form of Sigstore's ``trusted_root.json``, read again for each upload.

    Raises:
        ValueError: pypi-attestations is not installed.
    """

    def __init__(self, trusted_root: Path) -> None:
        if find_spec("pypi_attestations") is None:
            raise ValueError(
                "signatures of attestations cannot be verified: pypi-attestations is not installed; install the extra "
                "'attestations' of this project, or leave out the trusted root"
            )
        self._root = trusted_root
        self._sandbox = Sandbox(f"{__name__}:work", _LIMITS, preload=f"{__name__}:preload", workers=2, queue=64)

    def check(self) -> None:
        """Read the trusted root, which also starts the child process. Blocks for about a second.

        Raises:
            StorageError: the file cannot be used.
            SandboxError: no child process can be started.
        """
        self.signers("", ())

    def signers(self, filename: str, attestations: Sequence[Any]) -> list[Mapping[str, str]]:
        """The holders of the certificates with which attestations were signed. Blocks for milliseconds.

        Parameters:
            filename: that they are about, for error messages.
            attestations: checked in structure.

        Returns:
            For each its ``identity`` (an e-mail address or a URI) and, if the certificate was issued to a CI job,
            ``issuer``, ``repository``, ``repository_id``, ``owner_id``, ``workflow`` and ``run``.

        Raises:
            InvalidUpload: a signature, a certificate or an entry in the log is not valid; the message says which.
            StorageError: the trusted root cannot be used.
            SandboxError: they could not be verified.
        """
        payload = json.dumps({"root": str(self._root.absolute()), "attestations": attestations}).encode()
        try:
            result = json.loads(self._sandbox.run(payload))
        except WorkFailed as error:
            raise InvalidUpload(filename, f"its attestations cannot be verified: {error.reason}") from error
        if "root" in result:
            raise StorageError(
                f"the trusted root {self._root} cannot be used: {result['root']}; give the index Sigstore's "
                "trusted_root.json, or that of your own instance"
            )
        if "refused" in result:
            raise InvalidUpload(filename, f"{result['refused']}; attest it again, or upload it without attestations")
        signers: list[Mapping[str, str]] = result["signers"]
        return signers

    def close(self) -> None:
        """End the child process. Does not block."""
        self._sandbox.close()


def publisher_of(signer: Mapping[str, str]) -> dict[str, Any]:
    """The publisher object of a provenance, for the holder of a certificate, as pypi-attestations reads it."""
    repository = urlsplit(signer.get("repository", "")).path.strip("/")
    _, _, path = signer.get("workflow", "").partition(f"/{repository}/")
    workflow = path.rpartition("@")[0]
    if repository and workflow.startswith(".github/workflows/"):
        return {"kind": "GitHub", "repository": repository, "workflow": workflow.rpartition("/")[2]}
    if repository and workflow.startswith("/"):
        return {"kind": "GitLab", "repository": repository, "workflow_filepath": workflow[1:]}
    return {"kind": "Sigstore", "identity": signer["identity"]}


def preload() -> None:
    """Import what verification needs, once for all workers."""
    import pypi_attestations
    import sigstore.verify

    del pypi_attestations, sigstore


def work(payload: bytes) -> bytes:
    """Verify attestations, in a worker.

    Parameters:
        payload: the path of the trusted root and the attestations, as JSON.

    Returns:
        JSON with ``signers``, or the reason why there are none: ``refused``, or ``root`` if that cannot be used.
    """
    from pypi_attestations import Attestation
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import UnsafeNoOp

    given = json.loads(payload)
    try:
        verifier = Verifier(trusted_root=TrustedRoot.from_file(given["root"]))
    except (OSError, ValueError, Error) as error:
        return json.dumps({"root": _message(error)}).encode()
    signers = []
    for number, item in enumerate(given["attestations"], 1):
        try:
            attestation = Attestation.model_validate(item)
            # Who signed is compared with the trusted jobs afterwards.
            verifier.verify_dsse(attestation.to_bundle(), UnsafeNoOp())
            signers.append(_signer(attestation))
        except (ValueError, Error) as error:
            reason = f"its attestation {number} is not validly signed: {_message(error)}"
            return json.dumps({"refused": reason}).encode()
    return json.dumps({"signers": signers}).encode()


def _signer(attestation: Any) -> dict[str, str]:
    from cryptography.x509 import SubjectAlternativeName, load_der_x509_certificate

    certificate = load_der_x509_certificate(attestation.verification_material.certificate)
    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    claims = attestation.certificate_claims
    found = {name: claims.get(f"1.3.6.1.4.1.57264.1.{number}", "") for name, number in _EXTENSIONS.items()}
    return {"identity": ", ".join(str(name.value) for name in names), **found}


def _message(error: Exception) -> str:
    """An error's text on one short line of ASCII."""
    return ascii(" ".join(str(error).split())[:300])[1:-1] or type(error).__name__
