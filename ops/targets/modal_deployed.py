"""The deployed app, as Modal itself tells of it: whoever deployed it, and with whatever version of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ops.settings import ADMIN_FUNCTION, SERVER_FUNCTION, IndexLimits, Settings
from ops.targets.modal_session import ask, modal

if TYPE_CHECKING:
    from modal_proto import api_pb2

_SCALING: Mapping[str, Literal["min_containers", "max_containers", "scaledown_window"]] = {
    "min_containers": "min_containers",
    "max_containers": "max_containers",
    "scaledown_seconds": "scaledown_window",
}


LIMITS_SINCE = "PYPI_LIMITS_SINCE"
"""The tag with the first version of the app that has the limits in the other tags, and so have all since."""


@dataclass(frozen=True)
class DeployedTags:
    """The tags of an app, among them the limits of its index.

    Parameters:
        version: of the app that is deployed; 0 when none is.
        tags: all of them, those of others too.
    """

    version: int
    tags: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings, environment: str) -> DeployedTags:
        """Ask Modal.

        Parameters:
            settings: the names of the index.
            environment: as of :func:`deployed_hosting`.
        """

        def look() -> DeployedTags:
            try:
                app = modal.App.lookup(settings.app_name, environment_name=environment or None)
                return cls(app.info().lifecycle.version or 0, app.get_tags())
            except modal.exception.NotFoundError:
                return cls(0, {})

        return ask("look up the tags of the app", look)

    def limits(self) -> dict[str, Any]:
        """The values by the names of the fields of :class:`~ops.settings.IndexLimits`. What no tag tells is absent."""
        try:
            found = IndexLimits.told(self.tags)
            IndexLimits(**found)
        except ValueError:
            return {}
        return found

    def since(self) -> int:
        """The first version with these limits; one that is yet to come when that is not known."""
        told = self.tags.get(LIMITS_SINCE, "")
        return int(told) if self.limits() and told.isdecimal() else self.version + 1

    def with_limits(self, limits: IndexLimits) -> dict[str, str]:
        """The tags of an app that is deployed next, with *limits*; tags of others stay."""
        since = self.since() if self.limits() == vars(limits) else self.version + 1
        return {**self.tags, **limits.variables(), LIMITS_SINCE: str(since)}


def deployed_hosting(settings: Settings, environment: str, *, version: int = 0) -> dict[str, Any] | None:
    """Hosting of the deployed app; None if it is not deployed.

    Parameters:
        settings: the names of the index.
        environment: Modal's environment; empty for the client's default.
        version: of the app; 0 for the one that is deployed.

    Returns:
        The values by the names of the fields of :class:`~ops.settings.Hosting`. What Modal does not tell is absent.
    """

    def look() -> dict[str, Any] | None:
        server, admin = (
            _function(settings.app_name, name, environment, version) for name in (SERVER_FUNCTION, ADMIN_FUNCTION)
        )
        if server is None and admin is None:
            return None
        found = {}
        if server is not None:
            found = _of_server(server)
            if not version:
                found |= _scaling_now(settings, environment)
        if admin is not None and (webhook := _webhook(admin)) is not None:
            found["proxy_auth"] = int(webhook.requires_proxy_auth)
        return found

    return ask("look up how the app is hosted", look)


def _function(app: str, name: str, environment: str, version: int) -> api_pb2.FunctionData | None:
    from modal._utils.async_utils import synchronize_api
    from modal_proto import api_pb2

    async def get(client: Any) -> api_pb2.FunctionData:
        # The public Function.info() leaves out the domain and the time for a start, so Modal's call is made directly.
        request = api_pb2.FunctionGetRequest(
            app_name=app,
            object_tag=name,
            environment_name=environment or modal.config.config.get("environment") or "",
            app_version=version,
        )
        answer: api_pb2.FunctionGetResponse = await client._stub.FunctionGet(request)  # noqa: SLF001
        return answer.function

    try:
        found: api_pb2.FunctionData = synchronize_api(get)(modal.Client.from_env())  # type: ignore[no-untyped-call]
    except modal.exception.NotFoundError:
        return None
    return found


def _of_server(data: api_pb2.FunctionData) -> dict[str, Any]:
    found: dict[str, Any] = {}
    scaling = data.autoscaler_settings
    for name, field in _SCALING.items():
        if scaling.HasField(field):
            found[name] = getattr(scaling, field)
    if data.timeout_secs:
        found["request_seconds"] = data.timeout_secs
    if data.startup_timeout_secs:
        found["startup_seconds"] = data.startup_timeout_secs
    if data.ranked_functions:
        definition = data.ranked_functions[0].function
        found["region"] = ",".join(definition.scheduler_placement.regions)
        asked = {
            "target_requests": definition.target_concurrent_inputs,
            "max_requests": definition.max_concurrent_inputs,
            "cpu": definition.resources.milli_cpu / 1000,
            "memory": definition.resources.memory_mb,
            "startup_seconds": definition.startup_timeout_secs,
        }
        found |= {name: value for name, value in asked.items() if value}
    if (webhook := _webhook(data)) is not None:
        found["custom_domain"] = ",".join(domain.name for domain in webhook.custom_domains)
    return {name: value for name, value in found.items() if name != "max_containers" or value}


def _webhook(data: api_pb2.FunctionData) -> api_pb2.WebhookConfig | None:
    candidates = [data.webhook_config, *(ranked.function.webhook_config for ranked in data.ranked_functions)]
    return next((each for each in candidates if each.type), None)


def _scaling_now(settings: Settings, environment: str) -> dict[str, Any]:
    """The scaling in force, which may have been set since the deployment; nothing where that cannot be asked."""
    function = modal.Function.from_name(settings.app_name, SERVER_FUNCTION, environment_name=environment or None)
    try:
        now = function.autoscaler.settings()
    except (modal.exception.Error, OSError):
        return {}
    values = {name: getattr(now, field) for name, field in _SCALING.items()}
    return {name: value for name, value in values.items() if value is not None}
