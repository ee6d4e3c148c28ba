"""Uploads of a client: contents by hash, mounts, image definitions, blobs; and their HTTP endpoints."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.standin.rpc import Caller, new_id, rpc

if TYPE_CHECKING:
    from tests.standin.control_plane import ControlPlane


@dataclass
class Image:
    """An image as requested, and its base."""

    image_id: str
    commands: list[str]
    context_files: dict[str, bytes]
    base_ids: list[str]
    secret_ids: list[str]
    context_mount_id: str = ""


@dataclass
class Mount:
    """Files to place in a container: the SHA-256 of the content by absolute path."""

    mount_id: str
    files: dict[str, str] = field(default_factory=dict)


class ContentStore:
    """Uploaded contents by SHA-256, blobs, and the URLs that serve both over HTTP."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._contents = plane.directory / "contents"
        self._blobs = plane.directory / "blobs"
        self._contents.mkdir()
        self._blobs.mkdir()
        self._blocks: dict[str, tuple[Path, int, int]] = {}

    def path(self, sha256_hex: str) -> Path:
        """Path of the content with that hash, if it was uploaded."""
        return self._contents / sha256_hex

    def blob(self, blob_id: str) -> Path:
        """Path of a blob."""
        return self._blobs / blob_id

    def block_url(self, path: Path, begin: int, end: int) -> str:
        """A single-use URL for the bytes of a file from *begin* up to *end*."""
        key = secrets.token_urlsafe()
        self._blocks[key] = (path, begin, end)
        return f"{self._plane.http_url}/blocks/{key}"

    def routes(self) -> list[web.RouteDef]:
        """HTTP requests of clients to what would be object storage."""
        return [
            web.get("/blocks/{key}", self._get_block),
            web.put("/blobs/{blob_id}", self._put_blob),
            web.get("/blobs/{blob_id}", self._get_blob),
        ]

    async def _get_block(self, request: web.Request) -> web.Response:
        block = self._blocks.get(request.match_info["key"])
        if block is None:
            return web.Response(status=404)
        path, begin, end = block
        with path.open("rb") as file:
            file.seek(begin)
            return web.Response(body=file.read(end - begin))

    async def _put_blob(self, request: web.Request) -> web.Response:
        digest = hashlib.md5(usedforsecurity=False)
        with self.blob(request.match_info["blob_id"]).open("wb") as file:
            async for piece in request.content.iter_chunked(1 << 20):
                digest.update(piece)
                file.write(piece)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self.blob(request.match_info["blob_id"]))

    @rpc("BlobCreate")
    async def create_blob(self, _request: api_pb2.BlobCreateRequest, _: Caller) -> api_pb2.BlobCreateResponse:
        blob_id = new_id("bl")
        url = f"{self._plane.http_url}/blobs/{blob_id}"
        return api_pb2.BlobCreateResponse(
            blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[url]), blob_id=blob_id
        )

    @rpc("BlobGet")
    async def get_blob(self, request: api_pb2.BlobGetRequest, _: Caller) -> api_pb2.BlobGetResponse:
        return api_pb2.BlobGetResponse(download_url=f"{self._plane.http_url}/blobs/{request.blob_id}")

    @rpc("MountPutFile")
    async def put_file(self, request: api_pb2.MountPutFileRequest, _: Caller) -> api_pb2.MountPutFileResponse:
        target = self.path(request.sha256_hex)
        kind = request.WhichOneof("data_oneof")
        if kind == "data":
            self._check(request.data, request.sha256_hex)
            target.write_bytes(request.data)
        elif kind == "data_blob_id":
            self.blob(request.data_blob_id).replace(target)
        return api_pb2.MountPutFileResponse(exists=target.exists())

    @rpc("MountBatchedCheckExistence")
    async def check_existence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _: Caller
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [digest for digest in request.sha256_hex_hashes if not self.path(digest).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @staticmethod
    def _check(data: bytes, sha256_hex: str) -> None:
        if hashlib.sha256(data).hexdigest() != sha256_hex:
            raise GRPCError(Status.INVALID_ARGUMENT, "the content does not have the hash that was announced")


class Images:
    """The calls about images and mounts.

    No packages are installed: the interpreter has them, and the definition is kept for tests. Files that a
    layer copies are copied, and compiled if it says so.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._building = threading.Lock()
        self.images: dict[str, Image] = {}
        self.mounts: dict[str, Mount] = {}

    def lineage(self, image_id: str) -> list[Image]:
        """The image's layers, base first."""
        image = self.images[image_id]
        return [layer for base in image.base_ids for layer in self.lineage(base)] + [image]

    def files(self, image_id: str) -> Path:
        """A directory with the files copied or compiled by the image's layers, created on the first call."""
        built = self._plane.directory / "images" / image_id
        with self._building:
            if built.exists():
                return built
            built.mkdir(parents=True)
            for layer in self.lineage(image_id):
                if layer.context_mount_id:
                    self.place(self.mounts[layer.context_mount_id], built)
                for command in layer.commands:
                    if command.startswith("RUN python -m compileall "):
                        *options, folder = shlex.split(command)[1:]
                        inside = built / folder.lstrip("/")
                        compiling = [str(self._plane.python), *options[1:], "-s", str(built), "-p", "/", str(inside)]
                        subprocess.run(compiling, check=True, timeout=60)
        return built

    def place(self, mount: Mount, directory: Path) -> None:
        """Lay out the files of a mount below *directory*."""
        for path, digest in mount.files.items():
            target = directory / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._plane.store.path(digest), target)

    @rpc("MountGetOrCreate")
    async def get_or_create_mount(
        self, request: api_pb2.MountGetOrCreateRequest, _: Caller
    ) -> api_pb2.MountGetOrCreateResponse:
        content = hashlib.sha256()
        files = {file.filename: file.sha256_hex for file in request.files}
        for name in sorted(files):
            content.update(f"{name}\0{files[name]}\0".encode())
        checksum = content.hexdigest()
        mount_id = next((m for m, known in self.mounts.items() if known.files == files), None) or new_id("mo")
        self.mounts[mount_id] = Mount(mount_id, files)
        return api_pb2.MountGetOrCreateResponse(
            mount_id=mount_id,
            handle_metadata=api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum),
        )

    @rpc("ImageGetOrCreate")
    async def get_or_create_image(
        self, request: api_pb2.ImageGetOrCreateRequest, _: Caller
    ) -> api_pb2.ImageGetOrCreateResponse:
        asked = request.image
        image = Image(
            image_id="",
            commands=list(asked.dockerfile_commands),
            context_files={file.filename: file.data for file in asked.context_files},
            base_ids=[base.image_id for base in asked.base_images],
            secret_ids=list(asked.secret_ids),
            context_mount_id=asked.context_mount_id,
        )
        for known in self.images.values():
            if replace(known, image_id="", secret_ids=[]) == replace(image, secret_ids=[]):
                image = known
        if not image.image_id:
            image.image_id = new_id("im")
            self.images[image.image_id] = image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image.image_id, result=self._success(), metadata=self._metadata(request.builder_version)
        )

    @rpc("ImageJoinStreaming")
    async def join(
        self, _request: api_pb2.ImageJoinStreamingRequest, _: Caller
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        yield api_pb2.ImageJoinStreamingResponse(result=self._success(), metadata=self._metadata("2025.06"), eof=True)

    @staticmethod
    def _success() -> api_pb2.GenericResult:
        return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)

    @staticmethod
    def _metadata(builder_version: str) -> api_pb2.ImageMetadata:
        return api_pb2.ImageMetadata(
            python_version_info="Python 3.12.8", image_builder_version=builder_version, workdir="/root"
        )
