"""Apps, their functions and versions, as clients deploy them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.standin.rpc import Caller, new_id, rpc

if TYPE_CHECKING:
    from tests.standin.control_plane import ControlPlane

Layout = dict[str, "Function"]


@dataclass(frozen=True)
class Function:
    """One function of one version, as requested."""

    function_id: str
    app_id: str
    name: str
    definition_id: str
    definition: api_pb2.Function
    web_url: str

    def handle(self) -> api_pb2.FunctionHandleMetadata:
        """Its description for clients and containers."""
        return api_pb2.FunctionHandleMetadata(
            function_name=self.name,
            function_type=self.definition.function_type,
            web_url=self.web_url,
            definition_id=self.definition_id,
            function_schema=self.definition.function_schema,
            supported_input_formats=self.definition.supported_input_formats,
            supported_output_formats=self.definition.supported_output_formats,
            app_id=self.app_id,
        )


@dataclass(frozen=True)
class Version:
    """One entry of an App's history."""

    number: int
    layout: Layout
    tag: str
    client_version: str
    deployed_at: float
    commit: api_pb2.CommitInfo
    rollback_of: int = 0


@dataclass(frozen=True)
class LogLine:
    """A line that a container printed."""

    when: float
    task_id: str
    function_id: str
    descriptor: int
    text: str


