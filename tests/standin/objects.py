"""Secrets, whose values clients can set but never read, and Dicts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.standin.rpc import Caller, new_id, rpc

if TYPE_CHECKING:
    from tests.standin.control_plane import ControlPlane


@dataclass
class StoredSecret:
    """A secret. Its values are exposed only in the environment of containers."""

    secret_id: str
    name: str
    environment: str
    values: dict[str, str] = field(repr=False)
    created_at: float = field(default_factory=time.time)
    updates: int = 0

    def metadata(self) -> api_pb2.SecretMetadata:
        """Its description for clients: the keys, without values."""
        return api_pb2.SecretMetadata(
            name=self.name,
            creation_info=api_pb2.CreationInfo(created_at=self.created_at, created_by="fake-user"),
            keys=sorted(self.values),
            environment_name=self.environment,
        )


class Secrets:
    """The calls about secrets."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.by_id: dict[str, StoredSecret] = {}

    def named(self, name: str, environment: str) -> StoredSecret | None:
        """The secret of that name, if there is one."""
        for secret in self.by_id.values():
            if name and (secret.name, secret.environment) == (name, environment):
                return secret
        return None

    @rpc("SecretGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.SecretGetOrCreateRequest, _: Caller
    ) -> api_pb2.SecretGetOrCreateResponse:
        environment = self._plane.environment(request.environment_name)
        secret = self.named(request.deployment_name, environment)
        kind = request.object_creation_type
        anonymous = kind in {
            api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
            api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL,
        }
        if secret is not None and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{request.deployment_name}' already exists")
        if secret is not None and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
            secret.values = dict(request.env_dict)
            secret.updates += 1
        if secret is None:
            if not anonymous and kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise GRPCError(
                    Status.NOT_FOUND,
                    f"Secret '{request.deployment_name}' not found in environment '{environment}'",
                )
            secret_id = new_id("st")
            secret = StoredSecret(secret_id, request.deployment_name, environment, dict(request.env_dict))
            self.by_id[secret_id] = secret
        if missing := set(request.required_keys) - set(secret.values):
            raise GRPCError(
                Status.NOT_FOUND,
                f"Secret '{request.deployment_name}' is missing key(s): {', '.join(sorted(missing))}",
            )
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.secret_id, metadata=secret.metadata())

    @rpc("SecretGetInfo")
    async def info(self, request: api_pb2.SecretGetInfoRequest, _: Caller) -> api_pb2.SecretGetInfoResponse:
        return api_pb2.SecretGetInfoResponse(metadata=self._get(request.secret_id).metadata())

    @rpc("SecretUpdate")
    async def update(self, request: api_pb2.SecretUpdateRequest, _: Caller) -> Empty:
        secret = self._get(request.secret_id)
        secret.values.update({change.key: change.value for change in request.updates})
        secret.updates += 1
        return Empty()

    @rpc("SecretDelete")
    async def delete(self, request: api_pb2.SecretDeleteRequest, _: Caller) -> Empty:
        del self.by_id[self._get(request.secret_id).secret_id]
        return Empty()

    @rpc("SecretList")
    async def list(self, request: api_pb2.SecretListRequest, _: Caller) -> api_pb2.SecretListResponse:
        environment = self._plane.environment(request.environment_name)
        items = [
            api_pb2.SecretListItem(
                label=s.name,
                created_at=s.created_at,
                environment_name=environment,
                secret_id=s.secret_id,
                metadata=s.metadata(),
            )
            for s in self.by_id.values()
            if s.name and s.environment == environment
        ]
        return api_pb2.SecretListResponse(
            items=self._plane.page(items, request.pagination, lambda item: item.created_at),
            environment_name=environment,
        )

    def _get(self, secret_id: str) -> StoredSecret:
        if secret_id not in self.by_id:
            raise GRPCError(Status.NOT_FOUND, f"Secret {secret_id} not found")
        return self.by_id[secret_id]


@dataclass
class StoredDict:
    """A Dict: pickled keys and values, which the control plane does not unpickle."""

    dict_id: str
    name: str
    environment: str
    created_at: float = field(default_factory=time.time)
    entries: dict[bytes, bytes] = field(default_factory=dict)

    def metadata(self) -> api_pb2.DictMetadata:
        """Its description for clients."""
        return api_pb2.DictMetadata(name=self.name, creation_info=api_pb2.CreationInfo(created_at=self.created_at))


class Dicts:
    """The calls about Dicts. ``if_not_exists`` is atomic: the event loop runs one call at a time."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.by_id: dict[str, StoredDict] = {}

    @rpc("DictGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.DictGetOrCreateRequest, _: Caller
    ) -> api_pb2.DictGetOrCreateResponse:
        environment = self._plane.environment(request.environment_name)
        found = None
        for known in self.by_id.values():
            if (known.name, known.environment) == (request.deployment_name, environment):
                found = known
        if found is None:
            if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise GRPCError(Status.NOT_FOUND, f"Dict '{request.deployment_name}' not found")
            found = StoredDict(new_id("di"), request.deployment_name, environment)
            self.by_id[found.dict_id] = found
        return api_pb2.DictGetOrCreateResponse(dict_id=found.dict_id, metadata=found.metadata())

    @rpc("DictUpdate")
    async def update(self, request: api_pb2.DictUpdateRequest, _: Caller) -> api_pb2.DictUpdateResponse:
        entries = self._get(request.dict_id).entries
        created = False
        for entry in request.updates:
            if request.if_not_exists and entry.key in entries:
                continue
            created = created or entry.key not in entries
            entries[entry.key] = entry.value
        return api_pb2.DictUpdateResponse(created=created)

    @rpc("DictGet")
    async def get(self, request: api_pb2.DictGetRequest, _: Caller) -> api_pb2.DictGetResponse:
        value = self._get(request.dict_id).entries.get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @rpc("DictContains")
    async def contains(self, request: api_pb2.DictContainsRequest, _: Caller) -> api_pb2.DictContainsResponse:
        return api_pb2.DictContainsResponse(found=request.key in self._get(request.dict_id).entries)

    @rpc("DictPop")
    async def pop(self, request: api_pb2.DictPopRequest, _: Caller) -> api_pb2.DictPopResponse:
        value = self._get(request.dict_id).entries.pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @rpc("DictLen")
    async def length(self, request: api_pb2.DictLenRequest, _: Caller) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=len(self._get(request.dict_id).entries))

    @rpc("DictClear")
    async def clear(self, request: api_pb2.DictClearRequest, _: Caller) -> Empty:
        self._get(request.dict_id).entries.clear()
        return Empty()

    @rpc("DictContents")
    async def contents(self, request: api_pb2.DictContentsRequest, _: Caller) -> AsyncIterator[api_pb2.DictEntry]:
        for key, value in list(self._get(request.dict_id).entries.items()):
            yield api_pb2.DictEntry(key=key if request.keys else b"", value=value if request.values else b"")

    @rpc("DictDelete")
    async def delete(self, request: api_pb2.DictDeleteRequest, _: Caller) -> Empty:
        del self.by_id[self._get(request.dict_id).dict_id]
        return Empty()

    def _get(self, dict_id: str) -> StoredDict:
        if dict_id not in self.by_id:
            raise GRPCError(Status.NOT_FOUND, f"Dict {dict_id} not found")
        return self.by_id[dict_id]
