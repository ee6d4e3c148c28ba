"""The names that an index goes by, and the defaults of every setting.

Needs nothing but the standard library: the deployment imports it inside and outside the container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

APP_NAME = "pypiserver"
"""The Modal app."""

PACKAGES_VOLUME = "pypiserver-data"
PACKAGES_PATH = "/data/packages"

CREDENTIALS_VOLUME = "pypiserver-credentials"
CREDENTIALS_PATH = "/credentials"

SECRET_NAME = "pypi-auth-token"  # noqa: S105 - the name of a secret, not its value
SECRET_KEY = "AUTH_TOKEN"  # noqa: S105 - likewise

SERVER_FUNCTION = "server"
ADMIN_FUNCTION = "register_user"

LOCAL_HOST = "127.0.0.1"
LOCAL_PORT = 8765
"""Tried first when no port was asked for; the next free one is taken when it is in use."""


NONE = "none"
"""The value of a variable that takes a region or a domain away; an empty variable says nothing."""

LOWER_PROTECTION_VARIABLE = "PYPI_LOWER_PROTECTION"
"""Names the protections that a deployment may lower, by commas; for the notebooks it is a parameter."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The names of one index. Two indexes beside each other differ in them or in their target.

    Every field has the default that the documentation uses.
    """

    app_name: str = APP_NAME
    packages_volume: str = PACKAGES_VOLUME
    credentials_volume: str = CREDENTIALS_VOLUME
    secret_name: str = SECRET_NAME
    secret_key: str = SECRET_KEY

    @property
    def claims_dict(self) -> str:
        """The Modal Dict in which containers claim file names of the packages volume. It comes and goes with that."""
        return f"{self.packages_volume}-claims"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """The names that variables such as ``PYPI_APP_NAME`` give, and the defaults for the others."""
        return cls(**_read(cls, environment))

    def variables(self) -> dict[str, str]:
        """The variables from which :meth:`from_environment` makes the same names."""
        return {_variable(name): str(getattr(self, name)) for name in _names(type(self))}


@dataclass(frozen=True, kw_only=True)
class Hosting:
    """How Modal runs the index: read from the environment when the app is deployed, never edited in the deployment.

    Each field is set by a variable of its name, such as ``PYPI_MIN_CONTAINERS=1``. A deployment keeps what it is not
    told: an absent or empty variable leaves the deployed value, and the word ``none`` takes a region or domain away.
    The defaults are those of a first deployment. Prices are Modal's of August 2026.

    Parameters:
        min_containers: how many containers are kept warm. 0 costs nothing while nobody asks, and the first request
            then waits some seconds for a start; 1 is always on, at about 5 dollars a month for the smallest size.
        max_containers: how many may run at once. 1 is the cheapest and the fastest, as nothing has to be reloaded
            between containers; more are as correct, for a team that one container cannot serve. Each costs while it
            runs. During a deployment there are two in any case.
        scaledown_seconds: how long a container stays warm after its last request, from 2 to 1200. Warm time costs as
            time at work does.
        target_requests: requests at once in a container before another is started, where there may be another.
        max_requests: requests at once in a container at most; others wait.
        request_seconds: how long one request may take. 7200 lets the largest file, 4 GiB, pass at 5 Mbit/s.
        startup_seconds: how long a container may take to be ready.
        cpu: cores that are reserved; 0.125 is the least that Modal bills. More are used when the machine has them.
        memory: MiB that are reserved. Modal bills the larger of reservation and use.
        region: where the containers run, such as ``eu``. Named broadly it costs 1.5 times the base price, narrowly
            (``eu-west-1``) 1.75 times. Empty for anywhere.
        custom_domain: a domain of your own for the index, on Modal's Team plan or above. Empty for Modal's URL.
        proxy_auth: 1 puts the admin application behind a proxy token of the workspace as well as its own token. Never
            the index: pip, uv and twine cannot send one.
    """

    min_containers: int = 0
    max_containers: int = 1
    scaledown_seconds: int = 300
    target_requests: int = 64
    max_requests: int = 256
    request_seconds: int = 7200
    startup_seconds: int = 120
    cpu: float = 0.125
    memory: int = 256
    region: str = ""
    custom_domain: str = ""
    proxy_auth: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Hosting:
        """What variables such as ``PYPI_MIN_CONTAINERS`` say, and the defaults for the others.

        Raises:
            ValueError: a variable that takes a number has something else; the message names it.
        """
        return cls(**_read(cls, environment))

    @classmethod
    def told(cls, environment: Mapping[str, str]) -> dict[str, Any]:
        """The fields for which *environment* has a variable, and their values.

        Raises:
            ValueError: as of :meth:`from_environment`.
        """
        return _read(cls, environment)

    @classmethod
    def names(cls) -> list[str]:
        """The fields, in order."""
        return _names(cls)

    def variables(self) -> dict[str, str]:
        """The variables from which :meth:`from_environment` makes the same."""
        return {_variable(name): str(getattr(self, name)) for name in _names(type(self))}

    def told_variables(self) -> dict[str, str]:
        """The same, with the word ``none`` for what is empty, so that :meth:`told` finds every field."""
        return {name: value or NONE for name, value in self.variables().items()}


_CONVERTERS: Mapping[str, Callable[[str], str | int | float]] = {"str": str, "int": int, "float": float}


def _variable(name: str) -> str:
    return f"PYPI_{name.upper()}"


def _names(kind: type[Settings | Hosting]) -> list[str]:
    return [field.name for field in fields(kind)]


def _read(kind: type[Settings | Hosting], environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(kind):
        value = environment.get(_variable(field.name), "")
        if not value:
            continue
        if value == NONE and field.default == "":
            value = ""
        try:
            found[field.name] = _CONVERTERS[str(field.type)](value)
        except ValueError:
            raise ValueError(f"{_variable(field.name)} is {value!r}, which is no {field.type}") from None
    return found
