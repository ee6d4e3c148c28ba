"""TLS in front of a server on loopback."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.index.issuer import private_key
from tests.index.recording import RecordingFront


class TlsFront(RecordingFront):
    """A recording proxy with TLS. ``authority`` is the file of its CA."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "authority.pem"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder, self.authority))
        super().__init__(port, context)


_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _certificate(folder: Path, authority: Path) -> Path:
    """A certificate for loopback with its key, in one file, and the certificate of its CA in another."""
    now = datetime.now(UTC)

    def builder(name: str, issuer: str, number: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(private_key(number).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(private_key(10).public_key())
    root = (
        builder("a test CA", "a test CA", 10)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private_key(10).public_key()), critical=False)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)  # Python 3.13 requires it (RFC 5280, section 4.2.1.3)
        .sign(private_key(10), hashes.SHA256())
    )
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    leaf = (
        builder("127.0.0.1", "a test CA", 11)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(own, critical=False)
        .sign(private_key(10), hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    authority.write_bytes(root.public_bytes(pem))
    key = private_key(11).private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "leaf.pem"
    path.write_bytes(key + leaf.public_bytes(pem))
    return path