@dataclass
class App:
    """An App under one name in one environment."""

    app_id: str
    name: str
    environment: str
    state: int = api_pb2.APP_STATE_INITIALIZING
    created_at: float = field(default_factory=time.time)
    stopped_at: float = 0.0
    versions: list[Version] = field(default_factory=list)
    drafts: dict[str, Function] = field(default_factory=dict)
    log: list[LogLine] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The functions of the version that serves now."""
        return self.versions[-1].layout if self.versions else {}

    def lifecycle(self) -> api_pb2.AppLifecycle:
        """Its description for the command line."""
        last = self.versions[-1] if self.versions else None
        return api_pb2.AppLifecycle(
            app_state=self.state,  # type: ignore[arg-type]  # the enum is an int
            created_at=self.created_at,
            deployed_at=last.deployed_at if last else 0,
            version=last.number if last else 0,
            stopped_at=self.stopped_at,
        )


class Apps:
    """The calls about Apps and functions."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.by_id: dict[str, App] = {}
        self._urls: dict[tuple[str, str], str] = {}
        self._overrides: dict[str, api_pb2.AutoscalerSettings] = {}
        self.plan = "starter"
        """``starter`` refuses rollbacks, ``team`` allows them."""

    def named(self, name: str, environment: str = "main") -> App | None:
        """The deployed App of that name."""
        for app in self.by_id.values():
            if (app.name, app.environment, app.state) == (name, environment, api_pb2.APP_STATE_DEPLOYED):
                return app
        return None

    def get(self, app_id: str) -> App:
        """The App with that id."""
        if app_id not in self.by_id:
            raise GRPCError(Status.NOT_FOUND, f"App {app_id} not found")
        return self.by_id[app_id]

    def find_layout(self, app: App) -> api_pb2.AppLayout:
        """Everything a container or client must know about the App's objects."""
        objects = [
            api_pb2.Object(object_id=f.function_id, function_handle_metadata=f.handle()) for f in app.layout.values()
        ]
        needed = {d.object_id for f in app.layout.values() for d in f.definition.object_dependencies}
        for object_id in sorted(needed):
            if object_id in self._plane.volumes.by_id:
                metadata = self._plane.volumes.by_id[object_id].metadata()
                objects.append(api_pb2.Object(object_id=object_id, volume_metadata=metadata))
            else:
                objects.append(api_pb2.Object(object_id=object_id))
        return api_pb2.AppLayout(objects=objects, function_ids={name: f.function_id for name, f in app.layout.items()})

    @rpc("AppGetByDeploymentName")
    async def get_by_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest, _: Caller
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        environment = self._plane.environment(request.environment_name)
        if app := self.named(request.name, environment):
            return api_pb2.AppGetByDeploymentNameResponse(
                app_id=app.app_id, environment_name=environment, lifecycle=app.lifecycle()
            )
        for app in reversed(self.by_id.values()):
            if (app.name, app.environment, app.state) == (request.name, environment, api_pb2.APP_STATE_STOPPED):
                return api_pb2.AppGetByDeploymentNameResponse(
                    previous_app_id=app.app_id, environment_name=environment, lifecycle=app.lifecycle()
                )
        return api_pb2.AppGetByDeploymentNameResponse(environment_name=environment)

    @rpc("AppGetOrCreate")
    async def get_or_create(self, request: api_pb2.AppGetOrCreateRequest, _: Caller) -> api_pb2.AppGetOrCreateResponse:
        environment = self._plane.environment(request.environment_name)
        app = self.by_id.get(request.app_name) or self.named(request.app_name, environment)
        if app is None:
            raise GRPCError(Status.NOT_FOUND, f"App '{request.app_name}' not found in environment '{environment}'")
        return api_pb2.AppGetOrCreateResponse(app_id=app.app_id, handle_metadata=self._metadata(app))

    @rpc("AppGetInfo")
    async def get_info(self, request: api_pb2.AppGetInfoRequest, _: Caller) -> api_pb2.AppGetInfoResponse:
        return api_pb2.AppGetInfoResponse(info=self._metadata(self.get(request.app_id)))

    @rpc("AppGetLifecycle")
    async def get_lifecycle(
        self, request: api_pb2.AppGetLifecycleRequest, _: Caller
    ) -> api_pb2.AppGetLifecycleResponse:
        return api_pb2.AppGetLifecycleResponse(lifecycle=self.get(request.app_id).lifecycle())

    @rpc("AppCreate")
    async def create(self, request: api_pb2.AppCreateRequest, _: Caller) -> api_pb2.AppCreateResponse:
        app = App(new_id("ap"), request.description, self._plane.environment(request.environment_name))
        self.by_id[app.app_id] = app
        app.tags = dict(request.tags)
        return api_pb2.AppCreateResponse(app_id=app.app_id, app_page_url=f"{self._plane.http_url}/apps/{app.app_id}")

    @rpc("AppHeartbeat")
    async def heartbeat(self, _request: api_pb2.AppHeartbeatRequest, _: Caller) -> Empty:
        return Empty()

    @rpc("AppClientDisconnect")
    async def disconnect(self, request: api_pb2.AppClientDisconnectRequest, _: Caller) -> Empty:
        app = self.get(request.app_id)
        if app.state == api_pb2.APP_STATE_INITIALIZING:
            app.state = api_pb2.APP_STATE_STOPPED
        return Empty()

    @rpc("AppGetLayout")
    async def get_layout(self, request: api_pb2.AppGetLayoutRequest, _: Caller) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self.find_layout(self.get(request.app_id)))

    @rpc("FunctionPrecreate")
    async def precreate(
        self, request: api_pb2.FunctionPrecreateRequest, _: Caller
    ) -> api_pb2.FunctionPrecreateResponse:
        app = self.get(request.app_id)
        function_id = request.existing_function_id or new_id("fu")
        function = Function(
            function_id,
            app.app_id,
            request.function_name,
            "",
            api_pb2.Function(function_type=request.function_type),
            await self._url(app, request.function_name, request.webhook_config),
        )
        app.drafts[function_id] = function
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=function.handle())

    @rpc("FunctionCreate")
    async def create_function(
        self, request: api_pb2.FunctionCreateRequest, _: Caller
    ) -> api_pb2.FunctionCreateResponse:
        app = self.get(request.app_id)
        definition = api_pb2.Function()
        definition.CopyFrom(request.function)
        function_id = request.existing_function_id or new_id("fu")
        for volume in definition.volume_mounts:
            if volume.volume_id not in self._plane.volumes.by_id:
                raise GRPCError(Status.NOT_FOUND, f"Volume {volume.volume_id} not found")
        function = Function(
            function_id,
            app.app_id,
            definition.function_name,
            new_id("de"),
            definition,
            await self._url(app, definition.function_name, definition.webhook_config),
        )
        app.drafts[function_id] = function
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            handle_metadata=function.handle(),
            function_data=_data(function),
        )

    @rpc("FunctionGet")
    async def get_function(self, request: api_pb2.FunctionGetRequest, _: Caller) -> api_pb2.FunctionGetResponse:
        environment = self._plane.environment(request.environment_name)
        app = self.named(request.app_name, environment)
        layout = app.layout if app else {}
        if app and request.app_version:
            layout = next((version.layout for version in app.versions if version.number == request.app_version), {})
        function = layout.get(request.object_tag)
        if function is None:
            what = f"Function '{request.object_tag}'" if app else f"App '{request.app_name}'"
            raise GRPCError(Status.NOT_FOUND, f"{what} not found in environment '{environment}'")
        return api_pb2.FunctionGetResponse(
            function_id=function.function_id, handle_metadata=function.handle(), function=_data(function)
        )

    @rpc("FunctionGetSchedulingParams")
    async def get_scheduling(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest, _: Caller
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        static, override = self._scaling(request.function_id)
        now = api_pb2.AutoscalerSettings()
        now.MergeFrom(static)
        now.MergeFrom(override)
        return api_pb2.FunctionGetSchedulingParamsResponse(
            autoscaler_configuration=api_pb2.AutoscalerConfiguration(
                settings=now, static_settings=static, override_settings=override
            )
        )

    @rpc("FunctionUpdateSchedulingParams")
    async def update_scheduling(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest, _: Caller
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        static, override = self._scaling(request.function_id)
        override.MergeFrom(request.settings)
        now = api_pb2.AutoscalerSettings()
        now.MergeFrom(static)
        now.MergeFrom(override)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=now)

    def _scaling(self, function_id: str) -> tuple[api_pb2.AutoscalerSettings, api_pb2.AutoscalerSettings]:
        """Settings of the deployed definition, and those set since, which are reported but have no effect."""
        for app in self.by_id.values():
            for function in app.layout.values():
                if function.function_id == function_id:
                    override = self._overrides.setdefault(function.definition_id, api_pb2.AutoscalerSettings())
                    return function.definition.autoscaler_settings, override
        raise GRPCError(Status.NOT_FOUND, f"Function {function_id} not found")

    @rpc("AppPublish")
    async def publish(self, request: api_pb2.AppPublishRequest, caller: Caller) -> api_pb2.AppPublishResponse:
        app = self.get(request.app_id)
        layout = {name: app.drafts[function_id] for name, function_id in request.function_ids.items()}
        app.tags = dict(request.tags)
        app.name = request.name or app.name
        app.state = request.app_state
        url = f"{self._plane.http_url}/apps/{app.app_id}"
        if app.versions and _same(app.layout, layout) and not request.deployment_tag:
            return api_pb2.AppPublishResponse(url=url)
        await self._roll(
            app,
            layout,
            tag=request.deployment_tag,
            client_version=caller.headers.get("x-modal-client-version", ""),
            commit=request.commit_info,
        )
        return api_pb2.AppPublishResponse(url=url, deployed_at=app.versions[-1].deployed_at)

    @rpc("AppGetTags")
    async def get_tags(self, request: api_pb2.AppGetTagsRequest, _: Caller) -> api_pb2.AppGetTagsResponse:
        return api_pb2.AppGetTagsResponse(tags=self.get(request.app_id).tags)

    @rpc("AppSetTags")
    async def set_tags(self, request: api_pb2.AppSetTagsRequest, _: Caller) -> Empty:
        self.get(request.app_id).tags = dict(request.tags)
        return Empty()

    @rpc("AppRollover")
    async def rollover(self, request: api_pb2.AppRolloverRequest, _: Caller) -> api_pb2.AppRolloverResponse:
        app = self.get(request.app_id)
        await self._roll(app, dict(app.layout))
        return api_pb2.AppRolloverResponse(deployed_at=app.versions[-1].deployed_at)

    @rpc("AppRollback")
    async def rollback(self, request: api_pb2.AppRollbackRequest, _: Caller) -> api_pb2.AppRollbackResponse:
        if self.plan == "starter":
            raise GRPCError(
                Status.PERMISSION_DENIED, "Deployment rollbacks are only available on Team and Enterprise plans"
            )
        app = self.get(request.app_id)
        number = request.version if request.version > 0 else app.versions[-1].number - 1
        old = next((version for version in app.versions if version.number == number), None)
        if old is None:
            raise GRPCError(Status.INVALID_ARGUMENT, f"App has no version {number}")
        await self._roll(app, dict(old.layout), rollback_of=number)
        return api_pb2.AppRollbackResponse(deployed_at=app.versions[-1].deployed_at)

    @rpc("AppDeploymentHistory")
    async def history(
        self, request: api_pb2.AppDeploymentHistoryRequest, _: Caller
    ) -> api_pb2.AppDeploymentHistoryResponse:
        return api_pb2.AppDeploymentHistoryResponse(
            app_deployment_histories=[
                api_pb2.AppDeploymentHistory(
                    app_id=request.app_id,
                    version=version.number,
                    client_version=version.client_version,
                    deployed_at=version.deployed_at,
                    deployed_by="fake-user",
                    tag=version.tag,
                    rollback_version=version.rollback_of,
                    commit_info=version.commit,
                )
                for version in reversed(self.get(request.app_id).versions)
            ]
        )

    @rpc("AppList")
    async def list(self, request: api_pb2.AppListRequest, _: Caller) -> api_pb2.AppListResponse:
        environment = self._plane.environment(request.environment_name)
        return api_pb2.AppListResponse(
            apps=[
                api_pb2.AppListResponse.AppListItem(
                    app_id=app.app_id,
                    description=app.name,
                    name=app.name,
                    state=app.state,  # type: ignore[arg-type]  # the enum is an int
                    created_at=app.created_at,
                    stopped_at=app.stopped_at,
                    n_running_tasks=len(self._plane.containers_of(app)),
                )
                for app in self.by_id.values()
                if app.environment == environment
            ]
        )

    @rpc("AppStop")
    async def stop(self, request: api_pb2.AppStopRequest, _: Caller) -> Empty:
        app = self.get(request.app_id)
        app.state = api_pb2.APP_STATE_STOPPED
        app.stopped_at = time.time()
        await self._plane.stop_app(app)
        return Empty()

    @rpc("TaskList")
    async def tasks(self, request: api_pb2.TaskListRequest, _: Caller) -> api_pb2.TaskListResponse:
        return api_pb2.TaskListResponse(
            tasks=[
                api_pb2.TaskStats(
                    task_id=container.task_id,
                    app_id=request.app_id,
                    started_at=container.started_at,
                    enqueued_at=container.started_at,
                )
                for container in self._plane.containers_of(self.get(request.app_id))
            ]
        )

    @rpc("AppFetchLogs")
    async def fetch_logs(self, request: api_pb2.AppFetchLogsRequest, _: Caller) -> api_pb2.AppFetchLogsResponse:
        since, until = _seconds(request.since), _seconds(request.until)
        lines = [
            line
            for line in self.get(request.app_id).log
            if since <= line.when <= until and request.search_text in line.text
        ][-(request.limit or 1000) :]
        return api_pb2.AppFetchLogsResponse(batches=[_batch(line) for line in lines])

    @rpc("AppCountLogs")
    async def count_logs(self, request: api_pb2.AppCountLogsRequest, _: Caller) -> api_pb2.AppCountLogsResponse:
        count = len(self.get(request.app_id).log)
        bucket = api_pb2.AppCountLogsResponse.LogBucket(bucket_start_at=request.since, stdout_logs=count)
        return api_pb2.AppCountLogsResponse(app_id=request.app_id, buckets=[bucket])

    @rpc("AppGetLogs")
    async def stream_logs(self, request: api_pb2.AppGetLogsRequest, _: Caller) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        for line in list(self.get(request.app_id).log):
            yield _batch(line)
        yield api_pb2.TaskLogsBatch(app_done=True)

    @staticmethod
    def _metadata(app: App) -> api_pb2.AppHandleMetadata:
        return api_pb2.AppHandleMetadata(
            description=app.name,
            app_id=app.app_id,
            environment_name=app.environment,
            lifecycle=app.lifecycle(),
            functions={name: function.function_id for name, function in app.layout.items()},
        )

    async def _roll(
        self,
        app: App,
        layout: Layout,
        *,
        tag: str = "",
        client_version: str = "",
        commit: api_pb2.CommitInfo | None = None,
        rollback_of: int = 0,
    ) -> None:
        number = app.versions[-1].number + 1 if app.versions else 1
        app.versions.append(
            Version(number, layout, tag, client_version, time.time(), commit or api_pb2.CommitInfo(), rollback_of)
        )
        await self._plane.publish(app)

    async def _url(self, app: App, name: str, webhook: api_pb2.WebhookConfig) -> str:
        if webhook.type == api_pb2.WEBHOOK_TYPE_UNSPECIFIED:
            return ""
        key = (f"{app.environment}/{app.name}", name)
        if key not in self._urls:
            self._urls[key] = await self._plane.listen(*key)
        return self._urls[key]


def _data(function: Function) -> api_pb2.FunctionData:
    told = api_pb2.Function()
    told.CopyFrom(function.definition)
    told.web_url = function.web_url
    return api_pb2.FunctionData(
        module_name=told.module_name,
        function_name=told.function_name,
        web_url=told.web_url,
        webhook_config=told.webhook_config,
        timeout_secs=told.timeout_secs,
        startup_timeout_secs=told.startup_timeout_secs,
        autoscaler_settings=told.autoscaler_settings,
        ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=told)],
    )


def _same(old: Layout, new: Layout) -> bool:
    def canonical(layout: Layout) -> dict[str, bytes]:
        return {name: _canonical(function.definition) for name, function in layout.items()}

    return canonical(old) == canonical(new)


def _canonical(definition: api_pb2.Function) -> bytes:
    copy = api_pb2.Function()
    copy.CopyFrom(definition)
    mounts = sorted(copy.mount_ids)
    del copy.mount_ids[:]
    copy.mount_ids.extend(mounts)
    return bytes(copy.SerializeToString(deterministic=True))


def _seconds(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos / 1e9)


def _batch(line: LogLine) -> api_pb2.TaskLogsBatch:
    return api_pb2.TaskLogsBatch(
        task_id=line.task_id,
        function_id=line.function_id,
        items=[
            api_pb2.TaskLogs(
                data=line.text,
                timestamp=line.when,
                timestamp_ns=int(line.when * 1e9),
                file_descriptor=line.descriptor,  # type: ignore[arg-type]  # the enum is an int
            )
        ],
    )
