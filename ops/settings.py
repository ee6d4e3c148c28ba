"""Names of an index, and the settings of its deployment with their defaults.

Imports only the standard library: the deployment needs it inside and outside the container.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

APP_NAME = "pypiserver"
"""The Modal app."""

PACKAGES_VOLUME = "pypiserver-data"
PACKAGES_PATH = "/data/packages"

CREDENTIALS_VOLUME = "pypiserver-credentials"
CREDENTIALS_PATH = "/credentials"

SECRET_NAME = "pypi-auth-token"  # noqa: S105 - the name of a secret, not its value
SECRET_KEY = "AUTH_TOKEN"  # noqa: S105 - likewise

BACKUP_SECRET = "pypi-backup"  # noqa: S105 - likewise
DESTINATION_KEY = "BACKUP_DESTINATION"
"""Key of the folder or bucket in that secret, next to the bucket's credentials."""

TRUSTED_ROOT = "trusted_root.json"
"""Sigstore's trusted root beside the deployment file, for the signatures of attestations."""

SERVER_FUNCTION = "server"
ADMIN_FUNCTION = "register_user"

LOCAL_HOST = "127.0.0.1"
LOCAL_PORT = 8765
"""Tried first if no port is requested; if it is taken, the next free one is used."""


NONE = "none"
"""Value of a variable that removes a region or a domain; an empty variable keeps it."""

LOWER_PROTECTION_VARIABLE = "PYPI_LOWER_PROTECTION"
"""Protections that a deployment may lower, separated by commas. The notebooks have a parameter for them."""


