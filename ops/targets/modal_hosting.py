"""Hosting that a deployment would leave, compared with what is deployed.

A deployment sends every setting. Without this, one that lacks the variables of the last would put proxy auth, region
and scaling back to their defaults.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ops.errors import ParameterError, RunbookError
from ops.settings import LOWER_PROTECTION_VARIABLE, Hosting, IndexLimits, Settings, refuse_unknown
from ops.targets.modal_deployed import DeployedTags, deployed_hosting
from ops.targets.modal_session import exists, modal, say
from ops.targets.target import HostingChange, HostingDifferences

PROTECTIONS = ("proxy_auth", "region")
"""Settings that keep somebody or something out: a deployment lowers them only when they are named."""
KEPT_OR_SAID = (*PROTECTIONS, "custom_domain")
"""Settings that are never put to their default while the deployed value is not known."""
NOT_KNOWN = "not known"


@dataclass(frozen=True)
class HostingPlan:
    """Hosting and limits of the index after a deployment.

    Parameters:
        deployed: both as they are, by the names of their fields; None when nothing is deployed.
        hosting: as it would be.
        limits: as they would be.
        tags: of the app, which tell the limits to the next deployment.
        told: the fields that this run was told.
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
        """The plan of a deployment from *variables*: what they do not tell stays as it is deployed.

        Parameters:
            settings: the names of the index.
            environment: as of :func:`deployed_hosting`.
            variables: such as ``PYPI_MIN_CONTAINERS``.
            lower_protection: names of :data:`KEPT_OR_SAID`, by commas, on top of those in the variable.

        Raises:
            ParameterError: a name or a value that makes no sense.
        """
        lowered = _named(f"{lower_protection},{variables.get(LOWER_PROTECTION_VARIABLE, '')}")
        try:
            refuse_unknown(variables)
            told, told_limits = Hosting.told(variables), IndexLimits.told(variables)
            deployed = deployed_hosting(settings, environment)
            tags = DeployedTags.of(settings, environment)
            kept = {name: value for name, value in (deployed or {}).items() if Hosting.takes(name, value)}
            hosting = Hosting(**{**kept, **told})
            limits = IndexLimits(**{**tags.limits(), **told_limits})
        except ValueError as error:
            raise ParameterError(str(error), todo="correct the variable, or leave it out") from None
        before = None if deployed is None else {**deployed, **tags.limits()}
        return cls(before, hosting, limits, tags.with_limits(limits), frozenset({**told, **told_limits}), lowered)

    def differences(self) -> HostingDifferences:
        """Every setting that would be another than before, and those of which the value before is not known."""
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
            # A region is left for any other; proxy auth is lowered by being switched off.
            if (known and before and (name != "proxy_auth" or not then)) or (not known and not then):
                refused = "it lowers a protection"
        elif name in KEPT_OR_SAID and not known and name not in self.told and name not in self.lowered:
            refused = "Modal does not tell what it is, and it might be lost"
        return HostingChange(name, _shown(before) if known else NOT_KNOWN, _shown(then), refused)

    def summary(self) -> str:
        """Settings that differ from the defaults, in one line."""
        defaults = {**vars(Hosting()), **vars(IndexLimits())}
        others = [f"{name} {_shown(then)}" for name, then in self._then.items() if then != defaults[name]]
        return ", ".join(others) or "the defaults"


def hosting_to_deploy(settings: Settings, variables: Mapping[str, str] | None = None) -> HostingPlan:
    """The plan for a plain ``modal deploy``, which ends with a sentence where something is in its way.

    Tells each difference on stderr. The environment is the one that the command was given.

    Parameters:
        settings: the names of the index.
        variables: of the process when not given.
    """
    variables = os.environ if variables is None else variables
    try:
        plan = HostingPlan.of(settings, "", variables)
        _require_secret(settings)
        differences = plan.differences()
        for change in differences.changes if plan.deployed is not None else ():
            say(f"hosting {change.name}: {change.arrow}")
        differences.require_allowed()
    except RunbookError as error:
        raise SystemExit(f"Nothing was deployed: {error}") from None
    return plan


def backup_is_set(settings: Settings) -> bool:
    """True if the secret of the nightly back-up exists, so that the app is to have one."""
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
    # Never as KEY=VALUE, which the list of processes shows.
    raise SystemExit(
        f"Nothing was deployed: there is no secret {name} with the key {key}{where}, from which the admin application "
        "takes its token.\nMake it, and keep the file, as Modal does not give the value back:\n\n"
        f"(umask 077; {python} -c '{value}' > {file}) &&\n{python} -m modal secret create {name} "
        f"{f'--env {environment} ' if environment else ''}--from-json {file}"
    )


def _named(names: str) -> frozenset[str]:
    found = frozenset(name.strip() for name in names.split(",") if name.strip())
    if unknown := sorted(found - set(KEPT_OR_SAID)):
        raise ParameterError(
            f"{', '.join(unknown)} is no protection",
            why=f"the protections of the hosting are {', '.join(KEPT_OR_SAID)}",
            todo="name one of them in lower_protection, or leave it empty",
        )
    return found


def _shown(value: object) -> str:
    return "none" if value == "" else str(value)
