"""TLS in front of a server on loopback, which records what clients ask for."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tests.index.issuer import private_key


class TlsFront:
    """Passes connections on to a port, and keeps the request lines. ``authority`` is the file of its CA."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "authority.pem"
        self.requests: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder, self.authority))
        front = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with (
                    contextlib.suppress(OSError),
                    context.wrap_socket(self.request, server_side=True) as client,
                    socket.create_connection(("127.0.0.1", port)) as backend,
                ):
                    front._pass(client, backend)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # after the last connection

    def _pass(self, client: ssl.SSLSocket, backend: socket.socket) -> None:
        while True:
            ready = [client] if client.pending() else select.select([client, backend], [], [], 30)[0]
            if not ready:
                return
            for source in ready:
                piece = source.recv(65536)
                if not piece:
                    return
                if source is client:
                    line = piece.partition(b"\r\n")[0].decode("latin-1")
                    if line.endswith(" HTTP/1.1"):
                        self.requests.append(line.removesuffix(" HTTP/1.1"))
                (backend if source is client else client).sendall(piece)


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
    """A leaf for loopback with its key, in one file, and the certificate of its CA in another."""
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
        .add_extension(_SIGNS_CERTIFICATES, critical=True)  # Python 3.13 wants it (RFC 5280, section 4.2.1.3)
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
