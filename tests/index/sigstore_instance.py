"""A Sigstore instance: a certificate authority, a certificate log, and a transparency log with one entry.

Its signatures are real. Only its services are fake: no one requests a certificate from it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

JOB = {
    8: "https://token.actions.example",
    9: "https://github.example/acme/spam/.github/workflows/release.yaml@refs/heads/main",
    12: "https://github.example/acme/spam",
    15: "1001",
    17: "77",
    21: "https://github.example/acme/spam/actions/runs/4711/attempts/1",
}
"""Extensions of the certificate of a CI job."""

_ORIGIN = "log.example - 1"


class FakeSigstore:
    """Signs attestations, and writes the trusted root that verifies them."""

    def __init__(self) -> None:
        self._authority, self._log, self._certificates = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self._now = datetime.now(UTC).replace(microsecond=0)
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "example"),
                x509.NameAttribute(NameOID.COMMON_NAME, "a test CA"),
            ]
        )
        self._root = (
            self._builder(name, name, self._authority.public_key(), timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._authority, hashes.SHA256())
        )

    def write(self, path: Path) -> Path:
        """Write the trusted root."""
        valid = {"start": (self._now - timedelta(days=1)).isoformat().replace("+00:00", "Z")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            return {
                "baseUrl": "https://log.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _b64(_der(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": valid,
                },
                "logId": {"keyId": _b64(_id(key))},
            }

        authority = {
            "subject": {"organization": "example", "commonName": "a test CA"},
            "uri": "https://ca.example",
            "certChain": {"certificates": [{"rawBytes": _b64(_certificate_der(self._root))}]},
            "validFor": valid,
        }
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self._log)],
            "certificateAuthorities": [authority],
            "ctlogs": [log(self._certificates)],
        }
        path.write_text(json.dumps(document))
        return path

    def attest(
        self,
        filename: str,
        sha256: str,
        claims: Mapping[int, str] = JOB,
        *,
        identity: str = JOB[9],
        after: timedelta = timedelta(0),
    ) -> dict[str, Any]:
        """An attestation object for a file.

        Parameters:
            claims: extensions of the certificate, by the last number of their id.
            identity: an e-mail address, or a URI.
            after: time from the start of the certificate's validity of ten minutes to the signature.
        """
        stated = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": filename, "digest": {"sha256": sha256}}],
            "predicateType": "https://docs.example/attestations/publish/v1",
            "predicate": None,
        }
        statement = json.dumps(stated).encode()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._leaf(key, claims, identity)
        kind = b"application/vnd.in-toto+json"
        signature = _signed(key, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(statement), statement))
        return {
            "version": 1,
            "verification_material": {
                "certificate": _b64(_certificate_der(certificate)),
                "transparency_entries": [self._entry(certificate, statement, signature, self._now + after)],
            },
            "envelope": {"statement": _b64(statement), "signature": _b64(signature)},
        }

    def _leaf(self, key: ec.EllipticCurvePrivateKey, claims: Mapping[int, str], identity: str) -> x509.Certificate:
        name = (
            x509.RFC822Name(identity)
            if "@" in identity and ":" not in identity
            else x509.UniformResourceIdentifier(identity)
        )
        builder = self._builder(x509.Name([]), self._root.subject, key.public_key(), timedelta(minutes=10))
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key())
        builder = (
            builder.add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(own, critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
        )
        for number, text in claims.items():
            content = text.encode()
            length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
            oid = ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x0c" + length + content), critical=False)
        logged = builder.sign(self._authority, hashes.SHA256()).tbs_certificate_bytes
        return builder.add_extension(self._timestamp(logged), critical=False).sign(self._authority, hashes.SHA256())

    def _timestamp(self, logged: bytes) -> x509.UnrecognizedExtension:
        """A signed certificate timestamp (RFC 6962, section 3.2), which the library cannot create."""
        moment = int(self._now.timestamp() * 1000)
        entry = _id(self._authority) + len(logged).to_bytes(3) + logged
        promised = struct.pack("!BBQH", 0, 0, moment, 1) + entry + struct.pack("!H", 0)
        signature = _signed(self._certificates, promised)
        promise = (
            b"\x00"
            + _id(self._certificates)
            + struct.pack("!QH", moment, 0)
            + b"\x04\x03"
            + struct.pack("!H", len(signature))
            + signature
        )
        content = struct.pack("!HH", len(promise) + 2, len(promise)) + promise
        octets = b"\x04" + (bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])) + content
        return x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), octets)

    def _entry(
        self, certificate: x509.Certificate, statement: bytes, signature: bytes, moment: datetime
    ) -> dict[str, Any]:
        """The only entry of a transparency log (Rekor, version 1)."""
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
            "signatures": [{"signature": _b64(signature), "verifier": _b64(pem)}],
        }
        body = json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}).encode()
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"{_ORIGIN}\n1\n{_b64(root)}\n"
        checkpoint = f"{note}\n\N{EM DASH} log.example {_b64(_id(self._log)[:4] + _signed(self._log, note.encode()))}\n"
        integrated = int(moment.timestamp())
        promise = {
            "body": _b64(body),
            "integratedTime": integrated,
            "logID": _id(self._log).hex(),
            "logIndex": 0,
        }
        canonical = json.dumps(promise, separators=(",", ":"), sort_keys=True).encode()
        return {
            "logIndex": "0",
            "logId": {"keyId": _b64(_id(self._log))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(integrated),
            "inclusionPromise": {"signedEntryTimestamp": _b64(_signed(self._log, canonical))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": _b64(body),
        }

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now)
            .not_valid_after(self._now + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    return key.sign(content, ec.ECDSA(hashes.SHA256()))


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def _certificate_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_der(key)).digest()


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