@dataclass(frozen=True, kw_only=True)
class _Variables:
    """Settings with an environment variable per field, such as ``PYPI_APP_NAME``."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Settings from their variables, with defaults for the others.

        Raises:
            ValueError: a value cannot work; the message names its variable.
        """
        return cls(**cls.given(environment))

    @classmethod
    def given(cls, environment: Mapping[str, str]) -> dict[str, Any]:
        """Fields with a variable in *environment*, and their values.

        Raises:
            ValueError: as of :meth:`from_environment`.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = environment.get(_variable(field.name), "").strip()
            if not value:
                continue
            if value == NONE and field.default == "":
                value = ""
            try:
                found[field.name] = _CONVERTERS[str(field.type)](value)
            except ValueError:
                raise ValueError(f"{_variable(field.name)} is {value!r}, which is not a valid {field.type}") from None
            cls._check(field.name, found[field.name])
        return found

    @classmethod
    def names(cls) -> list[str]:
        """Names of the fields, in order."""
        return [field.name for field in fields(cls)]

    def variables(self) -> dict[str, str]:
        """Variables for :meth:`from_environment`."""
        return {_variable(name): str(getattr(self, name)) for name in self.names()}

    @staticmethod
    def _check(name: str, value: str | float) -> None:
        """Refuse a value that cannot work, whatever the others are."""


@dataclass(frozen=True, kw_only=True)
class Settings(_Variables):
    """Names of one index. Two indexes differ in these, or in their target.

    The defaults are those of the documentation.

    Raises:
        ValueError: Modal does not accept a name, or two volumes have the same one.
    """

    app_name: str = APP_NAME
    packages_volume: str = PACKAGES_VOLUME
    credentials_volume: str = CREDENTIALS_VOLUME
    secret_name: str = SECRET_NAME
    secret_key: str = SECRET_KEY
    backup_secret: str = BACKUP_SECRET

    def __post_init__(self) -> None:
        """Refuse names that Modal would refuse, or that would confuse two volumes."""
        for name in ("app_name", "packages_volume", "credentials_volume", "secret_name", "backup_secret"):
            _check_object_name(name, getattr(self, name), longest=57 if name == "packages_volume" else 64)
        if not _KEY.fullmatch(self.secret_key):
            raise _refusal("secret_key", self.secret_key, "a variable's name has letters, digits and _, no digit first")
        if self.packages_volume == self.credentials_volume:
            raise _refusal("credentials_volume", self.credentials_volume, "that is the volume of the packages")

    @property
    def volumes(self) -> tuple[str, str]:
        """The volumes of packages and of credentials."""
        return self.packages_volume, self.credentials_volume

    @property
    def claims_dict(self) -> str:
        """The Modal Dict with the locks on file names of the packages volume, created and deleted with it."""
        return f"{self.packages_volume}-claims"

    @property
    def tokens_dict(self) -> str:
        """The Modal Dict with minted tokens and last uses of tokens, created and deleted with the same volume."""
        return f"{self.packages_volume}-tokens"


@dataclass(frozen=True, kw_only=True)
class Hosting(_Variables):
    """Hosting of the index on Modal, read from the environment at deployment.

    Each field has a variable, such as ``PYPI_MIN_CONTAINERS=1``. An absent or empty variable keeps the deployed value,
    and the word ``none`` removes a region or a domain. The defaults are those of a first deployment. Prices are Modal's
    of August 2026.

    Parameters:
        min_containers: containers that stay warm. 0 costs nothing without requests, but the first request waits some
            seconds for a start; 1 is always on, at about 5 dollars a month for the smallest size.
        max_containers: containers that may run at once. 1 is the cheapest and the fastest, because nothing has to be
            reloaded between containers; more are just as correct, for larger teams. Each costs
            while it runs. During a deployment there are always two.
        scaledown_seconds: seconds for which a container stays warm after its last request, from 2 to 1200. They cost
            as much as working time.
        target_requests: concurrent requests of a container above which another one is started, if allowed.
        max_requests: the most concurrent requests of a container; others wait.
        request_seconds: time limit of one request. 7200 is enough for the largest file, 4 GiB, at 5 Mbit/s.
        startup_seconds: time limit of a container's start.
        cpu: reserved cores; 0.125 is the least that Modal bills. A container uses more if the machine has them.
        memory: reserved MiB. Modal bills the larger of reservation and use.
        region: region of the containers, such as ``eu``, at 1.5 times the base price, or ``eu-west-1``, at 1.75 times.
            Empty for any region.
        custom_domain: a domain of your own for the index, on Modal's Team plan or above. Empty for Modal's URL.
        proxy_auth: 1 to also require a proxy token of the workspace for the admin application. Never
            for the index: pip, uv and twine cannot send one.

    Raises:
        ValueError: Modal refuses a value, or it would stop the index; the message names its variable.
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

    def __post_init__(self) -> None:
        """Refuse values that cannot work, alone or together."""
        for name in self.names():
            self._check(name, getattr(self, name))
        for least, most in (("min_containers", "max_containers"), ("target_requests", "max_requests")):
            low, high = getattr(self, least), getattr(self, most)
            if low > high:
                raise _refusal(least, low, f"use no more than {_variable(most)}, which is {high}")

    @staticmethod
    def takes(name: str, value: str | float) -> bool:
        """True if *value* is valid for the field *name*."""
        try:
            Hosting._check(name, value)
        except ValueError:
            return False
        return True

    def told_variables(self) -> dict[str, str]:
        """The same, with the word ``none`` for empty values, so that :meth:`given` finds every field."""
        return {name: value or NONE for name, value in self.variables().items()}

    @staticmethod
    def _check(name: str, value: str | float) -> None:
        if name in _RANGES:
            low, high = _RANGES[name]
            whole = isinstance(value, int) or name == "cpu"
            if not isinstance(value, (int, float)) or not (math.isfinite(value) and whole and low <= value <= high):
                raise _refusal(name, value, f"use {low:g} or {high:g}" if high == 1 else f"use {low:g} to {high:g}")
        elif name == "region" and value and not _REGION.fullmatch(str(value)):
            raise _refusal(name, value, "name one region as Modal does, such as eu or us-east-1")
        elif name == "custom_domain" and value and not _DOMAIN.fullmatch(str(value)):
            raise _refusal(name, value, "use a host name such as packages.example.com, without scheme, port and path")


