"""An issuer of ID tokens on loopback, with the claims of GitHub or GitLab."""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
import warnings
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "pypi-test"


def private_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One of several keys, generated once."""
    return _made(number, bits)


@cache
def _made(number: int, bits: int) -> rsa.RSAPrivateKey:
    del number
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def public_jwk(kid: str, key: rsa.RSAPrivateKey) -> dict[str, Any]:
    """A public key as a JSON Web Key."""
    numbers = key.public_key().public_numbers()

    def encoded(number: int) -> str:
        return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()

    fields = {"kty": "RSA", "use": "sig", "alg": "RS256"}
    return {**fields, "kid": kid, "n": encoded(numbers.n), "e": encoded(numbers.e)}


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    """A public key as text, which attackers use as the key of an HMAC."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class FakeIssuer:
    """A fake GitHub or GitLab: serves its keys, and signs ID tokens. ``outage`` makes it fail."""

    def __init__(self, kind: str = "github") -> None:
        self.kind = kind
        self.keys = {"key-1": private_key(), "weak": private_key(2, 1024)}
        self.requests: list[str] = []
        self.outage = False
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests.append(self.path)
                body = json.dumps({"keys": [public_jwk(kid, key) for kid, key in issuer.keys.items()]}).encode()
                if self.path.startswith("/id-token"):  # as GitHub provides it to a job
                    audience = self.path.partition("audience=")[2]
                    body = json.dumps({"value": issuer.id_token(aud=audience)}).encode()
                if self.path in {"/api/v3/repos/acme/spam", "/api/v4/projects/acme%2Fspam"}:
                    body = json.dumps({"id": 1001, "owner": {"id": 77}, "namespace": {"id": 77}}).encode()
                self.send_response(503 if issuer.outage else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self.close()
        self._thread.join()

    def close(self) -> None:
        """Close a server that was never started."""
        self._server.server_close()

    def claims(self, **changed: Any) -> dict[str, Any]:
        """The claims of a valid ID token, with changes; None removes a claim."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": secrets.token_hex(16),
            "ref": "refs/heads/main",
            "ref_protected": "true",
            "environment": "release",
            "sha": "0" * 40,
        }
        if self.kind == "github":
            claims |= {
                "repository": "acme/spam",
                "repository_id": "1001",
                "repository_owner_id": "77",
                "job_workflow_ref": "acme/spam/.github/workflows/release.yaml@refs/heads/main",
                "run_id": "4711",
            }
        else:
            claims |= {
                "project_path": "acme/spam",
                "project_id": "1001",
                "namespace_id": "77",
                "ci_config_ref_uri": f"{self.url.partition('://')[2]}/acme/spam//.gitlab-ci.yml@refs/heads/main",
                "job_id": "4711",
            }
        claims |= changed
        return {name: value for name, value in claims.items() if value is not None}

    def id_token(self, *, kid: str = "key-1", key: rsa.RSAPrivateKey | None = None, **changed: Any) -> str:
        """A signed ID token."""
        signing = key or self.keys.get(kid) or private_key()
        with warnings.catch_warnings(action="ignore"):  # of a weak key
            payload = json.dumps(self.claims(**changed)).encode()  # anything: PyJWT would refuse to create invalid ones
            return jwt.PyJWS().encode(payload, signing, algorithm="RS256", headers={"kid": kid, "typ": "JWT"})

    def trust(self, **changed: Any) -> dict[str, Any]:
        """A document that trusts its job ``spam-release`` to publish spam and eggs."""
        job: dict[str, Any] = {
            "name": "spam-release",
            "issuer": self.url,
            "repository": "acme/spam",
            "repository_id": "1001",
            "owner_id": "77",
            "environment": "release",
            "workflow": "release.yaml" if self.kind == "github" else ".gitlab-ci.yml",
            "protected_ref": True,
            "role": "publisher",
            "projects": ["spam", "eggs"],
        }
        issuers = [{"url": self.url, "kind": self.kind}]
        return {"audience": AUDIENCE, "issuers": issuers, "jobs": [{**job, **changed}]}
