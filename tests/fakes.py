"""A fake index and a fake target: small, in memory, and able to misbehave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

import bcrypt

from ops.secret import Secret
from ops.settings import Settings
from ops.targets import Check, CredentialAge, DeployedVersion, Deployment, HostingDifferences, Move, State, VolumeFile
from ops.workspace import Workspace


class FakeIndex:
    """Responds like an index, on loopback, from memory; *faults* names the rules that it breaks.

    ``open``: no login needed. ``silent``: 401 without a realm. ``overwrite``: different bytes replace a file.
    ``lying``: pages have a wrong hash. ``sticky``: nothing is ever removed. ``open admin``: the token is not checked.
    ``early``: revoking one token revokes all.
    """

    def __init__(self, token: str = "the-admin-token-of-the-fake-index") -> None:
        self.token = token
        self.faults: set[str] = set()
        self.users: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.created = 0
        self.files: dict[str, bytes] = {}
        self.logins: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        index = self

        class Handler(_Handler):
            fake = index

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_user(self, username: str, password: str, role: str = "publisher") -> None:
        digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        self.users[username] = {"hash": digest, "role": role, "projects": None}

    def who(self, authorization: str | None) -> str | None:
        if not authorization or not authorization.startswith("Basic "):
            return None
        raw = base64.b64decode(authorization[6:])
        try:
            username, _, password = raw.decode().partition(":")
        except UnicodeDecodeError:
            username, _, password = raw.decode("latin-1").partition(":")
        self.logins.append((username, password))
        if username == "__token__":
            return next((token["owner"] for token in self.tokens.values() if _plain(token) == password), None)
        user = self.users.get(username)
        if user and bcrypt.checkpw(password.encode(), user["hash"].encode()):
            return username
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeIndex

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
        pass

    def respond(self, status: int, body: bytes | str | object = b"", headers: Mapping[str, str] | None = None) -> None:
        kind = "text/plain"
        if not isinstance(body, bytes | str):
            body, kind = json.dumps(body), "application/json"
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle_one(self) -> None:
        fake = self.fake
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fake.bodies.append(body)
        if self.path == "/health":
            return self.respond(200, "ok")
        if self.path.startswith("/admin/"):
            return self.admin(body)
        user = fake.who(self.headers.get("Authorization"))
        if user is None and "open" not in fake.faults:
            realm = {} if "silent" in fake.faults else {"WWW-Authenticate": 'Basic realm="pypi"'}
            return self.respond(401, "log in\n", realm)
        if self.command == "POST":
            return self.post(user, body)
        if found := re.fullmatch(r"/simple/([^/]*)/?", self.path):
            return self.page(found[1])
        name = unquote(self.path.rpartition("/")[2])
        if self.path.startswith("/packages/") and name in fake.files:
            return self.respond(200, fake.files[name])
        return self.respond(404, "no such file\n")

    do_GET = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - as in the base class

    def page(self, project: str) -> None:
        if not project:
            return self.respond(200, {"meta": {"api-version": "1.1"}, "projects": []})
        prefix = project.replace("-", "_") + "-"
        names = sorted(name for name in self.fake.files if name.startswith(prefix))
        if not names:
            return self.respond(404, "no such project\n")
        lie = b"a lie" if "lying" in self.fake.faults else b""
        files = [
            {
                "filename": name,
                "url": f"/packages/{name}",
                "hashes": {"sha256": hashlib.sha256(self.fake.files[name] + lie).hexdigest()},
            }
            for name in names
        ]
        versions = sorted({_version(name) for name in names})
        page = {"meta": {"api-version": "1.1"}, "name": project, "files": files, "versions": versions}
        content = json.dumps(page)
        return self.respond(200, content, {"Content-Type": "application/vnd.pypi.simple.v1+json"})

    def post(self, user: str | None, body: bytes) -> None:
        fields, files = _form(self.headers["Content-Type"], body)
        role = self.fake.users.get(user or "", {}).get("role", "publisher")
        if fields.get(":action") == "remove_pkg":
            if role != "admin":
                return self.respond(403, "only an admin removes\n")
            gone = [name for name in self.fake.files if _version(name) == fields["version"]]
            for name in gone if "sticky" not in self.fake.faults else ():
                del self.fake.files[name]
            return self.respond(200 if gone else 404, "")
        if role == "reader":
            return self.respond(403, "a reader does not publish\n")
        ((name, content),) = files.items()
        if not name.startswith(fields["name"].replace("-", "_") + "-"):
            return self.respond(400, "name and file name disagree\n")
        if self.fake.files.get(name, content) != content and "overwrite" not in self.fake.faults:
            return self.respond(409, "another file of that name exists\n")
        self.fake.files[name] = content
        return self.respond(200, "")

    def admin(self, body: bytes) -> None:
        fake = self.fake
        if self.headers.get("Authorization") != f"Bearer {fake.token}" and "open admin" not in fake.faults:
            return self.respond(401, {"detail": "the admin token is missing or wrong"})
        if self.path == "/admin/users":
            users = [{"username": name, **_public(user)} for name, user in sorted(fake.users.items())]
            return self.respond(200, users)
        if self.path == "/admin/register_user":
            given = json.loads(body)
            name = given["username"]
            if "\x00" in name:
                return self.respond(422, {"detail": "the user name contains an invisible character"})
            created = name not in fake.users
            user = fake.users.setdefault(name, {"hash": "", "role": "publisher", "projects": None})
            user["hash"] = given.get("password_hash") or user["hash"]
            user["role"] = given.get("role") or user["role"]
            user["projects"] = given.get("projects", user["projects"]) if user["role"] == "publisher" else None
            return self.respond(201 if created else 200, {"username": name, "created": created, **_public(user)})
        path, _, query = self.path.partition("?")
        if path == "/admin/reservations":
            return self.respond(200, [])
        if path == "/admin/tokens":
            owner = parse_qs(query).get("owner", [None])[0]
            newest_first = reversed(fake.tokens.values())
            return self.respond(200, [token for token in newest_first if owner in (None, token["owner"])])
        if path == "/admin/create_token":
            fake.created += 1
            wanted, number = json.loads(body), f"id-{fake.created}"
            fake.tokens[number] = _token(number, wanted)
            return self.respond(201, {**fake.tokens[number], "token": _plain(fake.tokens[number])})
        if path.startswith("/admin/tokens/"):
            if "early" in fake.faults:
                fake.tokens.clear()
            return self.respond(204 if fake.tokens.pop(path.rpartition("/")[2], None) else 404)
        name = unquote(self.path.removeprefix("/admin/users/"))
        if "sticky" in fake.faults:
            return self.respond(204)
        return self.respond(204 if fake.users.pop(name, None) else 404)


def _public(user: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": user["role"], "projects": user["projects"]}


def _plain(token: Mapping[str, Any]) -> str:
    return f"token-of-{token['id']}-0123456789"


def _token(number: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": number,
        "owner": wanted["owner"],
        "role": wanted.get("role", "publisher"),
        "projects": wanted.get("projects"),
        "label": wanted.get("label", ""),
        "created": now.isoformat(timespec="seconds"),
        "expires": (now + timedelta(seconds=wanted.get("lifetime_seconds", 7776000))).isoformat(timespec="seconds"),
        "last_used": None,
    }


def _version(filename: str) -> str:
    return filename.removesuffix(".tar.gz").split("-")[1]


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    if content_type.startswith("application/x-www-form-urlencoded"):
        return {key: values[0] for key, values in parse_qs(body.decode()).items()}, {}
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        name = part.get_param("name", header="content-disposition")
        if filename := part.get_filename():
            files[filename] = content
        else:
            fields[str(name)] = content.decode()
    return fields, files


class FakeTarget:
    """A target that keeps everything in memory, with a fake index as its server."""

    name = place = "local"
    settings = Settings()

    def __init__(self, index: FakeIndex) -> None:
        self.index = index
        self.secrets: dict[str, dict[str, Secret]] = {}
        self.volumes: dict[str, dict[str, bytes]] = {}
        self.secret_set: datetime | None = None
        self.versions: list[DeployedVersion] = []
        self.code = ""
        self.running = False
        self.locked = 0
        self.problems: list[str] = []
        self.moving: Move | None = None
        self.failure: str | None = None
        self.hosted: HostingDifferences | None = None
        self.old = ""

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self.locked += 1
        yield

    def is_named(self, word: str) -> bool:
        return word == self.name

    def client_folder(self, username: str) -> Path:
        return Workspace.default().user(self.place, username)

    def client_folders(self) -> Sequence[Path]:
        folder = Workspace.default().users(self.place)
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def checks(self) -> Sequence[Check]:
        return [Check("fake", True, "in memory"), *(Check("fault", False, problem) for problem in self.problems)]

    def secret_exists(self, name: str) -> bool:
        return name in self.secrets

    def put_secret(self, name: str, values: Mapping[str, Secret]) -> None:
        self.secrets[name] = dict(values)
        self.secret_set = datetime.now(UTC)

    def recall_secret(self, name: str, key: str) -> Secret | None:
        return self.secrets.get(name, {}).get(key)

    def recall_former_secret(self, name: str, key: str) -> Secret | None:
        del name, key
        return None

    def credential_ages(self) -> Sequence[CredentialAge]:
        return [CredentialAge("secret pypi-auth-token (admin token)", self.secret_set)]

    def delete_secret(self, name: str) -> bool:
        return self.secrets.pop(name, None) is not None

    def volume_exists(self, name: str) -> bool:
        return name in self.volumes

    def create_volume(self, name: str) -> None:
        self.volumes.setdefault(name, {})

    def delete_volume(self, name: str) -> bool:
        return self.volumes.pop(name, None) is not None

    def download(self, volume: str, path: str, destination: Path) -> None:
        destination.write_bytes(self.volumes[volume][path])

    def upload(self, volume: str, path: str, source: Path) -> None:
        self.volumes[volume][path] = source.read_bytes()

    def list_files(self, volume: str) -> Sequence[VolumeFile]:
        return [VolumeFile(path, len(content), 0) for path, content in sorted(self.volumes[volume].items())]

    def upload_files(self, volume: str, sources: Mapping[str, Path]) -> None:
        for path, source in sources.items():
            self.upload(volume, path, source)

    def delete_file(self, volume: str, path: str) -> bool:
        return self.volumes[volume].pop(path, None) is not None

    def costs(self) -> Sequence[tuple[str, float]] | None:
        return None

    def state(self) -> State:
        if not self.running:
            return State(None)
        return State(self._deployment(changed=False), responds=self.failure is None, error=self.failure or "")

    def deployment(self) -> Deployment | None:
        state = self.state()
        return state.deployment if state.responds else None

    def refused_secret(self, name: str, key: str) -> str:
        return f"another value of {key} is needed in {name}"

    def outdated(self, *, revision: str = "") -> str:
        return self.old if not revision or self.code != revision else ""

    def private_paths(self) -> Sequence[Path]:
        return ()

    def move(self) -> Move | None:
        return self.moving

    def hosting(self, *, lower_protection: str = "") -> HostingDifferences | None:
        del lower_protection
        return self.hosted

    def deploy(self, *, tag: str = "", lower_protection: str = "", revision: str = "") -> Deployment:
        del lower_protection
        if not self.versions or self.code != revision:
            self.versions.append(
                DeployedVersion(str(len(self.versions) + 1), "2026-01-01T00:00:00+00:00", tag, revision, revision)
            )
        self.code, self.old = revision, ""
        changed, self.running = not self.running, True
        (secret,) = self.secrets.values()
        self.index.token = secret["AUTH_TOKEN"].reveal()
        return self._deployment(changed=changed)

    def restart(self) -> Deployment:
        return self.deploy(revision=self.code)

    def resume(self) -> bool:
        return False

    def history(self) -> Sequence[DeployedVersion]:
        return self.versions[::-1]

    def rollback(self, version: str) -> Deployment:
        return self.deploy(tag=f"rollback-to-{version}", revision=self.versions[int(version) - 1].detail)

    @property
    def unfinished_upgrade(self) -> Path:
        return Workspace.default().create().home / "fake.upgrade"

    def state_files(self) -> Sequence[Path]:
        return ()

    def stop(self) -> bool:
        ran, self.running = self.running, False
        return ran

    def logs(self, lines: int = 50) -> str:
        return "a line of the log\n" * min(lines, 1)

    def _deployment(self, *, changed: bool) -> Deployment:
        return Deployment(self.index.url, f"{self.index.url}admin/", "a fake", changed)
