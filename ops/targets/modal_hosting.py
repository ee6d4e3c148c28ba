"""Hosting of the index on Modal: as it is deployed, and as the next deployment would leave it.

A deployment sends every setting. Without this, one that lacks the variables of the last one would reset proxy auth,
region and scaling to their defaults.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ops.errors import ParameterError, RunbookError, SettingError
from ops.settings import (
    ADMIN_FUNCTION,
    LOWER_PROTECTION_VARIABLE,
    SERVER_FUNCTION,
    TRUSTED_ROOT,
    Hosting,
    IndexLimits,
    Settings,
    refuse_unknown_variables,
)
from ops.targets.modal_session import ask, exists, modal, say
from ops.targets.target import HostingChange, HostingDifferences

if TYPE_CHECKING:
    from modal_proto import api_pb2

PROTECTIONS = ("proxy_auth", "region")
"""Protective settings: a deployment lowers them only when explicitly allowed."""
KEPT_OR_SAID = (*PROTECTIONS, "custom_domain")
"""Settings that are never reset to their default while the deployed value is unknown."""
NOT_KNOWN = "not known"

_SCALING: Mapping[str, Literal["min_containers", "max_containers", "scaledown_window"]] = {
    "min_containers": "min_containers",
    "max_containers": "max_containers",
    "scaledown_seconds": "scaledown_window",
}


LIMITS_SINCE = "PYPI_LIMITS_SINCE"
"""The tag with the first version of the app to which the limits in the other tags apply."""


@dataclass(frozen=True)
class HostingPlan:
    """Hosting and limits of the index after a deployment.

    Parameters:
        deployed: the current values of both, by field name; None if nothing is deployed.
        hosting: after the deployment.
        limits: after the deployment.
        tags: of the app, which store the limits for the next deployment.
        told: the fields set for this run.
        lowered: the protections that may be lowered.
    """

    deployed: Mapping[str, Any] | None
    hosting: Hosting
    limits: IndexLimits
    tags: Mapping[str, str]
    told: Collection[str]
    lowered: Collection[str]

    @classmethod
    def of(
        cls, settings: Settings, environment: str, variables: Mapping[str, str], lower_protection: str = ""
    ) -> HostingPlan:
        """The plan of a deployment from *variables*: unset ones keep the deployed values.

        Parameters:
            settings: the names of the index.
            environment: as for :func:`deployed_hosting`.
            variables: such as ``PYPI_MIN_CONTAINERS``.
            lower_protection: names of :data:`KEPT_OR_SAID`, separated by commas, in addition to those in the variable.

        Raises:
            ParameterError: a name or value is invalid.
        """
        lowered = _named(f"{lower_protection},{variables.get(LOWER_PROTECTION_VARIABLE, '')}")
        try:
            refuse_unknown_variables(variables)
            told, told_limits = Hosting.given(variables), IndexLimits.given(variables)
            deployed = deployed_hosting(settings, environment)
            tags = DeployedTags.of(settings, environment)
            kept = {name: value for name, value in (deployed or {}).items() if Hosting.takes(name, value)}
            hosting = Hosting(**{**kept, **told})
            limits = IndexLimits(**{**tags.limits(), **told_limits})
        except ValueError as error:
            raise ParameterError(str(error), todo="correct the variable, or unset it") from None
        before = None if deployed is None else {**deployed, **tags.limits()}
        return cls(before, hosting, limits, tags.with_limits(limits), frozenset({**told, **told_limits}), lowered)

    def differences(self) -> HostingDifferences:
        """Every setting that would change, and those whose deployed value is unknown."""
        if self.deployed is None:
            changes = [HostingChange(name, "not deployed", _shown(self._then[name])) for name in self.told]
            return HostingDifferences(self.summary(), tuple(sorted(changes, key=lambda change: change.name)))
        changes = [
            self._change(name) for name, then in self._then.items() if self.deployed.get(name, NOT_KNOWN) != then
        ]
        return HostingDifferences(self.summary(), tuple(changes))

    @property
    def _then(self) -> dict[str, Any]:
        return {**vars(self.hosting), **vars(self.limits)}

    def _change(self, name: str) -> HostingChange:
        assert self.deployed is not None  # noqa: S101 - as differences() has looked
        known = name in self.deployed
        before, then = self.deployed.get(name), self._then[name]
        refused = ""
        if name in PROTECTIONS and name not in self.lowered:
            # Any change of region counts; proxy auth is lowered by being switched off.
            if (known and before and (name != "proxy_auth" or not then)) or (not known and not then):
                refused = "it lowers a protection"
        elif name in KEPT_OR_SAID and not known and name not in self.told and name not in self.lowered:
            refused = "Modal does not report its value, which might be lost"
        return HostingChange(name, _shown(before) if known else NOT_KNOWN, _shown(then), refused)

    def summary(self) -> str:
        """Settings that differ from the defaults, on one line."""
        defaults = {**vars(Hosting()), **vars(IndexLimits())}
        others = [f"{name} {_shown(then)}" for name, then in self._then.items() if then != defaults[name]]
        return ", ".join(others) or "the defaults"


def hosting_to_deploy(settings: Settings, folder: Path, variables: Mapping[str, str] | None = None) -> HostingPlan:
    """The plan for a plain ``modal deploy``, which exits with one sentence if something prevents it.

    Prints each difference to stderr. The environment is that of the command.

    Parameters:
        settings: the names of the index.
        folder: of the deployment file.
        variables: by default those of the process.
    """
    variables = os.environ if variables is None else variables
    try:
        plan = HostingPlan.of(settings, "", variables)
        require_trusted_root(plan.limits, folder)
        _require_secret(settings)
        differences = plan.differences()
        for change in differences.changes if plan.deployed is not None else ():
            say(f"hosting {change.name}: {change.arrow}")
        differences.require_allowed()
    except RunbookError as error:
        raise SystemExit(f"Nothing was deployed: {error}") from None
    return plan


def require_trusted_root(limits: IndexLimits, folder: Path) -> None:
    """Refuse to verify signatures without a trusted root.

    Parameters:
        limits: of the index to deploy.
        folder: of its deployment file.

    Raises:
        SettingError: the root is missing, or no root.
    """
    path = folder / TRUSTED_ROOT
    try:
        if not limits.verify_attestations or json.loads(path.read_bytes())["certificateAuthorities"]:
            return
        problem = "it names no certificate authority"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"it cannot be used ({type(error).__name__})" if path.exists() else "there is no such file"
    raise SettingError(
        f"signatures of attestations cannot be verified with {path}",
        why=problem,
        todo=f"commit Sigstore's {TRUSTED_ROOT}, or that of your own instance, or set PYPI_VERIFY_ATTESTATIONS=0",
    )


def backup_is_set(settings: Settings) -> bool:
    """True if the secret of the nightly back-up exists, so the app should have one."""
    name = settings.backup_secret
    return exists("look up the secret of the back-ups", lambda: modal.Secret.from_name(name).hydrate())


def _require_secret(settings: Settings) -> None:
    name, key = settings.secret_name, settings.secret_key
    if exists("look up the secret", lambda: modal.Secret.from_name(name, required_keys=[key]).hydrate()):
        return
    environment = modal.config.config.get("environment")
    file = f"~/{name}{f'.{environment}' if environment else ''}.json"
    value = f"import json, secrets; print(json.dumps(dict({key}=secrets.token_urlsafe(32))))"
    python, where = shlex.quote(sys.executable), f" in {environment}" if environment else ""
    # Never as KEY=VALUE, which the process list shows.
    raise SystemExit(
        f"Nothing was deployed: there is no secret {name} with the key {key}{where}, from which the admin application "
        "takes its token.\nCreate it, and keep the file, because Modal does not give the value back:\n\n"
        f"(umask 077; {python} -c '{value}' > {file}) &&\n{python} -m modal secret create {name} "
        f"{f'--env {environment} ' if environment else ''}--from-json {file}"
    )


def _named(names: str) -> frozenset[str]:
    found = frozenset(name.strip() for name in names.split(",") if name.strip())
    if unknown := sorted(found - set(KEPT_OR_SAID)):
        raise ParameterError(
            f"{', '.join(unknown)} is no protection",
            why=f"the protections of the hosting are {', '.join(KEPT_OR_SAID)}",
            todo="use one of them in lower_protection, or leave it empty",
        )
    return found


def _shown(value: object) -> str:
    return "none" if value == "" else str(value)


@dataclass(frozen=True)
class DeployedTags:
    """The tags of an app, including the limits of its index.

    Parameters:
        version: of the deployed app; 0 if none is.
        tags: all of them, including those of others.
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
        """The values by field name of :class:`~ops.settings.IndexLimits`. Fields without a tag are absent."""
        try:
            found = IndexLimits.given(self.tags)
            IndexLimits(**found)
        except ValueError:
            return {}
        return found

    def since(self) -> int:
        """The first version with these limits; a future one if unknown."""
        told = self.tags.get(LIMITS_SINCE, "")
        return int(told) if self.limits() and told.isdecimal() else self.version + 1

    def with_limits(self, limits: IndexLimits) -> dict[str, str]:
        """The tags for the next deployment, with *limits*; tags of others stay."""
        since = self.since() if self.limits() == vars(limits) else self.version + 1
        return {**self.tags, **limits.variables(), LIMITS_SINCE: str(since)}


def deployed_hosting(settings: Settings, environment: str, *, version: int = 0) -> dict[str, Any] | None:
    """Hosting of the deployed app; None if it is not deployed.

    Parameters:
        settings: the names of the index.
        environment: Modal's environment; empty for the client's default.
        version: of the app; 0 for the deployed one.

    Returns:
        The values by field name of :class:`~ops.settings.Hosting`. Values that Modal does not report are absent.
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
        # The public Function.info() omits the domain and the startup timeout, so Modal's call is made directly.
        request = api_pb2.FunctionGetRequest(
            app_name=app,
            object_tag=name,
            environment_name=environment or modal.config.config.get("environment") or "",
            app_version=version,
        )
        response: api_pb2.FunctionGetResponse = await client._stub.FunctionGet(request)  # noqa: SLF001
        return response.function

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
    """The current scaling, which may have been set since the deployment; empty if that is unavailable."""
    function = modal.Function.from_name(settings.app_name, SERVER_FUNCTION, environment_name=environment or None)
    try:
        now = function.autoscaler.settings()
    except (modal.exception.Error, OSError):
        return {}
    values = {name: getattr(now, field) for name, field in _SCALING.items()}
    return {name: value for name, value in values.items() if value is not None}