@dataclass(frozen=True, kw_only=True)
class IndexLimits(_Variables):
    """Limits of the index on Modal, read from the environment at deployment.

    An absent variable keeps the deployed value. Modal does not report them, so the app's tags store them too,
    under the names of the variables.

    Parameters:
        project_quota_bytes: for the files of one project. 0 for no limit.
        total_quota_bytes: for the files of all projects. 0 for no limit.
        uploads_per_user: concurrent uploads of one user, in each container. 0 for no limit.
        audit_days: days for which the audit log is kept. 0 for forever.
        page_max_age_seconds: seconds for which clients may reuse a simple page without asking. 0 to ask each time.
        audit_bytes: for the audit files of one volume, beyond which the oldest are removed. 0 for no limit.
        verify_attestations: 1 to accept attestations only if their signatures are valid, by the file
            ``trusted_root.json`` beside the deployment file. 0 leaves that to installers.

    Raises:
        ValueError: a value cannot work; the message names its variable.
    """

    project_quota_bytes: int = 0
    total_quota_bytes: int = 0
    uploads_per_user: int = 32
    audit_days: int = 400
    audit_bytes: int = 1024**3
    page_max_age_seconds: int = 0
    verify_attestations: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work, alone or together."""
        if self.verify_attestations not in {0, 1}:
            raise _refusal("verify_attestations", self.verify_attestations, "use 0 or 1")
        for name in self.names():
            if not 0 <= getattr(self, name) <= _LARGEST:
                raise _refusal(name, getattr(self, name), f"use a number from 0, for no limit, to {_LARGEST}")
        if self.page_max_age_seconds > _LONGEST_PAGE_AGE:
            remedy = f"use a number from 0, to ask each time, to {_LONGEST_PAGE_AGE}"
            raise _refusal("page_max_age_seconds", self.page_max_age_seconds, remedy)
        if 0 < self.total_quota_bytes < self.project_quota_bytes:
            remedy = f"use no more than {_variable('total_quota_bytes')}, which is {self.total_quota_bytes}"
            raise _refusal("project_quota_bytes", self.project_quota_bytes, remedy)


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Refuse a variable that looks like a setting of this project but is not: a typo would be ignored silently.

    Raises:
        ValueError: there is one; the message names the closest setting.
    """
    known = {_variable(name) for kind in (Settings, Hosting, IndexLimits) for name in kind.names()} | {
        LOWER_PROTECTION_VARIABLE
    }
    for name in sorted(environment):
        if name.startswith("PYPI_") and name not in known | _OTHERS:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise ValueError(f"{name} is not a setting of the index: the nearest one is {near}; correct or unset it")


_OTHERS: Final = frozenset(
    {"PYPI_RUNBOOK_HOME", "PYPI_PUBLIC_URL", "PYPI_TRUSTED_ROOT"}
    | {
        f"PYPI_{name}"
        for name in ("TOKEN", "API_TOKEN", "USER", "USERNAME", "PASSWORD", "URL", "INDEX_URL", "REPOSITORY")
    }
)
"""Other variables with our prefix: the runbook's own, the server's, and those of CI jobs that publish."""

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "min_containers": (0, 1000),
    "max_containers": (1, 1000),
    "scaledown_seconds": (2, 1200),
    "target_requests": (1, 1000),
    "max_requests": (1, 1000),
    "request_seconds": (1, 86_400),
    "startup_seconds": (1, 86_400),
    "cpu": (0.125, 64),
    "memory": (128, 344_064),
    "proxy_auth": (0, 1),
}
"""Ranges that Modal accepts, in the units of the fields."""

_LONGEST_PAGE_AGE: Final = 3600
"""Seconds, the server's limit."""

_LARGEST: Final = 2**60
"""Larger values cannot be intended as a limit."""

_OBJECT: Final = re.compile(r"[A-Za-z0-9._-]+")
_APP_ID: Final = re.compile(r"ap-[A-Za-z0-9]{22}")
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REGION: Final = re.compile(r"[a-z]+[a-z0-9]*(-[a-z0-9]+)*")
_DOMAIN: Final = re.compile(
    r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]", re.IGNORECASE
)


def _refusal(name: str, value: object, remedy: str) -> ValueError:
    return ValueError(f"{_variable(name)} is {value!r}, which cannot work: {remedy}")


def _check_object_name(name: str, value: str, *, longest: int) -> None:
    if not _OBJECT.fullmatch(value) or len(value) > longest or _APP_ID.fullmatch(value):
        raise _refusal(name, value, f"use 1 to {longest} letters, digits, dots, dashes and underscores")


_CONVERTERS: Mapping[str, Callable[[str], str | int | float]] = {"str": str, "int": int, "float": float}


def _variable(name: str) -> str:
    return f"PYPI_{name.upper()}"
